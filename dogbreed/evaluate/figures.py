"""The scores' names on screen, which way they are better, and how they are written."""

from typing import Any

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_f1": "macro-F1",
    "log_loss": "log-loss",
    "ece": "ECE",
}
MEANING = {
    "top1": "share of pictures whose most likely breed is right",
    "top5": "share of pictures whose breed is among the five most likely",
    "macro_f1": "mean over the breeds of F1, the harmonic mean of precision and recall",
    "log_loss": "mean of -ln of the true breed's probability, in nats; lower is better",
    "ece": "expected calibration error: how far probabilities are from shares of right answers",
}
_LOWER_IS_BETTER = {"log_loss", "loss", "ece", "log_loss_uncalibrated", "ece_uncalibrated"}


def lower_is_better(score: str) -> bool:
    """Whether a score, such as `log_loss` or `val/log_loss`, is better when it is lower."""
    return score.rsplit("/", 1)[-1] in _LOWER_IS_BETTER


def scores_of(
    metrics: dict[str, Any], summaries: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A run's scores by split, from metrics.json and, with intervals, from its evaluations.

    Args:
        metrics: what metrics.json says.
        summaries: split -> what evaluation/{split}.json says.

    Returns:
        Split (`val` before `test`) -> `n` and, for each of `TITLES` that is known, its `value` and
        the 95 % interval `low` and `high`, None where nothing measured it.
    """
    found: dict[str, dict[str, Any]] = {}
    for split in ("val", "test"):
        points, summary = metrics.get(split, {}), summaries.get(split, {})
        measured = summary.get("scores", {})
        scores = {
            name: measured.get(name) or {"value": points[name], "low": None, "high": None}
            for name in TITLES
            if name in measured or name in points
        }
        if scores:
            found[split] = {"n": summary.get("n", points.get("n")), **scores}
    return found


def with_interval(score: dict[str, Any]) -> str:
    """A score and its interval: ``0.772 (0.755 to 0.789)``."""
    if score.get("low") is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
