"""The server's log when nobody reads it."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from dogbreed.serve import lines
from dogbreed.serve.lines import log, writing

MANY = 500
LONG = "x" * 500  # so that all of them are more than a pipe holds


@contextlib.contextmanager
def piped() -> Iterator[TextIO]:
    """Let standard output lead to here."""
    out, into = os.pipe()
    with open(out) as reader, open(into, "w") as writer, contextlib.redirect_stdout(writer):
        yield reader


def test_whoever_says_something_does_not_wait_for_a_reader() -> None:
    with piped() as pipe, writing():
        for number in range(MANY):
            log("INFO", LONG, number=number)
        said = [json.loads(pipe.readline()) for _ in range(MANY)]
    assert [line["number"] for line in said] == list(range(MANY))
    assert said[0]["severity"] == "INFO"


def test_what_is_too_much_for_a_reader_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "_HELD", 10)
    with piped() as pipe, writing():
        for _ in range(MANY):
            log("INFO", LONG)
        taken = dropped = 0
        while taken + dropped < MANY:
            number, _, rest = json.loads(pipe.readline())["message"].partition(" ")
            if rest == "lines were dropped":
                dropped += int(number)
            else:
                taken += 1
    assert 0 < dropped < MANY


def test_a_reader_that_has_gone_harms_nobody() -> None:
    with piped() as pipe, writing():
        pipe.close()
        log("INFO", "to nobody")
