"""Whether a log differs from the validation pictures, by how much, and what that may cost.

Each quantity has a test against chance, which knows that the reference is a sample too, and an
effect: how large the difference is. A difference counts if both speak: after Holm's correction for
all tests at once it is less likely than `ALPHA` to be chance, and it is large enough to matter. So
a log of millions, where everything is certain, says no more than it should.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from dogbreed.monitor.reference import Reference
from dogbreed.monitor.statistics import FEATURES
from dogbreed.monitor.tally import Column, Tally

ALPHA = 0.01  # that anything at all is said of a log that does not differ
LEAST = 30  # predictions: of fewer nothing is said
SEVERITIES = ("ok", "warning", "alert")
_PERMUTATIONS = 500
_RESAMPLES = 500
_SPARSE = 5.0  # expected count of a cell below which chi-squared is no longer trusted

# Effect from which a difference is a warning, and from which it is an alert.
LEVELS = {
    "picture": (0.10, 0.30),
    "confidence": (0.10, 0.25),
    "rejection": (0.10, 0.25),
    "rejected": (0.03, 0.10),
    "breeds": (0.30, 0.80),
    "embedding": (0.10, 0.25),
    "accuracy": (0.03, 0.08),
}
MEANING = {
    "probability": "probability of the answer",
    "reject_score": "rejection score: higher is less like the breeds",
    "breeds": "mix of the breeds that were answered",
    "rejected": "share answered as none of the breeds",
    "embedding": "what the network sees, before it answers",
    "accuracy": "top-1 as far as it can be told without labels",
} | FEATURES


@dataclasses.dataclass
class Finding:
    """A quantity, and whether it differs.

    Args:
        name: of the quantity.
        kind: of `LEVELS`.
        effect: how large the difference is, in units that `unit` names.
        unit: of the effect.
        p: probability of so much or more by chance alone.
        reference: a figure of the validation pictures.
        log: the same of the log.
        adjusted: `p` after Holm's correction.
        severity: of `SEVERITIES`.
    """

    name: str
    kind: str
    effect: float
    unit: str
    p: float
    reference: float
    log: float
    adjusted: float = 1.0
    severity: str = "ok"


def compare(tally: Tally, reference: Reference, seed: int = 0) -> list[Finding]:
    """All findings, those that speak loudest first."""
    rng = np.random.default_rng(seed)
    found = [_column(name, tally.columns[name]) for name in tally.columns]
    found += [_breeds(tally, reference, rng), _accuracy(tally, reference)]
    if tally.judged:
        found.append(_rejected(tally, reference))
    if len(sample := tally.embeddings()) >= LEAST:
        found.append(_embedding(reference.embedding, sample, rng))
    _judge(found)
    order = {severity: k for k, severity in enumerate(reversed(SEVERITIES))}
    return sorted(found, key=lambda f: (order[f.severity], f.adjusted, -f.effect))


def severity_of(findings: list[Finding]) -> str:
    """The worst."""
    return max((f.severity for f in findings), key=SEVERITIES.index, default="ok")


def _judge(findings: list[Finding]) -> None:
    """Correct for many tests (Holm 1979), and say how severe each is."""
    greatest = 0.0
    for rank, one in enumerate(sorted(findings, key=lambda f: f.p)):
        greatest = max(greatest, min(one.p * (len(findings) - rank), 1.0))
        one.adjusted = greatest
        warning, alert = LEVELS[one.kind]
        if one.adjusted < ALPHA and one.effect >= warning:
            one.severity = "alert" if one.effect >= alert else "warning"


def _column(name: str, column: Column) -> Finding:
    """Kolmogorov and Smirnov's test of two samples."""
    kind = {"probability": "confidence", "reject_score": "rejection"}.get(name, "picture")
    m, distance = int(column.places.sum()), column.distance()
    p = 1.0
    if column.n >= LEAST:
        # As scipy's ks_2samp does where it is not exact.
        p = float(stats.kstwo.sf(distance, max(round(m * column.n / (m + column.n)), 1)))
    else:
        distance = 0.0
    mean = float((column.values * column.places).sum() / m)
    log = column.total / column.n if column.n else math.nan
    return Finding(name, kind, distance, "Kolmogorov-Smirnov distance", p, mean, log)


def _breeds(tally: Tally, reference: Reference, rng: np.random.Generator) -> Finding:
    """Chi-squared of homogeneity, by resampling where counts are small.

    The effect is Cohen's w between the two mixes, without what chance alone would give.
    """
    known = np.bincount(reference.predicted, minlength=len(tally.breeds))
    table = np.stack([known, tally.breeds])
    table = table[:, table.sum(0) > 0]
    m, n = (int(of) for of in table.sum(1))
    before, now = (float(of.max() / max(of.sum(), 1)) for of in table)  # of the commonest breed
    if min(m, n) < LEAST or table.shape[1] < 2:
        return Finding("breeds", "breeds", 0.0, "Cohen's w", 1.0, before, now)
    expected = table.sum(0) * min(m, n) / (m + n)
    statistic, df = _chi_squared(table), table.shape[1] - 1
    p = float(stats.chi2.sf(statistic, df))
    if expected.min() < _SPARSE and p > 1e-6 and m + n < 100_000:
        tables = stats.random_table(table.sum(1), table.sum(0), seed=rng)
        drawn = _chi_squared(np.asarray(tables.rvs(_RESAMPLES, method="patefield")))
        p = _resampled(float(statistic), drawn)
    effect = math.sqrt(max(statistic - df, 0.0) * (m + n) / (m * n))
    return Finding("breeds", "breeds", effect, "Cohen's w", p, before, now)


def _resampled(statistic: float, drawn: np.ndarray) -> float:
    """Probability of a statistic as large or larger, by what it was where only chance was at work.

    Where few or none were as large, the tail is that of a Pearson type III with their moments
    (Winkler et al. 2016).
    """
    p = float((1 + (drawn >= statistic - 1e-9).sum()) / (1 + len(drawn)))
    if p < 0.05 and drawn.std() > 0:
        tail = stats.pearson3(stats.skew(drawn), drawn.mean(), drawn.std()).sf(statistic)
        p = min(p, max(float(tail), 1e-12))
    return p


def _chi_squared(table: np.ndarray) -> Any:
    """Of tables of counts, (…, 2, k)."""
    rows, columns = table.sum(-1, keepdims=True), table.sum(-2, keepdims=True)
    expected = rows * columns / rows.sum(-2, keepdims=True)
    return ((table - expected) ** 2 / expected).sum((-1, -2))


def _rejected(tally: Tally, reference: Reference) -> Finding:
    """Fisher's exact test, or chi-squared beyond its reach; the effect is the difference."""
    m, n = len(reference.rejected), tally.judged
    known = int(reference.rejected.sum())
    before, now = known / m, tally.rejected / n
    p = _two_shares(known, m, tally.rejected, n)
    return Finding("rejected", "rejected", abs(now - before), "of all pictures", p, before, now)


def _two_shares(a: int, m: int, b: int, n: int) -> float:
    """Probability by chance of two shares a/m and b/n that differ as much or more."""
    if n < LEAST:
        return 1.0
    if m + n < 100_000:
        return float(stats.fisher_exact(np.array([[a, m - a], [b, n - b]])).pvalue)
    pooled = (a + b) / (m + n)
    spread = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / m + 1 / n))
    return float(2 * stats.norm.sf(abs(a / m - b / n) / spread))


def _accuracy(tally: Tally, reference: Reference) -> Finding:
    """Average thresholded confidence (Garg et al. 2022): see `estimate`. Only a fall counts."""
    said = estimate(tally, reference)
    m, n = len(reference.right), tally.columns["probability"].n
    surely = round(said["thresholded"] * n)
    p = _two_shares(round(said["reference"] * m), m, surely, n)
    fall = max(said["reference"] - said["thresholded"], 0.0)
    return Finding("accuracy", "accuracy", fall, "fall", p, said["reference"], said["thresholded"])


def estimate(tally: Tally, reference: Reference) -> dict[str, float]:
    """Top-1 without labels.

    The threshold is the probability above which as many validation answers lie as are right; how
    many of the log's answers lie above it estimates how many of them are (Garg et al. 2022). Beside
    it stands the mean probability, which is right as far as the probabilities are. Both trust
    the model to be less sure where it errs more: of what it is sure of and wrong they know nothing.

    Returns:
        `reference`, `thresholded`, its 95 % interval `low` and `high` from the two samples' sizes,
        and `mean_probability`.
    """
    column, right = tally.columns["probability"], reference.right
    top1, m = float(right.mean()), len(right)
    kept = round(top1 * m)
    ranked = np.sort(column.reference)[::-1]
    share = column.share_above(float(ranked[kept - 1])) if kept else 0.0
    spread = 1.96 * math.sqrt(share * (1 - share) / max(column.n, 1) + top1 * (1 - top1) / m)
    return {
        "reference": top1,
        "thresholded": share,
        "low": max(share - spread, 0.0),
        "high": min(share + spread, 1.0),
        "mean_probability": column.total / max(column.n, 1),
    }


def _embedding(known: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> Finding:
    """Maximum mean discrepancy (Gretton et al. 2012), against permutations.

    The kernel is Gaussian, as wide as the median distance of the reference's embeddings.
    """
    x, y = known.astype(np.float32), seen.astype(np.float32)
    both = np.concatenate([x, y])
    squares = (both**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0)
    m, n = len(x), len(y)
    width = float(np.median(apart[:m, :m][np.triu_indices(m, 1)])) or 1.0
    kernel = np.exp(-apart / width)
    statistic, drawn = permuted(kernel, m, rng, _PERMUTATIONS)
    p = _resampled(statistic, drawn)
    np.fill_diagonal(kernel, 0)
    within = kernel[:m, :m].sum() / (m * (m - 1)) + kernel[m:, m:].sum() / (n * (n - 1))
    effect = math.sqrt(max(statistic, 0.0) / max(float(within), 1e-12))
    unit = "discrepancy, 1 where nothing is alike"
    return Finding("embedding", "embedding", effect, unit, p, 0.0, statistic)


def permuted(
    kernel: np.ndarray, m: int, rng: np.random.Generator, times: int
) -> tuple[float, np.ndarray]:
    """The unbiased estimate of the squared discrepancy, and what it is for random halves.

    Args:
        kernel: float32, (m + n, m + n), of the first m with the n others.
        m: how many are of the first kind.
        rng: draws the permutations.
        times: how many.

    Returns:
        The estimate, and float, (times,).
    """
    kernel = kernel.copy()
    np.fill_diagonal(kernel, 0)
    size = len(kernel)
    n = size - m
    chosen = np.zeros((size, times + 1), np.float32)  # a column marks the n of the second kind
    chosen[m:, 0] = 1
    for k in range(1, times + 1):
        chosen[rng.permutation(size)[:n], k] = 1
    within = (chosen * (kernel @ chosen)).sum(0, dtype=np.float64)
    touching = kernel.sum(1, dtype=np.float64) @ chosen
    across = touching - within
    rest = kernel.sum(dtype=np.float64) - within - 2 * across
    found = rest / (m * (m - 1)) + within / (n * (n - 1)) - 2 * across / (m * n)
    return float(found[0]), found[1:]
