"""Engines that `dogbreed export` wrote into a package: ONNX Runtime and OpenVINO, without torch.

engines/<format>-<precision>/   engine.json and the files of `FILES`; nothing in them can execute

An engine is opened only if each of its files is the one that `engine.json` describes, and if it was
made from the weights, the calibration and the preprocessing that the package has now.
"""

import contextlib
import dataclasses
import gzip
import os
import shutil
import tempfile
import weakref
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from dogbreed import storage
from dogbreed.cores import cores
from dogbreed.engine import Answers
from dogbreed.errors import BadInput, nearest
from dogbreed.evaluate.confidence import UNCALIBRATED
from dogbreed.package import Package

SCHEMA_VERSION = 1
FOLDER = "engines"
ENGINE_FILE = "engine.json"
TABLE_FILE = "engines.json"  # of a run: all its engines side by side
PICTURE_FILE = "engines.png"
INPUT = "images"
OUTPUTS = ("probabilities", "reject_score", "embedding")
HEAT = "heat"
# The files of a format. ONNX Runtime always computes all that a graph gives, so its graph without
# `heat` is a file of its own; both take their weights from the third.
FILES = {
    "onnx": ("model.onnx", "explain.onnx", "weights.bin"),
    "openvino": ("model.xml.gz", "model.bin"),
}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
PRECISIONS = ("fp32", "bf16", "int8")


def identity(package: Package) -> dict[str, Any]:
    """What of a package is built into an engine: if any of it differs, so do the answers."""
    rejection, platt = package.model["rejection"], package.calibration.platt
    return {
        "weights_sha256": package.model["weights_sha256"],
        "temperature": package.calibration.temperature,
        # Engines of packages that knew of none say nothing of it.
        "platt": None if platt == UNCALIBRATED.platt else platt,
        "reject_score": rejection["score"] if rejection else "energy",
        "rejection_sha256": rejection.get("sha256") if rejection else None,
        "size": package.model["preprocessing"]["size"],
        "flip": package.model["preprocessing"]["flip"],
    }


def engine_names(package: Package) -> list[str]:
    """Names of the engines in a package, sorted, such as `openvino-int8`."""
    found = storage.folders(storage.join(package.url, FOLDER))
    there = [url for url in found if storage.exists(storage.join(url, ENGINE_FILE))]
    known = {f"{each}-{precision}" for each in FILES for precision in PRECISIONS}
    return [name for name in (url.rsplit("/", 1)[-1] for url in there) if name in known]


def read_engine(package: Package, name: str) -> dict[str, Any]:
    """What an engine's `engine.json` says.

    Raises:
        BadInput: there is none, it is damaged, or it belongs to another state of the package.
    """
    url = storage.join(package.url, FOLDER, name)
    if name not in (there := engine_names(package)):
        hint = f"there is: {', '.join(['torch', *there])}; make one with dogbreed export"
        raise BadInput(f"{package.url}: no engine {name!r}{nearest(name, there)}; {hint}")
    about: dict[str, Any] = storage.read_json(storage.join(url, ENGINE_FILE))
    usable = isinstance(about, dict) and name.startswith(f"{about.get('format')}-")
    if not usable or not {"schema", "precision", "made_from", "files"} <= set(about):
        raise BadInput(f"{url}: {ENGINE_FILE} is not one that dogbreed export wrote")
    if about["schema"] > SCHEMA_VERSION:
        raise BadInput(f"{url}: from a newer dogbreed (schema {about['schema']}); upgrade dogbreed")
    now = identity(package)
    if changed := [key for key, value in now.items() if about["made_from"].get(key) != value]:
        raise BadInput(
            f"{url}: made from another state of the package ({', '.join(changed)} changed);"
            " export it again"
        )
    return about


def read_files(package: Package, name: str) -> dict[str, bytes]:
    """The files of an engine, digests checked.

    Raises:
        BadInput: as `read_engine`, or a file is missing or not the one that was exported.
    """
    about = read_engine(package, name)
    url, files = storage.join(package.url, FOLDER, name), {}
    for file in FILES[about["format"]]:
        if file not in about["files"]:  # explain.onnx of a network without heat
            continue
        files[file] = storage.read(storage.join(url, file))
        if storage.digest_of(files[file]) != about["files"][file]["sha256"]:
            raise BadInput(f"{url}/{file}: not the file that was exported; export it again")
    return files


def best_name(package: Package) -> str:
    """The engine that was fastest at batches of 8, of those whose runtime is installed; or `torch`.

    All engines passed a gate, so that the fastest is the best.
    """
    rates = {}
    for name in engine_names(package):
        if find_spec(RUNTIMES[name.split("-")[0]]) is not None:
            speeds = read_engine(package, name).get("measured", {}).get("images_per_s", {})
            rates[name] = float(speeds.get("8", 0))
    return max(rates, key=lambda name: rates[name]) if rates else "torch"


def open_exported(package: Package, name: str, threads: int | None = None) -> "ExportedEngine":
    """Make an engine from what was exported.

    Args:
        package: from `package.read`.
        name: `<format>-<precision>`.
        threads: of the processor for one batch; none: as many as there are cores for this process.

    Raises:
        BadInput: as `read_files`, or the runtime is not installed.
    """
    files, (form, precision) = read_files(package, name), name.split("-")
    return ExportedEngine(runner(form, precision, files, threads))


def runner(
    form: str, precision: str, files: dict[str, bytes], threads: int | None = None
) -> "Runner":
    """What runs the graph in `files`. Raises BadInput where the runtime is not installed."""
    threads = threads or _cores()
    try:
        if form == "onnx":
            return OnnxRunner(files, threads)
        return OpenVinoRunner(files, threads, precision)
    except ImportError as error:
        line = f"--engine {form}-{precision} needs {error.name or RUNTIMES[form]}"
        raise BadInput(f"{line}: pip install {RUNTIMES[form]}") from None


class Runner(Protocol):
    """A graph in its runtime."""

    heat: bool
    """Whether the graph can give `heat`."""

    def run(self, images: np.ndarray, heat: bool) -> dict[str, np.ndarray]:
        """Outputs by name, for uint8 images, (B, S, S, 3)."""
        ...


@dataclasses.dataclass
class ExportedEngine:
    """An `Engine` that needs no torch."""

    runner: Runner

    def answer(self, images: np.ndarray, *, heat: bool = False) -> Answers:
        """See `Engine`."""
        if heat and not self.runner.heat:
            raise BadInput("this backbone ends without a feature map: there is no heat to show")
        return Answers(**self.runner.run(np.ascontiguousarray(images), heat))


class OpenVinoRunner:
    """OpenVINO on the CPU, in batches of `_SIZES`; each is compiled when it is first needed.

    With a batch of any size OpenVINO 2026.4 computes int8 graphs wrongly: one with a top-1 of 0.80
    had 0.25. In eights it is 6 % faster than in fours, and in larger batches no faster still.
    """

    _SIZES = (8, 4, 1)

    def __init__(self, files: dict[str, bytes], threads: int, precision: str) -> None:
        import openvino

        core = openvino.Core()
        weights = openvino.Tensor(np.frombuffer(files["model.bin"], np.uint8))
        # Without the hint OpenVINO would take bf16 for the rest of any graph where it can.
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        with contextlib.suppress(OSError):  # else it compiles anew in each process
            options["CACHE_DIR"] = _compiled()
        self._graph = core.read_model(gzip.decompress(files["model.xml.gz"]), weights)
        self.heat = any(HEAT in output.get_names() for output in self._graph.outputs)
        self._compile = partial(core.compile_model, device_name="CPU", config=options)
        self._requests: dict[tuple[int, bool], Any] = {}
        for size in self._SIZES:
            self._request(size, heat=False)

    def _request(self, size: int, heat: bool) -> Any:
        if (size, heat) not in self._requests:
            graph = self._graph.clone()
            for result in graph.get_results():
                if not heat and HEAT in result.input_value(0).get_names():
                    graph.remove_result(result)
            graph.reshape([size, *list(graph.input().partial_shape)[1:]])
            self._requests[size, heat] = self._compile(graph).create_infer_request()
        return self._requests[size, heat]

    def run(self, images: np.ndarray, heat: bool) -> dict[str, np.ndarray]:
        """See `Runner`."""
        names = (*OUTPUTS, HEAT) if heat else OUTPUTS
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        start = 0
        while start < len(images):
            size = next(size for size in self._SIZES if size <= len(images) - start)
            request = self._request(size, heat)
            found = request.infer({INPUT: images[start : start + size]}, share_inputs=True)
            for name in names:
                parts[name].append(np.array(found[name]))  # the request's own memory is used again
            start += size
        return {name: np.concatenate(part) for name, part in parts.items()}


class OnnxRunner:
    """ONNX Runtime on the CPU; the graph that gives heat is opened when it is first asked for."""

    def __init__(self, files: dict[str, bytes], threads: int) -> None:
        import onnxruntime

        # Weights beside the graph are found by path, and ONNX Runtime refuses paths that lead out
        # of the graph's folder; so the checked files get a folder that holds nothing else.
        self._folder = tempfile.mkdtemp(prefix="dogbreed-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for name, data in files.items():
            Path(self._folder, name).write_bytes(data)
        self._runtime, self._threads = onnxruntime, threads
        self.heat = "explain.onnx" in files
        self._usual, self._explain = self._session("model.onnx"), cast(Any, None)

    def _session(self, file: str) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        path = str(Path(self._folder, file))
        return self._runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, images: np.ndarray, heat: bool) -> dict[str, np.ndarray]:
        """See `Runner`."""
        if heat and self._explain is None:
            self._explain = self._session("explain.onnx")
        session, names = (self._explain, (*OUTPUTS, HEAT)) if heat else (self._usual, OUTPUTS)
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def _compiled() -> str:
    """The user's own folder for what OpenVINO compiled; its name holds for one version of it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dogbreed" / "openvino"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(folder)


def _cores() -> int:
    """Processor cores that this process may use."""
    if limit := os.environ.get("OMP_NUM_THREADS"):
        return max(1, int(limit)) if limit.isdigit() else 1
    return cores()
