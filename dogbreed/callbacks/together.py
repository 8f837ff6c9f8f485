"""All callbacks of a fit, in the order in which they must run."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback

from dogbreed.callbacks.averaging import MovingAverage
from dogbreed.callbacks.checkpoint import Checkpoints
from dogbreed.callbacks.early_stopping import StopEarly
from dogbreed.callbacks.ending import Ending
from dogbreed.callbacks.history import History
from dogbreed.callbacks.identity import Identity
from dogbreed.callbacks.logged import Logged
from dogbreed.callbacks.profile import Profile
from dogbreed.callbacks.throughput import Throughput
from dogbreed.callbacks.trial import Trial, is_trial
from dogbreed.runs import Run


def callbacks_of(
    run: Run,
    config: Any,
    yaml: str,
    resumed_from: str | None,
    said: dict[str, Any],
    more: Sequence[Callback] = (),
) -> list[Callback]:
    """A run is done when its model is there, and checkpoints, the last, save what others know.

    Args:
        run: the run's directory.
        config: all options.
        yaml: the same, to be kept.
        resumed_from: the checkpoint that the run goes on from, if any.
        said: what the person says of it, see `Identity`.
        more: of a caller.
    """
    options = config.checkpoints.as_dict()
    checkpoints, throughput = Checkpoints(run, **options), Throughput()
    callbacks: list[Callback] = [throughput]
    with_wandb = "WandbLogger" in str(config.trainer.logger)
    if with_wandb:
        from dogbreed.callbacks.wandb_pictures import WandbPictures  # importing W&B takes a second

        callbacks.append(WandbPictures())  # before the average goes
    if config.ema.decay:
        callbacks.append(MovingAverage(config.ema.decay))
    callbacks.append(History(run, checkpoints, throughput))
    if config.trainer.profiler:
        callbacks.append(Profile(run))
    if patience := config.early_stopping.patience:
        callbacks.append(StopEarly(options["monitor"], options["mode"], patience))
    callbacks += [Identity(run, yaml, resumed_from, said), Logged(run, yaml)]
    if with_wandb:
        from dogbreed.callbacks.wandb import WandbRun

        callbacks.append(WandbRun(run, checkpoints))
    callbacks += [*more, Ending(), checkpoints]
    if is_trial():
        callbacks.append(Trial(options["monitor"]))
    return callbacks
