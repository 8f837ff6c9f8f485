"""Features of a split's pictures: those that are kept, and the rest computed now.

Concurrency model: each of several processes computes a part of the missing chunks and keeps it for
all, then waits for the others. On machines without a common place each computes what it still
lacks, and its processes do so at once. A kill costs the chunk at hand.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.features import FeatureCache, View
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest

CHUNK = 512  # pictures: a kill costs some seconds; of 1,280 features they are 2.6 MB
BATCH = 32  # larger ones are slower on a CPU: their activations don't fit its caches


class Features:
    """Features of a split's pictures, in memory or mapped from the disk.

    Args:
        rows: rows of the manifest, int64, (n,), ascending.
        chunks: those of each `CHUNK` rows: float32, (k, D).
        problems: row -> `id: reason` of the pictures that could not be read.
    """

    def __init__(
        self, rows: np.ndarray, chunks: list[np.ndarray], problems: dict[int, str]
    ) -> None:
        self.rows, self.chunks, self.problems = rows, chunks, problems

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Features of some rows of the manifest: float32, (B, D)."""
        number, place = np.divmod(np.searchsorted(self.rows, rows), CHUNK)
        taken = np.empty((len(rows), self.chunks[0].shape[1]), np.float32)
        for k in np.unique(number):
            taken[number == k] = self.chunks[k][place[number == k]]
        return taken


class Extractor:
    """Computes what is missing.

    Args:
        cache: keeps features.
        pictures: makes the data set of the pictures that a view sees.
        workers: processes that fetch and decode.
        rank: this process among `world_size`.
        world_size: processes that share the work.
        barrier: waits for the others.
        check: called with each batch; raises to end the work.
    """

    def __init__(
        self,
        cache: FeatureCache,
        pictures: Callable[[View], PictureDataset],
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], object] = lambda: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.cache, self.pictures, self.workers = cache, pictures, workers
        self.rank, self.world_size = rank, world_size
        self.barrier, self.check = barrier, check

    def features(self, split: str, view: View) -> Features:
        """Features of a split; a line says how many were kept, and where.

        Raises:
            BadInput: a picture cannot be read, and none may be skipped.
            StorageError: the bucket cannot be read or written.
        """
        work = _Work(self, split, view)
        work.look()
        kept, begun = len(work.rows) - work.pictures(work.missing), time.monotonic()
        work.extract([n for n in work.missing if n % self.world_size == self.rank])
        if self.world_size > 1:
            self.barrier()
            work.look()
            work.extract(work.missing)
        if self.rank == 0:
            rest = len(work.rows) - kept
            rate = f" at {rest / (time.monotonic() - begun):.0f} images/s" if rest else ""
            mirrored = ", mirrored" if view.mirrored else ""
            print(
                f"features of {split}{mirrored}: {kept:,} from the cache, {rest:,} computed{rate};"
                f" {self.cache}",
                flush=True,
            )
        return Features(work.rows, [work.chunks[n] for n in sorted(work.chunks)], work.problems)


class _Work:
    """One split under one view."""

    def __init__(self, extractor: Extractor, split: str, view: View) -> None:
        self.split, self.view, self.workers = split, view, extractor.workers
        self.cache, self.check = extractor.cache, extractor.check
        self.dataset = extractor.pictures(view)
        self.manifest: Manifest = self.dataset.manifest
        self.rows = self.manifest.rows_of(split)
        self.key = view.key(self.manifest.version, split)
        self.chunks: dict[int, np.ndarray] = {}
        self.problems: dict[int, str] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks that are not at hand."""
        return [n for n in range(-(-len(self.rows) // CHUNK)) if n not in self.chunks]

    def pictures(self, numbers: list[int]) -> int:
        """Pictures of some chunks."""
        return sum(len(self._rows(n)) for n in numbers)

    def look(self) -> None:
        """Take up what is kept."""
        there = self.cache.there(self.key)
        for number in self.missing:
            chunk = self.cache.get(self.key, number, there)
            if chunk is not None and len(chunk) == len(self._rows(number)):
                self.chunks[number] = chunk

    def extract(self, numbers: list[int]) -> None:
        """Compute some chunks, and keep them as they come."""
        if not numbers:
            return
        add: bool | None = None
        done: list[np.ndarray] = []
        waiting = iter(numbers)
        number = next(waiting)
        for features in self._batches(numbers):
            done.append(features)
            rows = self._rows(number)
            if sum(map(len, done)) < len(rows):
                continue
            chunk = np.concatenate(done)
            if add is None:
                add = self.cache.has_room(len(numbers) * chunk.nbytes)
            self.chunks[number] = chunk
            if not self.problems.keys() & set(rows.tolist()):  # else it may be read the next time
                self.cache.put(self.key, number, chunk, add=add)
                # Mapped, its memory is the kernel's to take back.
                kept = self.cache.get(self.key, number, {})
                self.chunks[number] = chunk if kept is None else kept
            done, number = [], next(waiting, -1)

    def _batches(self, numbers: list[int]) -> Iterator[np.ndarray]:
        """Features of these chunks' rows, in order, with a bar: float32, (B, D)."""
        rows = np.concatenate([self._rows(n) for n in numbers])
        loader = EpochLoader(self.dataset, rows, batch_size=BATCH, workers=self.workers, pin=True)
        kept = len(self.rows) - len(rows)
        title = f"features of {self.split}"
        try:
            with tqdm(
                total=len(self.rows), initial=kept, unit=" images", desc=title, disable=None
            ) as bar:
                for batch in loader:
                    self.check()
                    self._note(batch)
                    images = batch["image"].flip(3) if self.view.mirrored else batch["image"]
                    yield self.view.embed(images).float().cpu().numpy()
                    bar.update(len(images))
        finally:
            loader.close()

    def _note(self, batch: Batch) -> None:
        if not batch["skipped"]:
            return
        rows = batch["row"].numpy()
        for row, about in zip(rows, self.manifest.take(rows), strict=True):
            for problem in batch["skipped"]:
                if problem.startswith(f"{about['id']}: "):
                    self.problems[int(row)] = problem

    def _rows(self, number: int) -> np.ndarray:
        return self.rows[number * CHUNK : (number + 1) * CHUNK]
