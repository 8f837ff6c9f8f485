"""Looks for a learning rate or a batch size by short trials, without beginning a run."""

import io
import math
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.memory import is_oom_error
from matplotlib.figure import Figure
from torch.optim import Optimizer

from dogbreed import storage
from dogbreed.data.datamodule import DogDataModule
from dogbreed.errors import BadInput
from dogbreed.model.module import DogModule

_STEPS = 100  # of the search for a rate
_LOWEST, _HIGHEST = 1e-3, 1e3  # times the rates that were asked for
_TRIAL = 6  # steps of each batch size, of which the first two don't count
_GAIN = 1.05  # a larger batch must be faster by that to be worth it


class RateTest(Callback):
    """Raises the rates of all groups from step to step, in their proportions (Smith 2015).

    Own code, for Lightning's gives all groups one rate. Ends where the loss leaves for good.
    """

    def __init__(self) -> None:
        self.factors: list[float] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Set this step's rates."""
        factor = _LOWEST * (_HIGHEST / _LOWEST) ** (len(self.factors) / (_STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.factors.append(factor)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss before the step."""
        self.losses.append(float(outputs["loss"]))
        if not math.isfinite(self.losses[-1]) or self.losses[-1] > 4 * min(self.losses):
            trainer.should_stop = True


def steepest(factors: list[float], losses: list[float]) -> float:
    """The factor at which the smoothed loss falls fastest by its logarithm, before its lowest.

    Raises:
        BadInput: it never falls, or is no number from the start.
    """
    if not np.isfinite(losses).any():
        raise BadInput("--find lr: the first loss is not a number; lower --model.lr")
    smooth = _smoothed(losses)
    lowest = int(np.nanargmin(smooth))
    slopes = np.gradient(smooth, np.log(factors[: len(smooth)]))[: lowest + 1] if lowest else []
    if len(slopes) == 0 or np.nanmin(slopes) >= 0:
        raise BadInput("--find lr: the loss never fell; is there something to learn?")
    return factors[int(np.nanargmin(slopes))]


def _smoothed(losses: list[float]) -> np.ndarray:
    finite = np.array(losses)[np.isfinite(losses)]
    width = min(7, len(finite))
    padded = np.pad(finite, (width // 2, width - 1 - width // 2), mode="edge")
    out: np.ndarray = np.convolve(padded, np.ones(width) / width, mode="valid")
    return out


def find_rate(module: DogModule, data: DogDataModule, options: dict[str, Any], place: str) -> None:
    """Print the options of a good rate, and draw the losses into a PNG.

    Args:
        module: what would be trained; is spoilt by this.
        data: its data.
        options: further ones of the trainer.
        place: path or URL of the picture.
    """
    test = RateTest()
    bare_trainer(_STEPS, test, options).fit(module, data)
    factor = steepest(test.factors, test.losses)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    seen = test.factors[: len(test.losses)]
    axes.plot(seen, test.losses, color="#b0b8c0", label="loss")
    axes.plot(seen[: len(_smoothed(test.losses))], _smoothed(test.losses), color="#3b6ea5")
    axes.axvline(factor, color="#e0a030", label=f"falls fastest: times {factor:.3g}")
    axes.set(xscale="log", xlabel="times the rates asked for", ylabel="training loss")
    axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    storage.write(place, png.getvalue())
    asked = module.schedule
    print(
        f"--model.lr {asked.lr * factor:.2g} --model.backbone_lr {asked.backbone_lr * factor:.2g}"
        f"  (the loss falls fastest at {factor:.3g} times the rates asked for; see {place})"
    )


class Clock(Callback):
    """Times the steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def find_batch_size(module: DogModule, data: DogDataModule, options: dict[str, Any]) -> None:
    """Print images a second of batches of 8, 16, 32 …, and the option of the best.

    Ends where memory does, where doubling gains nothing twice, or with the training pictures.
    """
    speeds: dict[int, float] = {}
    size = 8
    while size <= max(8, data.train_size):
        data.batch_size, clock = size, Clock()
        try:
            bare_trainer(_TRIAL, clock, options).fit(module, data)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            print(f"batch {size:5,}: out of memory")
            break
        steps = np.diff(clock.ends)[1:]
        speeds[size] = size / float(np.median(steps)) if len(steps) else 0.0
        print(f"batch {size:5,}: {speeds[size]:7.1f} images/s", flush=True)
        module.samples_seen = 0
        if size >= 4 * _best(speeds):
            break
        size *= 2
    if not speeds:
        raise BadInput("--find batch_size: not even 8 pictures fit into memory")
    print(f"--data.batch_size {_best(speeds)}")


def _best(speeds: dict[int, float]) -> int:
    """The smallest size that no larger one beats by much."""
    return next(k for k, v in speeds.items() if v * _GAIN >= max(speeds.values()))


def bare_trainer(steps: int, callback: Callback, options: dict[str, Any]) -> Trainer:
    """A trainer of so many steps that validates, logs and keeps nothing."""
    return Trainer(
        **options,
        max_steps=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
