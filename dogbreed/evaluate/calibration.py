"""Fits what makes probabilities mean what they say, and tells how far off they are."""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from dogbreed.evaluate.confidence import Calibration, log_odds

BINS = 15
DOUBT = 0.25  # how far from 1 and 0 slope and offset may be before pictures have spoken


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """What logits are best corrected by: the temperature, then the answers' log-odds.

    Slope and offset have the least log-loss of whether the answers are right, with a normal
    distribution around no change at all before it, so that a few dozen pictures change little.

    Args:
        logits: float, (n, classes), of pictures that the model was not trained on.
        labels: int, (n,).
    """
    temperature = fit_temperature(logits, labels)
    if logits.shape[1] < 2:
        return Calibration(temperature)
    answer, top, rest, _ = log_odds(logits.astype(np.float64) / temperature)
    odds, wrong = top - rest, np.where(answer == labels, -1, 1)

    def loss(x: np.ndarray) -> float:
        unusual = ((x - [1, 0]) ** 2).sum() / (2 * DOUBT**2)
        return float(np.logaddexp(0, wrong * (x[0] * odds + x[1])).sum() + unusual) / len(labels)

    slope, offset = minimize(loss, (1.0, 0.0), method="L-BFGS-B", bounds=((0.2, 5), (-5, 5))).x
    return Calibration(temperature, float(slope), float(offset))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number that logits are best divided by (Guo et al. 2017): the least mean log-loss.

    Args:
        logits: float, (n, classes), of pictures that the model was not trained on.
        labels: int, (n,).

    Returns:
        Between 0.05 and 20.
    """
    logits, picked = logits.astype(np.float64), (np.arange(len(labels)), labels)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[picked].mean())

    bounds = (np.log(0.05), np.log(20.0))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of equal width, of those between 0 and 1, that each confidence lies in: int, (n,)."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> list[dict[str, float]]:
    """For each bin of equal width that is not empty: how sure the model was, and how often right.

    Args:
        confidence: probability of the answer, float, (n,).
        correct: whether it was right, bool, (n,).
        bins: between 0 and 1.

    Returns:
        `low`, `high`, `n`, `confidence` and `accuracy` of each.
    """
    which, table = bin_of(confidence, bins), []
    for k in np.unique(which):
        chosen = which == k
        table.append(
            {
                "low": k / bins,
                "high": (k + 1) / bins,
                "n": int(chosen.sum()),
                "confidence": float(confidence[chosen].mean()),
                "accuracy": float(correct[chosen].mean()),
            }
        )
    return table
