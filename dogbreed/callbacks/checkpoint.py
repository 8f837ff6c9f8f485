"""Two checkpoints a run, `last` and `best`, each replaced as a whole, local and in a bucket alike.

Lightning's own ModelCheckpoint forgets on gs:// which file was last, and a resumed run removes
files of the run that it came from; two names that are only ever overwritten need neither.

A checkpoint holds one number that says where the run is: the samples seen. When it is loaded,
Lightning's own counters, which count batches, are rewritten from it, so that a run goes on
exactly where it was with another batch size or another number of processes.
"""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dogbreed import storage
from dogbreed.data.datamodule import data_of
from dogbreed.data.order import batches_done
from dogbreed.errors import BadInput
from dogbreed.model.metrics import Answered
from dogbreed.model.module import DogModule
from dogbreed.runs import Run


class _Stored(TorchCheckpointIO):
    """Writes as a run's other files are written: whole or not at all, with retries in a bucket."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        file = io.BytesIO()
        torch.save(checkpoint, file)
        storage.write(str(path), file.getvalue())


class Checkpoints(Checkpoint):
    """Saves after each validation, and every so many steps.

    Args:
        run: the run's directory.
        monitor: the logged score that says which is best.
        mode: whether `min` or `max` of it is best.
        every_n_train_steps: also save the last one that often within an epoch; 0: never.
    """

    def __init__(
        self, run: Run, monitor: str = "val/top1", mode: str = "max", every_n_train_steps: int = 0
    ) -> None:
        self.run, self.monitor, self.mode = run, monitor, mode
        self.every_n_train_steps = every_n_train_steps
        self.best: float | None = None
        self.best_results: dict[str, float] = {}
        self.best_answered: Answered | None = None
        self._step = self._saved_at = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written to the run's directory, wherever that is."""
        trainer.strategy.checkpoint_io = _Stored()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every n steps, but not just before a validation, which saves anyway."""
        step, before = trainer.global_step, self._step
        self._step = step  # unchanged while gradients are accumulated
        due = step != before and self.every_n_train_steps and step % self.every_n_train_steps == 0
        if due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, "last")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last, and the best if this is it."""
        assert isinstance(pl_module, DogModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            raise BadInput(f"no metric {self.monitor!r} to choose the best checkpoint by")
        score = float(trainer.callback_metrics[self.monitor])
        results = dict(pl_module.results["val"])
        if not self._better(score, results):
            self._save(trainer, "last")
            return
        self.best, self.best_results = score, results
        self.best_answered = pl_module.answered["val"]
        # The best first: killed in between, the run repeats the epoch and finds the same best.
        self._save(trainer, "best")
        if trainer.is_global_zero:
            storage.copy(self.run.checkpoint("best"), self.run.checkpoint("last"))

    def _better(self, score: float, results: dict[str, float]) -> bool:
        """Whether this is the best so far; of equal scores, that of lower log-loss."""
        if self.best is None:
            return True
        if score == self.best:
            return results["log_loss"] < self.best_results["log_loss"]
        return score > self.best if self.mode == "max" else score < self.best

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Catch up on the validation of an epoch that was ended in it."""
        assert isinstance(pl_module, DogModule)
        self._step, self._saved_at = trainer.global_step, pl_module.samples_seen
        epochs, consumed = divmod(pl_module.samples_seen, data_of(trainer).train_size)
        due = consumed == 0 and epochs % (trainer.check_val_every_n_epoch or 1) == 0
        if due and pl_module.validated_at < pl_module.samples_seen:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what no validation followed."""
        assert isinstance(pl_module, DogModule)
        if pl_module.samples_seen != self._saved_at:
            self._save(trainer, "last")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save on SIGTERM, and on Ctrl-C in a single process: several would wait for each other."""
        # Several processes get their SIGTERM all at the same batch, see `ending.py`.
        ended = isinstance(exception, SIGTERMException) or (
            isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
        )
        if ended:
            self._save(trainer, "last")
            # One that ends before the first one has written would have Lightning kill that.
            trainer.strategy.barrier()

    def _save(self, trainer: Trainer, which: str) -> None:
        assert isinstance(trainer.lightning_module, DogModule)
        self._saved_at = trainer.lightning_module.samples_seen
        trainer.save_checkpoint(self.run.checkpoint(which))  # every process takes part

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the best so far."""
        answered = self.best_answered
        tensors = answered and [torch.from_numpy(part) for part in answered]
        return {"best": self.best, "best_results": self.best_results, "best_answered": tensors}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; a run begun from another one's checkpoint has no best yet."""
        if storage.exists(self.run.checkpoint("best")):
            self.best, self.best_results = state_dict["best"], state_dict["best_results"]
            if tensors := state_dict["best_answered"]:
                self.best_answered = Answered(*(tensor.numpy() for tensor in tensors))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Rewrite Lightning's counters from the samples seen."""
        assert isinstance(pl_module, DogModule)
        data = data_of(trainer)
        # With a limit an epoch is not all of its samples, and Lightning's own counters must do.
        if trainer.state.fn == "fit" and trainer.limit_train_batches == 1.0:
            place_loops(
                checkpoint,
                samples_seen=pl_module.samples_seen,
                rows=data.train_size,
                global_batch=data.batch_size * trainer.world_size,
            )


def place_loops(
    checkpoint: dict[str, Any], *, samples_seen: int, rows: int, global_batch: int
) -> None:
    """Make Lightning begin the epoch anew, with the batches that are done counted as done.

    Lightning restarts differently according to the hook in which a checkpoint was saved; this
    brings them all to one form: whole epochs are complete, the current one is about to start,
    and nothing of a validation is pending.

    Args:
        checkpoint: Lightning's; its `loops` are changed.
        samples_seen: by all processes since the start of the run.
        rows: samples of an epoch.
        global_batch: samples of one step of all processes, as it is from now on.
    """
    epoch, consumed = divmod(samples_seen, rows)
    done = batches_done(rows, consumed, global_batch)
    loops = checkpoint["loops"]["fit_loop"]
    for part in ("total", "current"):
        _set(loops["epoch_progress"][part], epoch)
        # An epoch that is ready but not started: the one form in which Lightning keeps the
        # counter of batches and yet calls the hooks of an epoch's start.
        loops["epoch_progress"][part]["ready"] += consumed > 0
        _set(loops["epoch_loop.val_loop.batch_progress"][part], 0)
    batches = loops["epoch_loop.batch_progress"]
    # `completed` one behind: as after a step's last hook, where Lightning counts on by itself.
    for part, number in (("total", batches["total"]["ready"]), ("current", done)):
        _set(batches[part], number)
        batches[part]["completed"] = number - 1
    batches["is_last_batch"] = False
    # It adds one to this on the way in.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1


def _set(tracker: dict[str, int], number: int) -> None:
    for key in tracker:
        tracker[key] = number
