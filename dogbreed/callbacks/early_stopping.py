"""Ends a run that no longer gets better."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class StopEarly(EarlyStopping):
    """Lightning's, after validations alone, which also stays stopped when the run is resumed.

    Args:
        monitor: the score that should get better.
        mode: whether its `min` or `max` is best.
        patience: after so many validations without a better one it ends.
    """

    def __init__(self, monitor: str, mode: str, patience: int) -> None:
        super().__init__(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, by the patience of now."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further, if it had ended."""
        trainer.should_stop |= self.wait_count >= self.patience

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it was this that ended the run."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            print(
                f"stopped early: {self.monitor} has not got better than {self.best_score:.4f} in"
                f" {self.wait_count} validations"
            )
