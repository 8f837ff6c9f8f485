"""Loggers: what is settled before they are built, and what is said when a run is over.

Weights & Biases needs an account, a key and a home that it can write to. Without a key its run is
kept offline, below the run's directory, and the last line says how to upload it. A run and its
W&B run are one for good: the id follows from run.json, also when the run is resumed.
"""

import contextlib
import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from dogbreed.errors import BadInput, OutOfReach
from dogbreed.runs import Run
from dogbreed.storage import is_local

PROJECT = "dogbreed"
_HOMES = {
    "WANDB_CACHE_DIR": ".cache",
    "WANDB_CONFIG_DIR": ".config",
    "WANDB_DATA_DIR": ".local/share",
}
"""Where W&B would write below the home besides its folder for runs."""


def settle(loggers: Any, run: Run, said: dict[str, Any]) -> dict[str, str]:
    """Fill in what the parsed `--trainer.logger` leaves open, in place.

    W&B gets a place to write to, the run's name, notes and tags, the id of a run that goes on, and
    stays offline if there is no key.

    Args:
        loggers: one or several, as parsed.
        run: the run's directory; it may not be there yet.
        said: notes and tags of the run.

    Returns:
        Folders in which TensorBoard is to write, and the URLs where users want to find it.

    Raises:
        BadInput: a logger that would lose rows, or a key that is none.
    """
    mirrored = {}
    for entry in loggers if isinstance(loggers, list) else [loggers]:
        kind: str = getattr(entry, "class_path", "")
        options: Any = getattr(entry, "init_args", None)
        if kind.endswith(".CSVLogger") and not is_local(str(options.save_dir)):
            raise BadInput(
                f"--trainer.logger CSVLogger: it appends to its file, which a bucket cannot"
                f" ({options.save_dir}); name a folder, or read {run.url}/metrics.csv"
            )
        if kind.endswith(".TensorBoardLogger"):
            # In a job of Vertex AI the local disk is lost at the end.
            in_job = os.environ.get("AIP_TENSORBOARD_LOG_DIR")
            url = in_job if in_job and is_local(str(options.save_dir)) else str(options.save_dir)
            options.save_dir = url
            if not is_local(url):
                options.save_dir = tempfile.mkdtemp(prefix="dogbreed-tensorboard-")
                mirrored[options.save_dir] = url
        if not kind.endswith(".WandbLogger"):
            continue
        import wandb  # takes a second

        if options.save_dir in {None, "."}:
            options.save_dir = os.environ.get("WANDB_DIR") or (
                run.url if is_local(run.url) else tempfile.mkdtemp(prefix="dogbreed-wandb-")
            )
        os.makedirs(options.save_dir, exist_ok=True)
        _leave_a_home_that_cannot_be_written(options.save_dir)
        options.project = options.project or os.environ.get("WANDB_PROJECT", PROJECT)
        options.name = options.name or run.url.rsplit("/", 1)[-1]
        known = run.read() if run.exists else {}
        # An agent of a sweep has chosen one.
        usual = known.get("wandb", {}).get("id") or os.environ.get("WANDB_RUN_ID")
        options.id = options.id or options.version or usual or secrets.token_hex(4)
        # The parser hands over all that wandb.init takes: its None would win over Lightning's
        # "allow", and W&B would begin a run that goes on anew.
        more = {"resume": options.get("resume") or "allow", **entry.get("dict_kwargs", {})}
        more |= {name: of[name] for of in (known, said) for name in ("notes", "tags") if name in of}
        decided = options.offline or options.get("mode") or "WANDB_MODE" in os.environ
        with _one_line():
            has_key = decided or wandb.login(prompt=False)
        if not has_key:
            # Not `offline`: Lightning sets the environment for it, which login has read by now.
            more["mode"] = "offline"
            print("W&B: no key found, so the run is kept offline")
        entry.dict_kwargs = more
    return mirrored


def _leave_a_home_that_cannot_be_written(folder: str) -> None:
    """Let W&B keep what it would keep there in a folder instead, as in a container without root."""
    try:
        for below in _HOMES.values():
            usual = Path.home() / below / "wandb"
            usual.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=usual).close()
    except (OSError, RuntimeError):  # RuntimeError: there is none
        for variable, below in _HOMES.items():
            os.environ.setdefault(variable, os.path.abspath(f"{folder}/wandb/home/{below}"))


def wandb_runs(trainer: Trainer) -> Iterator[Any]:
    """The W&B runs of this process, open and not turned off: in the first process alone."""
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, WandbLogger) and not logger.experiment.disabled:
            yield logger.experiment


def open_loggers(trainer: Trainer) -> None:
    """Begin W&B's runs now, so that a wrong key is noticed before anything is trained.

    Raises:
        BadInput: W&B refuses the key, or cannot be reached.
    """
    with _one_line():
        list(wandb_runs(trainer))


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """W&B's errors as BadInput."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):
            raise
        line = " ".join(str(error).split())[:200]
        refused = "Authentication" in type(error).__name__
        raise (BadInput if refused else OutOfReach)(
            f"--trainer.logger WandbLogger: {line}; WANDB_MODE=offline trains without it"
        ) from None


def close_loggers(trainer: Trainer) -> None:
    """End W&B's runs; of one that is offline, print the line that uploads it."""
    for run in wandb_runs(trainer):
        folder = Path(str(run.dir)).parent.absolute()
        run.finish(exit_code=int(not trainer.state.finished))
        if run.offline:
            # A run that was resumed has a folder for each time; those uploaded are passed over.
            folders = sorted(folder.parent.glob(f"offline-run-*-{run.id}"))
            print(f"W&B: upload this run with: wandb sync {shlex.join(map(str, folders))}")
