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
from dogbreed.errors import BadInput, named
from dogbreed.export.gates import Compared, loses_too_much, parity
from dogbreed.export.graph import Exported, onnx_files, openvino_files, to_onnx
from dogbreed.export.pictures import BATCH, Pictures
from dogbreed.export.quantize import hurt, to_int8
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
class Int8:
    """How int8 is made.

    Args:
        calibration: number of training pictures.
        max_drop: the largest part of top-1 that may be lost; bf16 too is held to it.
        keep: so many layers at most may stay in float32.
        per_channel: a scale for each channel of a weight.
    """

    calibration: int
    max_drop: float
    keep: int
    per_channel: bool


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
        precision: `fp32`, `bf16` or `int8`.
        files: by name.
        compared: with the module.
        exported: the graph that it was made of.
        kept: names of the layers that stay in float32 in an int8 engine.
        calibration: number of training pictures that it was calibrated with.
    """

    format: str
    precision: str
    files: dict[str, bytes]
    compared: Compared
    exported: Exported
    kept: tuple[str, ...] = ()
    calibration: int = 0

    @property
    def name(self) -> str:
        """Such as `openvino-int8`."""
        return f"{self.format}-{self.precision}"

    @property
    def sentence(self) -> str:
        """How it fared, in words."""
        value, low, high = self.compared.drop()
        kept = f"; in float32 stay {named(self.kept)}" if self.kept else ""
        return (
            f"{self.name} agrees on {self.compared.agreement:.2%} of"
            f" {len(self.compared.labels):,} validation pictures, top-1 drops by {value:.2%}"
            f" ({low:.2%} to {high:.2%}){kept}"
        )


def make(judge: Judge, form: str, precision: str, how: Int8) -> Made:
    """Make an engine.

    Args:
        judge: knows the package and its answers.
        form: `onnx` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
        how: for int8, and the drop that bf16 may have.

    Raises:
        BadInput: it does not pass its gate; says by how much, and for int8 which layers hurt.
    """
    if precision == "int8":
        return _quantised(judge, form, how)
    exported = to_onnx(judge.source)
    files = _files(exported, form, half=precision == "bf16")
    compared = judge.compare(_engine(form, precision, files), f"{form}-{precision}")
    if precision == "fp32":
        parity(compared)
    elif problem := loses_too_much(compared, how.max_drop):
        raise BadInput(f"{form}-{precision}: {problem}; nothing was written")
    return Made(form, precision, files, compared, exported)


def _quantised(judge: Judge, form: str, how: Int8) -> Made:
    """In int8, with as few of the layers that hurt most in float32 as the gate asks for."""
    seen = Pictures.of(judge.source, judge.manifest, "train", how.calibration)
    if len(seen) < how.calibration:
        raise BadInput(
            f"{judge.manifest.root}: {len(seen):,} training pictures, but int8 is calibrated with"
            f" {how.calibration:,}; prepare more, or export another precision"
        )
    exported = to_onnx(judge.source)
    calibration = [image[None] for batch in seen.batches("calibration") for image in batch]
    kept: tuple[str, ...] = ()
    while True:
        model = to_int8(exported.model, calibration, keep=kept, per_channel=how.per_channel)
        quantised = dataclasses.replace(exported, model=model)
        files = _files(quantised, form, half=False)
        compared = judge.compare(_engine(form, "int8", files), f"{form}-int8")
        problem = loses_too_much(compared, how.max_drop)
        if problem is None:
            return Made(form, "int8", files, compared, exported, kept, len(seen))
        # Anew each time: noise of one layer hides that of those after it.
        found = hurt(exported.model, model, np.concatenate(calibration[:BATCH]))
        ranking = [each for each in found if each[0] not in kept]
        if len(kept) >= how.keep or not ranking:
            worst = named([f"{name} ({noise:.2f})" for name, noise in ranking])
            raise BadInput(
                f"{form}-int8: {problem}, with {len(kept)} layers in float32; the layers that hurt"
                f" most, with the noise that each adds: {worst}; nothing was written"
            )
        print(f"int8: {problem}; trying with more layers in float32")
        more = min(max(2, len(kept)), how.keep - len(kept))
        kept += tuple(name for name, _ in ranking[:more])


def _files(exported: Exported, form: str, *, half: bool) -> dict[str, bytes]:
    return onnx_files(exported) if form == "onnx" else openvino_files(exported, half=half)


def _engine(form: str, precision: str, files: dict[str, bytes]) -> ExportedEngine:
    return ExportedEngine(runner(form, precision, files))


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
        "calibration": {"split": "train", "n": made.calibration} if made.calibration else None,
        "kept_in_float32": list(made.kept),
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
