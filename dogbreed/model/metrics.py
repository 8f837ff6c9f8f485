"""Scores of a classifier, the same for validation and test, right under DDP."""

import math

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


class Scores(nn.Module):
    """top-1, top-5, macro-F1 and log-loss over all ranks; padding does not count.

    Macro-F1 is the mean over the breeds that occur in labels or predictions; log-loss is in nats.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        self.macro_f1 = MulticlassF1Score(classes, average="macro")
        self.log_loss = MeanMetric()
        self.n = SumMetric()

    def update(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Count a batch.

        Args:
            logits: float, (B, classes).
            labels: int64, (B,).
            valid: bool, (B,).
        """
        logits, labels = logits[valid].float(), labels[valid]
        self.n.update(len(labels))
        if len(labels) == 0:
            return
        for accuracy in (self.top1, self.top5, self.macro_f1):
            accuracy.update(logits, labels)
        self.log_loss.update(F.cross_entropy(logits, labels, reduction="none"))

    def compute(self) -> dict[str, float]:
        """`top1`, `top5`, `log_loss`, `macro_f1` and `n`, over all ranks since the last reset."""
        values = {
            name: float(metric.compute())
            for name, metric in self.named_children()
            if isinstance(metric, MulticlassAccuracy | MulticlassF1Score | MeanMetric)
        }
        order = ("top1", "top5", "log_loss", "macro_f1")
        return {name: values[name] for name in order} | {"n": int(self.n.compute())}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in (self.top1, self.top5, self.macro_f1, self.log_loss, self.n):
            metric.reset()


def masked_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over the valid rows, in nats; zero if there are none.

    With weights it is sum(weight * loss) / number of valid rows, so that a batch's gradient is an
    unbiased estimate of that over all data. torch divides by sum(weight) instead: a rare class
    would then count for less just when it occurs in a batch.

    Args:
        logits: float, (B, classes).
        labels: int64, (B,).
        valid: bool, (B,).
        label_smoothing: as in torch.
        weights: float, (classes,): what a row of each class weighs; none: 1.
    """
    loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if weights is not None:
        loss = loss * weights[labels]
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` (Wilson 1927)."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def sentence(scores: dict[str, float]) -> str:
    """Scores in words, with top-1's interval."""
    low, high = wilson(scores["top1"], int(scores["n"]))
    return (
        f"top-1 {scores['top1']:.3f} (95 % {low:.3f} to {high:.3f}, n = {scores['n']:,}),"
        f" top-5 {scores['top5']:.3f}, macro-F1 {scores['macro_f1']:.3f},"
        f" log-loss {scores['log_loss']:.3f}"
    )
