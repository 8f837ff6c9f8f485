"""Which parts of a network learn from when on, and how fast, as functions of the samples seen."""

import dataclasses
import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dogbreed.data.datamodule import data_of
from dogbreed.errors import BadInput
from dogbreed.model.backbone import Network
from dogbreed.model.optim import parameter_groups, parts
from dogbreed.model.weights import has_learnt


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Rates of all parts over a run; the arguments are those of `DogModule`.

    Raises:
        BadInput: one of them makes no sense.
    """

    lr: float
    backbone_lr: float
    layer_decay: float
    weight_decay: float
    warmup: float
    unfreeze: list[float] | None

    def __post_init__(self) -> None:
        """See that they make sense."""
        shares = self.unfreeze or []
        if not all(0 <= share <= 1 for share in shares) or sorted(shares) != shares:
            raise BadInput(
                f"--model.unfreeze {shares}: shares of the run, from 0 to 1 and not falling"
            )
        if not 0 < self.layer_decay <= 1:
            raise BadInput(
                f"--model.layer_decay {self.layer_decay}: must lie above 0 and not above 1"
            )

    def after(self, weights_used: str) -> "Schedule":
        """That of a network with these first weights: what starts from nothing keeps nothing."""
        backbone_learnt, head_learnt = has_learnt(weights_used)
        return dataclasses.replace(
            self,
            lr=self.backbone_lr if head_learnt else self.lr,
            backbone_lr=self.backbone_lr if backbone_learnt else self.lr,
            unfreeze=self.unfreeze if backbone_learnt else None,
        )

    def freeze(self, network: Network) -> None:
        """Freeze the parts that never learn."""
        if self.unfreeze is not None:
            for name in chain(*parts(network)[len(self.unfreeze) :]):
                network.body.get_parameter(name).requires_grad_(False)

    def optimizer(self, network: Network, seen: Callable[[], int], total: int) -> dict[str, Any]:
        """AdamW with a group for each part, and the schedule of its rates, as Lightning wants it.

        All groups are there from the first step on, so that a checkpoint fits at any time.

        Args:
            network: what is trained.
            seen: tells the samples seen so far.
            total: samples of the whole run.
        """
        groups = parameter_groups(
            network,
            lr=self.lr,
            backbone_lr=self.backbone_lr,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            unfreeze=self.unfreeze,
        )
        optimizer = torch.optim.AdamW(groups, fused=True)

        def scale_from(begins: float) -> Callable[[int], float]:
            return lambda _: learning_rate_scale(
                seen(), warmup=self.warmup, total=total, begins=begins
            )

        scales = [scale_from(group["begins"]) for group in groups]
        rates = {"scheduler": LambdaLR(optimizer, scales), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": rates}


def learning_rate_scale(
    samples_seen: int, *, warmup: float, total: int, begins: float = 0.0
) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2016), between 0 and 1.

    In samples, not steps: a run goes on at the same rate when it resumes with another batch size.

    Args:
        samples_seen: since the start of the run.
        warmup: share of `total` over which the rate rises.
        total: samples of the whole run.
        begins: share of `total` before which the rate is zero; its warm-up begins there, below
            the same cosine.
    """
    rise, since = warmup * total, samples_seen - begins * total
    if since < 0:
        return 0.0
    progress = min(1.0, max(0.0, samples_seen - rise) / max(1.0, total - rise))
    scale = 0.5 * (1 + math.cos(math.pi * progress))
    # The first step is taken before anything was seen, and should move nothing much.
    return scale * max(since / rise, 1e-3) if since < rise else scale


def let_learn(optimizer: Optimizer, share: float) -> bool:
    """Give gradients to the groups whose turn has come, and spare the others the backward pass.

    Args:
        optimizer: of a `Schedule`.
        share: of the run that is over, from 0 to 1.

    Returns:
        Whether that changed anything.
    """
    changed = False
    for group in optimizer.param_groups:
        learns = group["begins"] <= share
        for parameter in group["params"]:
            changed |= parameter.requires_grad != learns
            parameter.requires_grad_(learns)
    return changed


def samples_of(trainer: Trainer) -> int:
    """Samples of the whole run, which the rates are spread over.

    Raises:
        BadInput: the run has no end.
    """
    data, limit = data_of(trainer), trainer.limit_train_batches
    batch = data.batch_size * trainer.world_size
    epoch = limit * data.train_size if isinstance(limit, float) else limit * batch
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(trainer.max_epochs * min(epoch, data.train_size))
    if trainer.max_steps > 0:
        ends.append(trainer.max_steps * batch * trainer.accumulate_grad_batches)
    if not ends:
        raise BadInput("set --trainer.max_epochs or --trainer.max_steps: the rate needs an end")
    return int(min(ends))
