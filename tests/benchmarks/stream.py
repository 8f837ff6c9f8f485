"""How fast pictures come out of a bucket: against peers, against a step, to the first batch.

    nox -s bench -- stream packed --photos DIR     # more peers: litdata, mosaicml-streaming
    nox -s bench -- stream loose --photos DIR
    nox -s bench -- stream step --photos DIR
    nox -s bench -- stream first

The bucket is the tests' double on loopback in a process of its own, which answers each request
50 ms late (--latency). Runs are interleaved; the tables show medians and, in brackets, all runs.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from dogbreed import storage
from dogbreed.data.cache import Cache
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.loader import EpochLoader, fork_server
from dogbreed.data.manifest import PLACE, SCHEMA, Manifest, save
from dogbreed.data.prepare import prepare
from dogbreed.data.transforms import Augment
from dogbreed.ranges import read_ranges
from tests.benchmarks.peers import (
    BATCH,
    WORKERS,
    Parquet,
    Peer,
    Tar,
    TarWhole,
    WebDataset,
    as_peers_want_it,
    litdata,
    mosaic,
)
from tests.doubles.tokens import Issuer

FORKSERVER = multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def bucket(folder: Path, latency: float, cores: str) -> Iterator[str]:
    """Serve a folder; all processes started meanwhile find it."""
    words = ["taskset", "-c", cores] if cores else []
    words += [sys.executable, "-m", "tests.doubles.gcs", "--port", "0", "--bucket", "dogs"]
    words += ["--folder", str(folder), "--latency", str(latency)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.match(r"export (\w+)=(.*)", line):
                    os.environ[found[1]] = found[2]
                if "ready" in line:
                    break
            yield "gs://dogs"
        finally:
            process.terminate()


def prepared(photos: str, folder: Path, shard_size: str | None) -> Path:
    out = folder / ("packed" if shard_size else "loose")
    prepare("folder", str(out), photos, shard_size=shard_size, splits="1,0,0", seed=0)
    return out


# Ours ---------------------------------------------------------------------------------------


class Undecoded(PictureDataset):
    """Fetches and checks as ever, but does not decode: a batch is the number of bytes."""

    def __getitems__(self, request: Any) -> Any:
        found = self._fetch(self.manifest.take(request.rows, ("id", "label", *PLACE)))
        assert all(isinstance(data, bytes) for data in found)
        return len(found), sum(map(len, found))


class OneByOne(Undecoded):
    """A request after the other, as a loop over open() and read() does it."""

    def _fetch(self, rows: Any) -> Any:
        return [read_ranges(self.manifest.ranges([row]))[0] for row in rows]


def ours(root: str, cache: str | None, kind: type = Undecoded, **options: Any) -> EpochLoader:
    data = Manifest.open(root)
    dataset = kind(
        data,
        np.arange(len(data.classes)),
        size=224,
        crop=1.0,
        augment=Augment(),
        cache=Cache(cache, 20 * 10**9) if cache else None,
    )
    rows = data.rows_of("train")[: options.pop("limit", None)]
    standard: dict[str, Any] = {"shuffle": True, "window": 8, "workers": WORKERS}
    loader = EpochLoader(dataset, rows, batch_size=BATCH, **standard | options)
    if kind is not PictureDataset:  # there are no pictures to hand over
        loader._loader.dataset.handover = loader._handover = None
    return loader


# Timing -------------------------------------------------------------------------------------


class Ready:
    """Workers come here when they have imported everything; then the clock starts."""

    def __init__(self, before: Callable[[int], None] | None = None) -> None:
        self.barrier, self.before = FORKSERVER.Barrier(WORKERS + 1), before

    def __call__(self, worker: int) -> None:
        import gcsfs  # noqa: F401
        import webdataset  # noqa: F401

        storage.exists("gs://dogs/none")  # connects
        if self.before is not None:
            self.before(worker)
        self.barrier.wait()


def epoch(loader: Any, inner: Any) -> tuple[float, int, int]:
    """Seconds of an epoch from the moment in which the workers are ready, pictures, bytes."""
    ready = Ready(inner.worker_init_fn)
    inner.worker_init_fn = ready
    begun: list[float] = []

    def wait() -> None:
        ready.barrier.wait()
        begun.append(time.perf_counter())

    clock = threading.Thread(target=wait, daemon=True)
    clock.start()
    count = size = 0
    for n, more in loader:
        count, size = count + n, size + more
    clock.join()
    return time.perf_counter() - begun[0], count, size


def peer_loader(peer: Peer) -> Any:
    return torch.utils.data.DataLoader(
        peer, batch_size=None, num_workers=WORKERS, multiprocessing_context=FORKSERVER
    )


def race(entries: dict[str, Callable[[], tuple[float, int, int]]], runs: int, unit: str) -> None:
    rates: dict[str, list[float]] = {name: [] for name in entries}
    bytes_of: dict[str, float] = {}
    for _ in range(runs):
        for name, run in entries.items():
            seconds, count, size = run()
            rates[name].append(count / seconds)
            bytes_of[name] = size / count
            print(f"  {name}: {count} in {seconds:.2f} s", file=sys.stderr, flush=True)
    first = statistics.median(next(iter(rates.values())))
    print(f"| | {unit} | bytes each | dogbreed over it |\n|---|---|---|---|")
    for name, all_ in rates.items():
        middle = statistics.median(all_)
        each = ", ".join(f"{rate:,.0f}" for rate in all_)
        print(f"| {name} | {middle:,.0f} ({each}) | {bytes_of[name]:,.0f} | {first / middle:.2f} |")


# Commands -----------------------------------------------------------------------------------


def cold(url: str, folder: str | None) -> Callable[[], tuple[float, int, int]]:
    """An epoch of ours with an empty cache."""

    def run() -> tuple[float, int, int]:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            loader = ours(url, cache)
            result = epoch(loader, loader._loader)
            loader.close()
            return result

    return run


def repeated(photos: str, folder: Path, times: int) -> str:
    """The photographs so often, each time with another number of bytes behind the picture."""
    for file in Path(photos).glob("*/*"):
        data = file.read_bytes()
        for number in range(times):
            copy = folder / "photos" / file.parent.name / f"{number}_{file.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data + bytes(number))
    return str(folder / "photos")


def packed(options: argparse.Namespace, folder: Path) -> None:
    if options.times > 1:
        options.photos = repeated(options.photos, folder, options.times)
    data = prepared(options.photos, folder, "64MB")
    tars, parquets = as_peers_want_it(data)
    with bucket(data, options.latency, options.cores) as url:

        def peer(kind: type[Peer], names: list[str], **more: Any) -> Any:
            def run() -> tuple[float, int, int]:
                it = kind([f"{url}/{name}" for name in names])
                loader = peer_loader(it)
                return epoch(loader, loader)

            return run

        def library(make: Callable[[str, str], Any]) -> Any:
            def run() -> tuple[float, int, int]:
                with tempfile.TemporaryDirectory(dir=options.cache) as cache:
                    loader = make(url, cache)
                    return epoch(loader, loader)

            return run

        entries = {
            "dogbreed, shuffled, digests checked": cold(url, options.cache),
            "webdataset, readahead of 8 MiB": peer(WebDataset, tars),
            "tarfile, readahead of 5 MiB": peer(Tar, tars),
            "tarfile, whole shards fetched": peer(TarWhole, tars),
            "parquet, pyarrow over gcsfs": peer(Parquet, parquets),
        }
        if find_spec("litdata"):
            entries["litdata"] = library(litdata)
        if find_spec("streaming"):
            entries["mosaicml-streaming"] = library(mosaic)
        issuer = Issuer()  # mosaicml-streaming insists on credentials
        issuer.account(folder / "account.json")
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(folder / "account.json")
        race(entries, options.runs, "samples/s")
        issuer.close()


def loose(options: argparse.Namespace, folder: Path) -> None:
    data = prepared(options.photos, folder, None)
    with bucket(data, options.latency, options.cores) as url:

        def singly() -> tuple[float, int, int]:
            loader = ours(url, None, OneByOne, limit=1000)
            result = epoch(loader, loader._loader)
            loader.close()
            return result

        entries = {"dogbreed": cold(url, options.cache), "one file at a time (1,000 files)": singly}
        race(entries, options.runs, "samples/s")


def step(options: argparse.Namespace, folder: Path) -> None:
    print("| data | to the first batch | waited after it | share | samples/s |")
    print("|---|---|---|---|---|")
    for shard_size in ("64MB", None):
        prepared(options.photos, folder, shard_size)
    with bucket(folder, options.latency, options.cores) as url:
        idle = fork_server().Process(target=int)  # fit has it import while it opens the data
        idle.start()
        idle.join()
        for _ in range(options.runs):
            for kind in ("packed", "loose"):
                with tempfile.TemporaryDirectory(dir=options.cache) as cache:
                    loader = ours(f"{url}/{kind}", cache, PictureDataset)
                    begun = time.perf_counter()
                    first, waited, count, asked = 0.0, 0.0, 0, begun
                    for batch in loader:
                        now = time.perf_counter()
                        if first:
                            waited += now - asked
                        else:
                            first = now - begun
                        count += len(batch["row"])
                        time.sleep(len(batch["row"]) / options.rate)
                        asked = time.perf_counter()
                    total = time.perf_counter() - begun
                    loader.close()
                share = waited / (total - first)
                print(
                    f"| {kind} | {first:.2f} s | {waited:.2f} s | {share:.1%}"
                    f" ({(waited + first) / total:.1%} with the first) | {count / total:,.0f} |",
                    flush=True,
                )


def first(options: argparse.Namespace, folder: Path) -> None:
    million(folder / "million")
    print("| to the first batch | opened | planned and fetched |\n|---|---|---|")
    with bucket(folder / "million", options.latency, options.cores) as url:
        for run in range(options.runs):
            environment = os.environ | {"XDG_CACHE_HOME": str(folder / f"cache-{run}")}
            subprocess.run([sys.executable, "-c", FIRST, url], env=environment, check=True)


FIRST = """
import sys, time
from types import SimpleNamespace
import gcsfs, dogbreed.training
from dogbreed.data.datamodule import DogDataModule

def main():
    begun = time.perf_counter()
    data = DogDataModule(root=sys.argv[1], workers=2, image_size=64)
    data.setup("fit")
    opened = time.perf_counter()
    module = SimpleNamespace(samples_seen=0, frozen_view=lambda: None)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, lightning_module=module)
    batch = next(iter(data.train_dataloader()))
    end = time.perf_counter()
    assert batch["valid"].all()
    print(f"| {end - begun:.2f} s | {opened - begun:.2f} s | {end - opened:.2f} s |", flush=True)
    data.teardown("fit")

if __name__ == "__main__":
    main()
"""


def million(root: Path, count: int = 1_000_000, each: int = 1_600) -> None:
    """A manifest of a million pictures; in each shard they are sixteen times the same hundred."""
    number, pieces = np.arange(count), []
    for seed in range(100):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        pieces.append(file.getvalue())
    sizes = np.array([len(piece) for piece in pieces])
    offsets = 512 + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    (root / "shards").mkdir(parents=True)
    for shard in range(-(-count // each)):
        (root / f"shards/{shard:05d}.tar").write_bytes(bytes(512) + b"".join(pieces))
    digests = np.array([storage.digest_of(piece) for piece in pieces])
    columns = {
        "id": [f"{k:07d}.jpg" for k in range(count)],
        "uri": [f"shards/{k // each:05d}.tar" for k in range(count)],
        "offset": offsets[number % 100],
        "size": sizes[number % 100],
        "label": (number % 120).astype(np.int32),
        "split": np.where(number % 10 < 8, "train", "val"),
        "width": np.full(count, 40, np.int32),
        "height": np.full(count, 30, np.int32),
        "digest": digests[number % 100],
        "group": [f"{k * 2654435761 % 2**64:016x}" * 4 for k in range(count)],
        "phash": [bytes(16)] * count,
    }
    table = pa.table({name: pa.array(column) for name, column in columns.items()}).cast(SCHEMA)
    save(str(root), table, classes=[{"name": f"breed_{k}"} for k in range(120)], name="million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = {"packed": packed, "loose": loose, "step": step, "first": first}
    parser.add_argument("command", choices=commands)
    parser.add_argument("--photos")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--times", type=int, default=1, help="each photograph, for packed")
    parser.add_argument("--rate", type=float, default=500, help="pictures a second of the step")
    parser.add_argument("--cores", default="", help="of the double, such as 0,3")
    parser.add_argument("--cache", help="where the disk cache lies, a temporary folder")
    options = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        commands[options.command](options, Path(folder))


if __name__ == "__main__":
    main()
