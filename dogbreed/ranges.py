"""Many small reads at once: the bytes of a batch, neighbours merged, each range checked.

gcsfs accepts a body that came back short or damaged, so a range carries the digest that the
manifest promises, and bytes that differ are asked for again.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from dogbreed import images
from dogbreed.hedging import Pace, first_good
from dogbreed.retries import IN_FLIGHT, StorageError, body_taker, explain, retry, retry_async
from dogbreed.storage import digest_of, filesystem

MERGE_GAP = 32 * 2**10  # bytes worth reading over to save a request
MERGE_LIMIT = 8 * 2**20  # bytes of one merged request

Piece = bytes | StorageError


@dataclasses.dataclass(slots=True)
class Traffic:
    """What this process has asked for so far."""

    requests: int = 0
    bytes: int = 0


traffic = Traffic()
_pace = Pace()


class DigestError(OSError):
    """Bytes that differ from what the manifest promises."""


class Range(NamedTuple):
    """A stretch of bytes in a file; `digest` is its SHA-256 in hex, or empty if unknown."""

    url: str
    offset: int
    size: int
    digest: str = ""

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.size

    def check_size(self, size: int) -> None:
        """Raise DigestError unless that many bytes are all."""
        if size != self.size:
            raise DigestError(f"{size} bytes came instead of {self.size}")

    def check(self, data: bytes) -> bytes:
        """`data`, if it is what this range promises.

        Raises:
            DigestError: it is too short, or has another digest.
        """
        self.check_size(len(data))
        if self.digest and digest_of(data) != self.digest:
            raise DigestError("the bytes differ from the manifest's digest")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    """Neighbouring ranges of one file that one request fetches, by their place in the batch."""

    ranges: dict[int, Range]

    @property
    def url(self) -> str:
        return next(iter(self.ranges.values())).url

    @property
    def start(self) -> int:
        return next(iter(self.ranges.values())).offset

    @property
    def end(self) -> int:
        return max(r.end for r in self.ranges.values())

    def takes(self, other: Range) -> bool:
        near = other.url == self.url and other.offset - self.end <= MERGE_GAP
        return near and other.end - self.start <= MERGE_LIMIT

    def pieces(self, data: bytes) -> dict[int, bytes]:
        """The ranges' bytes out of the span's; those that are wrong are missing.

        Raises:
            DigestError: all of them are wrong.
        """
        good: dict[int, bytes] = {}
        problem: DigestError | None = None
        for place, here in self.ranges.items():
            try:
                good[place] = here.check(data[here.offset - self.start : here.end - self.start])
            except DigestError as error:
                problem = error
        if problem and not good:
            raise problem
        return good


def whole(url: str) -> Range:
    """The range that is all of a file. Raises StorageError."""
    fs, path = filesystem(url)
    return Range(url, 0, int(retry(url, lambda: fs.info(path)["size"])))


def read_ranges(ranges: Sequence[Range]) -> list[Piece]:
    """Fetch many ranges at once, each checked against its digest.

    Returns:
        In the order asked for: the bytes, or why they cannot be had. Nothing is raised for a
        single range, so that one bad picture leaves its neighbours in the batch alone.
    """
    results: dict[int, Piece] = {}
    spans: dict[fsspec.AbstractFileSystem, list[_Span]] = {}
    for span in _merge(ranges):
        try:
            spans.setdefault(filesystem(span.url)[0], []).append(span)
        except StorageError as error:
            results.update(dict.fromkeys(span.ranges, error))
    for fs, of_fs in spans.items():
        if isinstance(fs, AsyncFileSystem):
            results.update(sync(fs.loop, _read_spans, fs, of_fs))
        else:
            for span in of_fs:
                results.update(_read_span(fs, span))
    return [results[place] for place in range(len(ranges))]


def read_all(ranges: Sequence[Range]) -> list[bytes]:
    """As `read_ranges`, for those that cannot do without a single one.

    Raises:
        StorageError: why the first one that is missing cannot be had.
    """
    found: list[bytes] = []
    for data in read_ranges(ranges):
        if isinstance(data, StorageError):
            raise data
        found.append(data)
    return found


def read_pictures(ranges: Sequence[Range]) -> list[Piece | images.BadImage]:
    """As `read_ranges`, but what is too large for a picture is not fetched."""
    small = [place for place, here in enumerate(ranges) if here.size <= images.MAX_BYTES]
    fetched = dict(zip(small, read_ranges([ranges[place] for place in small]), strict=True))
    return [fetched.get(place, images.too_large(here.size)) for place, here in enumerate(ranges)]


def copy_range(here: Range, write: Callable[[bytes, int], None]) -> None:
    """Fetch a range and hand on its bytes as they come, which never are in memory all at once.

    Args:
        here: its digest is not looked at.
        write: takes some bytes, and their place in the range. The same place comes again if the
            range is asked for again.

    Raises:
        StorageError: it cannot be had, or not all of it.
    """
    fs = filesystem(here.url)[0]
    if isinstance(fs, AsyncFileSystem):
        sync(fs.loop, _copy, fs, here, write)
        return
    (data,) = read_ranges([here._replace(digest="")])
    if isinstance(data, StorageError):
        raise data
    write(data, 0)


def _merge(ranges: Iterable[Range]) -> list[_Span]:
    spans: list[_Span] = []
    by_place = sorted(enumerate(ranges), key=lambda item: (item[1].url, item[1].offset))
    for place, here in by_place:
        if spans and spans[-1].takes(here):
            spans[-1].ranges[place] = here
        else:
            spans.append(_Span({place: here}))
    return spans


def _alone(span: _Span, but: Iterable[int]) -> list[_Span]:
    """The span's ranges one by one, without those in `but`."""
    return [_Span({place: here}) for place, here in span.ranges.items() if place not in set(but)]


async def _copy(fs: AsyncFileSystem, here: Range, write: Callable[[bytes, int], None]) -> None:
    async def ask() -> None:
        begun, done = time.monotonic(), 0

        def take(piece: bytes) -> None:
            nonlocal done
            write(piece, done)
            done += len(piece)

        body_taker.set(take)
        traffic.requests += 1
        path = fs._strip_protocol(here.url)
        if rest := await fs._cat_file(path, start=here.offset, end=here.end):
            take(rest)  # all of it, where no middleware has it on its way
        traffic.bytes += done
        _pace.note(time.monotonic() - begun, done)
        here.check_size(done)

    size = here.size
    await retry_async(here.url, lambda: first_good(ask, _pace.patience(size)), size=size)


async def _read_spans(fs: AsyncFileSystem, spans: list[_Span]) -> dict[int, Piece]:
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def ask(span: _Span) -> dict[int, bytes]:
        path, begun = fs._strip_protocol(span.url), time.monotonic()
        traffic.requests += 1
        data = await fs._cat_file(path, start=span.start, end=span.end)
        traffic.bytes += len(data)
        _pace.note(time.monotonic() - begun, len(data))
        return span.pieces(data)

    async def read(span: _Span) -> dict[int, Piece]:
        size = span.end - span.start
        async with gate:
            try:
                found: dict[int, Piece] = await retry_async(
                    span.url,
                    lambda: first_good(lambda: ask(span), _pace.patience(size)),
                    size=size,
                )
            except StorageError as error:
                return dict.fromkeys(span.ranges, error)
        return found | await read_each(_alone(span, found))

    async def read_each(some: list[_Span]) -> dict[int, Piece]:
        found: dict[int, Piece] = {}
        for part in await asyncio.gather(*(read(span) for span in some)):
            found |= part
        return found

    return await read_each(spans)


def _read_span(fs: fsspec.AbstractFileSystem, span: _Span) -> dict[int, Piece]:
    """From a file system without an event loop: a disk, or memory. One try tells there."""
    path = filesystem(span.url)[1]
    found: dict[int, Piece] = {}
    try:
        traffic.requests += 1
        data = fs.cat_file(path, start=span.start, end=span.end)
        traffic.bytes += len(data)
        found.update(span.pieces(data))
    except (OSError, ValueError) as error:
        found.update(dict.fromkeys(span.ranges, explain(span.url, error)))
    for bad in _alone(span, found):
        found.update(_read_span(fs, bad))
    return found
