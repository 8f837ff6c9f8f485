"""What people and scripts get to know of duplicates."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from dogbreed import images, storage
from dogbreed.data import duplicates_sheet, manifest, sample
from dogbreed.data.manifest import Manifest


def data_set(folder: Path, rows: Sequence[dict[str, Any]]) -> Manifest:
    """Rows say their `id`, `picture` (a number), `label`, `split` and `group`."""
    table = []
    for number, row in enumerate(rows):
        data = sample.jpeg(0, row["picture"])
        storage.write(f"{folder}/{number}.jpg", data)
        width, height = images.decode(data).size
        place = {"uri": f"{number}.jpg", "offset": 0, "size": len(data)}
        known = {"digest": storage.digest_of(data), "width": width, "height": height}
        table.append(
            {name: row[name] for name in ("id", "label", "split", "group")} | place | known
        )
    names = [{"name": "beagle"}, {"name": "great_dane"}]
    manifest.save(
        str(folder), pa.Table.from_pylist(table, manifest.SCHEMA), classes=names, name="dogs"
    )
    return Manifest.open(str(folder))


def row(id: str, picture: int, group: str, label: int = 0, split: str = "train") -> dict[str, Any]:
    return {"id": id, "picture": picture, "group": group, "label": label, "split": split}


def colours(png: bytes) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return {colour for _, colour in image.getcolors(2**24) or []}  # type: ignore[misc]


RED = (0xD0, 0x20, 0x20)
TEST = (0x7A, 0x9F, 0x4B)


def test_the_list_names_each_picture_of_a_group_and_what_disagrees_comes_first(
    tmp_path: Path,
) -> None:
    data = data_set(
        tmp_path,
        [
            row("a.jpg", 0, "x"),
            row("b.jpg", 0, "x"),
            row("c.jpg", 1, "x", label=-1),
            row("d.jpg", 2, "alone"),
            row("e.jpg", 3, "y"),
            row("f.jpg", 4, "y", label=1, split="test"),
        ],
    )
    rows = list(csv.DictReader(io.StringIO(duplicates_sheet.duplicates_csv(data).decode())))
    short = [(r["group"], r["id"], r["breed"], r["split"], r["kind"]) for r in rows]
    assert short == [
        ("1", "e.jpg", "beagle", "train", "near"),
        ("1", "f.jpg", "great_dane", "test", "near"),
        ("2", "a.jpg", "beagle", "train", "equal"),
        ("2", "b.jpg", "beagle", "train", "equal"),
        ("2", "c.jpg", "", "train", "near"),
    ]
    assert rows[2]["digest"] == rows[3]["digest"] == storage.digest_of(sample.jpeg(0, 0))


def test_without_duplicates_the_list_is_empty_and_there_is_no_sheet(tmp_path: Path) -> None:
    data = data_set(tmp_path, [row("a.jpg", 0, "x"), row("b.jpg", 1, "y")])
    assert duplicates_sheet.duplicates_csv(data) == b"group,id,breed,split,kind,digest\n"
    assert duplicates_sheet.duplicates_sheet(data) is None


def test_the_sheet_marks_groups_of_several_breeds_or_splits_in_red(tmp_path: Path) -> None:
    rows = [row("a.jpg", 0, "x"), row("b.jpg", 0, "x")]
    for folder, change, red in (
        ("agree", {}, False),
        ("no breed", {"label": -1}, False),
        ("breeds", {"label": 1}, True),
        ("splits", {"split": "test"}, True),
    ):
        sheet = duplicates_sheet.duplicates_sheet(
            data_set(tmp_path / folder, [rows[0], rows[1] | change])
        )
        assert sheet is not None
        assert (RED in colours(sheet)) == red
        assert (TEST in colours(sheet)) == (folder == "splits")


def test_the_sheet_draws_a_bounded_number_of_groups_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def read(ranges: Sequence[Any]) -> list[Any]:
        fetched.append(len(ranges))
        return list(read_all(ranges))

    read_all = duplicates_sheet.read_all
    monkeypatch.setattr(duplicates_sheet, "read_all", read)
    monkeypatch.setattr(duplicates_sheet, "DRAWN", 2)
    large = [row(f"a{k:02d}.jpg", 0, "x") for k in range(11)]
    small = [row(f"b{k}.jpg", k // 2, f"y{k // 2}") for k in range(6)]
    assert duplicates_sheet.duplicates_sheet(data_set(tmp_path, large + small)) is not None
    assert fetched == [8, 2]


def test_the_sheet_says_which_picture_is_missing(tmp_path: Path) -> None:
    data = data_set(tmp_path, [row("a.jpg", 0, "x"), row("b.jpg", 0, "x")])
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(storage.StorageError, match=r"1\.jpg"):
        duplicates_sheet.duplicates_sheet(data)
