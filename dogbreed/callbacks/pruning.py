"""Ends a trial of a sweep that does worse than others did at its age."""

from collections.abc import Callable
from typing import Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed.data.datamodule import data_of
from dogbreed.errors import Pruned
from dogbreed.model.module import DogModule


class Judge(Protocol):
    """As far as a trial of Optuna is needed here."""

    def report(self, value: float, step: int) -> None:
        """Tell a score."""
        ...

    def should_prune(self) -> bool:
        """Whether to end it."""
        ...


class Pruning(Callback):
    """Tells each validation's score, and ends the fit if it is not worth going on.

    Args:
        trial: judges it against the others.
        monitor: the score.
        told: called after each validation, with the epoch and the score.
    """

    def __init__(
        self, trial: Judge, monitor: str, told: Callable[[int, float], object] = lambda *_: None
    ) -> None:
        self.trial, self.monitor, self.told = trial, monitor, told

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell, and ask; not after the last epoch, when there is nothing left to save."""
        assert isinstance(pl_module, DogModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        score = float(trainer.callback_metrics[self.monitor])
        epoch = (pl_module.samples_seen - 1) // data_of(trainer).train_size + 1
        self.trial.report(score, epoch)
        self.told(epoch, score)
        if epoch != trainer.max_epochs and self.trial.should_prune():
            raise Pruned(f"{self.monitor} {score:.4f} after epoch {epoch}: worse than the median")
