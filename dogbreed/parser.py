"""What the parsers of all verbs have in common: errors of one line that name the right option."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from dogbreed import storage
from dogbreed.errors import BadInput, nearest

_UNKNOWN = (
    re.compile(r"[Uu]nrecognized arguments?: +(--)?(?P<name>[\w.]+)"),
    re.compile(r"[Kk]ey ['\"]?(?P<name>[\w.]+)['\"]? is not expected"),
    re.compile(r"[Oo]ption ['\"]?(?P<name>[\w.]+)['\"]? is not accepted"),
    re.compile(r"[Gg]roup '(?P<group>[\w.]+)' does not accept option '(?P<name>[\w.]+)'"),
    re.compile(r"[Nn]o action for (destination )?key ['\"](?P<name>[\w.]+)['\"]"),
)


_CHOICE = re.compile(
    r"key \"(?P<name>[\w.]+)\": Expected a typing\.Literal\[(?P<choices>[^]]+)\]\."
    r" Got value: (?P<value>\S+)"
)


class OneLineErrors:
    """A mixin for parsers: raises `BadInput` where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation is a typo that happens to work, until an option is added.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self: Any, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, with the nearest right name for an unknown one.

        Raises:
            BadInput: always.
        """
        line = " ".join(message.split())
        known = list(self.get_defaults(skip_validation=True).keys())
        for pattern in _UNKNOWN:
            if found := pattern.search(line):
                group = found.groupdict().get("group")
                name = f"{group}.{found['name']}" if group else found["name"]
                last = {key.rsplit(".", 1)[-1]: key for key in known}
                guess = nearest(name, known) or nearest(name.rsplit(".", 1)[-1], last)
                raise BadInput(f"unknown option {name!r}{guess}") from None
        if found := _CHOICE.search(line):
            choices = re.findall(r"'([^']*)'", found["choices"])
            raise BadInput(
                f"--{found['name']} {found['value']}: no such choice"
                f"{nearest(found['value'], choices)}; it is one of {', '.join(choices)}"
            ) from None
        raise BadInput(line[:400]) from None


class Parser(OneLineErrors, ArgumentParser):
    """Parses a function's arguments."""


@contextlib.contextmanager
def configs_here(argv: Sequence[str]) -> Iterator[list[str]]:
    """`argv` with configs that lie in a bucket fetched, for the parser reads local files alone."""
    words = list(argv)
    with tempfile.TemporaryDirectory() as folder:
        for at, word in enumerate(words):
            option, _, url = word.rpartition("=")
            before = option or (words[at - 1] if at else "")
            if before in {"-c", "--config"} and not storage.is_local(url):
                path = Path(folder) / f"{at}.yaml"
                storage.download(url, path)
                words[at] = f"{option}={path}" if option else str(path)
        yield words
