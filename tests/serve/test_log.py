"""A server that keeps a prediction log: what is in it, however the server ends."""

import contextlib
import gzip
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.monitor.rows import embedding, model_of
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS
from tests.monitor.made import rows_below
from tests.serve.conftest import PATIENCE, Served, serving

PHOTO = picture_file(320, 240)


def rows_of(bucket: str) -> list[Any]:
    """All rows of a log in a bucket; each of its objects must be whole."""
    return [
        json.loads(line)
        for name, _ in storage.find(bucket)
        for line in gzip.decompress(storage.read(storage.join(bucket, name))).splitlines()
    ]


def test_a_sigterm_finds_every_answer_in_the_log_and_no_pixels(
    tiny_package: str, tmp_path: Path
) -> None:
    logged = tmp_path / "log"
    with serving(tiny_package, tmp_path, "--log", str(logged)) as served:
        (one,) = served.predict(PHOTO)
        several = served.predict(PHOTO, b"no picture", picture_file(100, 80, 1))
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
    rows = rows_below(logged)
    assert len(rows) == 3
    assert {row["model"] for row in rows} == {model_of(package.read(tiny_package))}
    first = next(row for row in rows if row["picture"]["width"] == 320)
    assert first["breed"] == one["breed"]
    assert first["probability"] == pytest.approx(one["probability"], rel=1e-4)
    assert [entry["status"] for entry in several] == ["success", "error", "success"]
    others = [row for row in rows if row["request_id"] != first["request_id"]]
    assert sorted(row["number"] for row in others) == [0, 2]
    vectors = [embedding(row) for row in rows]
    assert all(
        v is not None and abs(float((v.astype(float) ** 2).sum()) - 1) < 0.01 for v in vectors
    )
    assert not list(logged.rglob("*.jpg"))


def written(served: Served) -> float:
    return served.metric('dogbreed_log_rows_total{outcome="written"}')


@pytest.mark.e2e
def test_a_killed_server_loses_what_came_since_it_last_wrote_and_leaves_whole_files(
    tiny_package: str, tmp_path: Path
) -> None:
    logged = tmp_path / "log"
    words = ("--log", str(logged), "--log_every", "0.2", "--log_images", "1")
    with serving(tiny_package, tmp_path, *words) as served:
        for _ in range(20):
            served.predict(PHOTO)
        while written(served) < 20:
            pass
        for _ in range(5):
            served.predict(PHOTO)
        served.process.kill()
        served.process.wait(PATIENCE)
        rows = rows_below(logged)  # none of its files is damaged
        assert 20 <= len(rows) <= 25
        assert all((logged / row["image"]).exists() for row in rows)


@pytest.mark.e2e
def test_two_servers_share_a_log(
    tiny_package: str, tmp_path: Path, bucket: str, gcs: FakeGCS
) -> None:
    words = ("--log", bucket, "--log_every", "0.1")
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(serving(tiny_package, tmp_path, *words, **gcs.env))
            for _ in range(2)
        ]
        for _ in range(20):
            for served in both:
                served.predict(PHOTO)
        for served in both:
            while written(served) < 20:
                pass
    rows = rows_of(bucket)
    assert len({(row["request_id"], row["number"]) for row in rows}) == len(rows) == 40


@pytest.mark.e2e
def test_a_dead_bucket_costs_no_request_and_does_not_hold_up_the_end(
    tiny_package: str, tmp_path: Path, bucket: str, gcs: FakeGCS
) -> None:
    gcs.faults.error_rate = 1.0
    words = ("--log", bucket, "--log_every", "0.1")
    with serving(tiny_package, tmp_path, *words, **gcs.env) as served:
        for _ in range(20):
            served.predict(PHOTO)
        assert served.log("the prediction log cannot be written")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        said = served.log("rows of the prediction log could not be written any more")
        assert said["message"].startswith("20 rows")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--log_images", "0.5"], "without --log"),
        (["--log", "x", "--log_images", "2"], "from 0 to 1"),
        (["--log", "x", "--log_every", "0"], "above 0"),
        (["--log", "nowhere://x"], "nowhere"),
    ],
)
def test_options_of_the_log_that_make_no_sense_are_an_error(
    words: list[str], problem: str, tiny_package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", tiny_package, *words]) == 2
    assert problem in capsys.readouterr().err
