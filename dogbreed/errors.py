"""What a person did wrong, said in one line."""

import difflib
from collections.abc import Iterable, Sequence


class BadInput(Exception):
    """Input that cannot be used. The message is one line: what is wrong, where, what to do.

    The command line prints it and exits with status 2.
    """


class Pruned(Exception):
    """A trial of a sweep that is not worth going on with."""


class OutOfReach(BadInput):
    """What should answer over the network does not, or not now: later the same may succeed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the name in `known` most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def named(names: Sequence[str], limit: int = 5) -> str:
    """The first few of many names."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
