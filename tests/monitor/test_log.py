"""The log's writer: whole objects, nothing in a request's way, nothing without bound."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from dogbreed import retries, storage
from dogbreed.monitor import log as log_module
from dogbreed.monitor.log import LogOptions, PredictionLog
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS
from tests.monitor.made import MODEL, NOON, prediction, rows_below

PATIENCE = 240.0


class Heard:
    """What a log counted and said."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.said: list[str] = []
        self._news = threading.Condition()

    def count(self, outcome: str, rows: int) -> None:
        with self._news:
            self.rows[outcome] += rows
            self._news.notify_all()

    def say(self, severity: str, message: str) -> None:
        with self._news:
            self.said.append(f"{severity} {message}")
            self._news.notify_all()

    def until(self, true: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(true, PATIENCE)


@contextmanager
def writer(url: str, every: float = 3600, keep: float = 0) -> Iterator[tuple[PredictionLog, Heard]]:
    heard = Heard()
    made = PredictionLog(LogOptions(url, every, keep), MODEL, "torch", heard.count, heard.say)
    try:
        yield made, heard
    finally:
        made.close(PATIENCE)


def test_closing_writes_every_row_once_under_its_day_and_model(tmp_path: Path) -> None:
    with writer(str(tmp_path)) as (log, heard):
        for seed in range(20):
            log.put(prediction(seed))
        assert log.close(PATIENCE) == 0
    assert heard.rows == {"written": 20}
    assert {row["request_id"] for row in rows_below(tmp_path)} == {
        f"request-{k}" for k in range(20)
    }
    (path,) = tmp_path.rglob("*.gz")
    assert path.parent == tmp_path / "day=2026-11-23" / f"model={MODEL}"


def test_rows_are_written_after_a_while_without_anybody_asking(tmp_path: Path) -> None:
    with writer(str(tmp_path), every=0.05) as (log, heard):
        log.put(prediction())
        heard.until(lambda: heard.rows["written"] == 1)
        assert len(rows_below(tmp_path)) == 1


def test_a_full_object_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "ROWS", 4)
    with writer(str(tmp_path)) as (log, heard):
        for seed in range(9):
            log.put(prediction(seed))
        heard.until(lambda: heard.rows["written"] == 8)
        assert len(list(tmp_path.rglob("*.gz"))) == 2
    assert len(rows_below(tmp_path)) == 9


def test_at_midnight_rows_go_to_the_next_days_folder(tmp_path: Path) -> None:
    with writer(str(tmp_path)) as (log, _):
        for hour in (11.9, 12.1, 11.95):  # an answer that took longer comes after
            log.put(prediction(int(hour * 100), NOON + hour * 3600))
    days = {path.parts[-3]: len(rows_below(path.parent)) for path in tmp_path.rglob("*.gz")}
    assert days == {"day=2026-11-23": 2, "day=2026-11-24": 1}


def test_several_servers_write_beside_each_other(bucket: str) -> None:
    with writer(bucket) as (one, _), writer(bucket) as (other, _):
        for seed in range(6):
            (one if seed % 2 else other).put(prediction(seed))
    found = storage.find(bucket)
    assert len(found) == 2
    assert all(name.startswith(f"day=2026-11-23/model={MODEL}/") for name, _ in found)


def test_a_bucket_that_fails_for_a_while_costs_no_row(
    bucket: str, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    monkeypatch.setattr(log_module, "_LONGEST_PAUSE", 0.01)
    gcs.faults.error_rate = 1.0
    with writer(bucket, every=0.05) as (log, heard):
        log.put(prediction(1))
        heard.until(lambda: len(heard.said) == 1)
        log.put(prediction(2))
        assert not heard.rows
        gcs.faults.error_rate = 0.0
        heard.until(lambda: heard.rows["written"] == 2)
    assert "ERROR the prediction log cannot be written" in heard.said[0]
    assert heard.said[1:] == ["INFO the prediction log is written again"]


def test_what_a_dead_bucket_leaves_no_room_for_is_dropped_and_counted_the_oldest_first(
    bucket: str, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    monkeypatch.setattr(log_module, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(log_module, "ROWS", 5)
    monkeypatch.setattr(log_module, "READY", 3000)
    gcs.faults.error_rate = 1.0
    with writer(bucket) as (log, heard):
        for seed in range(50):
            log.put(prediction(seed))
        heard.until(lambda: heard.rows["dropped"] >= 20)
        gcs.faults.error_rate = 0.0
        assert log.close(PATIENCE) == 0
    assert heard.rows["dropped"] + heard.rows["written"] == 50
    assert 0 < heard.rows["written"] <= 30


def test_pictures_that_wait_take_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prediction()
    monkeypatch.setattr(log_module, "PENDING", one.held - 1)
    with writer(str(tmp_path)) as (log, heard):
        log.put(one)
    assert heard.rows == {"dropped": 1}
    assert not rows_below(tmp_path)


def test_closing_beside_a_dead_bucket_gives_up_in_time_and_says_what_is_lost(
    bucket: str, gcs: FakeGCS
) -> None:
    gcs.faults.error_rate = 1.0
    heard = Heard()
    log = PredictionLog(LogOptions(bucket), MODEL, "torch", heard.count, heard.say)
    for seed in range(3):
        log.put(prediction(seed))
    assert log.close(0.5) == 3
    gcs.faults.error_rate = 0.0
    heard.until(lambda: heard.rows["written"] == 3)  # its thread ends


def test_after_closing_nothing_is_taken(tmp_path: Path) -> None:
    with writer(str(tmp_path)) as (log, heard):
        log.close(PATIENCE)
        log.put(prediction())
    assert heard.rows == {"dropped": 1}


def test_a_kept_picture_is_small_and_lost_its_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    small = log_module.kept(picture_file(1200, 900, exif=exif))
    with Image.open(io.BytesIO(small)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (640, 480))
        assert not picture.getexif()
    with writer(str(tmp_path), keep=1.0) as (log, _):
        assert log.wants_picture()
        log.put(prediction(keep=True))
    (row,) = rows_below(tmp_path)
    with Image.open(tmp_path / row["image"]) as picture:
        assert picture.size == (640, 480)


def test_an_answer_of_which_no_row_can_be_made_is_counted_and_the_next_is_written(
    tmp_path: Path,
) -> None:
    broken = prediction(1)
    broken.entry.pop("top5")
    with writer(str(tmp_path)) as (log, heard):
        log.put(broken)
        log.put(prediction(2))
    assert heard.rows == {"dropped": 1, "written": 1}
    assert "KeyError" in heard.said[0]
