"""Duplicates as a table for scripts, and as a picture for people."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont
from pyarrow.csv import WriteOptions, write_csv

from dogbreed import breeds, images
from dogbreed.data.contact_sheet import COLOURS
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.ranges import read_all

DRAWN = 60  # groups in the picture of them
EACH = 8  # pictures of a group there

_CELL, _MARGIN, _TITLE = 116, 14, 68  # pixels
_WIDTH, _HEIGHT = EACH * _CELL + 5 * _MARGIN, _CELL + 64
_RED = "#d02020"


def duplicates_csv(data: Manifest) -> bytes:
    """A row for each picture that has duplicates; groups numbered as in `duplicates_sheet`."""
    sink = pa.BufferOutputStream()
    columns = ["group", "id", "breed", "split", "kind", "digest"]
    options = WriteOptions(quoting_style="needed", quoting_header="none")
    write_csv(_in_groups(data).select(columns), sink, options)
    return bytes(sink.getvalue().to_pybytes())


def duplicates_sheet(data: Manifest) -> bytes | None:
    """A PNG to look at: up to `DRAWN` groups with up to `EACH` pictures; None without groups.

    Raises:
        StorageError: a picture that the manifest lists cannot be fetched.
    """
    table = _in_groups(data)
    if not len(table):
        return None
    numbers = table.column("group").to_numpy()
    count = int(numbers[-1])
    drawn = _drawn(data, table)
    # Groups follow each other like words in a text.
    places, x, y = [], _MARGIN, _TITLE
    for group in drawn:
        wide = min(EACH, len(group)) * _CELL + _MARGIN
        if x + wide > _WIDTH:
            x, y = _MARGIN, y + _HEIGHT
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (_WIDTH, y + _HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    font, large = ImageFont.load_default(11), ImageFont.load_default(15)
    total, equal = len(table), pc.sum(pc.equal(table.column("kind"), "equal")).as_py()
    differ = len(np.unique(numbers[table.column("differ").to_numpy()]))
    text = f"{data.name}: {count:,} groups of {total:,} pictures that are there several times"
    draw.text((_MARGIN, 6), text, "black", large)
    text = (
        f"{equal:,} pictures are equal files, {total - equal:,} only look alike; breeds or splits"
    )
    text += f" differ in {differ:,} groups, which come first; {len(drawn):,} groups are drawn"
    draw.text((_MARGIN, 27), text, "black", font)
    along = float(_MARGIN)
    for name in data.dataset["counts"]:
        draw.rectangle((along, 46, along + 10, 56), COLOURS[name])
        draw.text((along + 14, 44), name, "black", font)
        along += 24 + draw.textlength(name, font)

    def write(at: tuple[int, int], text: str, colour: str, head: bool = True) -> None:
        """Write what fits into a cell: the text's begin or its end."""
        whole = text
        while draw.textlength(text, font) > _CELL - 10:
            whole = whole[:-1] if head else whole[1:]
            text = whole + ".." if head else ".." + whole
        draw.text(at, text, colour, font)

    for number, (group, (left, top)) in enumerate(zip(drawn, places, strict=True), 1):
        wrong = _disagreement(group)
        text = f"{number}  {wrong}" + (f"  +{len(group) - EACH:,} more" if group[EACH:] else "")
        box = (left - 5, top, left + min(EACH, len(group)) * _CELL - 3, top + _HEIGHT - 9)
        draw.rectangle(box, None, _RED if wrong else "#cccccc", 2 if wrong else 1)
        draw.text((left, top + 4), text, _RED if wrong else "black", font)
        for place, picture in enumerate(read_all(data.ranges(group[:EACH]))):
            row, x, y = group[place], left + place * _CELL, top + 20
            draw.rectangle((x, y, x + _CELL - 9, y + _CELL - 9), COLOURS[row["split"]])
            sheet.paste(images.thumbnail(picture, _CELL - 14), (x + 3, y + 3))
            breed = breeds.title(row["breed"]) if row["breed"] else "no breed"
            y += _CELL - 7
            write((x, y), row["id"].rsplit("/", 1)[-1], "black", head=False)
            write((x, y + 13), breed, _RED if "breed" in wrong else "black")
            write((x, y + 26), row["split"], _RED if "split" in wrong else "black")
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


def _in_groups(data: Manifest) -> pa.Table:
    """The pictures of groups of two and more, sorted by group, then by id.

    Groups with several breeds or splits come first, then those of the first id. Columns: `group`
    (a number from 1), `row` (of the manifest), `id`, `breed`, `split`, `digest`, `kind` (`equal`
    if another picture of the group is the same file, else `near`), and `differ`, whether breeds
    or splits do.
    """
    group, digest = _codes(data, "group"), _codes(data, "digest")
    rows = np.flatnonzero(np.bincount(group, minlength=1)[group] > 1)
    _, first, group = np.unique(group[rows], return_index=True, return_inverse=True)
    label, split = data.column("label")[rows], data.column("split")[rows]
    differ = _several(group, label, label >= 0) | _several(
        group, split, split != SPLITS.index("unlabelled")
    )
    number = np.empty(len(first), np.int64)
    number[np.lexsort((first, ~differ))] = np.arange(1, len(first) + 1)
    order = np.lexsort((rows, number[group]))
    rows, group = rows[order], group[order]
    texts = data.table.select(["id", "digest"]).take(pa.array(rows))
    equal = np.bincount(digest, minlength=1)[digest[rows]] > 1
    return pa.table(
        {
            "group": number[group],
            "row": rows,
            "id": texts.column("id"),
            "breed": pa.array([*data.classes, ""]).take(
                pa.array(label[order] % (len(data.classes) + 1))
            ),
            "split": pa.array(SPLITS).take(pa.array(split[order])),
            "kind": pa.array(["near", "equal"]).take(pa.array(equal.astype(np.int8))),
            "digest": texts.column("digest"),
            "differ": differ[group],
        }
    )


def _codes(data: Manifest, name: str) -> np.ndarray:
    """Texts as numbers: int64, (n,)."""
    column = data.table.column(name).combine_chunks()
    return np.asarray(column.dictionary_encode().indices, dtype=np.int64)


def _several(group: np.ndarray, value: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether a group holds different values among those that are known: bool, (groups,)."""
    low = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, -1)
    np.minimum.at(low, group[known], value[known])
    np.maximum.at(high, group[known], value[known])
    return high > low


def _drawn(data: Manifest, table: pa.Table) -> list[list[dict[str, Any]]]:
    """The first groups' rows, as `Manifest.take` gives them, with `breed` and `split` as texts."""
    groups: list[list[dict[str, Any]]] = [[] for _ in range(DRAWN)]
    shown = table.filter(pc.less_equal(table.column("group"), DRAWN))
    rows = data.take(shown.column("row").to_numpy())
    for about, row in zip(shown.to_pylist(), rows, strict=True):
        groups[about["group"] - 1].append(row | {k: about[k] for k in ("breed", "split")})
    return [group for group in groups if group]


def _disagreement(group: list[dict[str, Any]]) -> str:
    """What is to be seen to in a group, or nothing; no label agrees with any breed and split."""
    nothing = {"", "unlabelled"}
    several = [
        name for name in ("breed", "split") if len({row[name] for row in group} - nothing) > 1
    ]
    return " and ".join(f"{name}s" for name in several) + " differ" if several else ""
