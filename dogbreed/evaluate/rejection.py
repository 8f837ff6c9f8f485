"""Whether a picture shows none of the breeds: a score, and the threshold above which it is said."""

import dataclasses
import math
from typing import Any

import numpy as np

from dogbreed.errors import BadInput

KEEPS = 0.95
SCORES = ("cosine", "energy", "max_probability")


@dataclasses.dataclass(frozen=True)
class Rejection:
    """How a package tells pictures of none of its breeds.

    Of the scores, more is less like the breeds:

    - `cosine`: 1 - the greatest cosine between the picture's embedding and a breed's mean, where
      each embedding is first divided by its length.
    - `energy`: -T log sum exp(logits / T), at temperature T (Liu et al. 2020).
    - `max_probability`: minus the probability of the answer (Hendrycks & Gimpel 2017).

    Args:
        score: one of `SCORES`.
        threshold: what lies above is rejected.
        keeps: share of the validation pictures that lie below.
        means: for `cosine`, float32, (classes, D): means of embeddings of length 1.
        counts: of how many validation pictures, int64, (classes,); a breed of none has no mean.
    """

    score: str = "energy"
    threshold: float = math.inf
    keeps: float = KEEPS
    means: np.ndarray | None = None
    counts: np.ndarray | None = None

    @classmethod
    def fitted(
        cls, logits: np.ndarray, embedding: np.ndarray, labels: np.ndarray, temperature: float
    ) -> "Rejection":
        """That of a validation split: `cosine`, or `energy` if no breed has two pictures.

        Args:
            logits: float, (n, classes).
            embedding: float, (n, D).
            labels: int, (n,).
            temperature: of the package.
        """
        counts = np.bincount(labels, minlength=logits.shape[1])
        means = np.zeros((len(counts), embedding.shape[1]), np.float32)
        np.add.at(means, labels, _unit(embedding))
        means /= np.maximum(counts, 1)[:, None]
        made = cls("cosine", means=means, counts=counts) if counts.max() > 1 else cls()
        scores = made.scores(logits, embedding, temperature, labels)
        return dataclasses.replace(made, threshold=float(np.quantile(scores, made.keeps)))

    @classmethod
    def of(cls, fields: dict[str, Any], tensors: dict[str, np.ndarray]) -> "Rejection":
        """What a package says of it: `fields` in `model.json`, and `tensors`.

        Raises:
            BadInput: an unknown score, a threshold or a share that is none, or no means.
        """
        made = cls(fields["score"], fields["threshold"], fields.get("keeps", KEEPS), **tensors)
        if made.score not in SCORES:
            raise BadInput(f"rejection score {made.score!r} is unknown; upgrade dogbreed")
        for name, value in (("threshold", made.threshold), ("keeps", made.keeps)):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"rejection {name} {value!r}: must be a finite number")
        if made.score == "cosine" and (made.means is None or made.counts is None):
            raise BadInput("rejection score 'cosine' needs the breeds' means")
        return made

    def about(self) -> dict[str, Any]:
        """The fields for `model.json`."""
        return {"score": self.score, "threshold": self.threshold, "keeps": self.keeps}

    def tensors(self) -> dict[str, np.ndarray]:
        """What is too much for `model.json`."""
        found = {"means": self.means, "counts": self.counts}
        return {name: values for name, values in found.items() if values is not None}

    def scores(
        self,
        logits: np.ndarray,
        embedding: np.ndarray,
        temperature: float,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """How unlike the breeds each picture is.

        Args:
            logits: float, (n, classes).
            embedding: float, (n, D).
            temperature: of the package.
            labels: int, (n,), if these are the pictures of the means: each is then compared with
                the mean of its breed's others, as a new picture would be.

        Returns:
            float32, (n,).
        """
        if self.score == "cosine":
            return self._cosine(embedding, labels)
        scaled = logits.astype(np.float64) / temperature
        most = scaled.max(1)
        total = most + np.log(np.exp(scaled - most[:, None]).sum(1))  # no scipy where engines run
        if self.score == "energy":
            return np.asarray(-temperature * total, np.float32)
        return np.asarray(-np.exp(most - total), np.float32)

    def _cosine(self, embedding: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        assert self.means is not None and self.counts is not None
        unit, counts = _unit(embedding), self.counts
        likeness = np.where(counts > 0, unit @ _unit(self.means).T, -1)
        if labels is not None:
            n = np.arange(len(labels))
            others = counts[labels, None] * self.means[labels] - unit  # their sum
            own = (_unit(others) * unit).sum(1)
            likeness[n, labels] = np.where(counts[labels] > 1, own, -1)
        return np.asarray(1 - likeness.max(1), np.float32)

    def rejects(self, scores: np.ndarray) -> np.ndarray:
        """Which are rejected: bool, (n,)."""
        return scores > np.float32(self.threshold)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Divided by their lengths, float32, (n, D); what has none stays."""
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
