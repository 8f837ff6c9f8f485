"""One unit of work of `dogbreed prepare`: read, check, hash and write some pictures.

A unit is a function of its lines of the listing alone: whoever does it, and however often, writes
the same bytes under the same names. Its last act is a *part*, a small table that tells what it
wrote; a unit with a part is done, so that a killed `prepare` goes on with the others.
"""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dogbreed import images, storage
from dogbreed.data import sample
from dogbreed.data.duplicates import perceptual_hash
from dogbreed.data.listing import Item, items_of
from dogbreed.data.parquet import to_parquet
from dogbreed.data.trees import unzipped
from dogbreed.ranges import Range, read_pictures

CHUNK = 256  # pictures read at a time
CHUNK_BYTES = 64 * 2**20  # and their bytes at most: bounds the memory
LOOSE, SHARDS = FOLDERS = ("pictures", "shards")
_FORMAT = 1  # raise it when what a unit writes changes
_UNKNOWN = 4096  # bytes that a picture counts as whose size is not known before it is made
_BLOCK = tarfile.BLOCKSIZE

Shares = tuple[float, float, float]

PART = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),  # below the folder of the pictures
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("digest", pa.string()),
        ("phash", pa.binary()),
        ("reason", pa.string()),  # why the picture is rejected; else empty
    ]
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a unit needs to know beside its pictures. Small to pickle."""

    pictures: str  # URL of the folder to write to
    parts: str  # URL of the folder for the parts
    shard_size: int  # bytes; 0 leaves the pictures loose
    shares: Shares
    seed: int
    shared: bool = False  # names tell contents, for other data sets and versions may lie there too


class _Looked(NamedTuple):
    """A picture that can be used."""

    id: str
    split: str  # as far as one can tell before duplicates are known
    data: bytes
    width: int
    height: int
    digest: str
    phash: bytes


def units(listed: pa.Table, recipe: Recipe) -> Iterator[pa.Table]:
    """Cut a listing into units: a shard each, or as much as is held in memory at once.

    A unit ends where the next picture would make it too large, so it depends on nothing but the
    listing's order.
    """
    sizes = listed.column("size").to_numpy()
    sizes = np.where(sizes > 0, sizes, _UNKNOWN)
    limit = recipe.shard_size or CHUNK_BYTES
    most = len(sizes) if recipe.shard_size else CHUNK
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        end = int(np.searchsorted(ends, before + limit, side="right"))
        end = min(max(end, start + 1), start + most)
        yield listed.take(pa.array(np.arange(start, end)))  # a slice would be pickled as a whole
        start = end


def name_of(unit: pa.Table, recipe: Recipe) -> str:
    """A unit's name: a hash of what is known of its pictures, and of how they are written."""
    how = (_FORMAT, bool(recipe.shard_size), recipe.shared, recipe.shares, recipe.seed)
    digest = hashlib.blake2b(repr(how).encode(), digest_size=10)
    for column in ("id", "split", "size", "crc", "box"):
        digest.update("\n".join(map(str, unit.column(column).to_pylist())).encode())
    return digest.hexdigest()


def uris_of(listed: pa.Table, recipe: Recipe) -> list[str]:
    """What files the units of a listing write, beside their parts, if names don't tell contents."""
    if recipe.shard_size:
        return [_shard(name_of(unit, recipe)) for unit in units(listed, recipe)]
    return [_loose_file(name) for name in listed.column("id").to_pylist()]


def part_url(name: str, recipe: Recipe) -> str:
    """Where a unit's part lies."""
    return storage.join(recipe.parts, f"{name}.parquet")


def work(unit: pa.Table, recipe: Recipe) -> pa.Table:
    """Do a unit: write its pictures, then its part.

    Args:
        unit: lines of a listing.
        recipe: what to do with them.

    Returns:
        The part: of `PART`, a row for each picture, in no particular order.

    Raises:
        StorageError: a picture cannot be fetched, or something not be written.
    """
    name = name_of(unit, recipe)
    looked: list[_Looked] = []
    rejects: list[dict[str, str]] = []
    for item, data in _read(unit):
        try:
            looked.append(_look(item, data, recipe))
        except images.BadImage as error:
            rejects.append({"id": item.id, "reason": str(error)})
    rows = _pack(looked, name, recipe) if recipe.shard_size else _loose(looked, recipe)
    part = pa.Table.from_pylist(rows + rejects, PART)
    storage.write(part_url(name, recipe), to_parquet(part))
    return part


def split_of(group: str, shares: Shares, seed: int) -> str:
    """By a hash of (seed, group): a number in [0, 1) against the shares of train, val, test."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    train, val, _ = shares
    return "train" if share < train else "val" if share < train + val else "test"


def _read(unit: pa.Table) -> Iterator[tuple[Item, bytes | images.BadImage]]:
    """Each picture with its bytes, at most `CHUNK_BYTES` of them in memory."""
    chunk: list[Item] = []
    held = 0
    for item in items_of(unit):
        if chunk and (len(chunk) == CHUNK or held + item.stored > CHUNK_BYTES):
            yield from zip(chunk, _fetch(chunk), strict=True)
            chunk, held = [], 0
        chunk.append(item)
        held += item.stored if item.stored <= images.MAX_BYTES else 0
    yield from zip(chunk, _fetch(chunk), strict=True)


def _fetch(chunk: list[Item]) -> Iterator[bytes | images.BadImage]:
    if chunk[0].kind == "drawn":
        for item in chunk:
            breed, k, seed = map(int, item.url.split(":"))
            yield sample.jpeg(breed, k, seed)
        return
    fetched = read_pictures([Range(item.url, item.offset, item.stored) for item in chunk])
    for item, data in zip(chunk, fetched, strict=True):
        if isinstance(data, storage.StorageError):
            raise data
        if item.kind == "zip" and isinstance(data, bytes):
            yield unzipped(data, item.size, item.crc)
        else:
            yield data


def _look(item: Item, data: bytes | images.BadImage, recipe: Recipe) -> _Looked:
    """Decode a picture once, cut it to its box, and hash it. Raises BadImage."""
    if isinstance(data, images.BadImage):
        raise data
    if item.box is not None:
        data = images.cut(data, item.box)
    image = images.decode(data)
    digest = storage.digest_of(data)
    split = item.split or split_of(digest, recipe.shares, recipe.seed)
    return _Looked(item.id, split, data, image.width, image.height, digest, perceptual_hash(image))


def _file_name(picture: str) -> str:
    return picture if images.is_picture_name(picture) else f"{picture}.jpg"


def _loose_file(picture: str, digest: str = "") -> str:
    name = _file_name(picture)
    return f"{LOOSE}/{digest}.{name.rsplit('.', 1)[-1].lower()}" if digest else f"{LOOSE}/{name}"


def _shard(unit: str) -> str:
    return f"{SHARDS}/{unit}.tar"


def _row(looked: _Looked, uri: str, offset: int) -> dict[str, object]:
    row = looked._asdict() | {"uri": uri, "offset": offset, "reason": ""}
    return row | {"size": len(row.pop("data"))}


def _loose(looked: list[_Looked], recipe: Recipe) -> list[dict[str, object]]:
    """Each picture is a file of its own."""
    files = [(p, _loose_file(p.id, p.digest if recipe.shared else "")) for p in looked]
    storage.write_many({storage.join(recipe.pictures, uri): p.data for p, uri in files})
    return [_row(p, uri, 0) for p, uri in files]


def _pack(looked: list[_Looked], name: str, recipe: Recipe) -> list[dict[str, object]]:
    """All pictures in one plain tar, those of a split side by side. Empties `looked`.

    An epoch then reads long stretches. A few near-duplicates follow their group into another
    split; these are gaps.
    """
    if not looked:
        return []
    looked.sort(key=lambda picture: picture.split)
    shard, rows = io.BytesIO(), []
    while looked:
        picture = looked.pop()  # its bytes are not held twice for long
        about = tarfile.TarInfo(_file_name(picture.id))
        about.size, about.mode = len(picture.data), 0o644
        shard.write(about.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        rows.append(_row(picture, "", shard.tell()))
        shard.write(picture.data)
        shard.write(bytes(-len(picture.data) % _BLOCK))
    shard.write(bytes(2 * _BLOCK))  # the end of an archive: POSIX.1-2001, pax
    data = shard.getvalue()
    uri = _shard(storage.digest_of(data)[:20] if recipe.shared else name)
    storage.write(storage.join(recipe.pictures, uri), data)
    return [row | {"uri": uri} for row in rows]
