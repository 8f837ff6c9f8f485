"""fit: build a trainer by the options, run it, say what came of it."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities.exceptions import SIGTERMException

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.finding import find_batch_size, find_rate
from dogbreed.memory import keep_freed_memory
from dogbreed.parser import configs_here
from dogbreed.processes import lost_the_others, started_by_lightning, status_of_the_others
from dogbreed.resuming import load_checkpoint, option, run_to_resume, saved_config
from dogbreed.tracking import close_loggers
from dogbreed.trainer_cli import NAME_VARIABLE, DogCLI

PREEMPTED = 143


def quiet() -> None:
    """Lightning's remarks on hardware and tips; what a run uses stands in its first lines."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A frozen body is in evaluation on purpose.
    warnings.filterwarnings("ignore", message=".*module.* in eval mode at the start of training")
    # An epoch of few steps is no mistake, and each of its validations is logged.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval")
    # Nor a validation of few steps: torch's profiler then records all of them.
    warnings.filterwarnings("ignore", message="The PyTorch Profiler default schedule")
    # Lightning 2.6 with torch 2.9 and newer; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")


def fit(argv: Sequence[str]) -> int:
    """Train; returns the exit status."""
    quiet()
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(configs_here(argv))
        resume = option(words, "resume")
        run, checkpoint = run_to_resume(words, resume) if resume else (None, None)
        if run is not None:
            words = [*stack.enter_context(saved_config(run)), *words]
        cli = DogCLI("fit", words, run, checkpoint)
        assert cli.run is not None
        stack.callback(close_loggers, cli.trainer)
        stack.callback(os.environ.pop, NAME_VARIABLE, None)
        if cli.config.find:
            _find(cli)
            return 0
        path = None
        if checkpoint is not None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "resume.ckpt"
            storage.download(checkpoint, path)
            state = load_checkpoint(path, checkpoint)
            _same_data(cli, checkpoint, state["data_version"])
            cli.model.weights_used = state["weights_used"]  # which parameters learn follows from it
        else:
            cli.model.load_first_weights()  # before the run's directory is begun
            cli.model.load_teacher()
        if cli.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=path, weights_only=True)
        except SIGTERMException:
            _say_how_to_go_on(cli, "ended by SIGTERM")
            return 0 if started_by_lightning(cli.trainer) else PREEMPTED
        except SystemExit:  # Lightning's own on Ctrl-C, with status 1
            if cli.trainer.interrupted:
                _say_how_to_go_on(cli, "interrupted")
                raise KeyboardInterrupt from None
            raise
        except RuntimeError as error:
            if not lost_the_others(cli.trainer, error):
                raise
            return status_of_the_others(cli.trainer)
    return 0


def _find(cli: DogCLI) -> None:
    """Look for what `--find` names, in place of a run."""
    if cli.trainer.world_size > 1 or cli.resume:
        raise BadInput("--find: looks in a single process, from the first weights")
    cli.model.load_first_weights()
    cli.model.load_teacher()
    given = cli.config.trainer
    options = {"accelerator": given.accelerator, "precision": given.precision}
    if cli.config.find == "lr":
        assert cli.run is not None
        find_rate(cli.model, cli.datamodule, options, f"{cli.run.url}-lr.png")
    else:
        find_batch_size(cli.model, cli.datamodule, options)


def _say_how_to_go_on(cli: DogCLI, ended: str) -> None:
    if cli.trainer.is_global_zero:
        where = f"--run_root {cli.config.run_root} --name {cli.config.name}"
        print(f"{ended}; go on with: dogbreed fit --resume last {where}")


def _same_data(cli: DogCLI, checkpoint: str, begun: str) -> None:
    """Going on in the middle of an epoch makes sense on the same data only.

    Raises:
        BadInput: the run was begun on another version of the data.
    """
    now = cli.datamodule.manifest.version
    if begun != now:
        raise BadInput(
            f"--resume {checkpoint}: begun on version {begun[:12]} of the data, but"
            f" {cli.datamodule.manifest.root} holds {now[:12]}; start from its weights instead:"
            " --model.weights RUN"
        )
