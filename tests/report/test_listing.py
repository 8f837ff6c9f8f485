"""The table of runs: filtered, sorted, and the best of them."""

import re

import pytest

from dogbreed.errors import BadInput
from dogbreed.report import listing
from dogbreed.report.listing import Line
from dogbreed.report.records import Record

LINES: list[Line] = [
    {"name": "a", "state": "done", "when": "2026-01-02 10:00", "val/top1": 0.7, "top1": 0.7,
     "val/log_loss": 1.1, "size": 3_000_000, "epochs": 4},
    {"name": "exp-B", "state": "failed", "when": "2026-01-03 10:00", "val/top1": 0.8, "top1": 0.8,
     "val/log_loss": 1.3, "size": 12, "epochs": 9},
    {"name": "c", "state": "done", "when": "2026-01-01 10:00", "val/top1": None, "top1": None,
     "val/log_loss": None, "size": 900, "epochs": 0},
]  # fmt: skip
PAIRS = [(Record(f"/runs/{line['name']}", {}, {}), line) for line in LINES]


def names(pairs: list[tuple[Record, Line]]) -> list[str]:
    return [line["name"] for _, line in pairs]


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("name", ["a", "c", "exp-B"]),
        ("when", ["exp-B", "a", "c"]),
        ("top1", ["exp-B", "a", "c"]),
        ("val/log_loss", ["a", "exp-B", "c"]),
        ("size", ["a", "c", "exp-B"]),
    ],
)
def test_a_column_is_sorted_as_one_reads_it_and_what_has_none_comes_last(
    column: str, order: list[str]
) -> None:
    assert names(listing.in_order(PAIRS, column)) == order
    assert names(listing.in_order(PAIRS[::-1], column)) == order


@pytest.mark.parametrize(
    ("filter", "left"),
    [
        ("state=done", ["a", "c"]),
        ("state = Done", ["a", "c"]),
        ("state!=done", ["exp-B"]),
        ("val/top1>0.7", ["exp-B"]),
        ("val/top1>=0.7", ["a", "exp-B"]),
        ("top1!=0.7", ["exp-B", "c"]),
        ("size<1000,state=done", ["c"]),
        ("name~EXP", ["exp-B"]),
        ("epochs<=4,name~a", ["a"]),
        ("name=nobody", []),
    ],
)
def test_all_conditions_of_a_filter_hold(filter: str, left: list[str]) -> None:
    assert names(listing.kept(PAIRS, filter)) == left


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("stat=done", "no such column, did you mean 'state'?"),
        ("done", "say COLUMN=VALUE"),
        ("epochs>many", "'many' is no number"),
    ],
)
def test_a_filter_that_cannot_be_is_told(filter: str, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        listing.kept(PAIRS, filter)


def test_an_unknown_column_to_sort_by_is_told_with_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"--sort siz: no such column, did you mean 'size'\?.*name"):
        listing.in_order(PAIRS, "siz")


@pytest.mark.parametrize(("score", "name"), [("val/top1", "exp-B"), ("val/log_loss", "a")])
def test_the_best_run_is_that_with_the_most_of_what_is_good_or_the_least_of_what_is_bad(
    score: str, name: str
) -> None:
    assert listing.best(PAIRS, score).url == f"/runs/{name}"


@pytest.mark.parametrize(
    ("score", "message"), [("val/top2", "no such column"), ("test/top1", "none of the runs has it")]
)
def test_a_best_that_cannot_be_is_told(score: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        listing.best(PAIRS, score)


def test_the_table_is_aligned_and_long_names_are_cut() -> None:
    line = dict.fromkeys(listing.COLUMNS) | {"name": "n" * 60 + "\x1b[2J", "size": 1_234_567}
    text = listing.as_text([line, dict.fromkeys(listing.COLUMNS) | LINES[0]])
    head, first, second = text.splitlines()
    assert head.split() == ["name", "when", "data", "weights", "epochs", "top-1", "log-loss",
                            "state", "size"]  # fmt: skip
    assert "\x1b" not in first
    assert first.startswith("n" * 19 + "…")
    assert first.endswith("1.2 MB")
    assert head.index("top-1") + len("top-1") == second.index("0.700") + len("0.700")


def test_tags_are_a_column_where_there_are_any_and_find_their_runs() -> None:
    tagged = [
        (record, line | {"tags": "crops base"} if k == 1 else line)
        for k, (record, line) in enumerate(PAIRS)
    ]
    lines = [dict.fromkeys(listing.COLUMNS) | line for _, line in tagged]
    head, _, second, _ = listing.as_text(lines).splitlines()
    assert head.endswith("tags")
    assert second.endswith("crops base")
    assert names(listing.kept(tagged, "tags~base")) == ["exp-B"]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456_789, "123 MB")]
)
def test_sizes_are_read_easily(size: int, text: str) -> None:
    assert listing.size_text(size) == text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("file: /w/net.safetensors (SHA-256 0123456789ab), head new", "file: net, head new"),
        ("file: gs://b/w/net.safetensors (SHA-256 0123456789ab)", "file: net"),
        ("run: gs://b/runs/exp1 (file: /w/a.safetensors (SHA-256 01ab))", "run: exp1 (file: a)"),
        ("random: there is no Hub here", "random: there is no Hub here"),
    ],
)
def test_first_weights_are_shown_without_folders_and_digests(said: str, shown: str) -> None:
    assert listing.weights_text(said) == shown
    assert listing.cells({"weights": said}, ("weights",)) == {"weights": shown}
