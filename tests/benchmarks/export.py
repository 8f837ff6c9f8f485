r"""Engines beside the module: speed on one core, size, and what they lose on the test pictures.

    taskset -c 2 env OMP_NUM_THREADS=1 python -m tests.benchmarks.export \
        --run RUN [--data DIR] [--photo FILE]

The run must have been exported before, once for each engine: `dogbreed export --run RUN --format …
--precision …`. Speeds are measured in turns on photographs of the test split, one thread each.
"""

import argparse
import os
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import torch

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine, TorchEngine
from dogbreed.export import table
from dogbreed.export.gates import Compared
from dogbreed.export.pictures import Pictures
from dogbreed.export.speed import measure
from dogbreed.exported import engine_names, open_exported, read_engine

STARTS = 5


def main() -> None:
    """Print a table, and what the goals ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", help="the run's data set, if it was moved")
    parser.add_argument("--photo", help="a JPEG for `predict`, from the start of the process")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = package.read(f"{given.run}/model")
    root = given.data or storage.read_json(f"{given.run}/run.json")["data"]["root"]
    pictures = Pictures.of(source, Manifest.open(root), "test")
    engines: dict[str, Engine] = {"torch": TorchEngine(source, "cpu")}
    sizes = {"torch": len(source.weights())}
    for name in engine_names(source):
        engines[name] = open_exported(source, name, threads=1)
        files = read_engine(source, name)["files"].values()
        sizes[name] = sum(file["bytes"] for file in files)
    speeds = measure(engines, next(islice(pictures.batches("speed"), 1)))
    rows, module = [], None
    for name, engine in engines.items():
        found = pictures.probabilities(engine, name)
        module = found if module is None else module
        compared = Compared(pictures.labels, module, found)
        drop = dict(zip(("value", "low", "high"), compared.drop(), strict=True))
        row = {"name": name, "bytes": sizes[name], "top1": compared.top1} | speeds[name]
        rows.append(row | {"top1_drop": None if name == "torch" else drop})
    print(f"{source.model['backbone']}, {len(pictures):,} test pictures, 1 thread")
    print(table.lines(rows))
    rates = {row["name"]: row["images_per_s"]["8"] for row in rows}
    for name, rate in rates.items():
        if name != "torch":
            form = name.split("-")[0]
            ratio = sizes[name] / sizes.get(f"{form}-fp32", np.nan)
            print(f"{name}: {rate / rates['torch']:.2f}x torch, {ratio:.3f} of fp32's size")
            if given.photo:
                print(f"  predict of one picture: {_start(source.url, name, given.photo):.2f} s")


def _start(model: str, engine: str, photo: str) -> float:
    """Median seconds of a process that answers one picture."""
    words = ["predict", "--model", model, "--engine", engine, "--images", photo, "--out", "-"]
    seconds = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "dogbreed", *words],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


if __name__ == "__main__":
    main()
