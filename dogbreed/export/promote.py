"""Production: a folder of packages, each complete and never changed, and a pointer to one of them.

current.json                   the pointer: {"package", "history", …}; replaced as a whole
packages/<run>-<digest>/       a package's files, and evaluation/ with what it scored

The pointer is moved last, so that whoever reads it finds a complete package behind it. When two
promote at once, the last one wins: either pointer is right by itself, and what the other one
promoted lies complete beside it, so that no precondition is needed.
"""

import hashlib
from typing import Any

import numpy as np

from dogbreed import package, storage
from dogbreed.errors import BadInput, named
from dogbreed.export.gates import paired_drop
from dogbreed.exported import FOLDER as ENGINES
from dogbreed.exported import engine_names, read_engine, read_files
from dogbreed.package import POINTER_FILE, Package
from dogbreed.runs import Run, now

PACKAGES = "packages"
EVALUATION = "evaluation"
SCHEMA_VERSION = 1
REMEMBERED = 20  # packages in the history


def take_into_production(run: Run, place: str) -> None:
    """Copy a run's package to `place` and point there, if it is complete and not worse.

    Raises:
        BadInput: a file is missing or not the right one, an engine has not passed its gate, the
            run has not been tested, or it is worse than the present one on the same pictures.
    """
    source = package.read(run.path(package.FOLDER))
    engines = _complete(source)
    present = _pointer(place)
    folders = [EVALUATION]
    if present is not None:
        theirs = storage.join(place, present["package"], EVALUATION)
        before = storage.read_json(storage.join(theirs, "test.json"))["data"]
        folders = _scored_on(run, before)
        print(_not_worse(run.path(*folders), theirs, before))
    elif not storage.exists(run.path(EVALUATION, "test.json")):
        raise BadInput(f"{run.url}: never tested; run: dogbreed test --run {run.url}")
    name = run.url.rsplit("/", 1)[-1]
    target = storage.join(PACKAGES, f"{name}-{_digest(source)[:12]}")
    for file in ("test.parquet", "test.json"):
        data = storage.read(run.path(*folders, file))
        storage.write(storage.join(place, target, EVALUATION, file), data)
    copied = package.copy(source, storage.join(place, target))
    _complete(copied)
    history = [target] if present is None else [*present["history"], target]
    if present is not None and present["package"] == target:
        print(f"{place}: {target} is the present one already")
        return
    _point(place, history)
    words = f"with engines {', '.join(engines)}" if engines else "without engines"
    print(f"{place}: now {target}, {words}")
    if present is not None:
        print(f"back to {present['package']}: dogbreed export --promote {place} --rollback true")


def roll_back(place: str) -> None:
    """Point to the package before the present one again.

    Raises:
        BadInput: nothing was promoted there, or there is no package before.
    """
    present = _pointer(place)
    if present is None:
        raise BadInput(f"{place}: nothing was promoted here ({POINTER_FILE} is missing)")
    history = present["history"][:-1]
    if not history:
        raise BadInput(f"{place}: {present['package']} is the first package, none was before it")
    _complete(package.read(storage.join(place, history[-1])))
    _point(place, history)
    print(f"{place}: now {history[-1]} again, after {present['package']}")


def _pointer(place: str) -> dict[str, Any] | None:
    """What the pointer says, if there is one."""
    url = storage.join(place, POINTER_FILE)
    if not storage.exists(url):
        return None
    found: dict[str, Any] = storage.read_json(url)
    package.pointed_at(place, found)  # whether it is one at all
    return found


def _point(place: str, history: list[str]) -> None:
    about = {"schema": SCHEMA_VERSION, "package": history[-1], "since": now()}
    storage.write_json(
        storage.join(place, POINTER_FILE), about | {"history": history[-REMEMBERED:]}
    )


def _complete(source: Package) -> list[str]:
    """See that each file is the one that it should be; names of the engines.

    Raises:
        BadInput: one is missing or another, or an engine's gate is not recorded.
    """
    source.weights()
    names = engine_names(source)
    for name in names:
        read_files(source, name)
        if "top1_drop" not in read_engine(source, name).get("gate", {}):
            raise BadInput(f"{source.url}/{ENGINES}/{name}: no gate recorded; export it again")
    return names


def _digest(source: Package) -> str:
    """Of all files of a package, and of their names."""
    found = hashlib.sha256()
    for name, _ in storage.find(source.url):
        data = storage.read(storage.join(source.url, name))
        found.update(f"{name}\0{storage.digest_of(data)}\n".encode())
    return found.hexdigest()


def _scored_on(run: Run, data: dict[str, Any]) -> list[str]:
    """Where in a run its scores of the test pictures of `data` lie, as parts of a path.

    Raises:
        BadInput: it was not tested on them.
    """
    others = storage.folders(run.path(EVALUATION, "others"))
    places = [[EVALUATION], *([EVALUATION, "others", url.rsplit("/", 1)[-1]] for url in others)]
    for parts in places:
        url = run.path(*parts, "test.json")
        if storage.exists(url):
            seen = storage.read_json(url)["data"]
            if seen["version"] == data["version"] and seen.get("checkpoint", "best") == "best":
                return parts
    raise BadInput(
        f"{run.url}: not tested on {data['name']}, version {data['version'][:12]}, as the present"
        f" package was; run: dogbreed test --run {run.url} --data.root {data['root']}"
    )


def _not_worse(ours: str, theirs: str, data: dict[str, Any]) -> str:
    """How two packages compare on the same test pictures, by a paired bootstrap.

    Raises:
        BadInput: the new one is worse, and not by chance: the 95 % interval of the loss in top-1
            lies above zero; or the two saw different pictures.
    """
    new, old = _right(ours), _right(theirs)
    if new.keys() != old.keys():
        missing = sorted(new.keys() ^ old.keys())
        raise BadInput(f"{ours}: other pictures than the present package's: {named(missing)}")
    right = [np.array([seen[name] for name in new]) for seen in (old, new)]
    value, low, high = paired_drop(*right)
    line = (
        f"top-1 on test of {data['name']}: {right[1].mean():.4f}, the present package's"
        f" {right[0].mean():.4f}, loss {value:+.4f} ({low:+.4f} to {high:+.4f}, n = {len(new):,})"
    )
    if low > 0:
        raise BadInput(f"worse than the present package: {line}; nothing was changed")
    return line


def _right(folder: str) -> dict[str, bool]:
    """Id of each test picture, and whether it was given its breed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = storage.read(storage.join(folder, "test.parquet"))
    table = pq.read_table(pa.BufferReader(data), columns=["id", "label", "predicted"])
    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    return {name: label == predicted for name, label, predicted in rows}
