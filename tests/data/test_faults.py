"""An epoch over a bucket where much goes wrong, and a cache whose writers are killed."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch  # noqa: F401 - with it, images are resized as the workers do

from dogbreed import images
from dogbreed.data import manifest
from dogbreed.data.cache import Cache
from dogbreed.storage import digest_of
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS

N, RATE, SIZE = 12_000, 100, 16

CONSUMER = f"""
import hashlib, json, sys, time
import numpy as np
from dogbreed.data.cache import Cache
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest

def main():
    data = Manifest.open(sys.argv[1])
    pictures = PictureDataset(
        data, np.arange(1), size={SIZE}, crop=1.0, cache=Cache(sys.argv[2], 10**9)
    )
    loader = EpochLoader(
        pictures, np.arange({N}), batch_size=64, shuffle=True, seed=1, window=8, workers=2
    )
    seen, pixels, begun = [], {{}}, 0.0
    for batch in loader:
        begun = begun or time.monotonic()
        for row, image in zip(batch["row"].tolist(), batch["image"]):
            seen.append(row)
            pixels[row] = hashlib.sha256(image.permute(1, 2, 0).numpy().tobytes()).hexdigest()
        assert batch["valid"].all(), batch["skipped"]
        time.sleep(max(0, begun + len(seen) / {RATE} - time.monotonic()))
    json.dump([seen, pixels, time.monotonic() - begun], open(sys.argv[3], "w"))

if __name__ == "__main__":
    main()
"""


def build(folder: Path, shards: int) -> dict[int, str]:
    """A data set; for each row the SHA-256 of its pixels. No shards: a file for each picture."""
    rows, pixels, packed = [], {}, [bytearray(512) for _ in range(shards)]
    (folder / "files").mkdir(parents=True)
    for row in range(N):
        data = picture_file(24, 24, seed=row)
        image = images.picture(data, SIZE, lambda w, h: images.centre_box(w, h, 1.0))
        pixels[row] = hashlib.sha256(image.tobytes()).hexdigest()
        uri, offset = f"files/{row:05d}", 0
        if shards:
            number = row * 7919 % shards
            uri, offset = f"files/{number}.tar", len(packed[number])
            packed[number] += data
        else:
            (folder / uri).write_bytes(data)
        about = {"id": f"{row:05d}", "uri": uri, "offset": offset, "size": len(data)}
        rows.append(about | {"label": 0, "split": "train", "digest": digest_of(data)})
    for number, content in enumerate(packed):
        (folder / f"files/{number}.tar").write_bytes(content)
    table = pa.Table.from_pylist(rows, manifest.SCHEMA)
    manifest.save(str(folder), table, classes=[{"name": "dog"}], name="faults")
    return pixels


@pytest.mark.soak
@pytest.mark.parametrize("shards", [0, 600], ids=["loose", "packed"])
def test_an_epoch_through_faults_is_exact_and_hardly_slower(shards: int, tmp_path: Path) -> None:
    """Without faults the consumer sets the pace: the epoch takes N / RATE seconds."""
    pixels = build(tmp_path / "data", shards)
    root = tmp_path / "double"
    with FakeGCS(root=root) as gcs:
        bucket = gcs.bucket(folder=tmp_path / "data")
        gcs.faults.error_rate, gcs.faults.cut_rate, gcs.faults.corrupt_rate = 0.05, 0.02, 0.01
        gcs.faults.stall_rate, gcs.faults.stall_seconds = 0.001, 20
        gcs.faults.latency, gcs.faults.only = 0.05, "/files/"
        (tmp_path / "consumer.py").write_text(CONSUMER)
        words = [tmp_path / "consumer.py", bucket, tmp_path / "cache", tmp_path / "out.json"]
        subprocess.run(
            [sys.executable, *map(str, words)],
            env=os.environ | gcs.env | {"PYTHONPATH": os.getcwd()},
            check=True,
        )
        seen, got, seconds = json.loads((tmp_path / "out.json").read_text())
        print(f"{seconds:.1f} s instead of {N / RATE:.1f} s; {dict(gcs.counts)}")
    assert sorted(seen) == list(range(N))
    assert {int(row): digest for row, digest in got.items()} == pixels
    assert seconds <= 1.5 * N / RATE


def write_for_ever(folder: Path) -> None:
    cache, rng = Cache(folder, 10**9), np.random.default_rng(os.getpid())
    while True:
        data = rng.bytes(200_000)
        name = digest_of(data)
        claim = cache.claim(name)
        cache.put(name, data)
        if claim is not None:
            cache.release(name, claim)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(20))
def test_a_writer_killed_at_any_moment_leaves_no_half_entry(number: int, tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(
        target=write_for_ever, args=(tmp_path,)
    )
    process.start()
    while process.is_alive() and not list(tmp_path.glob("??/*")):
        time.sleep(0.001)
    time.sleep(random.Random(number).uniform(0, 0.03))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    paths = list(tmp_path.glob("??/*"))
    entries = [path for path in paths if not path.name.startswith(".part-")]
    kept = Cache(tmp_path, 10**9)
    assert all(kept.get(path.name) is not None for path in entries)  # else it is damaged
    for path in set(paths) - set(entries):
        os.utime(path, (1, 1))
    Cache(tmp_path, 10**9).put(digest_of(b"x"), b"x")
    assert not list(tmp_path.glob("??/.part-*"))
    assert len(list(tmp_path.glob("??/*"))) == len(entries) + 1
