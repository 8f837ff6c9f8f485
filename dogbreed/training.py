"""fit, validate and test: build a trainer by the options, run it, say what came of it."""

import contextlib
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.card import renew
from dogbreed.evaluate.evaluation import FOLDER, details, sentence, values_of
from dogbreed.model.module import evaluation_of
from dogbreed.parser import configs_here
from dogbreed.runs import CONFIG_FILE, Run, newest
from dogbreed.tracking import close_loggers
from dogbreed.trainer_cli import NAME_VARIABLE, RUN_ROOT, DogCLI

PREEMPTED = 143


def _option(argv: Sequence[str], name: str) -> str | None:
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
def _saved_config(run: Run) -> Iterator[list[str]]:
    """Leading words that bring a run's own config: what the user types comes after and wins.

    Raises:
        BadInput: there is no such run.
    """
    run.read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        storage.download(run.path(CONFIG_FILE), path)
        yield ["--config", str(path)]


def _quiet() -> None:
    """Lightning's remarks on hardware and tips; what a run uses stands in its first lines."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A frozen body is in evaluation on purpose.
    warnings.filterwarnings("ignore", message=".*module.* in eval mode at the start of training")
    # An epoch of few steps is no mistake, and each of its validations is logged.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval")
    # Lightning 2.6 with torch 2.9 and newer; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")


def fit(argv: Sequence[str]) -> int:
    """Train; returns the exit status."""
    _quiet()
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(configs_here(argv))
        resume = _option(words, "resume")
        run, checkpoint = _resumed(words, resume) if resume else (None, None)
        if run is not None:
            words = [*stack.enter_context(_saved_config(run)), *words]
        cli = DogCLI("fit", words, run, checkpoint)
        assert cli.run is not None
        stack.callback(close_loggers, cli.trainer)
        path = None
        if checkpoint is not None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "resume.ckpt"
            storage.download(checkpoint, path)
            _same_data(cli, checkpoint, _load(path, checkpoint)["data_version"])
        else:
            cli.model.load_first_weights()  # before the run's directory is begun
            cli.model.load_teacher()
        stack.callback(os.environ.pop, NAME_VARIABLE, None)
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=path, weights_only=True)
        except SIGTERMException:
            _say_how_to_go_on(cli, "ended by SIGTERM")
            return 0 if _started_by_lightning(cli.trainer) else PREEMPTED
        except SystemExit:  # Lightning's own on Ctrl-C, with status 1
            if cli.trainer.interrupted:
                _say_how_to_go_on(cli, "interrupted")
                raise KeyboardInterrupt from None
            raise
        except RuntimeError as error:
            if not _lost_the_others(cli.trainer, error):
                raise
            return _status_of_the_others(cli.trainer)
    return 0


def _started_by_lightning(trainer: Trainer) -> bool:
    """Whether another process of the run started this one, and kills the run if it does not end 0.

    False under torchrun, which reports on each.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def _lost_the_others(trainer: Trainer, error: RuntimeError) -> bool:
    """Whether another process of the run ended, and this one has only noticed; then it says so."""
    # For gloo's errors torch has no class.
    lost = isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
    if trainer.world_size == 1 or not lost:
        return False
    line = " ".join(str(error).split("] ", 1)[-1].split())[:80]  # without the place in C++
    print(
        f"dogbreed fit: error: process {trainer.global_rank} of {trainer.world_size} lost the"
        f" others; look at what they said ({line})",
        file=sys.stderr,
    )
    return True


def _status_of_the_others(trainer: Trainer) -> int:
    """2 if a process that this one started ended by bad input, else 1."""
    statuses = []
    for process in getattr(trainer.strategy.launcher, "procs", []):
        with contextlib.suppress(subprocess.TimeoutExpired):
            statuses.append(process.wait(timeout=10))
    return 2 if 2 in statuses else 1


def _say_how_to_go_on(cli: DogCLI, ended: str) -> None:
    if cli.trainer.is_global_zero:
        where = f"--run_root {cli.config.run_root} --name {cli.config.name}"
        print(f"{ended}; go on with: dogbreed fit --resume last {where}")


def _resumed(argv: Sequence[str], resume: str) -> tuple[Run | None, str | None]:
    """The run to write into, if it is there already, and the checkpoint to go on from.

    Raises:
        BadInput: no such run or checkpoint.
    """
    root, name = storage.normal(_option(argv, "run_root") or RUN_ROOT), _option(argv, "name")
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


def _load(path: Path, url: str) -> dict[str, Any]:
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


def validate(argv: Sequence[str]) -> int:
    """Score split val; returns the exit status."""
    return _score("validate", "val", list(argv))


def test(argv: Sequence[str]) -> int:
    """Score split test; returns the exit status."""
    return _score("test", "test", list(argv))


def _score(verb: str, split: str, argv: list[str]) -> int:
    _quiet()
    if {"-h", "--help"} & set(argv):
        DogCLI(verb, argv)
    given, root = _option(argv, "run"), _option(argv, "run_root") or RUN_ROOT
    run = Run(storage.normal(given)) if given else newest(root, holding="checkpoints/best.ckpt")
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_saved_config(run))
        if as_json := _option(argv, "json") not in {None, "false"}:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        config = yaml.safe_load(Path(saved[1]).read_text())["data"]
        here = ["--trainer.logger=false", "--trainer.num_nodes=1"]  # wherever it was trained
        cli = DogCLI(verb, [*saved, *here, *_bare_json(argv)], run)
        checkpoint = cli.config.checkpoint
        if checkpoint in {"best", "last"}:
            checkpoint = run.checkpoint(checkpoint)
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "score.ckpt"
        storage.download(checkpoint, path)
        state = _load(path, checkpoint)
        cli.model.on_load_checkpoint(state)
        try:
            cli.model.load_state_dict(state["state_dict"])
        except RuntimeError:
            raise BadInput(f"{checkpoint}: of another model than {cli.model.backbone}") from None
        evaluate = cli.trainer.validate if verb == "validate" else cli.trainer.test
        evaluate(cli.model, cli.datamodule, verbose=False)
        if not cli.trainer.is_global_zero:
            return 0
        data, answered = cli.datamodule, cli.model.answered[split]
        limit = cli.trainer.limit_val_batches if split == "val" else cli.trainer.limit_test_batches
        seen, own = data.seen() | {"checkpoint": cli.config.checkpoint}, run.read()["data"]
        own_data = own["version"] == data.manifest.version
        own_way = all(seen[name] == config[name] for name in ("image_size", "crop")) and limit == 1
        size = f"{data.image_size} px"
        key = f"{data.manifest.name}@{data.manifest.version[:12]}, {cli.config.checkpoint}, {size}"
        # Figures of other pictures, or of another checkpoint, never stand as if they were its.
        is_own = own_data and own_way and cli.config.checkpoint == "best"
        usual = f", best, {config['image_size']} px"
        place = re.sub(r"[^\w.@,-]+", "-", key.removesuffix(usual))
        folder = run.path(FOLDER) if is_own else run.path(FOLDER, "others", place)
        calibration = _calibration(run) | {"fitted_on": is_own and split == "val"}
        report = evaluation_of(answered, data, **calibration).write(folder, split, seen)
        if is_own:
            run.record(**{split: values_of(report)})
            renew(run)
        else:
            others = run.metrics().get("others", {})
            others[key] = others.get(key, {}) | {split: values_of(report)}
            run.record(others=others)
        print(f"{split} of {data.manifest.name}: {sentence(report)}")
        print(details(report))
        print(f"{storage.join(folder, split)}.json; first weights: {cli.model.weights_used}")
    if as_json:
        print(json.dumps(report))
    return 0


def _calibration(run: Run) -> dict[str, Any]:
    """Temperature and rejection of the run's package, if it has one yet."""
    if not storage.exists(run.path(package.FOLDER, package.MODEL_FILE)):
        return {}
    model = package.read(run.path(package.FOLDER))
    return {"temperature": model.temperature, "rejection": model.rejection}


def _bare_json(argv: list[str]) -> list[str]:
    """`--json` is a switch; jsonargparse's booleans want a value."""
    return ["--json=true" if word == "--json" else word for word in argv]
