"""Whether a picture shows none of the breeds: a score, and the threshold above which it is said."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import logsumexp

from dogbreed.errors import BadInput

KEEPS = 0.95
SCORES = ("energy", "max_probability")


@dataclasses.dataclass(frozen=True)
class Rejection:
    """How a package tells pictures of none of its breeds.

    Args:
        score: one of `SCORES`.
        threshold: what lies above is rejected.
        keeps: share of the validation pictures that lie below.
    """

    score: str = "energy"
    threshold: float = math.inf
    keeps: float = KEEPS

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Rejection":
        """What `model.json` says.

        Raises:
            BadInput: an unknown score, or a threshold or a share that is none.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        made = cls(**{name: value for name, value in fields.items() if name in known})
        if made.score not in SCORES:
            raise BadInput(f"rejection score {made.score!r} is unknown; upgrade dogbreed")
        for name, value in (("threshold", made.threshold), ("keeps", made.keeps)):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"rejection {name} {value!r}: must be a finite number")
        return made

    def scores(self, logits: np.ndarray, temperature: float) -> np.ndarray:
        """How unlike the training pictures each picture is; more is more so.

        `energy`: -T log sum exp(logits / T) (Liu et al. 2020); `max_probability`: minus the
        probability of the answer (Hendrycks & Gimpel 2017).

        Args:
            logits: float, (n, classes).
            temperature: T.

        Returns:
            float32, (n,).
        """
        scaled = logits.astype(np.float64) / temperature
        total = logsumexp(scaled, axis=1)
        if self.score == "energy":
            return np.asarray(-temperature * total, np.float32)
        return np.asarray(-np.exp(scaled.max(1) - total), np.float32)

    def fitted(self, scores: np.ndarray) -> "Rejection":
        """With the threshold that keeps that share of the pictures of these scores: float, (n,)."""
        threshold = float(np.quantile(scores, self.keeps, method="higher"))
        return dataclasses.replace(self, threshold=threshold)

    def rejects(self, scores: np.ndarray) -> np.ndarray:
        """Which are rejected: bool, (n,)."""
        return scores > np.float32(self.threshold)
