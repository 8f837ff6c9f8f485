"""Kaggle's *Dog Breed Identification*: labels.csv, train/, test/ and sample_submission.csv.

https://www.kaggle.com/c/dog-breed-identification/data
"""

import array
import csv
import io
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dogbreed import images
from dogbreed.data.listing import Item, items_of, listing
from dogbreed.data.sources import Source, refuse
from dogbreed.data.trees import Member, content, members
from dogbreed.errors import BadInput, named

ADDRESS = "https://www.kaggle.com/api/v1/competitions/data/download-all/dog-breed-identification"
_LABELS, _SAMPLE = "labels.csv", "sample_submission.csv"


def from_kaggle(path: str) -> Source:
    """The competition's pictures, from its zip or the unpacked folder.

    A picture's id is its name without folder and suffix, as in labels.csv. Those of test/ become
    split `unlabelled`; the others are split by hash.

    Raises:
        BadInput: no such file or folder, no labels.csv, or labels and pictures that do not fit
            together; the message names rows.
    """
    small: dict[str, Member] = {}
    others: list[str] = []

    def files() -> Iterator[Item]:
        for member in members(path):
            if member.name.rsplit("/", 1)[-1] in {_LABELS, _SAMPLE}:
                small[member.name] = member
            elif images.is_picture_name(member.name):
                yield Item(member.name, "", "", **member.place())
            else:
                others.append(member.name)

    found = listing(files(), path)  # the labels may come after the pictures
    top = min((name for name in small if name.endswith(_LABELS)), key=len, default=None)
    if top is None:
        raise BadInput(
            f"{path}: no {_LABELS} in it; --source kaggle wants the competition's zip or its folder"
        )
    base = top.removesuffix(_LABELS)
    labels, numbers = _labels(small[top], path)
    unlabelled: list[str] = []
    inside = (f"{base}train/", f"{base}test/")
    rejects = {name: "not named like a picture" for name in others if name.startswith(inside)}

    def pictures() -> Iterator[Item]:
        for item in items_of(found):
            folder, _, file = item.id.removeprefix(base).rpartition("/")
            if not item.id.startswith(base) or folder not in {"train", "test"}:
                continue
            name = file.rsplit(".", 1)[0]
            if images.is_picture_name(name):
                rejects[item.id] = "has two suffixes"
            elif folder == "test":
                yield item._replace(id=name, split="unlabelled")
            elif name in labels:
                yield item._replace(id=name, breed=labels[name])
            else:
                unlabelled.append(item.id)

    table = listing(pictures(), path)
    ids = table.column("id")
    train = ids.filter(pc.not_equal(table.column("split").cast(pa.string()), "unlabelled"))
    here = pc.is_in(pa.array(labels, pa.string()), train.combine_chunks()).to_pylist()
    missing = [
        f"row {k}: {name}"
        for name, k, is_here in zip(labels, numbers, here, strict=True)
        if not is_here
    ]
    refuse(
        path,
        {
            f"rows of {_LABELS} without a picture in train/": missing,
            f"pictures without a row in {_LABELS}": unlabelled,
        },
    )
    wanted = small.get(base + _SAMPLE)
    submission = _submission(wanted, path) if wanted else None
    if submission and (odd := sorted(set(submission["columns"]) ^ set(labels.values()))):
        raise BadInput(
            f"{path}: {len(odd):,} breeds stand in only one of {_LABELS} and the first row of"
            f" {_SAMPLE}: {named(odd)}"
        )
    return Source(table, rejects, submission=submission)


def _labels(member: Member, path: str) -> tuple[dict[str, str], Sequence[int]]:
    """Id -> breed, and the rows where they stand.

    Raises:
        BadInput: other columns, an empty field, or an id on several rows.
    """
    rows = _rows(member, path)
    _, header = next(rows)
    if header != ["id", "breed"]:
        raise BadInput(f"{path}: {_LABELS} begins with {header}, not with id,breed")
    labels: dict[str, str] = {}
    numbers = array.array("L")
    for number, row in rows:
        if len(row) != 2 or not all(map(str.strip, row)):
            raise BadInput(f"{path}: {_LABELS}, row {number}: {row} is not an id and a breed")
        name, breed = (field.strip() for field in row)
        if name in labels:
            raise BadInput(f"{path}: {_LABELS}, row {number}: the id {name} stands there twice")
        labels[name] = sys.intern(breed)
        numbers.append(number)
    return labels, numbers


def _submission(member: Member, path: str) -> dict[str, list[str]]:
    """Columns and ids of the sample of a submission. Raises BadInput."""
    rows = _rows(member, path)
    _, header = next(rows)
    ids = [row[0] for _, row in rows]
    if header[:1] != ["id"] or len(header) < 2 or not ids:
        raise BadInput(f"{path}: {_SAMPLE} is no table of ids and breeds")
    return {"columns": header[1:], "ids": ids}


def _rows(member: Member, path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, numbered from 1; blank ones are left out, but for the first.

    Raises:
        BadInput: no CSV.
    """
    file = io.TextIOWrapper(io.BytesIO(content(member)), "utf-8-sig", errors="replace", newline="")
    number = 0
    try:
        for number, row in enumerate(csv.reader(file), 1):
            if row or number == 1:
                yield number, row
    except csv.Error as error:
        raise BadInput(f"{path}: {member.name} is no CSV: {error}") from None
    if number == 0:
        yield 1, []
