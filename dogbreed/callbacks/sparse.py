"""Pruning for study: a share of the weights is set to zero, and stays there."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn

from dogbreed.errors import BadInput
from dogbreed.model.module import DogModule


class PruneAtStart(ModelPruning):
    """Lightning's ModelPruning, once, before the first step; the zeros are kept to the end.

    By itself it prunes after each epoch, for the last time after the last validation, so that no
    score is that of what is saved; moving averages and resumed runs know nothing of its masks.
    Here the weights are their own masks: what is zero when training starts is zero after each step.

    Depthwise kernels and those of colours stay whole, for they are few (Zhu and Gupta 2017, 4),
    and so does the classifier, which may start from nothing.

    Args:
        amount: share of the weights of all other convolutions and linear layers, from 0 to 1.
        use_global_unstructured: the smallest of all layers together, rather than of each.

    Raises:
        BadInput: in `setup`: `amount` is out of range, or the backbone is frozen.
    """

    def __init__(self, amount: float = 0.5, use_global_unstructured: bool = False) -> None:
        super().__init__(
            "l1_unstructured",
            use_global_unstructured=use_global_unstructured,
            amount=amount,
            apply_pruning=False,  # after epochs
            make_pruning_permanent=False,  # when saving
            use_lottery_ticket_hypothesis=False,
        )
        self.share = amount
        self._kept: list[tuple[Tensor, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the weights."""
        assert isinstance(pl_module, DogModule)
        network = pl_module.network
        if not 0 < self.share < 1:
            raise BadInput(f"PruneAtStart: amount {self.share}: must be above 0 and below 1")
        if network.frozen:
            raise BadInput("PruneAtStart: with --model.freeze backbone what is left cannot learn")
        self._parameters_to_prune = [
            (module, "weight")
            for module in network.body.modules()
            if _dense(module) and module is not network.head
        ]
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, unless a resumed run brings its zeros along."""
        if trainer.ckpt_path:
            return
        weights = self._weights()
        strides = [weight.stride() for weight in weights]
        for weight in weights:  # torch's pruning looks at them in the usual order alone
            weight.data = weight.data.contiguous()
        self.apply_pruning(self.share)
        self.make_pruning_permanent(pl_module)
        for weight, stride in zip(weights, strides, strict=True):
            weight.data = weight.data.new_empty_strided(weight.shape, stride).copy_(weight.data)
        for module, _ in self._parameters_to_prune:
            # Pruning puts the weight last; a moving average pairs parameters by their order.
            module._parameters["bias"] = module._parameters.pop("bias")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See what is zero."""
        self._kept = [(weight, weight != 0) for weight in self._weights()]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo what a step did to it."""
        for weight, kept in self._kept:
            weight.mul_(kept)

    def _weights(self) -> list[Tensor]:
        return [module.get_parameter(name) for module, name in self._parameters_to_prune]


def _dense(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.in_channels > 3
    return isinstance(module, nn.Linear)
