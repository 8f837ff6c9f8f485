"""fit: build a trainer by the options, run it, say what came of it."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.finding import find_batch_size, find_rate
from dogbreed.memory import keep_freed_memory
from dogbreed.parser import configs_here
from dogbreed.processes import lost_the_others, started_by_lightning, status_of_the_others
from dogbreed.reproducing import Original
from dogbreed.resuming import load_checkpoint, option, run_to_resume, saved_config
from dogbreed.runs import Run
from dogbreed.tracking import close_loggers
from dogbreed.trainer_cli import NAME_VARIABLE, RUN_ROOT, DogCLI

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


def fit(argv: Sequence[str], callbacks: Sequence[Callback] = ()) -> int:
    """Train; returns the exit status.

    Args:
        argv: the words after `fit`.
        callbacks: further ones, of a caller who watches this process; then it must be the only one.
    """
    quiet()
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(configs_here(argv))
        original = Original.open(place) if (place := option(words, "reproduce")) else None
        if original:
            saved = stack.enter_context(saved_config(original.run))
            root = option(words, "run_root") or RUN_ROOT
            words = [*saved, "--run_root", root, "--name", f"{original.name}-again", *words]
        resume = option(words, "resume")
        run, checkpoint = run_to_resume(words, resume) if resume else (None, None)
        if run is not None:
            words = [*stack.enter_context(saved_config(run)), *words]
        cli = DogCLI("fit", words, run, checkpoint, callbacks)
        assert cli.run is not None
        stack.callback(cli.datamodule.teardown, "fit")  # Lightning leaves it out after an error
        stack.callback(close_loggers, cli.trainer)
        stack.callback(os.environ.pop, NAME_VARIABLE, None)
        if cli.config.find:
            _find(cli)
            return 0
        if original:
            data = cli.datamodule.manifest
            original.check(data.version, data.root, cli.config.seed_everything)
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
        if original and cli.trainer.is_global_zero:
            return _compared(original, cli.run)
    return 0


def _compared(original: Original, again: Run) -> int:
    """Say what is not as it was, and what came out; 1 if that is something else."""
    for line in original.differences(again):
        print(f"differs: {line}")
    came_out, lines = original.compare(again)
    print("\n".join(lines))
    return 0 if came_out else 1


def _find(cli: DogCLI) -> None:
    """Look for what `--find` names, in place of a run."""
    if cli.trainer.world_size > 1 or cli.resume:
        raise BadInput("--find: looks in a single process, from the first weights")
    cli.model.load_first_weights()
    cli.model.load_teacher()
    given = cli.config.trainer
    options = {name: given[name] for name in ("accelerator", "devices", "precision")}
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
