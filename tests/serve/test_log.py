"""A server that keeps a prediction log: what is in it, however the server ends."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogbreed import package
from dogbreed.cli import main
from dogbreed.monitor.rows import embedding, model_of
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS
from tests.monitor.made import rows_below
from tests.serve.conftest import PATIENCE, Served

PHOTO = picture_file(320, 240)


@contextlib.contextmanager
def serving(model: str, cwd: Path, *words: str, **env: str) -> Iterator[Served]:
    served = Served(model, cwd, *words, **env)
    try:
        served.wait_ready()
        yield served
    finally:
        if served.alive:
            served.end()


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


@pytest.mark.e2e
def test_a_killed_server_leaves_whole_files_with_all_rows_that_it_counted_as_written(
    tiny_package: str, tmp_path: Path
) -> None:
    logged = tmp_path / "log"
    words = ("--log", str(logged), "--log_every", "0.2", "--log_images", "1")
    with serving(tiny_package, tmp_path, *words) as served:
        written = 0.0
        for _ in range(40):
            served.predict(PHOTO)
            written = served.metric('dogbreed_log_rows_total{outcome="written"}')
        served.process.kill()
        served.process.wait(PATIENCE)
        rows = rows_below(logged)  # none of its files is damaged
        assert 0 < written <= len(rows) <= 40
        assert all((logged / row["image"]).exists() for row in rows)


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
