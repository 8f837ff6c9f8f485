"""Ends all processes of a run together."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Ending(Callback):
    """On SIGTERM to any of several processes, raises SIGTERMException in all after the same batch.

    So they can save a checkpoint, in which each has its part. Lightning 2.6 broadcasts within its
    signal handler, in the middle of whatever the processes exchange just then, and they hang. In a
    single process its own way is fine.
    """

    def __init__(self) -> None:
        self._asked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take Lightning's handler's place; it puts back at the end what was there before."""
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    def _end_if_asked(self, trainer: Trainer) -> None:
        # Each process has as many batches as the others, so all of them come here.
        several = trainer.world_size > 1 and trainer.state.fn == "fit"
        if several and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End here, if any process was asked to."""
        self._end_if_asked(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End here, if any process was asked to."""
        self._end_if_asked(trainer)
