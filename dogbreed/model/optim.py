"""Parameter groups, and the learning rate as a function of the samples seen."""

import math
from typing import Any

from torch import nn

from dogbreed.model.backbone import Network


def learning_rate_scale(samples_seen: int, *, warmup: float, total: int) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2016), between 0 and 1.

    In samples, not steps: a run goes on at the same rate when it resumes with another batch size.

    Args:
        samples_seen: since the start of the run.
        warmup: share of `total` over which the rate rises.
        total: samples of the whole run.
    """
    start = warmup * total
    if samples_seen < start:
        # The first step is taken before anything was seen, and should move nothing much.
        return max(samples_seen / start, 1e-3)
    progress = min(1.0, (samples_seen - start) / max(1.0, total - start))
    return 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(
    network: Network, *, lr: float, backbone_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with its own rate, weight decay and name.

    Biases and the scales of normalisation layers (all tensors of one dimension) do not decay.
    Frozen parameters are in no group.

    Args:
        network: what is trained.
        lr: rate of the head.
        backbone_lr: rate of the rest.
        weight_decay: of matrices and kernels.
    """
    head = {id(parameter) for parameter in network.head.parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        part, rate = ("head", lr) if id(parameter) in head else ("backbone", backbone_lr)
        decays = parameter.ndim > 1
        group = groups.setdefault(
            part if decays else f"{part}_no_decay",
            {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0},
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def count(module: nn.Module, *, trained: bool = False) -> int:
    """Number of parameters, or of those that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
