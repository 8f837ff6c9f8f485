"""Runs that are there already: their config, their checkpoints, and where to go on."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.runs import CONFIG_FILE, Run, newest
from dogbreed.trainer_cli import RUN_ROOT


def option(argv: Sequence[str], name: str) -> str | None:
    """The last value of an option in `argv` or its configs, before anything is parsed."""
    value = None
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        option, _, joined = word.partition("=")
        given = joined or following
        if option == f"--{name}":
            value = given
        elif option in {"-c", "--config"} and storage.exists(storage.normal(given)):
            with contextlib.suppress(yaml.YAMLError, AttributeError):  # the parser will say it
                value = yaml.safe_load(storage.read(given)).get(name, value)
    return value


@contextlib.contextmanager
def saved_config(run: Run) -> Iterator[list[str]]:
    """Leading words that bring a run's own config: what the user types comes after and wins.

    Raises:
        BadInput: there is no such run.
    """
    run.read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        storage.download(run.path(CONFIG_FILE), path)
        yield ["--config", str(path)]


def run_to_resume(argv: Sequence[str], resume: str) -> tuple[Run | None, str | None]:
    """The run to write into, if it is there already, and the checkpoint to go on from.

    Raises:
        BadInput: no such run or checkpoint.
    """
    root, name = storage.normal(option(argv, "run_root") or RUN_ROOT), option(argv, "name")
    named = Run(storage.join(root, name)) if name else None
    if resume not in {"auto", "last", "best"}:
        path = storage.normal(resume)
        if not storage.exists(path):
            raise BadInput(f"--resume {resume}: no such checkpoint")
        own = named is not None and path.startswith(f"{named.url}/")
        return (named if own else None), path
    if resume == "auto" and (named is None or not named.exists):
        return None, None
    run = named or newest(root)
    run.read()
    checkpoint = run.checkpoint("last" if resume == "auto" else resume)
    if storage.exists(checkpoint):
        return run, checkpoint
    if resume == "auto":  # killed before its first checkpoint: from the start, in the same place
        return run, None
    raise BadInput(f"{run.url}: there is no checkpoint {resume!r} to go on from")


def load_checkpoint(path: Path, url: str) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        BadInput: it is not one that fit wrote.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not {"state_dict", "samples_seen", "data_version"} <= set(state):
            raise ValueError("something is missing in it")
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        line = " ".join(str(error).split())[:120]
        raise BadInput(f"{url}: no checkpoint of this version of dogbreed fit ({line})") from error
    return state
