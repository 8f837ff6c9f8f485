"""The prediction log under load: without its bucket, and with its server killed again and again.

Prints what it has measured: `nox -s soak -- tests/serve/test_log_soak.py -s`.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dogbreed.monitor.log import PENDING, READY
from tests.doubles.gcs import FakeGCS
from tests.monitor.made import rows_below
from tests.serve.conftest import PATIENCE, Served, serving
from tests.serve.test_log import PHOTO, rows_of
from tests.serve.test_soak import PHOTOS, Load, resident

pytestmark = pytest.mark.soak

MINUTES = 5.0
KILLS = 8
CLIENTS = 8
PART = 10.0  # seconds between two looks at the memory


@pytest.fixture
def apart() -> Iterator[list[int]]:
    """Cores for a server; who asks keeps the first for itself."""
    cores = psutil.Process().cpu_affinity() or [0]
    try:
        psutil.Process().cpu_affinity(cores[1:] or cores)
        yield cores[:1]
    finally:
        psutil.Process().cpu_affinity(cores)


def test_minutes_without_the_logs_bucket_cost_no_request_and_bounded_memory(
    tiny_package: str, tmp_path: Path, bucket: str, gcs: FakeGCS, apart: list[int]
) -> None:
    words = ("--log", bucket, "--log_every", "1")
    with serving(tiny_package, tmp_path, *words, **gcs.env) as served:
        psutil.Process().cpu_affinity(apart)
        load = Load(served)
        asyncio.run(load.closed(CLIENTS, 3 * PART))
        before, most = resident(served), 0
        gcs.faults.error_rate = 1.0
        for _ in range(int(60 * MINUTES / PART)):
            asyncio.run(load.closed(CLIENTS, PART))
            most = max(most, resident(served))
        refused = gcs.counts["error"]
        lost = counted(served, "dropped")
        gcs.faults.error_rate = 0.0
        answered = load.said.total() + len(PHOTOS)
        while counted(served, "written") + counted(served, "dropped") < answered:
            pass
        assert served.log("the prediction log is written again")
        dropped = counted(served, "dropped")
    rows = rows_of(bucket)
    print(f"\n{MINUTES:g} min of 503 ({refused} of them): {load.said}")
    print(f"rows: {len(rows)} written, {dropped} dropped ({lost} of them before it was back)")
    print(f"memory {before / 2**20:.0f} MiB before, at most {most / 2**20:.0f} MiB")
    assert refused
    assert set(load.said) == {"right"}
    assert len({row["request_id"] for row in rows}) == len(rows) == answered - dropped
    assert most < before + READY + PENDING


def test_however_often_it_is_killed_files_are_whole_and_what_it_counted_is_there(
    tiny_package: str, tmp_path: Path
) -> None:
    logged, draw, sure = tmp_path / "log", random.Random(0), 0
    words = ("--log", str(logged), "--log_every", "0.05", "--log_images", "0.3")
    for _ in range(KILLS):
        with serving(tiny_package, tmp_path, *words) as served:
            asking = threading.Thread(target=_ask_until_it_ends, args=(served,))
            asking.start()
            while not (last := counted(served, "written")):
                pass
            for _ in range(draw.randrange(40)):
                last = counted(served, "written")
            sure += last
            served.process.kill()
            served.process.wait(PATIENCE)
            asking.join(PATIENCE)
    rows = rows_below(logged)
    print(f"\n{KILLS} kills: {len(rows)} rows whole, {sure} of them counted as written before")
    assert 0 < sure <= len(rows)
    assert len({row["request_id"] for row in rows}) == len(rows)
    kept = [row["image"] for row in rows if row["image"]]
    assert kept
    assert all((logged / name).exists() for name in kept)


def counted(served: Served, outcome: str) -> int:
    """Rows of the log."""
    return int(served.metric(f'dogbreed_log_rows_total{{outcome="{outcome}"}}'))


def _ask_until_it_ends(served: Served) -> None:
    with contextlib.suppress(OSError, AssertionError):
        while True:
            served.predict(PHOTO)
