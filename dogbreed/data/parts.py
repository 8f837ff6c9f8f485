"""The parts of a data set in the making: what is done already, what is left, and what to remove.

A part tells what a unit of work wrote (see `work`). Before the first picture is written a *plan*
names all files that there will be, so that those of an attempt that was given up can be removed.
"""

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from dogbreed import storage
from dogbreed.data.manifest import Manifest
from dogbreed.data.parquet import from_parquet, to_parquet
from dogbreed.data.work import FOLDERS, PART, Recipe, name_of, part_url, units, uris_of
from dogbreed.ranges import Range, read_all

FOLDER = ".parts"
_PLAN = "plan-"  # begins a plan's name
_AT_ONCE = 64  # parts read together

Engine = Callable[[Iterable[pa.Table], Recipe, int], Iterator[pa.Table]]


def finish_units(
    listed: pa.Table, recipe: Recipe, engine: Engine, workers: int, *, name: str
) -> list[pa.Table]:
    """Do the units that nobody has done yet.

    Args:
        listed: of `listing.SCHEMA`.
        recipe: what to do.
        engine: who does it.
        workers: how many processes at most.
        name: for the progress bar.

    Returns:
        The parts of all units: of `work.PART`.

    Raises:
        BadInput: of a unit.
    """
    wanted = [part_url(name_of(unit, recipe), recipe) for unit in units(listed, recipe)]
    there = storage.files(recipe.parts)
    done = _read({url: there[url] for url in wanted if url in there})
    todo = len(wanted) - len(done)
    if todo and not recipe.shared:
        plan = pa.table({"uri": pa.array(uris_of(listed, recipe), pa.string())})
        data = to_parquet(plan)
        storage.write(storage.join(recipe.parts, _PLAN + storage.digest_of(data)[:16]), data)
    # Of another listing: what is written now may replace what these tell of.
    storage.remove([url for url in there if url not in done and not _is_plan(url)])
    places = {recipe.pictures, recipe.parts, *listed.column("url").slice(0, 1).to_pylist()}
    private = any(place.startswith("memory://") for place in places)  # no other process sees it
    every = zip(units(listed, recipe), wanted, strict=True)
    left = (unit for unit, url in every if url not in done)
    parts = [PART.empty_table(), *done.values()]
    with tqdm(
        total=len(listed), initial=sum(map(len, parts)), unit=" pictures", desc=name, disable=None
    ) as bar:
        for part in engine(left, recipe, 1 if private else max(1, min(workers, todo))):
            parts.append(part)
            bar.update(len(part))
    return parts


def clean(data: Manifest) -> None:
    """Remove parts and plans, and files beside the manifest that were planned but no row needs.

    Nothing is removed from a place elsewhere, which other data sets may share.
    """
    there: dict[str, int] = {}
    for folder in storage.folders(storage.join(data.root, FOLDER)):
        there |= storage.files(folder)
    for plan in _read({url: size for url, size in there.items() if _is_plan(url)}).values():
        planned = plan.column("uri")
        needed = pc.is_in(planned, data.table.column("uri").combine_chunks())
        needless = planned.filter(pc.invert(needed)).to_pylist()
        storage.remove([storage.join(data.root, uri) for uri in needless])
    storage.remove(list(there))
    storage.sweep(data.root, below=False)
    for name in (FOLDER, *FOLDERS):
        storage.sweep(storage.join(data.root, name))


def _is_plan(url: str) -> bool:
    return url.rsplit("/", 1)[-1].startswith(_PLAN)


def _read(files: dict[str, int]) -> dict[str, pa.Table]:
    """Tables by their URLs, many read at once; a damaged one counts as not there."""
    tables, urls = {}, list(files)
    for start in range(0, len(urls), _AT_ONCE):
        some = urls[start : start + _AT_ONCE]
        for url, data in zip(some, read_all([Range(u, 0, files[u]) for u in some]), strict=True):
            try:
                tables[url] = from_parquet(data)
            except (pa.ArrowException, OSError):
                print(f"{url}: damaged, its pictures are written again")
    return tables
