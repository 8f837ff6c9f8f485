"""Runs: directories that say themselves who they are, on a disk and in a bucket."""

import datetime
import json
import os
from pathlib import Path

import pytest

from dogbreed import runs, storage
from dogbreed.errors import BadInput
from dogbreed.runs import Run


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a folder for runs on each kind of file system."""
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")


def begin(root: str, name: str, created: str) -> Run:
    run = Run(storage.join(root, name))
    run.update(name=name, created=created)
    return run


class TestNewest:
    def test_it_is_the_run_begun_last(self, root: str) -> None:
        begin(root, "a", "2026-03-01T10:00:00.000001+00:00")
        last = begin(root, "b", "2026-03-01T10:00:00.000002+00:00")
        begin(root, "c", "2026-02-28T23:59:59.999999+00:00")
        assert runs.newest(root) == last

    def test_it_is_the_one_that_says_so_whatever_the_time_of_the_files(
        self, tmp_path: Path
    ) -> None:
        old = begin(str(tmp_path), "old", "2025-01-01T00:00:00+00:00")
        new = begin(str(tmp_path), "new", "2026-01-01T00:00:00+00:00")
        for path in (tmp_path / "new", tmp_path / "new/run.json"):
            os.utime(path, (1, 1))
        old.update(state="touched later")
        assert runs.newest(str(tmp_path)) == new

    def test_folders_without_a_run_do_not_count(self, root: str) -> None:
        run = begin(root, "a", "2026-01-01T00:00:00+00:00")
        storage.write(storage.join(root, "zzz/notes.txt"), b"not a run")
        assert runs.newest(root + "/") == run

    def test_no_runs_are_an_error_that_says_how_to_begin_one(self, root: str) -> None:
        storage.write(storage.join(root, "other/notes.txt"), b"not a run")
        for folder in (root, storage.join(root, "none")):
            with pytest.raises(BadInput, match=r"no runs here.*dogbreed fit") as caught:
                runs.newest(folder)
            assert str(caught.value).startswith(folder)


class TestRun:
    def test_it_exists_from_its_first_update(self, root: str) -> None:
        run = Run(storage.join(root, "a"))
        assert not run.exists
        run.update(name="a")
        assert run.exists
        assert Run(storage.join(root, "a")).read() == {"name": "a"}

    def test_an_update_keeps_the_other_fields(self, root: str) -> None:
        run = begin(root, "a", "2026-01-01T00:00:00+00:00")
        run.update(state="running", host="x")
        run.update(state="done")
        assert run.read() == {
            "name": "a",
            "created": "2026-01-01T00:00:00+00:00",
            "state": "done",
            "host": "x",
        }

    def test_reading_what_is_no_run_is_an_error_that_names_it(self, root: str) -> None:
        url = storage.join(root, "none")
        with pytest.raises(BadInput, match=r"no run here \(run.json is missing\)") as caught:
            Run(url).read()
        assert str(caught.value).startswith(url)

    def test_scores_are_added_to_those_recorded_before(self, root: str) -> None:
        run = Run(storage.join(root, "a"))
        assert run.metrics() == {}
        assert run.record(val={"loss": 1.5}) == {"val": {"loss": 1.5}}
        assert run.record(test={"loss": 2.0}) == {"val": {"loss": 1.5}, "test": {"loss": 2.0}}
        assert run.record(val={"loss": 1.0}) == run.metrics()
        assert run.metrics() == {"val": {"loss": 1.0}, "test": {"loss": 2.0}}

    def test_its_parts_lie_below_it(self) -> None:
        run = Run("gs://bucket/runs/a")
        assert run.path("model", "model.json") == "gs://bucket/runs/a/model/model.json"
        assert run.checkpoint("best") == "gs://bucket/runs/a/checkpoints/best.ckpt"


def test_times_are_utc_and_sort_as_text() -> None:
    times = [runs.now() for _ in range(3)]
    assert times == sorted(times)
    assert {datetime.datetime.fromisoformat(t).utcoffset() for t in times} == {
        datetime.timedelta(0)
    }


def test_the_environment_names_versions_and_goes_into_json() -> None:
    about = runs.environment()
    assert json.loads(json.dumps(about)) == about
    assert about["packages"].keys() >= {"torch", "timm", "lightning", "gcsfs"}
    assert about["cpus"] == os.cpu_count()
