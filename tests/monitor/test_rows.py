"""Rows of the log: what they say, and how those of other versions are read."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from dogbreed.monitor import rows
from dogbreed.monitor.statistics import FEATURES, statistics
from tests.monitor.made import NOON, prediction


def line(**changes: Any) -> bytes:
    row = prediction().row("torch", None) | changes
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


def test_a_row_says_what_was_answered_and_what_the_picture_was_like() -> None:
    one = prediction()
    row = rows.parse(json.dumps(one.row("torch", None)))
    assert row["time"] == NOON
    assert (row["breed"], row["request_id"]) == (one.entry["breed"], "request-0")
    assert row["probability"] == pytest.approx(one.entry["probability"], rel=1e-4)
    assert [of["breed"] for of in row["top5"]] == [of["breed"] for of in one.entry["top5"]]
    seen = statistics(one.pixels, 400, 300, 20_000)
    assert list(row["picture"]) == list(FEATURES)
    assert list(row["picture"].values()) == pytest.approx(seen.tolist(), rel=1e-4, abs=1e-7)
    np.testing.assert_array_equal(rows.embedding(row), one.embedding)
    assert row["ms"] == {"decode": 2.0, "queue": 0.0, "forward": 10.0}
    assert row["dogbreed"]
    assert row["engine"] == "torch"


def test_a_row_has_neither_pixels_nor_the_files_name() -> None:
    text = line().decode()
    assert "secret" not in text
    assert len(text) < 1500


def test_a_row_with_fields_that_are_not_known_yet_is_read() -> None:
    row = rows.parse(line(weather="rain", picture={"brightness": 0.5, "fog": 1}))
    assert row["picture"]["brightness"] == 0.5


@pytest.mark.parametrize("name", ["picture", "embedding", "reject_score", "is_dog", "top5", "ms"])
def test_a_row_of_a_time_before_a_field_was_there_is_read(name: str) -> None:
    row = rows.parse(line(**{name: ...}))
    assert row["breed"]
    if name == "embedding":
        assert rows.embedding(row) is None


def test_a_row_of_a_later_schema_is_told_from_a_damaged_one() -> None:
    with pytest.raises(rows.NewerRow):
        rows.parse(line(schema=rows.SCHEMA_VERSION + 1, probability="0.5 to 0.6"))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b'{"schema": "one"}',
        b"\xff\xfe",
        line()[:-40],
        line(time="yesterday"),
        line(time=5),
        line(breed=None),
        line(probability=1.5),
        line(probability=float("nan")),
        b"[" * 100_000,
    ],
)
def test_what_is_no_row_is_said_to_be_none(damaged: bytes) -> None:
    with pytest.raises(rows.BadRow):
        rows.parse(damaged)


@pytest.mark.parametrize(
    "text", ["!", "AAA", base64.b64encode(np.full(4, np.nan, "<f2").tobytes()).decode(), 7]
)
def test_a_damaged_embedding_counts_as_none(text: Any) -> None:
    assert rows.embedding({"embedding": text}) is None


def test_numbers_that_are_none_are_nan() -> None:
    assert rows.number(2) == 2.0
    for odd in (None, "2", [], float("inf"), 10**400):
        assert np.isnan(rows.number(odd))


@pytest.mark.parametrize(
    "name", ["../../etc/x.jpg", "images/../../x.jpg", "/etc/x.jpg", "gs://b/x.jpg", "images/x.png"]
)
def test_a_pictures_name_never_leads_out_of_the_log(name: str) -> None:
    assert rows.image_url("/log", {"image": name}) is None
    assert rows.image_url("/log", {"image": "images/a/b-1.jpg"}) == "/log/images/a/b-1.jpg"


def test_a_models_odd_name_becomes_a_folders_name() -> None:
    assert rows.folder("2026-11-24", "my run/ü@1234") == "day=2026-11-24/model=my-run-@1234"
