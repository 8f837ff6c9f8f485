"""Parameter groups: which rate and decay each parameter gets."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from timm.models import group_parameters
from torch import nn

from dogbreed.model.backbone import Network


def parts(network: Network) -> list[list[str]]:
    """What lies below the head, in timm's parts of the model, from the top down.

    Returns:
        The names of the parameters of each part, as `network.body` has them.
    """
    body = network.body
    of = group_parameters(body, body.group_matcher(coarse=True), reverse=True)
    below = [name for name in of if not name.startswith(f"{network.head_name}.")]
    numbers = sorted({of[name] for name in below}, reverse=True)
    return [[name for name in below if of[name] == number] for number in numbers]


def parameter_groups(
    network: Network,
    *,
    lr: float,
    backbone_lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    unfreeze: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with its own rate, weight decay, name and beginning.

    Biases and the scales of normalisation layers (all tensors of one dimension) do not decay.
    Frozen parameters are in no group.

    Args:
        network: what is trained.
        lr: rate of the head.
        backbone_lr: rate of the rest, or of its topmost part.
        weight_decay: of matrices and kernels.
        layer_decay: factor on the rate from each part to the one below it.
        unfreeze: share of the run at which each part begins to learn, from the top down; the
            parts below the last one named never do. None: all from the start.

    Returns:
        The groups `head` and `backbone`, or `head`, `part1` (the topmost), `part2` and so on where
        the parts differ; what does not decay in groups of its own, named `_no_decay`. `begins` is
        the share of the run before which a group's rate is zero.
    """
    named = dict(network.body.named_parameters())
    below = parts(network)
    head = [name for name in named if name.startswith(f"{network.head_name}.")]
    plan = [("head", head, lr, 0.0)]
    if layer_decay == 1 and unfreeze is None:
        plan.append(("backbone", list(chain.from_iterable(below)), backbone_lr, 0.0))
    else:
        starts = [0.0] * len(below) if unfreeze is None else unfreeze
        for depth, (names, begins) in enumerate(zip(below, starts, strict=False)):
            plan.append((f"part{depth + 1}", names, backbone_lr * layer_decay**depth, begins))
    groups: dict[str, dict[str, Any]] = {}
    for part, names, rate, begins in plan:
        for parameter in (named[name] for name in names):
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1
            group = groups.setdefault(
                part if decays else f"{part}_no_decay",
                {
                    "params": [],
                    "lr": rate,
                    "weight_decay": weight_decay if decays else 0.0,
                    "begins": begins,
                },
            )
            group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def count(module: nn.Module, *, trained: bool = False) -> int:
    """Number of parameters, or of those that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
