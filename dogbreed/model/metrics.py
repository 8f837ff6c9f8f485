"""A classifier's answers, the same for validation and test, right under DDP; its loss."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dogbreed.data.datamodule import DogDataModule
from dogbreed.evaluate.evaluation import Evaluation


class Answered(NamedTuple):
    """A network's answers to n pictures."""

    rows: np.ndarray
    """int64, (n,): rows of the manifest, ascending, each once."""
    labels: np.ndarray
    """int64, (n,)."""
    logits: np.ndarray
    """float32, (n, classes)."""
    embedding: np.ndarray
    """float16, (n, D), of length 1: what the logits come from, as far as its direction goes."""

    def evaluation(self, data: DogDataModule, **calibration: Any) -> Evaluation:
        """What they are worth, as answers to these data; see `Evaluation` for the rest."""
        return Evaluation(
            data.ids(self.rows),
            self.labels,
            self.logits,
            self.embedding,
            data.class_names,
            **calibration,
        )


class Gathered(Metric):
    """Collects the answers of all ranks to the pictures of a split; padding does not count."""

    full_state_update = False
    rows: list[Tensor]
    labels: list[Tensor]
    logits: list[Tensor]
    embedding: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in Answered._fields:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self, logits: Tensor, embedding: Tensor, labels: Tensor, valid: Tensor, rows: Tensor
    ) -> None:
        """Take a batch.

        Args:
            logits: float, (B, classes).
            embedding: float, (B, D).
            labels: int64, (B,).
            valid: bool, (B,).
            rows: int64, (B,): of the manifest.
        """
        self.rows.append(rows[valid])
        self.labels.append(labels[valid])
        self.logits.append(logits[valid].float())
        self.embedding.append(F.normalize(embedding[valid].float()).half())

    def compute(self) -> Answered:
        """The answers of all ranks since the last reset, in the manifest's order."""
        parts = [dim_zero_cat(getattr(self, name)) for name in Answered._fields]
        order = torch.argsort(parts[0])
        return Answered(*(part[order].cpu().numpy() for part in parts))


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
