"""Runs are found and read wherever they lie, with whatever is missing."""

import json
from pathlib import Path

import pytest

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.report import listing
from dogbreed.report.records import read, runs_in
from tests.doubles.gcs import FakeGCS
from tests.report.made import began, trained


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a folder for runs on each kind of file system."""
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('bucket')}/r"


def test_all_runs_below_a_root_are_found_at_any_depth(root: str) -> None:
    for place in ("a", "b/deep/c"):
        trained(root, place)
    storage.write(storage.join(root, "notes/x.txt"), b"no run")
    found = runs_in(f"{root}/")
    assert [record.url for record in found] == [f"{root}/a", f"{root}/b/deep/c"]
    assert [record.url for record in runs_in(f"{root}/a")] == [f"{root}/a"]


def test_a_run_tells_its_size_epochs_and_scores(root: str) -> None:
    run = trained(root, "a", top1=0.6, epochs=3)
    (record,) = read(runs_in(root), whole=False)
    assert record.size == sum(size for _, size in storage.find(run.url))
    assert record.epochs == 3
    line = listing.line(record)
    assert (line["top1"], line["log_loss"]) == (0.6, 0.9)
    assert (line["name"], line["state"], line["backbone"]) == ("a", "done", "test_net")
    assert line["data"] == f"tiny {'ab' * 6}"


def test_a_run_under_way_shows_its_last_epoch(tmp_path: Path) -> None:
    run = trained(str(tmp_path), "a", top1=0.6, state="running")
    Path(run.path("metrics.json")).unlink()
    (record,) = read(runs_in(str(tmp_path)), whole=False)
    assert listing.line(record)["top1"] == 0.6
    fresh = began(str(tmp_path), "b")
    (record,) = read(runs_in(fresh.url), whole=False)
    assert listing.line(record) | {"size": 0} == listing.line(record) | {
        "size": 0, "top1": None, "epochs": 0, "state": "running"}  # fmt: skip


@pytest.mark.parametrize("file", ["run.json", "metrics.json"])
def test_a_damaged_run_spoils_the_table_for_no_other(file: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(str(tmp_path), name)
    (tmp_path / "a" / file).write_text("{")
    (tmp_path / "b/metrics.csv").write_bytes(b"epoch,samples_seen\n\xff,x\n1,nonsense\n")
    records = read(runs_in(str(tmp_path)), whole=True)
    lines = [listing.line(record) for record in records]
    assert [line["state"] for line in lines] == ["unreadable", "done"]
    assert lines[1]["epochs"] == 0
    assert "unreadable" in listing.as_text(lines)


@pytest.mark.parametrize(("place", "message"), [("none", "no such folder"), ("a", "no run here")])
def test_no_runs_are_an_error_that_names_the_place(
    place: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text("x")
    with pytest.raises(BadInput, match=message) as caught:
        runs_in(f"{tmp_path}/{place}")
    assert str(caught.value).startswith(f"{tmp_path}/{place}")


def test_a_file_that_goes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    run = trained(str(tmp_path), "a")
    found = runs_in(run.url)
    Path(run.path("metrics.csv")).unlink()
    (record,) = read(found, whole=True)
    assert record.rows == []
    assert record.metrics["val"]["top1"] == 0.5


def test_many_runs_of_a_bucket_are_read_at_once(gcs: FakeGCS, bucket: str) -> None:
    about = json.dumps({"name": "x", "state": "done"}).encode()
    storage.write_many({f"{bucket}/r/{k:02d}/run.json": about for k in range(24)})
    gcs.reset()
    gcs.faults.latency = 0.5
    records = read(runs_in(f"{bucket}/r"), whole=False)
    assert [record.state for record in records] == ["done"] * 24
    assert gcs.counts["peak"] > 4
