"""`dogbreed export`: a package's network as an engine, kept only if it passes its gate."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.exported import RUNTIMES
from dogbreed.runs import Run, newest

TABLE_FILE = "engines.json"
PICTURE_FILE = "engines.png"


def export(
    format: Literal["onnx", "openvino"],
    run: str | None = None,
    run_root: str = "runs",
    out: str | None = None,
    data: str | None = None,
    threads: int = 1,
) -> None:
    """Turn a run's model into an engine that needs no torch.

    The engine is compared with the model on the run's validation pictures, and is kept only if it
    gives the same probabilities. A table then shows the size, speed and accuracy of all engines,
    also in engines.json and engines.png of the run.

    Args:
        format: the runtime: ONNX Runtime's or OpenVINO's.
        run: the run whose model is taken; by default the newest.
        run_root: where the newest run is looked for.
        out: a folder or URL for a copy of the package with the engine; by default the engine goes
            into the run's own package.
        data: where the run's data set lies now, if it was moved.
        threads: of the processor, for the speeds in the table.
    """
    if threads < 1:
        raise BadInput(f"--threads {threads}: must be at least 1")
    _needs(format)
    # These load torch, which takes seconds.
    from dogbreed.data.manifest import Manifest
    from dogbreed.export import table
    from dogbreed.export.make import Judge, compare_all, make, write

    holding = storage.join(package.FOLDER, package.MODEL_FILE)
    where = Run(storage.normal(run)) if run else newest(run_root, holding=holding)
    source = package.read(where.path(package.FOLDER))
    judge = Judge.of(source, Manifest.open(data or where.read()["data"]["root"]), threads)
    made = make(judge, format, "fp32")
    target = source if out is None else package.copy(source, storage.normal(out))
    url = write(target, made)
    print(f"{made.sentence}: {url}")
    rows = compare_all(judge, target)
    title = f"{where.url.rsplit('/', 1)[-1]}: {source.model['backbone']}, {threads} thread(s)"
    about = {"threads": threads, "data": source.model["data"], "split": "val", "engines": rows}
    storage.write_json(where.path(TABLE_FILE), about)
    storage.write(where.path(PICTURE_FILE), table.picture(rows, title))
    print(table.lines(rows))


def _needs(form: str) -> None:
    """See that the toolkits are there before minutes are spent. Raises BadInput."""
    for name in ["onnx", "onnxscript", RUNTIMES[form]]:
        try:
            version(name)
        except PackageNotFoundError:
            raise BadInput(f"export needs {name}: pip install 'dogbreed[export]'") from None
