"""Makes an engine, puts it through its gate, writes it, and compares all that there are."""

import dataclasses
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch

from dogbreed import __version__, storage
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine, TorchEngine
from dogbreed.errors import BadInput
from dogbreed.export.gates import Compared, parity
from dogbreed.export.graph import Exported, onnx_files, openvino_files, to_onnx
from dogbreed.export.pictures import Pictures
from dogbreed.export.speed import measure
from dogbreed.exported import (
    ENGINE_FILE,
    FOLDER,
    HEAT,
    INPUT,
    OUTPUTS,
    SCHEMA_VERSION,
    ExportedEngine,
    engine_names,
    identity,
    open_exported,
    read_engine,
    runner,
)
from dogbreed.package import Package
from dogbreed.runs import now

_TOOLKITS = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


@dataclasses.dataclass(frozen=True)
class Judge:
    """The module, and what it says of the validation pictures.

    Args:
        source: the package.
        manifest: of the data that it was trained on.
        threads: of the processor, for speeds.
        module: the package's own engine.
        pictures: of split `val`.
        answers: the module's probabilities: float32, (n, classes).
    """

    source: Package
    manifest: Manifest
    threads: int
    module: Engine
    pictures: Pictures
    answers: np.ndarray

    @classmethod
    def of(cls, source: Package, manifest: Manifest, threads: int) -> "Judge":
        """Let the module answer. Raises BadInput: see `Pictures.of`."""
        torch.set_num_threads(threads)
        pictures, module = Pictures.of(source, manifest, "val"), TorchEngine(source, "cpu")
        answers = pictures.probabilities(module, "torch")
        return cls(source, manifest, threads, module, pictures, answers)

    def compare(self, engine: Engine, name: str) -> Compared:
        """Module and engine on the validation pictures."""
        found = self.pictures.probabilities(engine, name)
        return Compared(self.pictures.labels, self.answers, found)


@dataclasses.dataclass(frozen=True)
class Made:
    """An engine that passed its gate.

    Args:
        format: `onnx` or `openvino`.
        precision: `fp32`.
        files: by name.
        compared: with the module.
        exported: the graph that it was made of.
    """

    format: str
    precision: str
    files: dict[str, bytes]
    compared: Compared
    exported: Exported

    @property
    def name(self) -> str:
        """Such as `openvino-int8`."""
        return f"{self.format}-{self.precision}"

    @property
    def sentence(self) -> str:
        """How it fared, in words."""
        value, low, high = self.compared.drop()
        return (
            f"{self.name} agrees on {self.compared.agreement:.2%} of"
            f" {len(self.compared.labels):,} validation pictures, top-1 drops by {value:.2%}"
            f" ({low:.2%} to {high:.2%})"
        )


def make(judge: Judge, form: str, precision: str) -> Made:
    """Make an engine.

    Args:
        judge: knows the package and its answers.
        form: `onnx` or `openvino`.
        precision: `fp32`.

    Raises:
        BadInput: it does not pass its gate; says by how much.
    """
    exported = to_onnx(judge.source)
    files = onnx_files(exported) if form == "onnx" else openvino_files(exported)
    engine = ExportedEngine(runner(form, precision, files))
    compared = judge.compare(engine, f"{form}-{precision}")
    parity(compared)
    return Made(form, precision, files, compared, exported)


def write(target: Package, made: Made) -> str:
    """Put an engine into a package, `engine.json` last; returns its folder.

    An engine of that name that was there is taken away first.
    """
    url = storage.join(target.url, FOLDER, made.name)
    storage.remove([storage.join(url, ENGINE_FILE)])
    for name, data in made.files.items():
        storage.write(storage.join(url, name), data)
    size = made.exported.size
    outputs = [*OUTPUTS, *([HEAT] if made.exported.explains else [])]
    about = {
        "schema": SCHEMA_VERSION,
        "name": made.name,
        "format": made.format,
        "precision": made.precision,
        "created": now(),
        "made_from": identity(target),
        "input": {INPUT: {"dtype": "uint8", "shape": ["batch", size, size, 3]}},
        "outputs": outputs,
        "opset": made.exported.opset,
        "versions": {"dogbreed": __version__} | {name: version(name) for name in _TOOLKITS},
        "gate": {"data": target.model["data"], "split": "val"} | made.compared.about(),
        "files": {
            name: {"sha256": storage.digest_of(data), "bytes": len(data)}
            for name, data in made.files.items()
        },
    }
    storage.write_json(storage.join(url, ENGINE_FILE), about)
    return url


def compare_all(judge: Judge, target: Package) -> list[dict[str, Any]]:
    """A row for the module and each engine of a package, speeds measured in turns.

    The rates are also noted in each `engine.json`, for those who ask for the best engine.
    """
    pictures = next(islice(judge.pictures.batches("speed"), 1))
    abouts = {name: read_engine(target, name) for name in _usable(target)}
    engines = {name: open_exported(target, name, judge.threads) for name in abouts}
    speeds = measure({"torch": judge.module, **engines}, pictures)
    right = judge.answers.argmax(1) == judge.pictures.labels
    module = {
        "name": "torch",
        "bytes": len(judge.source.weights()),
        "top1": float(right.mean()),
        "top1_drop": None,
    }
    rows = [module | speeds["torch"]]
    for name, about in abouts.items():
        about["measured"] = {"threads": judge.threads} | speeds[name]
        storage.write_json(storage.join(target.url, FOLDER, name, ENGINE_FILE), about)
        size = sum(file["bytes"] for file in about["files"].values())
        scores = {key: about["gate"][key] for key in ("top1", "top1_drop")}
        rows.append({"name": name, "bytes": size} | scores | speeds[name])
    return rows


def _usable(target: Package) -> list[str]:
    """Names of the engines that still belong to the package."""
    found = []
    for name in engine_names(target):
        try:
            read_engine(target, name)
        except BadInput as error:
            print(f"passed over: {error}")
            continue
        found.append(name)
    return found
