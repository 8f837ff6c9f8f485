"""Scores of a classifier, each with the interval that its number of pictures allows."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.special import log_softmax

from dogbreed.evaluate.calibration import BINS, bin_of

RESAMPLES = 1000
AT_ONCE = 20_000_000  # pictures times resamples, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the scores of n pictures follow from.

    Args:
        labels: int64, (n,).
        predicted: int64, (n,).
        in_top5: whether the label is among the five likeliest, bool, (n,).
        confidence: probability of the prediction, float, (n,).
        loss: minus the logarithm of the label's probability, float, (n,).
        classes: number of classes.
    """

    labels: np.ndarray
    predicted: np.ndarray
    in_top5: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    classes: int

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> "Judged":
        """Judge float logits, (n, classes), by int labels, (n,)."""
        logs = log_softmax(logits.astype(np.float64), axis=1)
        own = logs[np.arange(len(labels)), labels]
        predicted = logs.argmax(1)
        confidence = np.exp(logs[np.arange(len(labels)), predicted])
        in_top5 = (logs > own[:, None]).sum(1) < 5
        return cls(labels, predicted, in_top5, confidence, -own, logs.shape[1])

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label: bool, (n,)."""
        return np.asarray(self.labels == self.predicted)


def scores(judged: Judged) -> dict[str, float]:
    """`top1`, `top5`, `log_loss` (nats), `macro_f1`, `ece`, and the number `n` of pictures.

    Macro-F1 is the mean over the breeds that occur in labels or predictions; ECE, the expected
    calibration error (Guo et al. 2017), the mean distance of confidence and accuracy in 15 bins of
    equal width.
    """
    n = len(judged.labels)
    values = {name: float(each[0]) for name, each in _scores(judged, np.ones((1, n), np.float32))}
    return values | {"n": n}


def intervals(judged: Judged, resamples: int = RESAMPLES) -> dict[str, tuple[float, float]]:
    """95 % intervals of `scores` (Efron 1979): percentiles over resampled pictures.

    A resampled ECE is larger than that of the sample, as the sample's is than the truth, for noise
    adds to distances; so its interval is the basic one, mirrored at the value, not below zero.
    """
    n, values = len(judged.labels), scores(judged)
    rng = np.random.default_rng(0)
    parts: dict[str, list[np.ndarray]] = {}
    step = max(1, AT_ONCE // n)
    for start in range(0, resamples, step):
        k = min(step, resamples - start)
        drawn = rng.integers(0, n, (k, n)) + n * np.arange(k)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=k * n).reshape(k, n).astype(np.float32)
        for name, each in _scores(judged, weights):
            parts.setdefault(name, []).append(each)
    found = {}
    for name, several in parts.items():
        low, high = (float(x) for x in np.quantile(np.concatenate(several), (0.025, 0.975)))
        if name == "ece":
            value = values[name]
            low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
        found[name] = (low, high)
    return found


def ece_floor(judged: Judged) -> float:
    """The ECE to expect of so many pictures if all confidences were exactly right.

    It is not zero: in a bin of few pictures the accuracy is off by chance. An ECE near it gives no
    reason to think that the model is miscalibrated.
    """
    n = len(judged.confidence)
    drawn = np.random.default_rng(0).random((100, n)) < judged.confidence
    bins = sparse.csr_array((np.ones(n), (bin_of(judged.confidence), np.arange(n))), (BINS, n))
    return float(np.abs(bins @ (judged.confidence - drawn).T).sum(0).mean() / n)


def debiased_ece(judged: Judged) -> float:
    """The calibration error without what chance adds to it, as a root of the mean square.

    In each bin the variance of the accuracy is taken off the squared distance (Kumar et al. 2019).
    A root of mean squares is never below the mean that ECE is, so it errs on the safe side.
    """
    which, n = bin_of(judged.confidence), len(judged.confidence)
    sizes = np.bincount(which, minlength=BINS)
    filled = sizes > 1
    sure, right = (
        np.bincount(which, values, minlength=BINS)[filled] / sizes[filled]
        for values in (judged.confidence, judged.correct)
    )
    squares = (sure - right) ** 2 - right * (1 - right) / (sizes[filled] - 1)
    return float(np.sqrt(max(0.0, (sizes[filled] * squares).sum() / n)))


def _scores(judged: Judged, weights: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each score with how often each picture counts: float32, (k, n); values are floats, (k,)."""
    n = weights.shape[1]
    correct = judged.correct
    shares = {"top1": correct, "top5": judged.in_top5, "log_loss": judged.loss}
    for name, values in shares.items():
        yield name, weights @ values.astype(np.float32) / n

    def sums(groups: np.ndarray, number: int, values: np.ndarray | None = None) -> np.ndarray:
        """Sums of values over each group of pictures: (k, number)."""
        data = np.ones(n, np.float32) if values is None else values.astype(np.float32)
        table = sparse.csr_array((data, (groups, np.arange(n))), (number, n))
        return np.asarray((table @ weights.T).T)

    hits = sums(judged.labels, judged.classes, correct)
    occurs = sums(judged.labels, judged.classes) + sums(judged.predicted, judged.classes)
    f1 = np.divide(2 * hits, occurs, out=np.zeros_like(hits), where=occurs > 0)
    yield "macro_f1", f1.sum(1) / (occurs > 0).sum(1)
    gaps = sums(bin_of(judged.confidence), BINS, judged.confidence - correct)
    yield "ece", np.abs(gaps).sum(1) / n
