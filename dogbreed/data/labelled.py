"""Pictures that `dogbreed drift --label` chose, once a person has written in their breeds."""

import csv
import io
from collections.abc import Iterator

from dogbreed import storage
from dogbreed.data.listing import Item, listing
from dogbreed.data.sources import Source, refuse
from dogbreed.errors import BadInput

TABLE = "labels.csv"


def from_labelled(path: str) -> Source:
    """The pictures whose row in labels.csv names a breed; the others are among the rejects.

    All go to split train: they were chosen because they are hard, and would not be a fair sample
    for validation or testing.

    Raises:
        BadInput: no table, or rows that name no picture of the folder.
    """
    url = storage.join(path, TABLE)
    text = storage.read(url).decode("utf-8-sig", errors="replace")
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"picture", "breed"} <= rows[0].keys():
        raise BadInput(f"{url}: no table with the columns picture and breed")
    sizes = dict(storage.find(path))
    lines = {number: (row["picture"] or "").strip() for number, row in enumerate(rows, 2)}
    missing = [f"row {n}: {name or 'nothing'}" for n, name in lines.items() if name not in sizes]
    refuse(url, {"rows whose picture is not in the folder": missing})
    unnamed = (_id(row) for row in rows if not _breed(row))
    rejects = dict.fromkeys(unnamed, "no breed is written beside it")

    def pictures() -> Iterator[Item]:
        for row in rows:
            if breed := _breed(row):
                name = row["picture"].strip()
                size = sizes[name]
                yield Item(_id(row), breed, "train", storage.join(path, name), 0, size, size)

    found = listing(pictures(), url)
    if not len(found):
        raise BadInput(f"{url}: no breed is written in its column breed yet")
    return Source(found, rejects)


def _id(row: dict[str, str]) -> str:
    return f"labelled/{row['picture'].strip()}"


def _breed(row: dict[str, str]) -> str:
    return (row["breed"] or "").strip()
