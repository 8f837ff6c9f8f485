"""What a source hands out: one line for each picture, before anyone has looked into it.

A listing is an Arrow table, some 150 bytes a picture, so that a million pictures can be listed.
Each line can be read on its own, by another process or on another machine.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dogbreed.errors import BadInput, named

_CHUNK = 8192


class Item(NamedTuple):
    """A picture of a source, and where its bytes lie."""

    id: str
    breed: str  # empty: without a label
    split: str  # empty: by hash
    url: str
    offset: int = 0
    size: int = 0  # bytes of the picture; 0 if that is not known before it is made
    stored: int = 0  # bytes to read at `offset`; in a zip with the local header
    kind: Literal["file", "zip", "drawn"] = "file"
    crc: int = 0  # CRC-32, if `kind` is zip
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom: the part to cut


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("breed", pa.dictionary(pa.int32(), pa.string())),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("url", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("stored", pa.int64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("crc", pa.int64()),
        ("box", pa.list_(pa.int32(), 4)),
        ("key", pa.uint64()),  # hash of the id: pictures sorted by it are shuffled for good
    ]
)


def listing(items: Iterable[Item], place: str = "the source") -> pa.Table:
    """The items as a table of `SCHEMA`, sorted by `key`.

    Args:
        items: in any order.
        place: where they come from, for a message.

    Raises:
        BadInput: several pictures with one id.
    """
    items, batches = iter(items), []
    while chunk := list(islice(items, _CHUNK)):
        columns: dict[str, object] = dict(zip(Item._fields, zip(*chunk, strict=True), strict=True))
        columns["key"] = [_key(item.id) for item in chunk]
        batches.append(pa.table(columns, SCHEMA))
    table = pa.concat_tables(batches).unify_dictionaries() if batches else SCHEMA.empty_table()
    table = table.combine_chunks().sort_by([("key", "ascending"), ("id", "ascending")])
    ids = table.column("id")
    twice = pc.unique(ids[1:].filter(pc.equal(ids[1:], ids[:-1]))).to_pylist()
    if twice:
        raise BadInput(f"{place}: {len(twice):,} names stand for several pictures: {named(twice)}")
    return table


def items_of(table: pa.Table) -> Iterator[Item]:
    """The lines of a listing."""
    for batch in table.select(Item._fields).to_batches(_CHUNK):
        for row in batch.to_pylist():
            row["box"] = row["box"] and tuple(row["box"])
            yield Item(**row)


def _key(picture: str) -> int:
    return int.from_bytes(hashlib.blake2b(picture.encode(), digest_size=8).digest(), "big")
