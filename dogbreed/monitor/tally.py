"""Counts over any number of rows in bounded memory: all that the comparison needs of a log."""

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from dogbreed.monitor import rows
from dogbreed.monitor.reference import EMBEDDINGS, Reference
from dogbreed.monitor.statistics import FEATURES

BINS = 30
SHOWN = 200  # rows kept of each kind of example
DAYS = 3660  # at most: a clock that is wrong makes no more of them


class Column:
    """Counts of a quantity between the values that the reference has.

    The greatest distance between two distribution functions lies at a value of one of them, so
    these counts give the Kolmogorov-Smirnov distance exactly, whatever the number of rows.

    Args:
        reference: float, (m,).
    """

    def __init__(self, reference: np.ndarray) -> None:
        of, self.places = np.unique(reference.astype(np.float64), return_counts=True)
        self.values, self.n, self.total = of, 0, 0.0
        self.reference = reference
        self._cells = np.zeros(2 * len(of) + 1, np.int64)  # below, at, between, at, …, above
        low, high = np.quantile(reference, [0.005, 0.995])
        room = 0.25 * (high - low) or abs(low) * 0.1 or 0.1
        self.edges = np.linspace(low - room, high + room, BINS + 1)
        self.bins = np.zeros(BINS, np.int64)
        self.reference_bins = self._binned(reference)

    def add(self, values: np.ndarray) -> None:
        """Take values: float, (n,); what is no number does not count."""
        values = values[np.isfinite(values)].astype(np.float64)
        cell = np.searchsorted(self.values, values) + np.searchsorted(self.values, values, "right")
        self._cells += np.bincount(cell, minlength=len(self._cells))
        self.bins += self._binned(values)
        self.n += len(values)
        self.total += float(values.sum())

    def _binned(self, values: np.ndarray) -> np.ndarray:
        clipped = np.clip(values, self.edges[0], self.edges[-1])
        return np.asarray(np.histogram(clipped, self.edges)[0])

    def distance(self) -> float:
        """The Kolmogorov-Smirnov distance between reference and log, from 0 to 1."""
        log = np.cumsum(self._cells)[:-1] / max(self.n, 1)
        reference = np.cumsum(self.places) / self.places.sum()
        before = np.concatenate([[0.0], reference[:-1]])
        return float(max(np.abs(reference - log[1::2]).max(), np.abs(before - log[::2]).max()))

    def share_above(self, value: float) -> float:
        """Share of the log's values that are at least one of the reference's."""
        first = 2 * int(np.searchsorted(self.values, value)) + 1
        return float(self._cells[first:].sum() / max(self.n, 1))


class Tally:
    """What is kept of a log.

    Args:
        reference: what it is compared with.
        class_names: of the model.
        seed: of the sample of embeddings.
    """

    def __init__(self, reference: Reference, class_names: Sequence[str], seed: int = 0) -> None:
        digits = dict(zip(FEATURES, reference.statistics.T, strict=True))
        digits |= {"probability": reference.probability, "reject_score": reference.reject_score}
        self.columns = {name: Column(_five_digits(of)) for name, of in digits.items()}
        self.class_names = list(class_names)
        self._place = {name: k for k, name in enumerate(class_names)}
        self.breeds = np.zeros(len(class_names) + 1, np.int64)  # the last: names unknown here
        self.n = self.judged = self.rejected = self.newer = self.damaged = 0
        self.files = self.damaged_files = 0
        self.first, self.last = np.inf, -np.inf
        self.days: dict[str, list[float]] = {}  # n, sum of probability, judged, rejected
        self._width = reference.embedding.shape[1]
        self._rng = np.random.default_rng(seed)
        self._sample: list[tuple[float, int, np.ndarray]] = []
        self._examples: dict[str, list[tuple[tuple[bool, float], int, dict[str, Any]]]] = {}
        self._number = itertools.count()

    def add(self, some: Sequence[dict[str, Any]]) -> None:
        """Take rows."""
        if not some:
            return
        pictures = [_mapping(row.get("picture")) for row in some]
        for name in FEATURES:
            self._count(name, [of.get(name) for of in pictures])
        for name in ("probability", "reject_score"):
            self._count(name, [row.get(name) for row in some])
        last = len(self.class_names)
        places = [self._place.get(row["breed"], last) for row in some]
        self.breeds += np.bincount(places, minlength=last + 1)
        self.n += len(some)
        times = [row["time"] for row in some]
        self.first, self.last = min(self.first, *times), max(self.last, *times)
        for row, key in zip(some, self._rng.random(len(some)).tolist(), strict=True):
            is_dog = row.get("is_dog")
            judged, rejected = is_dog in {True, False}, is_dog is False
            self.judged += judged
            self.rejected += rejected
            day = rows.day_of(row["time"])
            if day in self.days or len(self.days) < DAYS:
                of = self.days.setdefault(day, [0.0, 0.0, 0.0, 0.0])
                for k, value in enumerate((1, row["probability"], judged, rejected)):
                    of[k] += value
            self._keep_embedding(key, row)
            self._keep_examples(row, rejected)

    def _count(self, name: str, values: list[Any]) -> None:
        if set(map(type, values)) != {float}:  # seldom: rows of others, or damaged
            values = [rows.number(value) for value in values]
        self.columns[name].add(np.array(values))

    def _keep_embedding(self, key: float, row: dict[str, Any]) -> None:
        """Keep those of the greatest of keys drawn at random: each row is as likely as any."""
        full = len(self._sample) == EMBEDDINGS
        if full and key < self._sample[0][0]:
            return
        vector = rows.embedding(row)
        if vector is None or len(vector) != self._width:
            return
        put = heapq.heappushpop if full else heapq.heappush
        put(self._sample, (key, next(self._number), vector))

    def embeddings(self) -> np.ndarray:
        """A sample of them: float16, (k, D)."""
        kept = [vector for _, _, vector in self._sample]
        return np.stack(kept) if kept else np.empty((0, self._width), np.float16)

    def _keep_examples(self, row: dict[str, Any], rejected: bool) -> None:
        score = rows.number(row.get("reject_score"))
        kinds = {}
        if not rejected:
            kinds["unsure"] = -row["probability"]
        elif score == score:
            kinds["rejected"] = -score  # those that were nearly taken for dogs
        if score == score:
            kinds["unlike"] = score
        for kind, value in kinds.items():
            heap = self._examples.setdefault(kind, [])
            key = (isinstance(row.get("image"), str), value)
            if len(heap) == SHOWN and key <= heap[0][0]:
                continue
            less = {name: value for name, value in row.items() if name != "embedding"}
            put = heapq.heappushpop if len(heap) == SHOWN else heapq.heappush
            put(heap, (key, next(self._number), less))

    def examples(self, kind: str) -> list[dict[str, Any]]:
        """Rows without their embeddings, those first that say most, and have a picture.

        Args:
            kind: `unsure` (of what was taken for a dog, the least probable), `rejected` (those
                nearest to being taken for one), or `unlike` (the highest rejection scores).
        """
        return [row for _, _, row in sorted(self._examples.get(kind, []), reverse=True)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _five_digits(values: np.ndarray) -> np.ndarray:
    """As the log writes them, so that equal values are equal."""
    return np.array([float(f"{value:.5g}") for value in values.tolist()])
