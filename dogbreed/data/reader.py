"""The bytes of a batch: out of the cache, read ahead, or fetched now.

Concurrency model: a worker decodes in its main thread. Meanwhile a thread begins its next batch,
and some more fetch pages (see `pages`) into the disk cache, which all workers share. The threads
are daemons, for a worker that ends must not wait for them. All workers hold at most the pictures
of two batches each; a page goes to the disk as it comes, written by the thread that all requests
of a worker share.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypedDict

from dogbreed import images, ranges
from dogbreed.data import pages
from dogbreed.data.cache import Cache
from dogbreed.ranges import Piece, Range, copy_range, read_pictures
from dogbreed.retries import StorageError

AT_ONCE = 40  # pages that all workers together fetch at once
CLAIMS = 64  # pages that wait for it and are claimed: each claim is an open file
_GLANCE = 0.003  # seconds between two looks at the cache

Found = Piece | images.BadImage
_Loaded = tuple[dict[Range, Found], int]  # the pictures, and how many the cache had


class Cost(TypedDict):
    """What a batch has cost its worker."""

    bytes: int
    """Fetched since the batch before, for this one or for others to come."""
    requests: int
    """Likewise, those that failed and those asked twice included."""
    hits: int
    """Pictures that came out of the cache, where they were kept or read ahead."""
    misses: int
    """Pictures that were fetched by themselves, or by a cache that is turned off."""
    fetch_seconds: float
    """That the worker waited for bytes."""
    decode_seconds: float
    """That it decoded and cropped."""


class _Daemons:
    """Some threads that do what is queued; they hold up nobody's exit."""

    def __init__(self, number: int) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for _ in range(number):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._queue.get()()

    @property
    def waiting(self) -> int:
        """How many calls no thread has begun."""
        return self._queue.qsize()

    def submit(self, call: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Do it when a thread is free."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._queue.put(run)
        return future


class Reader:
    """Reads pictures for one process.

    Args:
        cache: keeps what was fetched; None fetches anew, and reads no pages.
    """

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self._forget()

    def _forget(self) -> None:
        self.fetchers = AT_ONCE
        """Pages that this process fetches at once."""
        self._pages = None if self.cache is None else pages.Kept(self.cache)
        self._now: Future[_Loaded] | None = None
        self._next: Future[_Loaded] | None = None
        self._patience = 0.0
        self._threads: tuple[_Daemons, _Daemons] | None = None
        self._hits = self._misses = 0
        self._seen = (ranges.traffic.bytes, ranges.traffic.requests)

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.cache = state["cache"]
        self._forget()

    def begin(
        self, pictures: Sequence[Range], some: Sequence[pages.Page], *, patience: float
    ) -> None:
        """Go on to another batch, and fetch in the background what comes after it.

        Args:
            pictures: those of the batch after it that don't lie on pages.
            some: pages for later batches.
            patience: seconds to wait for pages that somebody is fetching, before single pictures
                are fetched from them.
        """
        if self._threads is None:
            self._threads = _Daemons(self.fetchers), _Daemons(1)
        for page in some:
            assert self.cache is not None
            if self.cache.works and not self.cache.has(page.name):
                if self._threads[0].waiting >= CLAIMS:
                    self._threads[0].submit(self._bring, page, None)
                elif (claim := self.cache.claim(page.name)) is not None:
                    self._threads[0].submit(self._bring, page, claim)
        self._now, self._next, self._patience = self._next, None, patience
        if pictures:
            self._next = self._threads[1].submit(self._load, list(pictures), 0.0)

    def _bring(self, page: pages.Page, claim: int | None) -> None:
        assert self.cache is not None
        claim = self.cache.claim(page.name) if claim is None else claim
        if claim is None:
            return
        try:
            if self.cache.has(page.name):  # somebody brought it just before the claim
                return
            with contextlib.suppress(StorageError):  # of its pictures, each tells by itself
                self.cache.fill(page.name, lambda write: copy_range(page.range, write))
        finally:
            self.cache.release(page.name, claim)

    def read(self, pictures: Sequence[Range]) -> list[Found]:
        """The bytes of the pictures, or why they cannot be had."""
        found, hits = self._now.result() if self._now else ({}, 0)
        rest, more = self._load([p for p in pictures if p not in found], self._patience)
        self._now, self._hits = None, self._hits + hits + more
        self._misses += len(found) + len(rest) - hits - more
        return [rest[p] if p in rest else found[p] for p in pictures]

    def _load(self, pictures: list[Range], patience: float) -> _Loaded:
        pictures = list(dict.fromkeys(pictures))
        found: dict[Range, Found] = {}
        if self.cache is not None:
            found = self._kept(pictures)
            paged = [p for p in pictures if p not in found and p.offset]
            self._wait(paged, patience)
            found |= self._kept(paged)  # also what came between the first look and the wait
        hits = len(found)
        missing = [picture for picture in pictures if picture not in found]
        for picture, data in zip(missing, read_pictures(missing), strict=True):
            found[picture] = data
            if self.cache is not None and isinstance(data, bytes):
                self.cache.put(picture.digest, data)
        return found, hits

    def _kept(self, pictures: list[Range]) -> dict[Range, Found]:
        """What the cache has of these, by itself or on a page."""
        assert self.cache is not None and self._pages is not None
        found: dict[Range, Found] = {}
        for picture in pictures:
            data = self._pages.cut(picture) if picture.offset else None  # else it is loose
            if data is None:
                data = self.cache.get(picture.digest)
            if data is not None:
                found[picture] = data
        return found

    def _wait(self, pictures: list[Range], patience: float) -> None:
        """Wait until nobody fetches pages of these any more."""
        assert self.cache is not None
        end = time.monotonic() + patience
        for name in {name for picture in pictures for name in pages.names(picture)}:
            while time.monotonic() < end and self.cache.claimed(name):
                time.sleep(_GLANCE)

    def cost(self, fetch_seconds: float, decode_seconds: float) -> Cost:
        """What was spent since this was last asked."""
        now = (ranges.traffic.bytes, ranges.traffic.requests)
        spent = [after - before for after, before in zip(now, self._seen, strict=True)]
        hits, misses = self._hits, self._misses
        self._seen, self._hits, self._misses = now, 0, 0
        return {
            "bytes": spent[0],
            "requests": spent[1],
            "hits": hits,
            "misses": misses,
            "fetch_seconds": fetch_seconds,
            "decode_seconds": decode_seconds,
        }
