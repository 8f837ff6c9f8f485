"""fit, validate and test: a thin LightningCLI around the module and the datamodule."""

import contextlib
import datetime
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dogbreed import storage
from dogbreed.callbacks.checkpoint import Checkpoints
from dogbreed.callbacks.history import History
from dogbreed.callbacks.identity import Identity
from dogbreed.callbacks.wandb import sync_hint, write_where_possible
from dogbreed.data.datamodule import SAMPLE_SIZE, DogDataModule
from dogbreed.errors import BadInput
from dogbreed.model.backbone import preprocessing
from dogbreed.model.metrics import sentence
from dogbreed.model.module import DogModule
from dogbreed.parser import OneLineErrors
from dogbreed.runs import CONFIG_FILE, Run, newest

RUN_ROOT = "runs"
PREEMPTED = 143
_NAME = "DOGBREED_RUN_NAME"


class LightningParser(OneLineErrors, LightningArgumentParser):
    """Parses trainer, model and data."""


class DogCLI(LightningCLI):
    """Parses the options of a verb and builds trainer, module and datamodule.

    Args:
        verb: `fit`, `validate` or `test`.
        argv: the words after it.
        run: where its results go; none: a new run, named by the options.
        resume: the checkpoint that a fit goes on from.
    """

    def __init__(
        self, verb: str, argv: Sequence[str], run: Run | None = None, resume: str | None = None
    ) -> None:
        self.verb, self.run, self.resume = verb, run, resume
        super().__init__(
            DogModule,
            DogDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 15,
                "logger": False,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # the order is ours, see data/order.py
                "enable_model_summary": False,
                "enable_progress_bar": sys.stdout.isatty(),
            },
            parser_class=LightningParser,
            parser_kwargs={"prog": f"dogbreed {verb}", "description": _TEXTS[verb]},
            args=list(argv),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options that are neither the trainer's, the model's nor the data's."""
        parser.add_argument(
            "--run_root", default=RUN_ROOT, help="folder or URL in which runs lie (default: runs)"
        )
        parser.add_argument("--name", type=str | None, help="the run's name; by default the time")
        if self.verb == "fit":
            parser.add_argument(
                "--resume",
                type=str | None,
                help="auto (go on if the run exists), last, best, or a checkpoint's path",
            )
        else:
            parser.add_argument("--run", type=str | None, help="the run; by default the newest")
            parser.add_argument(
                "--json", type=bool, default=False, help="print only the scores, as JSON"
            )
            parser.add_argument("--checkpoint", default="best", help="best, last, or a path")
        parser.add_class_arguments(CheckpointOptions, "checkpoints")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; Lightning's own warns when the process has arguments too."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def before_instantiate_classes(self) -> None:
        """Settle what was left open, so that the saved config says all of it."""
        config = self.config
        if config.data.seed is None:
            config.data.seed = int(config.seed_everything)
        expects = preprocessing(config.model.backbone)
        if config.data.image_size is None:
            config.data.image_size = SAMPLE_SIZE if config.data.root is None else expects.size
        if config.data.crop is None:
            config.data.crop = 1.0 if config.data.root is None else expects.crop
        if config.trainer.precision is None:
            config.trainer.precision = _precision(config.trainer.accelerator)
        if self.run is None:
            # Processes that DDP starts run this line again: they must find the same name.
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            config.name = config.name or os.environ.get(_NAME) or f"{stamp}-{config.model.backbone}"
            os.environ[_NAME] = config.name
            self.run = Run(storage.join(storage.normal(config.run_root), config.name))
            if getattr(rank_zero_only, "rank", 0) == 0 and self.run.exists:
                raise BadInput(
                    f"{self.run.url}: there is a run of this name; choose another --name, or go on"
                    " with --resume last"
                )
        write_where_possible(config.trainer.logger, self.run.url)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the callbacks that keep the run's directory."""
        self.config.data.classes = self.datamodule.class_names
        self.model.random_weights_allowed = self.config.data.root is None
        if self.verb == "fit":
            assert self.run is not None
            checkpoints = Checkpoints(self.run, **self.config.checkpoints.as_dict())
            kwargs["callbacks"] = [
                Identity(self.run, self._yaml(), self.resume),
                *(self.config_init.trainer.callbacks or []),
                History(self.run, checkpoints),
                checkpoints,
            ]
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def _yaml(self) -> str:
        config = self.config.clone()
        for transient in ("config", "resume"):
            config.pop(transient, None)
        text: str = self.parser.dump(config, skip_none=False, skip_validation=True)
        return text


class CheckpointOptions:
    """When to save.

    Args:
        monitor: the score that says which checkpoint is best.
        mode: whether its `min` or `max` is best.
        every_n_train_steps: also save that often within an epoch; 0: after validations only.
    """

    def __init__(
        self,
        monitor: str = "val/top1",
        mode: Literal["min", "max"] = "max",
        every_n_train_steps: int = 0,
    ) -> None: ...


_TEXTS = {
    "fit": "Train a model; without --data.root on the embedded synthetic sample.",
    "validate": "Score a run's best checkpoint on split val, with the config it was trained with.",
    "test": "Score a run's best checkpoint on split test, with the config it was trained with.",
}


def _precision(accelerator: str) -> str:
    """bf16 where the GPU computes in it natively, fp16 on other GPUs, fp32 on the CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    major, _ = torch.cuda.get_device_capability()
    return "bf16-mixed" if major >= 8 else "16-mixed"  # Ampere is the first with bf16 units


def _option(argv: Sequence[str], name: str) -> str | None:
    """The last value of `--name` in `argv`, before anything is parsed."""
    value = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == f"--{name}":
            value = following
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
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
    # Lightning 2.6 with torch 2.9 and newer; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")


def fit(argv: Sequence[str]) -> int:
    """Train; returns the exit status."""
    _quiet()
    with contextlib.ExitStack() as stack:
        words = list(argv)
        resume = _option(words, "resume")
        run, checkpoint = _resumed(words, resume) if resume else (None, None)
        if run is not None:
            words = [*stack.enter_context(_saved_config(run)), *words]
        cli = DogCLI("fit", words, run, checkpoint)
        assert cli.run is not None
        path = None
        if checkpoint is not None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "resume.ckpt"
            storage.download(checkpoint, path)
            _same_data(cli, checkpoint)
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=path, weights_only=True)
        except SIGTERMException:
            print(f"ended by SIGTERM; go on with --resume last --name {cli.config.name}")
            return PREEMPTED
        sync_hint(cli.trainer)
    return 130 if cli.trainer.interrupted else 0


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


def _same_data(cli: DogCLI, checkpoint: str) -> None:
    """Going on in the middle of an epoch makes sense on the same data only.

    Raises:
        BadInput: the run was begun on another version of the data.
    """
    run = Run(checkpoint.rsplit("/checkpoints/", 1)[0])
    begun = run.read()["data"]["version"] if run.exists else None
    now = cli.datamodule.manifest.version
    if begun not in {None, now}:
        raise BadInput(
            f"--resume {checkpoint}: begun on version {begun[:12]} of the data, but"
            f" {cli.datamodule.manifest.root} holds {now[:12]}; start from its weights instead:"
            f" --model.weights {run.url}"
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
    given, root = _option(argv, "run"), _option(argv, "run_root")
    run = Run(storage.normal(given)) if given else newest(storage.normal(root or RUN_ROOT))
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_saved_config(run))
        if as_json := _option(argv, "json") is not None:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        own = yaml.safe_load(Path(saved[1]).read_text())["data"]["root"]
        cli = DogCLI(verb, [*saved, "--trainer.logger=false", *_bare_json(argv)], run)
        checkpoint = cli.config.checkpoint
        if checkpoint in {"best", "last"}:
            checkpoint = run.checkpoint(checkpoint)
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "score.ckpt"
        storage.download(checkpoint, path)
        state = torch.load(path, weights_only=True, map_location="cpu")
        cli.model.on_load_checkpoint(state)
        cli.model.load_state_dict(state["state_dict"])
        evaluate = cli.trainer.validate if verb == "validate" else cli.trainer.test
        evaluate(cli.model, cli.datamodule, verbose=False)
        results = cli.model.results[split]
        data = cli.datamodule.manifest
        print(f"{split} of {data.name}: {sentence(results)}; {run.url}, first weights: ", end="")
        print(cli.model.weights_used)
        if cli.config.data.root == own:
            scores = run.record(**{split: results})
            scores = {name: scores[name] for name in ("val", "test") if name in scores}
        else:
            # Figures of other pictures never stand beside the run's own as if they were its.
            others = run.metrics().get("others", {})
            key = f"{data.name}@{data.version[:12]}"
            others[key] = others.get(key, {}) | {split: results}
            run.record(others=others)
            scores = {split: results}
    if as_json:
        print(json.dumps(scores))
    return 0


def _bare_json(argv: list[str]) -> list[str]:
    """`--json` is a switch; jsonargparse's booleans want a value."""
    return ["--json=true" if word == "--json" else word for word in argv]
