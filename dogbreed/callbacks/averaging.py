"""A moving average of the weights, which is what gets scored and shipped."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dogbreed.model.module import OF_THE_RUN


class MovingAverage(WeightAveraging):
    """After each step average = decay * average + (1 - decay) * weights, from the first step's on.

    Validations score the average, and checkpoints hold it as their `state_dict`, beside what is
    needed to train on.

    Args:
        decay: from 0 to 1; the average is over about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        # All at once: Lightning's own EMA takes one tensor after the other.
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(multi_avg_fn=average)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin where the weights are; Lightning would leave it on the CPU."""
        self._device: Any = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with both."""
        if current := checkpoint.get("current_model_state"):
            # Counts are the module's own, and are not averaged.
            for key, value in checkpoint["state_dict"].items():
                if key.split(".")[0] in OF_THE_RUN:
                    current[key] = value
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the weights: a last checkpoint is still to be written, which holds both."""
