"""Does the loader keep up with the decoder, and what does it cost beside decoding?

    taskset -c 2,3 env OMP_NUM_THREADS=1 nox -s bench -- loader --photos DIR

Prepares the photographs as loose files, then in turns lets one core decode and crop bytes that lie
in memory, and the loader's workers do all of it, from the cache on disk, over the same pictures
with the same boxes. Prints a table in markdown; the workers should hand out `workers` times what
the bare loop does. Shares of CPU time hold on busy cores too. About two minutes.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dogbreed import images
from dogbreed.data import prepare
from dogbreed.data.cache import Cache
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest
from dogbreed.data.transforms import Augment, Draws, random_box
from dogbreed.ranges import read_pictures

SIZE = 224
AUGMENT = Augment()
PASSES = 3  # of the bare loop: seconds, as the loader's turn is
Clock = Callable[[], float]


def bare(pictures: list[tuple[str, bytes]], epoch: int) -> tuple[float, float]:
    """Pictures per second, and CPU seconds per picture, of decoding and cropping alone."""
    boxes = []
    for key, data in pictures:
        width, height = images.upright_size(images.open_image(data))
        boxes.append(random_box(Draws(0, epoch, key), width, height, AUGMENT))
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(PASSES):
        for (_, data), box in zip(pictures, boxes, strict=True):
            images.picture(data, SIZE, lambda _w, _h, box=box: box)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n = len(pictures) * PASSES
    return n / wall, cpu / n


def cpu_of(process: int) -> float:
    """CPU seconds of another process so far; Linux only."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded(loader: EpochLoader) -> tuple[float, float, float]:
    """Pictures per second, and CPU seconds per picture of the workers and of this process.

    From the second batch on: the first waits for processes to start.
    """
    batches = iter(loader)
    next(batches)
    workers = [worker.pid for worker in loader._loader._iterator._workers]
    start, theirs, own = time.perf_counter(), sum(map(cpu_of, workers)), time.process_time()
    n = sum(int(batch["valid"].sum()) for batch in batches)
    wall, own = time.perf_counter() - start, time.process_time() - own
    return n / wall, (sum(map(cpu_of, workers)) - theirs) / n, own / n


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", required=True, help="class folders of photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=20, help="times each picture, in an epoch")
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64])
    parser.add_argument("--prefetch", type=int, nargs="+", default=[2])
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        prepare.prepare("folder", f"{folder}/data", args.photos, splits="1,0,0")
        manifest = Manifest.open(f"{folder}/data")
        rows = manifest.rows_of("train")
        cache = Cache(f"{folder}/cache", 10**12)
        seen = 0
        setups = list(itertools.product(args.workers, args.batch_size, args.prefetch))
        loaders = {}
        for workers, batch_size, prefetch in setups:
            dataset = PictureDataset(
                manifest,
                np.arange(len(manifest.classes)),
                size=SIZE,
                crop=1.0,
                augment=AUGMENT,
                cache=cache,
            )
            loaders[workers, batch_size, prefetch] = EpochLoader(
                dataset,
                np.tile(rows, args.repeat),
                batch_size=batch_size,
                shuffle=True,
                samples_seen=lambda: seen,
                workers=workers,
                prefetch=prefetch,
            )
        taken = manifest.take(rows)
        fetched = read_pictures(manifest.ranges(taken))
        pictures = [(row["id"], data) for row, data in zip(taken, fetched, strict=True)]
        for loader in loaders.values():
            loaded(loader)  # fills the cache, starts the workers
        bares, results = [], {setup: [] for setup in setups}
        for epoch in range(1, args.rounds + 1):
            seen = epoch * len(rows) * args.repeat
            for setup, loader in loaders.items():
                os.sched_setaffinity(0, cores[:1])
                bares.append(bare(pictures, epoch))
                os.sched_setaffinity(0, cores)
                results[setup].append((*loaded(loader), bares[-1][0]))
            print(f"round {epoch}", file=sys.stderr)
        for loader in loaders.values():
            loader.close()
    speed = statistics.median(rate for rate, _ in bares)
    cpu = statistics.median(seconds for _, seconds in bares)
    print("| loop | images/s | of so many bare loops | CPU of workers | of the main process |")
    print("|---|---|---|---|---|")
    print(f"| bare, one core | {speed:,.0f} | | {cpu * 1e6:,.0f} µs | |")
    for (workers, batch_size, prefetch), figures in results.items():
        rate, theirs, own = (
            statistics.median(column) for column in list(zip(*figures, strict=True))[:3]
        )
        share = statistics.median(f[0] / (f[3] * min(workers, len(cores))) for f in figures)
        name = f"{workers} workers, batches of {batch_size}, {prefetch} ahead"
        print(
            f"| {name} | {rate:,.0f} | {share:.2f} | {theirs * 1e6:,.0f} µs | {own * 1e6:,.0f} µs |"
        )


if __name__ == "__main__":
    main()
