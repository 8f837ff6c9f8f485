"""Where pictures come from: each source lists its pictures, and `prepare` does the rest."""

import collections
import dataclasses
from collections.abc import Iterator

import pyarrow as pa

from dogbreed import images, storage
from dogbreed.data import sample
from dogbreed.data.listing import Item, items_of, listing
from dogbreed.data.trees import is_archive, members
from dogbreed.errors import BadInput, named

_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclasses.dataclass
class Source:
    """What a source knows of its pictures before anyone has looked into them."""

    table: pa.Table
    """Of `listing.SCHEMA`."""
    rejects: dict[str, str] = dataclasses.field(default_factory=dict)
    """What is no picture by its name or place: its name, and why."""
    has_test: bool = False
    """Whether the source itself says what is for testing: then only train and val are drawn."""
    submission: dict[str, list[str]] | None = None
    """Columns and ids of the table that a competition wants back."""


def refuse(path: str, problems: dict[str, list[str]]) -> None:
    """See that nothing is wrong with a source.

    Args:
        path: of the source.
        problems: what is wrong -> the names of those it is wrong with.

    Raises:
        BadInput: something is; names the first few.
    """
    if lines := [f"{len(r):,} {what}: {named(r)}" for what, r in problems.items() if r]:
        raise BadInput(f"{path}: {'; '.join(lines)}")


def from_sample(per_class: int, seed: int) -> Source:
    """Drawings of the embedded sample."""
    drawings = (
        Item(sample.path(breed, k), name, "", f"{breed}:{k}:{seed}", kind="drawn")
        for breed, name in enumerate(sample.BREEDS)
        for k in range(per_class)
    )
    return Source(listing(drawings))


def from_folder(path: str) -> Source:
    """The pictures of class folders, on a disk, in a bucket or in a .zip or .tar.

    What is no picture by its name, or lies in no class folder, is among the rejects.

    Raises:
        BadInput: no such folder, or no pictures in folders of it.
    """
    suffixes = ", ".join(sorted(images.SUFFIXES))
    rejects: dict[str, str] = {}

    def pictures() -> Iterator[Item]:
        for member in members(path):
            if images.is_picture_name(member.name):
                yield Item(member.name, "", "", **member.place())
            else:
                rejects[member.name] = f"not named like a picture ({suffixes})"

    found = listing(pictures(), path)  # what a folder stands for is known when all have been seen
    names = [name for name in found.column("id").to_pylist() if "/" in name]
    wrapper = _wrapper(names) if is_archive(path) else ""
    tops = {name.removeprefix(wrapper).split("/")[0] for name in names}
    others = sorted(top for top in tops if top.lower() not in _SPLIT_FOLDERS)
    above = int(len(others) < len(tops))  # folders above the class folders
    if above and others:
        odd = ", ".join(others)
        raise BadInput(f"{path}: folders of splits and of breeds side by side: {odd}")
    if not any(name.removeprefix(wrapper).count("/") > above for name in names):
        raise BadInput(f"{path}: no pictures ({suffixes}) in folders named after breeds")

    def labelled() -> Iterator[Item]:
        for item in items_of(found):
            name = item.id.removeprefix(wrapper)
            parts = name.split("/")
            if len(parts) <= above + 1:
                rejects[name] = "lies in no folder named after a breed"
            else:
                split = _SPLIT_FOLDERS[parts[0].lower()] if above else ""
                yield item._replace(id=name, breed=parts[above], split=split)

    return Source(listing(labelled(), path), rejects)


def _wrapper(names: list[str]) -> str:
    """The folder that an archive was made of, with a slash, if it holds the class folders."""
    top = names[0].split("/")[0] if names else ""
    wraps = all(name.startswith(f"{top}/") and name.count("/") > 1 for name in names)
    return f"{top}/" if top.lower() not in _SPLIT_FOLDERS and wraps else ""


def only(source: Source, path: str) -> Source:
    """The pictures whose ids stand in a file, one a line; blank lines and `# remarks` don't count.

    A line may also be the name of the picture's file, with or without folder and suffix.

    Raises:
        BadInput: a line that is the id of no picture, or of several; or no id at all.
    """
    text = storage.read(storage.normal(path)).decode("utf-8-sig", errors="replace")
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    wanted = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not wanted:
        raise BadInput(f"{path}: there is no id in it")
    ids = source.table.column("id").to_pylist()
    exact = {name: place for place, name in enumerate(ids)}
    stems: dict[str, list[int]] = collections.defaultdict(list)
    for place, name in enumerate(ids):
        stems[_stem(name)].append(place)
    rows: set[int] = set()
    unknown: list[str] = []
    unclear: list[str] = []
    for number, line in wanted:
        if line in exact:
            rows.add(exact[line])
            continue
        found = [place for place in stems.get(_stem(line), []) if _agree(ids[place], line)]
        rows.update(found)
        if len(found) != 1:
            (unclear if found else unknown).append(f"line {number}: {line}")
    if unknown:
        raise BadInput(f"{path}: {len(unknown):,} ids of no picture: {named(unknown)}")
    if unclear:
        raise BadInput(f"{path}: {len(unclear):,} ids of several pictures: {named(unclear)}")
    return dataclasses.replace(source, table=source.table.take(sorted(rows)), rejects={})


def _stem(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if images.is_picture_name(last) else last


def _agree(one: str, other: str) -> bool:
    """Whether the folders of two names are the same as far as both have them."""
    folders = (reversed(name.split("/")[:-1]) for name in (one, other))
    return all(a == b for a, b in zip(*folders, strict=False))
