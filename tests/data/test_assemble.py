"""From parts to rows: labels, groups, splits, and equal files under different breeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from dogbreed.data import assemble, manifest
from dogbreed.data.assemble import Rows
from dogbreed.data.duplicates import HASH_BYTES
from dogbreed.data.listing import Item, listing
from dogbreed.data.work import PART, split_of
from dogbreed.errors import BadInput

SHARES = (0.5, 0.25, 0.25)


class Picture(NamedTuple):
    """A row, as far as it matters here; pictures with the same `look` are near-duplicates."""

    id: str
    digest: str
    look: int = 0  # 0: like no other
    breed: str = "pug"
    split: str = ""
    group: str | None = None


def table_of(pictures: Sequence[Picture]) -> pa.Table:
    rows = [
        p._asdict()
        | {"uri": f"pictures/{p.id}", "offset": 0, "size": 1, "width": 20, "height": 20}
        | {"phash": np.random.default_rng(p.look).bytes(16) if p.look else bytes(HASH_BYTES)}
        for p in pictures
    ]
    fields = [field for field in manifest.SCHEMA if field.name != "label"]
    return pa.Table.from_pylist(rows, pa.schema([*fields, ("breed", pa.string())]))


def joined(new: list[Picture], before: list[Picture] | None = None) -> dict[str, tuple[str, str]]:
    """Id -> split, group."""
    old = table_of(before) if before is not None else None
    table = assemble.joined(old, table_of(new), SHARES, seed=3)
    return {row["id"]: (row["split"], row["group"]) for row in table.to_pylist()}


class TestSplits:
    def test_a_groups_split_follows_from_its_smallest_digest(self) -> None:
        found = joined([Picture("a", "07", 1), Picture("b", "05", 1), Picture("c", "05", 1)])
        assert found == dict.fromkeys("abc", (split_of("05", SHARES, 3), "05"))

    def test_shares_are_kept_and_the_seed_matters(self) -> None:
        names = [f"{k}" for k in range(4000)]
        splits = [split_of(name, SHARES, 0) for name in names]
        for split, share in zip(("train", "val", "test"), SHARES, strict=True):
            assert abs(splits.count(split) / 4000 - share) < 0.03
        assert splits != [split_of(name, SHARES, 1) for name in names]

    def test_that_of_the_source_wins(self) -> None:
        for split in ("train", "val", "test"):
            assert joined([Picture("a", "01", split=split)])["a"][0] == split

    def test_an_unlabelled_picture_gives_its_split_to_no_duplicate(self) -> None:
        new = [Picture("a", "01", 1, "", "unlabelled"), Picture("b", "02", 1)]
        other = (split_of("01", SHARES, 3), "01")
        assert joined(new) == {"a": ("unlabelled", "01"), "b": other}
        before = [new[0]._replace(group="01")]
        assert joined(new[1:], before) == {"a": ("unlabelled", "01"), "b": other}


class TestExtension:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_a_duplicate_takes_the_split_of_its_group_whatever_its_hash(self, split: str) -> None:
        before = [Picture("old", "50", 1, split=split, group="50")]
        found = joined([Picture("near", "01", 1), Picture("same", "50", 1)], before)
        assert found == dict.fromkeys(("old", "near", "same"), (split, "50"))

    def test_old_rows_stay_and_each_new_one_joins_its_own(self) -> None:
        before = [
            Picture("a", "10", 1, split="train", group="10"),
            Picture("b", "20", 2, split="test", group="20"),
        ]
        found = joined([Picture("c", "10", 1), Picture("d", "05", 2)], before)
        assert found["a"] == found["c"] == ("train", "10")
        assert found["b"] == found["d"] == ("test", "20")

    def test_of_an_old_group_in_several_splits_the_one_to_learn_from_is_taken(self) -> None:
        before = [
            Picture("a", "10", 1, split="test", group="10"),
            Picture("b", "11", 1, split="train", group="10"),
        ]
        assert joined([Picture("c", "12", 1)], before)["c"] == ("train", "10")

    def test_that_of_the_source_wins(self) -> None:
        before = [Picture("a", "10", 1, split="train", group="10")]
        found = joined([Picture("b", "11", 1, split="test")], before)
        assert found == {"a": ("train", "10"), "b": ("test", "10")}


class TestLeaks:
    def test_groups_in_several_splits_are_named(self) -> None:
        table = table_of(
            [
                Picture("a", "1", split="train", group="1"),
                Picture("b", "2", split="test", group="1"),
                Picture("c", "3", split="val", group="1"),
                Picture("d", "4", split="train", group="4"),
                Picture("e", "5", split="train", group="4"),
                Picture("f", "6", split="val", group="6"),
                Picture("g", "7", split="test", group="6"),
                Picture("h", "8", split="unlabelled", group="8"),
                Picture("i", "9", split="train", group="8"),
            ]
        )
        wanted = ["a (train) = b (test) = c (val)", "f (val) = g (test)"]
        assert assemble.leaks(table) == wanted
        assert assemble.leaks(table[:0]) == []


class TestConflicts:
    def clean(self, new: list[Picture], before: list[Picture] | None = None) -> Rows:
        old = table_of(before) if before is not None else None
        rows = Rows(table_of(new), {"bad": "x"})
        return assemble.without_conflicts(old, rows, reject=True)

    def test_equal_files_of_one_breed_or_of_none_are_none(self) -> None:
        new = [Picture("a", "1"), Picture("b", "1"), Picture("c", "1", breed=""), Picture("d", "2")]
        assert self.clean(new).table.equals(table_of(new))

    def test_all_new_pictures_of_the_file_are_left_out_with_a_reason(self) -> None:
        new = [Picture("b", "1", breed="beagle"), Picture("a", "1"), Picture("c", "1", breed="")]
        found = self.clean([*new, Picture("d", "2")])
        assert found.table.column("id").to_pylist() == ["c", "d"]
        reason = "equal files of different breeds: a (pug) = b (beagle)"
        assert found.rejects == {"bad": "x", "a": reason, "b": reason}

    def test_old_rows_stay(self) -> None:
        found = self.clean(
            [Picture("a", "1", breed="beagle"), Picture("b", "1")], [Picture("old", "1")]
        )
        assert len(found.table) == 0
        assert found.rejects.keys() == {"bad", "a", "b"}

    def test_an_error_names_the_first_few(self) -> None:
        new = [Picture(f"{b}{k}", f"{k}", breed=b) for b in ("pug", "beagle") for k in range(7)]
        with pytest.raises(BadInput) as caught:
            assemble.without_conflicts(None, Rows(table_of(new), {}), reject=False)
        text = str(caught.value)
        assert "7 files" in text
        assert "beagle0 (beagle) = pug0 (pug)" in text
        assert "and 2 more" in text


class TestRows:
    def part(self, **reasons: str) -> pa.Table:
        row = {"uri": "pictures/x", "digest": "d", "phash": bytes(16)}
        rows = [{"id": name, "reason": why} | row for name, why in reasons.items()]
        return pa.Table.from_pylist(rows, PART)

    def listed(self, names: str) -> pa.Table:
        return listing(Item(name, f"breed of {name}", "val", "") for name in names)

    def test_each_gets_its_breed_and_split_in_whatever_order_parts_come(self) -> None:
        parts = [self.part(c="", a=""), self.part(d="broken", b="")]
        rows = assemble.rows_of(parts, self.listed("abcd"), "")
        found = {row["id"]: (row["breed"], row["split"]) for row in rows.table.to_pylist()}
        assert found == {name: (f"breed of {name}", "val") for name in "abc"}
        assert rows.rejects == {"d": "broken"}

    def test_pictures_elsewhere_have_absolute_uris(self) -> None:
        rows = assemble.rows_of([self.part(a="")], self.listed("a"), "gs://b/x")
        assert rows.table.column("uri").to_pylist() == ["gs://b/x/pictures/x"]

    @pytest.mark.parametrize("names", ["abc", "a"])
    def test_a_lost_or_doubled_picture_is_noticed(self, names: str) -> None:
        with pytest.raises(AssertionError, match="lost or doubled"):
            assemble.rows_of([self.part(a="", b="")], self.listed(names), "")


class TestEnough:
    def breeds(self, **counts: int) -> pa.ChunkedArray:
        return pa.chunked_array([[name] * n for name, n in counts.items()], pa.string())

    def test_breeds_are_sorted_and_unlabelled_pictures_are_of_none(self) -> None:
        assert assemble.enough(self.breeds(pug=3, beagle=4, **{"": 1})) == ["beagle", "pug"]

    def test_too_few_pictures_are_an_error_that_names_the_breeds(self) -> None:
        with pytest.raises(BadInput, match=r"fewer than 3 pictures: a \(2\), c \(1\);"):
            assemble.enough(self.breeds(c=1, b=3, a=2))

    def test_a_single_breed_is_an_error(self) -> None:
        with pytest.raises(BadInput, match="only one breed, pug"):
            assemble.enough(self.breeds(pug=9, **{"": 9}))


def test_labels_are_places_among_the_classes_and_none_is_minus_one() -> None:
    pictures = [Picture(f"{k}", "1", breed=b) for k, b in enumerate(("pug", "", "beagle"))]
    table = assemble.labelled(table_of(pictures), ["beagle", "pug"])
    assert table.schema == manifest.SCHEMA
    assert table.column("label").to_pylist() == [1, -1, 0]
