"""A million pictures: what opening, ordering and a worker cost in memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dogbreed import storage
from dogbreed.data.manifest import DATASET_FILE, MANIFEST_FILE, SCHEMA, SCHEMA_VERSION

N = 1_000_000
MB = 10**6

MEMORY = """
import sys
from pathlib import Path

def memory(name):
    "In bytes: VmHWM is the most so far, RssFile what of it is mapped from files and shared."
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) * 1024
"""

EPOCH = (
    MEMORY
    + """
import json
import numpy as np
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import epoch_order, requests, shard_numbers

data = Manifest.open(sys.argv[1])
rows = data.rows_of("train")
shards = shard_numbers(data.files_of(rows))
order = rows[epoch_order(shards, seed=0, epoch=0, window=8)]
first = next(requests(order, epoch=0, consumed=0, batch_size=64))
print(json.dumps({
    "rows": len(rows),
    "shards": int(shards.max()) + 1,
    "permutation": bool((np.sort(order) == rows).all()),
    "first": [row["id"] for row in data.take(first.rows[:3])] == [
        f"{row:07d}.jpg" for row in first.rows[:3]],
    "peak": memory("VmHWM"),
}))
"""
)

WORKER = (
    MEMORY
    + """
import json, pickle
import numpy as np
import dogbreed.data.dataset

idle, shared = memory("VmHWM"), memory("RssFile")
data = pickle.loads(Path(sys.argv[1]).read_bytes())
rng = np.random.default_rng(0)
right = 0
for _ in range(200):
    rows = rng.integers(0, len(data), 64)
    ranges = data.ranges(data.take(rows))
    right += sum(r.offset == row % 100 * 40_000 for r, row in zip(ranges, rows))
print(json.dumps({
    "right": int(right),
    "above_idle": memory("VmHWM") - idle,
    "shared": memory("RssFile") - shared,
}))
"""
)


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set of a million pictures, a hundred in each shard; the shards are missing."""
    root = tmp_path_factory.mktemp("million")
    number = np.arange(N)
    digests = [f"{k * 2654435761 % 2**64:016x}" * 4 for k in range(N)]
    columns = {
        "id": [f"{k:07d}.jpg" for k in range(N)],
        "uri": [f"shards/{k // 100:05d}.tar" for k in range(N)],
        "offset": number % 100 * 40_000,
        "size": np.full(N, 39_000),
        "label": (number % 120).astype(np.int32),
        "split": np.where(number % 10 < 8, "train", "val"),
        "width": np.full(N, 500, np.int32),
        "height": np.full(N, 375, np.int32),
        "digest": digests,
        "group": digests,
        "phash": [bytes(16)] * N,
    }
    table = pa.table({name: pa.array(column) for name, column in columns.items()}).cast(SCHEMA)
    pq.write_table(table, root / MANIFEST_FILE, row_group_size=131_072, compression="zstd")
    digest = storage.digest_of((root / MANIFEST_FILE).read_bytes())
    about = {
        "schema": SCHEMA_VERSION,
        "name": "million",
        "version": "0" * 64,
        "manifest": {"sha256": digest, "rows": N},
        "counts": {"train": {}, "val": {}},
        "classes": [{"name": f"breed_{k}"} for k in range(120)],
    }
    (root / DATASET_FILE).write_text(json.dumps(about))
    return root


def run(code: str, argument: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, int] = json.loads(done.stdout)
    return result


def test_it_opens_and_an_epoch_is_ordered_in_under_a_gigabyte(million: Path) -> None:
    got = run(EPOCH, million)
    assert (got["rows"], got["shards"]) == (800_000, 10_000)
    assert got["permutation"]
    assert got["first"]
    assert got["peak"] < 1000 * MB


def test_a_worker_that_takes_random_rows_stays_small(million: Path, tmp_path: Path) -> None:
    import pickle

    from dogbreed.data.manifest import Manifest

    (tmp_path / "pickled").write_bytes(pickle.dumps(Manifest.open(str(million))))
    got = run(WORKER, tmp_path / "pickled")
    assert got["right"] == 200 * 64
    assert got["above_idle"] < 400 * MB  # of which the mapped manifest is up to 200
    assert got["above_idle"] - got["shared"] < 150 * MB
