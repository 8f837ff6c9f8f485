"""Where pictures come from: each source hands out `Found`s, and `prepare` does the rest."""

import collections
from collections.abc import Iterator
from typing import NamedTuple

from dogbreed import images, storage
from dogbreed.data import sample
from dogbreed.errors import BadInput
from dogbreed.ranges import Range, read_pictures

CHUNK = 256  # pictures read at a time
CHUNK_BYTES = 256 * 2**20  # and their bytes at most: bounds the memory
MIN_PER_CLASS = 3

_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class Found(NamedTuple):
    """A picture of a source before anyone has looked into it."""

    id: str
    breed: str
    split: str  # empty: by hash
    data: bytes | images.BadImage


def enough(breeds_found: list[str], readable: str) -> None:
    """See that there are at least two breeds, each with `MIN_PER_CLASS` pictures.

    Raises:
        BadInput: there are not; names the breeds.
    """
    counts = collections.Counter(breeds_found)
    few = [f"{breed} ({n})" for breed, n in sorted(counts.items()) if n < MIN_PER_CLASS]
    if few:
        raise BadInput(
            f"fewer than {MIN_PER_CLASS} {readable}pictures: {', '.join(few)};"
            " add pictures or remove the folder"
        )
    if len(counts) == 1:
        raise BadInput(f"only one breed, {next(iter(counts))}: there is nothing to tell apart")


def from_sample(per_class: int, seed: int) -> Iterator[Found]:
    """Drawings of the embedded sample."""
    for picture, data in sample.pictures(per_class, seed):
        yield Found(picture, picture.split("/")[0], "", data)


def from_folder(path: str) -> tuple[Iterator[Found], int]:
    """The pictures of class folders, and their number.

    What is no picture by its name, or lies in no class folder, is handed out as a bad one.

    Raises:
        BadInput: no such folder, no pictures in folders of it, or one that cannot be fetched.
    """
    there = storage.find(path)
    files = [(name.split("/"), size) for name, size in there if images.is_picture_name(name)]
    tops = {parts[0] for parts, _ in files if len(parts) > 1}
    above = 1 if tops & set(_SPLIT_FOLDERS) else 0  # folders above the class folders
    if above and not tops <= set(_SPLIT_FOLDERS):
        odd = ", ".join(sorted(tops - set(_SPLIT_FOLDERS)))
        raise BadInput(f"{path}: folders of splits and of breeds side by side: {odd}")
    if not any(len(parts) > above + 1 for parts, _ in files):
        raise BadInput(
            f"{path}: no pictures ({', '.join(sorted(images.SUFFIXES))})"
            " in folders named after breeds"
        )
    enough([parts[above] for parts, _ in files if len(parts) > above + 1], "")
    others = [name for name, _ in there if not images.is_picture_name(name)]

    def read() -> Iterator[Found]:
        for name in others:
            reason = f"not named like a picture ({', '.join(sorted(images.SUFFIXES))})"
            yield Found(name, "", "", images.BadImage(reason))
        for chunk in _chunks(files):
            ranges = [Range(storage.join(path, *parts), 0, size) for parts, size in chunk]
            for (parts, _), data in zip(chunk, read_pictures(ranges), strict=True):
                if isinstance(data, storage.StorageError):
                    raise data
                name, split = "/".join(parts), _SPLIT_FOLDERS.get(parts[0], "") if above else ""
                if len(parts) > above + 1:
                    yield Found(name, parts[above], split, data)
                else:
                    stray = images.BadImage("lies in no folder named after a breed")
                    yield Found(name, "", split, stray)

    return read(), len(there)


def _chunks(files: list[tuple[list[str], int]]) -> Iterator[list[tuple[list[str], int]]]:
    """Files to hold in memory together: at most `CHUNK` of them, and `CHUNK_BYTES`."""
    chunk: list[tuple[list[str], int]] = []
    held = 0
    for parts, size in files:
        if chunk and (len(chunk) == CHUNK or held + size > CHUNK_BYTES):
            yield chunk
            chunk, held = [], 0
        chunk.append((parts, size))
        held += size if size <= images.MAX_BYTES else 0
    if chunk:
        yield chunk
