"""Listings: what a source hands out, line by line."""

import random
from collections.abc import Iterator

import pytest

from dogbreed.data.listing import SCHEMA, Item, items_of, listing
from dogbreed.errors import BadInput

ITEMS = [
    Item("pug/1.jpg", "pug", "", "/dogs/pug/1.jpg", 0, 900, 900),
    Item("pug/2.jpg", "pug", "test", "gs://b/dogs.tar", 512, 900, 900),
    Item("a ü#1", "", "unlabelled", "/dogs.zip", 2**40, 0, 60, "zip", 2**32 - 1),
    Item("drawn/3", "beagle", "train", "0:3:0", kind="drawn"),
    Item("n1_7", "chihuahua", "", "/i.tar", 7, 8, 8, "file", 0, (1, 2, 30, 40)),
]


def many(n: int) -> Iterator[Item]:
    for k in range(n):
        url = f"gs://my-bucket/photographs/dog-breed-identification/train/{k:032x}.jpg"
        yield Item(f"{k:032x}", f"breed {k % 120}", "", url, 0, 10_000 + k, 10_000 + k)


def test_items_come_out_as_they_went_in() -> None:
    found = list(items_of(listing(ITEMS)))
    assert sorted(found) == sorted(ITEMS)
    assert all(isinstance(item, Item) for item in found)


def test_lines_are_sorted_by_their_key_whatever_order_they_came_in() -> None:
    items = list(many(300))
    expected = listing(items)
    keys = expected.column("key").to_pylist()
    assert keys == sorted(keys)
    assert expected.column("id").to_pylist() != [item.id for item in items]
    random.Random(0).shuffle(items)
    assert listing(items).select(["id", "url", "size", "key"]) == expected.select(
        ["id", "url", "size", "key"]
    )


def test_a_line_keeps_its_key_when_others_come_along() -> None:
    few = dict(zip(*(listing(many(50)).column(c).to_pylist() for c in ("id", "key")), strict=True))
    more = listing(many(90))
    found = dict(zip(*(more.column(c).to_pylist() for c in ("id", "key")), strict=True))
    assert few.items() <= found.items()


def test_the_key_shuffles_breeds() -> None:
    items = [Item(f"{breed}/{k}", breed, "", "") for breed in "ab" for k in range(500)]
    first = listing(items).column("breed").to_pylist()[:200]
    assert 60 < first.count("a") < 140


def test_a_hundred_thousand_lines_take_less_than_250_bytes_each() -> None:
    table = listing(many(100_000))
    assert len(table) == 100_000
    assert table.nbytes < 250 * len(table)
    assert table.schema == SCHEMA


def test_a_part_of_many_lines_is_read_alone() -> None:
    table = listing(many(20_000))
    (item,) = items_of(table.slice(12_345, 1))
    assert item == next(i for i in many(20_000) if i.id == item.id)
    assert item.id == table.column("id")[12_345].as_py()


def test_no_items_are_an_empty_listing() -> None:
    assert listing([]).schema == SCHEMA
    assert list(items_of(listing([]))) == []


def test_one_id_for_several_pictures_is_an_error_that_names_it() -> None:
    again = [Item(f"{k:032x}", "pug", "", "/elsewhere") for k in (7, 9000, 7)]
    with pytest.raises(
        BadInput, match="the source: 2 names stand for several pictures: "
    ) as caught:
        listing([*many(9100), *again])
    assert f"{7:032x}" in str(caught.value)
    assert f"{9000:032x}" in str(caught.value)
