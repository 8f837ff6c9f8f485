"""The contact sheet's histogram: how many pictures there are of each breed."""

import io
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageColor

from dogbreed import storage
from dogbreed.data import manifest
from dogbreed.data.contact_sheet import LABEL, MARGIN, PLOT, contact_sheet, histogram, spread
from dogbreed.data.manifest import SPLITS, Manifest
from tests.conftest import picture_file

COLOURS = {"#3b6ea5": "train", "#e0a030": "val", "#7a9f4b": "test"}


def bars(image: Image.Image) -> list[list[tuple[str, int]]]:
    """Of each column in which there is a bar the splits from below and their heights."""
    pixels = np.asarray(image)[: LABEL + MARGIN + PLOT]  # below are names, in all greys
    names = np.full(pixels.shape[:2], "", dtype="<U10")
    for colour, name in COLOURS.items():
        names[(pixels == ImageColor.getrgb(colour)).all(2)] = name
    columns = [
        [(name, len(list(run))) for name, run in groupby(column[::-1]) if name]
        for column in names.T.tolist()
    ]
    return [column for column in columns if column]


def counts_of(*breeds: tuple[int, ...]) -> np.ndarray:
    return np.array([breed + (0,) * (len(SPLITS) - len(breed)) for breed in breeds])


class TestHistogram:
    def test_bars_are_stacked_by_split_and_the_largest_breed_is_first(self) -> None:
        image = histogram(counts_of((4, 2, 0), (8, 0, 4), (1, 0, 0)), ["a", "b", "c"], 400)
        assert [bar for bar, _ in groupby(bars(image))] == [
            [("train", PLOT * 8 // 12), ("test", PLOT * 4 // 12)],
            [("train", PLOT * 4 // 12), ("val", PLOT * 2 // 12)],
            [("train", PLOT // 12)],
        ]

    @pytest.mark.parametrize("number", [1, 2, 30, 120, 1000])
    def test_each_breed_has_its_share_of_the_width(self, number: int) -> None:
        """Breeds with pictures for training and those without by turns: no two equal beside."""
        counts = counts_of(*((9, 1) if k % 2 else (0, 9) for k in range(number)))
        image = histogram(counts, [f"breed_{k}" for k in range(number)], 1320)
        assert image.width == 1320
        found = bars(image)
        with_both = sum(len(bar) == 2 for bar in found)
        assert with_both == pytest.approx(len(found) * (number // 2) / number, abs=2)
        assert number <= len(found) <= 32 * number

    @pytest.mark.parametrize("number", [1000, 5000])
    def test_a_thousand_breeds_take_no_more_room_than_two(self, number: int) -> None:
        many = histogram(counts_of(*((9, 1),) * number), ["breed"] * number, 1320)
        two = histogram(counts_of((9, 1), (9, 1)), ["breed"] * 2, 432)
        assert many.width == 1320
        assert many.height <= two.height
        shape = bars(two)[0]
        assert [name for name, _ in shape] == ["train", "val"]
        assert all(bar == shape for bar in bars(many))

    def test_names_stand_below_the_bars_and_long_ones_end_early(self) -> None:
        heights = [histogram(counts_of((3,)), ["x" * n], 400).height for n in (1, 8, 100, 1000)]
        assert heights[0] < heights[1] < heights[2] == heights[3]

    def test_no_pictures_are_no_histogram(self) -> None:
        assert bars(histogram(counts_of((0, 0)), ["a"], 400)) == []
        assert histogram(np.zeros((0, len(SPLITS)), np.int64), [], 400).width == 400


class TestSpread:
    @pytest.mark.parametrize(
        ("counts", "line"),
        [
            ([148, 71, 100], "71 to 148 pictures a breed, 2.1 times; see --data.balance"),
            ([1000, 1500], "1,000 to 1,500 pictures a breed"),
            ([1000, 1501], "1,000 to 1,501 pictures a breed, 1.5 times; see --data.balance"),
            ([100, 100], "100 pictures a breed"),
            ([0, 12], "0 to 12 pictures a breed; see --data.balance"),
        ],
    )
    def test_balancing_is_named_where_breeds_are_unequal(
        self, counts: list[int], line: str
    ) -> None:
        assert spread(np.array(counts)) == line


def sheet(root: Path, unlabelled: int) -> np.ndarray:
    """The sheet of a data set of two breeds and some pictures of no breed."""
    picture = picture_file(24, 24)
    storage.write(f"{root}/picture.jpg", picture)
    of = [(0, "train")] * 6 + [(1, "train")] * 2 + [(1, "val")] + [(-1, "unlabelled")] * unlabelled
    rows = [
        {
            "id": f"{k:03d}",
            "uri": "picture.jpg",
            "offset": 0,
            "size": len(picture),
            "label": label,
            "split": split,
            "width": 24,
            "height": 24,
            "digest": storage.digest_of(picture),
            "group": f"{k:03d}",
        }
        for k, (label, split) in enumerate(of)
    ]
    table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
    manifest.save(str(root), table, classes=[{"name": "beagle"}, {"name": "pug"}], name="two")
    with Image.open(io.BytesIO(contact_sheet(Manifest.open(str(root))))) as image:
        return np.asarray(image.convert("RGB"))


class TestSheet:
    def test_pictures_of_no_breed_are_in_the_legend_alone(self, tmp_path: Path) -> None:
        without, with_some = sheet(tmp_path / "a", 0), sheet(tmp_path / "b", 50)
        assert without.shape == with_some.shape
        changed = np.flatnonzero((without != with_some).any((1, 2)))
        assert len(changed) > 0
        assert changed.max() < 54

    def test_the_histogram_is_between_legend_and_thumbnails(self, tmp_path: Path) -> None:
        whole = sheet(tmp_path, 0)
        expected = np.asarray(histogram(counts_of((6, 0), (2, 1)), ["beagle", "pug"], 432))
        top, left = 54, 12
        inside = whole[top : top + expected.shape[0], left : left + expected.shape[1]]
        np.testing.assert_array_equal(inside, expected)
