"""The answers to each picture of a split, as `evaluation/{split}.parquet` holds them."""

import dataclasses
import io
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dogbreed.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A row for each of n pictures.

    Args:
        ids: the pictures' names in their data set.
        label: true classes: int64, (n,).
        predicted: most likely classes: int64, (n,).
        probability: of these: float64, (n,).
        true_probability: that of the true class: float64, (n,).
        best: the k most likely classes: int64, (n, k).
        best_probability: theirs: float64, (n, k).
        reject_score: higher is less like a dog: float64, (n,).
        rejected: bool, (n,).
    """

    ids: list[str]
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    true_probability: np.ndarray
    best: np.ndarray
    best_probability: np.ndarray
    reject_score: np.ndarray
    rejected: np.ndarray

    @classmethod
    def parse(cls, data: bytes, url: str) -> "Predictions":
        """Read a Parquet file.

        Args:
            data: the file's bytes.
            url: its place, for the error.

        Raises:
            BadInput: it is not one that dogbreed wrote.
        """
        try:
            table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
            n = len(table)

            def column(name: str, kind: type) -> np.ndarray:
                return np.asarray(table.column(name).to_numpy(), dtype=kind)

            def lists(name: str, kind: type) -> np.ndarray:
                return np.array(table.column(name).to_pylist(), dtype=kind).reshape(n, -1)

            return cls(
                ids=table.column("id").to_pylist(),
                label=column("label", np.int64),
                predicted=column("predicted", np.int64),
                probability=column("probability", np.float64),
                true_probability=column("true_probability", np.float64),
                best=lists("top5", np.int64),
                best_probability=lists("top5_probability", np.float64),
                reject_score=column("reject_score", np.float64),
                rejected=column("rejected", np.bool_),
            )
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
            line = " ".join(str(error).split())[:120]
            raise BadInput(f"{url}: not what `dogbreed test` writes ({line})") from None

    @property
    def right(self) -> np.ndarray:
        """Whether the most likely class is the true one: bool, (n,)."""
        right: np.ndarray = self.label == self.predicted
        return right

    def worst(self, limit: int) -> np.ndarray:
        """Wrongly answered rows, the least probable truth first: int64, (at most limit,)."""
        wrong = np.flatnonzero(~self.right)
        order = np.lexsort((-self.probability[wrong], self.true_probability[wrong]))
        return wrong[order][:limit]

    def taken_for(self, true: int, predicted: int) -> np.ndarray:
        """Rows of a breed that was taken for another, the surest first: int64, (k,)."""
        rows = np.flatnonzero((self.label == true) & (self.predicted == predicted))
        return rows[np.argsort(-self.probability[rows], kind="stable")]


@dataclasses.dataclass(frozen=True)
class Scored:
    """The split of a run that its report is about.

    Args:
        split: its name.
        summary: what evaluation/{split}.json says.
        answers: to each picture.
    """

    split: str
    summary: dict[str, Any]
    answers: Predictions

    @property
    def names(self) -> list[str]:
        """The classes in the order of the answers' numbers."""
        return [breed["name"] for breed in self.summary["per_breed"]]
