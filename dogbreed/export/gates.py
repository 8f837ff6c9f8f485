"""What an engine must show before it is kept: that it answers as the module does."""

import dataclasses
from typing import Any

import numpy as np

from dogbreed.errors import BadInput

MAX_DIFFERENCE = 1e-4
MIN_AGREEMENT = 0.999
RESAMPLES = 10_000


def paired_drop(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """What is lost in top-1 on the same pictures, and its 95 % interval (Efron 1979).

    The loss of a picture is -1, 0 or 1, so that a resample of them all is a draw of three counts.

    Args:
        before: which answers were right: bool, (n,).
        after: likewise.
    """
    n, lost, won = len(before), int((before & ~after).sum()), int((~before & after).sum())
    shares = np.array([lost, won, n - lost - won]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, (0.025, 0.975))
    return (lost - won) / n, float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Compared:
    """Answers of module and engine to the same n pictures.

    Args:
        labels: int64, (n,).
        module: probabilities, float32, (n, classes).
        engine: likewise.
    """

    labels: np.ndarray
    module: np.ndarray
    engine: np.ndarray

    @property
    def difference(self) -> float:
        """The largest difference of a probability."""
        return float(np.abs(self.module - self.engine).max())

    @property
    def agreement(self) -> float:
        """Share of the pictures that both give the same breed."""
        return float((self.module.argmax(1) == self.engine.argmax(1)).mean())

    @property
    def top1(self) -> float:
        """The engine's share of right answers."""
        return float((self.engine.argmax(1) == self.labels).mean())

    def drop(self) -> tuple[float, float, float]:
        """What the engine loses in top-1; see `paired_drop`."""
        right = [answers.argmax(1) == self.labels for answers in (self.module, self.engine)]
        return paired_drop(*right)

    def about(self) -> dict[str, Any]:
        """For `engine.json`."""
        value, low, high = self.drop()
        return {
            "n": len(self.labels),
            "max_difference": self.difference,
            "agreement": self.agreement,
            "top1": self.top1,
            "top1_drop": {"value": value, "low": low, "high": high},
        }


def parity(compared: Compared) -> None:
    """The gate of fp32.

    Raises:
        BadInput: a probability differs by more than `MAX_DIFFERENCE`, or fewer than
            `MIN_AGREEMENT` of the pictures are given the same breed.
    """
    if compared.difference <= MAX_DIFFERENCE and compared.agreement >= MIN_AGREEMENT:
        return
    raise BadInput(
        f"the engine does not answer as the module does: a probability differs by"
        f" {compared.difference:.2g} (at most {MAX_DIFFERENCE:g}), top-1 agrees on"
        f" {compared.agreement:.2%} of {len(compared.labels):,} pictures (at least"
        f" {MIN_AGREEMENT:.1%}); nothing was written"
    )


def loses_too_much(compared: Compared, max_drop: float) -> str | None:
    """The gate of bf16 and int8: what is wrong, if more than `max_drop` of top-1 may be lost.

    Judged is the upper end of the interval: what 95 % are sure of.
    """
    value, low, high = compared.drop()
    if high <= max_drop:
        return None
    return (
        f"top-1 drops by {value:.2%} ({low:.2%} to {high:.2%}, n = {len(compared.labels):,})"
        f" against the module's, more than --max_drop {max_drop:g} may be lost"
    )
