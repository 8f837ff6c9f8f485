r"""Does pruning pay? Pruned and smaller networks beside the whole one: accuracy, and real speed.

    taskset -c 2 env OMP_NUM_THREADS=1 python -m tests.benchmarks.pruning \
        --runs DENSE PRUNED SMALL [--random mobilenetv3_large_075] [--data DIR]

Top-1 is fp32's on the test pictures, with what is lost against the first run. Speeds are those of
one thread in batches of 8, in turns. Of a network whose weights are not at hand (`--random`) there
are speeds alone.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load, save

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine, TorchEngine
from dogbreed.export.gates import paired_drop
from dogbreed.export.graph import openvino_files, to_onnx
from dogbreed.export.pictures import Pictures
from dogbreed.export.quantize import to_int8
from dogbreed.export.speed import measure
from dogbreed.exported import ExportedEngine, runner
from dogbreed.model.backbone import Network
from dogbreed.package import Package

CALIBRATION = 300
KINDS = ("torch", "fp32", "int8")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, help="the first is the one to beat")
    parser.add_argument("--random", nargs="*", default=[], help="timm's names")
    parser.add_argument("--data", help="the runs' data set, if it was moved")
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = given.data or storage.read_json(f"{given.runs[0]}/run.json")["data"]["root"]
    manifest = Manifest.open(root)
    whole = package.read(f"{given.runs[0]}/model")
    with TemporaryDirectory() as folder:
        sources = {Path(run).name: package.read(f"{run}/model") for run in given.runs}
        sources |= {name: untrained(name, whole, f"{folder}/{name}") for name in given.random}
        sizes = {name: parameters(source) for name, source in sources.items()}
        engines = {
            f"{name} {kind}": engine
            for name, source in sources.items()
            for kind, engine in engines_of(source, manifest)
        }
    test = Pictures.of(whole, manifest, "test")
    speeds = measure(engines, next(islice(test.batches("speed"), 1)))
    print(f"{len(test):,} test pictures; images a second of one thread in batches of 8")
    print("| network | parameters, M | zero | top-1 | lost, in points | torch | fp32 | int8 |")
    print("|---|---|---|---|---|---|---|---|")
    before = np.array([])
    for name, source in sources.items():
        size, zeros = sizes[name]
        cells = [f"{name}, `{source.model['backbone']}`", f"{size / 1e6:.2f}", f"{zeros:.0%}"]
        if name in given.random:
            cells += ["", ""]
        else:
            found = test.probabilities(engines[f"{name} fp32"], name)
            right = found.argmax(1) == test.labels
            before = right if before.size == 0 else before
            value, low, high = (100 * points for points in paired_drop(before, right))
            cells += [f"{right.mean():.4f}", f"{value:.2f} ({low:.2f} to {high:.2f})"]
        rates = [speeds[f"{name} {kind}"]["images_per_s"]["8"] for kind in KINDS]
        print("| " + " | ".join([*cells, *(f"{rate:.0f}" for rate in rates)]) + " |")


def engines_of(source: Package, manifest: Manifest) -> Iterator[tuple[str, Engine]]:
    """The module, and OpenVINO's engines of it."""
    yield "torch", TorchEngine(source, "cpu")
    exported = to_onnx(source)
    yield "fp32", ExportedEngine(runner("openvino", "fp32", openvino_files(exported), 1))
    pictures = Pictures.of(source, manifest, "train", CALIBRATION)
    seen = [picture[None] for batch in pictures.batches("calibration") for picture in batch]
    model = to_int8(exported.model, seen)
    files = openvino_files(type(exported)(model, exported.size, exported.explains))
    yield "int8", ExportedEngine(runner("openvino", "int8", files, 1))


def untrained(backbone: str, like: Package, folder: str) -> Package:
    """A package of random weights with the classes and the data of another."""
    torch.manual_seed(0)
    network = Network(backbone, len(like.class_names))
    weights = save({k: v.contiguous() for k, v in network.body.state_dict().items()})
    kept = ("run", "classes", "preprocessing", "temperature", "data", "pretraining", "metrics")
    package.write(folder, {key: like.model[key] for key in kept} | {"backbone": backbone}, weights)
    return package.read(folder)


def parameters(source: Package) -> tuple[int, float]:
    """How many weights a network has, and the share of them that is zero."""
    values = [value for value in load(source.weights()).values() if value.is_floating_point()]
    size = sum(value.numel() for value in values)
    return size, sum(int((value == 0).sum()) for value in values) / size


if __name__ == "__main__":
    main()
