"""`dogbreed export`: a package's network as an engine, kept only if it passes its gate."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.export.promote import roll_back, take_into_production
from dogbreed.exported import PICTURE_FILE, RUNTIMES, TABLE_FILE
from dogbreed.runs import Run, newest


def export(
    format: Literal["onnx", "openvino"] | None = None,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    run: str | None = None,
    run_root: str = "runs",
    out: str | None = None,
    data: str | None = None,
    calibration: int = 300,
    max_drop: float = 0.02,
    keep: int = 8,
    per_channel: bool = True,
    threads: int = 1,
    promote: str | None = None,
    rollback: bool = False,
) -> None:
    """Turn a run's model into an engine that needs no torch, or take a model into production.

    The engine is compared with the model on the run's validation pictures, and is kept only if it
    passes: fp32 must give the same probabilities, bf16 and int8 nearly the same top-1. A table
    then shows the size, speed and accuracy of all engines, also in engines.json and engines.png of
    the run.

    Args:
        format: the runtime: ONNX Runtime's or OpenVINO's.
        precision: of the arithmetic; int8 is calibrated on the run's training pictures.
        run: the run whose model is taken; by default the newest.
        run_root: where the newest run is looked for.
        out: a folder or URL for a copy of the package with the engine; by default the engine goes
            into the run's own package.
        data: where the run's data set lies now, if it was moved.
        calibration: training pictures that int8 is calibrated with, at least 300.
        max_drop: the largest part of top-1 that bf16 and int8 may lose with 95 % certainty.
        keep: of the layers that int8 hurts most, so many at most may stay in float32.
        per_channel: int8 weights have a scale for each channel; one for all ruins most networks.
        threads: of the processor, for the speeds in the table.
        promote: a production place, folder or URL: the package is copied there and made the
            present one, if it is not worse than that. `--model URL` then answers from it.
        rollback: with --promote: go back to the package before the present one.
    """
    if rollback:
        if promote is None or format is not None:
            raise BadInput("--rollback goes with --promote URL, and nothing is exported then")
        roll_back(storage.normal(promote))
        return
    if (format is None) == (promote is None):
        raise BadInput("say what to do: either --format onnx|openvino, or --promote URL")
    holding = storage.join(package.FOLDER, package.MODEL_FILE)
    where = Run(storage.normal(run)) if run else newest(run_root, holding=holding)
    if promote is not None:
        take_into_production(where, storage.normal(promote))
        return
    for name, value, least in (
        ("calibration", calibration, 300),
        ("max_drop", max_drop, 0),
        ("keep", keep, 0),
        ("threads", threads, 1),
    ):
        if value < least:
            raise BadInput(f"--{name} {value}: must be at least {least}")
    if (format, precision) == ("onnx", "bf16"):
        raise BadInput(
            "--precision bf16: ONNX Runtime has no bf16 kernels for the CPU; use --format openvino"
        )
    assert format is not None
    _needs(format, precision)
    # These load torch, which takes seconds.
    from dogbreed.data.manifest import Manifest
    from dogbreed.export import table
    from dogbreed.export.make import Int8, Judge, compare_all, make, write

    source = package.read(where.path(package.FOLDER))
    judge = Judge.of(source, Manifest.open(data or where.read()["data"]["root"]), threads)
    made = make(judge, format, precision, Int8(calibration, max_drop, keep, per_channel))
    target = source if out is None else package.copy(source, storage.normal(out))
    url = write(target, made)
    print(f"{made.sentence}: {url}")
    rows = compare_all(judge, target)
    title = f"{where.url.rsplit('/', 1)[-1]}: {source.model['backbone']}, {threads} thread(s)"
    about = {"threads": threads, "data": source.model["data"], "split": "val", "engines": rows}
    storage.write_json(where.path(TABLE_FILE), about)
    storage.write(where.path(PICTURE_FILE), table.picture(rows, title))
    print(table.lines(rows))


def _needs(form: str, precision: str) -> None:
    """See that the toolkits are there before minutes are spent. Raises BadInput."""
    toolkits = ["onnx", "onnxscript", RUNTIMES[form]]
    for name in [*toolkits, *(["nncf"] if precision == "int8" else [])]:
        try:
            version(name)
        except PackageNotFoundError:
            raise BadInput(f"export needs {name}: pip install 'dogbreed[export]'") from None
