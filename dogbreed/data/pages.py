"""Packed files in pages: which of them an epoch needs, and when first.

A shuffled batch touches a packed file here and there, and a request for each picture would be
slow. So packed files are fetched in pages of equal size, once, ahead of the batches that need
them, and kept in the disk cache, where a picture is then a read of some kilobytes.

A page is kept as it came: whoever takes a picture out of it checks the picture's digest.
"""

import functools
from typing import NamedTuple

import numpy as np

from dogbreed.data.cache import Cache, Entry
from dogbreed.data.manifest import PLACE, Manifest
from dogbreed.ranges import Range
from dogbreed.storage import digest_of

PAGE = 4 * 2**20  # bytes
WORTH = 0.25  # the share of a page's bytes that an epoch must need to fetch it whole
HELD = 128  # pages that a process holds open: those of a window of eight shards
MOST = 64  # pages handed to a worker along with one batch


class Page(NamedTuple):
    """A stretch of a packed file, from `number * PAGE` on."""

    url: str
    number: int
    size: int
    """In bytes; the last one of a file is shorter than `PAGE`."""

    @property
    def name(self) -> str:
        """Its name in the cache."""
        return _name(self.url, self.number)

    @property
    def range(self) -> Range:
        """Where it lies."""
        return Range(self.url, self.number * PAGE, self.size)


@functools.lru_cache(4096)
def _name(url: str, number: int) -> str:
    return digest_of(f"page {number} of {PAGE} bytes of {url}".encode())


def names(picture: Range) -> list[str]:
    """The names of the pages that a picture lies on, one or, if it crosses an edge, more."""
    first, last = picture.offset // PAGE, (picture.end - 1) // PAGE
    return [_name(picture.url, number) for number in range(first, last + 1)]


class Kept:
    """The pages in a cache, as one process reads them: their files stay open.

    Concurrency model: any thread may call it; a file is closed when no thread reads from it.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._open: dict[str, Entry] = {}

    def cut(self, picture: Range) -> bytes | None:
        """A picture out of the pages; None if they are not there.

        Pages that hold something else than the picture's digest promises are removed.
        """
        start, data = picture.offset % PAGE, b""
        on = names(picture)
        for name in on:
            piece = self._read(name, start, min(picture.size - len(data), PAGE - start))
            if not piece:
                return None
            data, start = data + piece, 0
        if digest_of(data) == picture.digest:
            return data
        if len(data) == picture.size:
            for name in on:
                self._open.pop(name, None)
                self._cache.remove(name)
        return None

    def _read(self, name: str, start: int, size: int) -> bytes:
        entry = self._open.get(name)
        if entry is None:
            entry = self._cache.open(name)
            if entry is None:
                return b""
            self._open[name] = entry
            for oldest in list(self._open)[:-HELD]:
                self._open.pop(oldest, None)
        try:
            data = entry.read(start, size)
        except OSError:
            data = b""
        if entry.removed or not data:
            self._open.pop(name, None)
        return data


class Plan:
    """The pages of a split's packed files.

    Args:
        manifest: the data set.
        rows: rows of the manifest that make an epoch, int64, (n,).
        files: for each of them a number that says in which file it lies, int64, (n,).
        window: how many files the order mixes; 0: all.
        room: bytes that the cache holds. There are no pages if those of two windows would take
            more than half of it.
    """

    def __init__(
        self, manifest: Manifest, rows: np.ndarray, files: np.ndarray, *, window: int, room: int
    ) -> None:
        self._manifest = manifest
        offset, size = manifest.column("offset")[rows], manifest.column("size")[rows]
        ends = np.zeros(files.max(initial=-1) + 1, np.int64)
        np.maximum.at(ends, files, offset + size)
        before = np.concatenate([[0], np.cumsum(-(-ends // PAGE))])  # pages of the files before
        first, last = before[files] + offset // PAGE, before[files] + (offset + size - 1) // PAGE

        # Of each page: a row that begins on it, its number in the file, and its size.
        self._row = np.full(before[-1], -1)
        self._row[first] = rows
        file = np.repeat(np.arange(len(ends)), np.diff(before))
        self._number = np.arange(before[-1]) - before[file]
        self._size = np.minimum(PAGE, ends[file] - self._number * PAGE)
        needed = np.bincount(first, weights=size, minlength=before[-1])
        worth = (self._row >= 0) & (needed >= WORTH * self._size)

        # A file of one picture is fetched as such; a picture on three pages as well.
        packed = (np.bincount(files)[files] > 1) & (last - first <= 1)
        packed &= worth[first] & worth[last]
        mixed = window / max(1, len(ends)) if window else 1.0  # share of an epoch
        paged = np.unique(first[packed])
        if self._size[paged].sum() * min(1, 2 * mixed) > room / 2:
            packed[:] = False
        self._first, self._last = np.full((2, len(manifest)), -1)
        self._first[rows[packed]], self._last[rows[packed]] = first[packed], last[packed]
        self._ahead = int(len(rows) * min(1, mixed))

    def covers(self, rows: np.ndarray) -> np.ndarray:
        """Which rows lie on pages: bool, like `rows`."""
        covered: np.ndarray = self._first[rows] >= 0
        return covered

    def deal(self, order: np.ndarray, among: int = 1) -> "Deal":
        """The pages for an epoch, or the rest of one, in this order of rows.

        Args:
            order: rows of the manifest, int64, (n,).
            among: the first so many batches share what is due at the start.
        """
        both = np.stack([self._first[order], self._last[order]], axis=1).ravel()
        pages, at = np.unique(both, return_index=True)
        at = at[pages >= 0] // 2
        pages = pages[pages >= 0]
        by_use = np.argsort(at, kind="stable")
        return Deal(self, pages[by_use], at[by_use], self._ahead, among)

    def page(self, number: int) -> Page:
        """A page by its number in the plan."""
        (there,) = self._manifest.ranges(self._manifest.take([self._row[number]], PLACE))
        return Page(there.url, int(self._number[number]), int(self._size[number]))


class Deal:
    """Hands out the pages of an epoch, each once, some time before they are needed."""

    def __init__(
        self, plan: Plan, pages: np.ndarray, at: np.ndarray, ahead: int, among: int
    ) -> None:
        self._plan, self._pages, self._at, self._ahead = plan, pages, at, ahead
        self._among, self._done = among, 0

    def __call__(self, position: int) -> list[Page]:
        """The next pages, when the batch that ends at this position is handed out."""
        due = int(np.searchsorted(self._at, position + self._ahead, side="right"))
        share = -(-(due - self._done) // max(1, self._among))
        chosen = self._pages[self._done : self._done + min(share, MOST)]
        self._done, self._among = self._done + len(chosen), self._among - 1
        return [self._plan.page(number) for number in chosen]
