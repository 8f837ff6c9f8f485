"""Reads a prediction log, object after object, each line by line."""

import collections
import datetime
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.monitor import rows
from dogbreed.monitor.tally import Tally

_AHEAD = 4  # objects that are fetched before they are needed
_LARGEST = 256 * 2**20  # bytes of an object
_PART = 2000  # rows that are counted at once
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def moment(text: str, now: float) -> float:
    """A time in seconds since 1970.

    Args:
        text: `7d`, `24h`, `90m`, `2w` before now, or a date or time such as 2026-11-24.
        now: likewise.

    Raises:
        BadInput: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        said = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadInput(f"{text!r} is no time: say 7d, 24h, or 2026-11-24") from None
    return said.replace(tzinfo=said.tzinfo or datetime.UTC).timestamp()


def fill(tally: Tally, log: str, model: str, since: float, until: float) -> None:
    """Count the rows of a model from `since` until before `until`, in seconds since 1970.

    Raises:
        BadInput: more than ten years.
        StorageError: the log cannot be read.
    """
    days = int((until - since) // 86_400) + 2
    if not 0 < days < 3660:
        raise BadInput("--since and --until: the first must come before, by ten years at most")
    places = [
        url
        for k in range(days)
        if (day := rows.day_of(since + k * 86_400)) <= rows.day_of(until)
        for url, size in storage.files(storage.join(log, rows.folder(day, model))).items()
        if url.endswith(rows.SUFFIX) and (size <= _LARGEST or _too_large(tally))
    ]
    for data in tqdm(
        _fetched(places), total=len(places), unit=" files", desc="drift", disable=None
    ):
        tally.files += 1
        part: list[dict[str, Any]] = []
        for row in _rows(data, tally):
            if since <= row["time"] < until:
                part.append(row)
            if len(part) == _PART:
                tally.add(part)
                part = []
        tally.add(part)


def _too_large(tally: Tally) -> bool:
    tally.damaged_files += 1
    return False


def _fetched(urls: list[str]) -> Iterator[bytes]:
    """The objects in order, some of them ahead."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: collections.deque[Future[bytes]] = collections.deque()
        for url in urls:
            waiting.append(pool.submit(storage.read, url))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _rows(data: bytes, tally: Tally) -> Iterator[dict[str, Any]]:
    """The rows of an object; what is none is counted."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while line := file.readline(rows.LONGEST_ROW):
                try:
                    yield rows.parse(line)
                except rows.NewerRow:
                    tally.newer += 1
                except rows.BadRow:
                    tally.damaged += 1
    except (OSError, EOFError, zlib.error):
        tally.damaged_files += 1
