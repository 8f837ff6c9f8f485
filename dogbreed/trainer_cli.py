"""The thin LightningCLI: the options of fit, validate and test, and what is built from them."""

import copy
import datetime
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dogbreed import storage
from dogbreed.callbacks.mirror import Mirror
from dogbreed.callbacks.profile import profiler_of
from dogbreed.callbacks.together import callbacks_of
from dogbreed.data.datamodule import SAMPLE_SIZE, DogDataModule
from dogbreed.errors import BadInput
from dogbreed.model.backbone import preprocessing
from dogbreed.model.module import DogModule
from dogbreed.options import AveragingOptions, CheckpointOptions, StoppingOptions
from dogbreed.parser import OneLineErrors
from dogbreed.runs import Run
from dogbreed.tracking import open_loggers, settle

RUN_ROOT = "runs"
NAME_VARIABLE = "DOGBREED_RUN_NAME"


class LightningParser(OneLineErrors, LightningArgumentParser):
    """Parses trainer, model and data."""


class DogCLI(LightningCLI):
    """Parses the options of a verb and builds trainer, module and datamodule.

    Args:
        verb: `fit`, `validate` or `test`.
        argv: the words after it.
        run: where its results go; none: a new run, named by the options.
        resume: the checkpoint that a fit goes on from.
        callbacks: further ones, of this process alone.
    """

    def __init__(
        self,
        verb: str,
        argv: Sequence[str],
        run: Run | None = None,
        resume: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.verb, self.run, self.resume, self.callbacks = verb, run, resume, callbacks
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
            parser.add_argument(
                "--reproduce",
                type=str | None,
                help="train again what this run's directory describes, and compare what comes out",
            )
            parser.add_argument("--notes", type=str | None, help="what the run is for, in words")
            parser.add_argument(
                "--tags",
                type=list[str] | str | None,
                help="words to find the run by, with commas between",
            )
            parser.add_argument(
                "--find",
                type=Literal["lr", "batch_size"] | None,
                help="in place of a run: the rate at which the loss falls fastest, with a picture,"
                " or the batch size from which on larger ones are hardly faster",
            )
        else:
            parser.add_argument("--run", type=str | None, help="the run; by default the newest")
            parser.add_argument(
                "--json", type=bool, default=False, help="print only the scores, as JSON"
            )
            parser.add_argument("--checkpoint", default="best", help="best, last, or a path")
            parser.add_argument(
                "--corruptions",
                type=NonNegativeInt,
                default=0,
                metavar="[N]",
                help="also top-1 on N of the pictures (1000), each made worse in 40 ways",
            )
        parser.add_class_arguments(CheckpointOptions, "checkpoints")
        parser.add_class_arguments(AveragingOptions, "ema")
        parser.add_class_arguments(StoppingOptions, "early_stopping")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; Lightning's own warns when the process has arguments too."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def before_instantiate_classes(self) -> None:
        """Settle what was left open, so that the saved config says all of it."""
        config = self.config
        if config.trainer.max_epochs == 0:
            raise BadInput("--trainer.max_epochs 0: there is nothing to train")
        if config.data.seed is None:
            config.data.seed = int(config.seed_everything)
        if config.data.root is not None and storage.is_local(config.data.root):
            config.data.root = os.path.abspath(storage.normal(config.data.root))
        _check(config)
        expects = preprocessing(config.model.backbone)
        if config.data.image_size is None:
            sample = config.data.root is None and not expects.fixed
            config.data.image_size = SAMPLE_SIZE if sample else expects.size
        for name in ("image_size", "eval_size"):
            size = config.data[name]
            if expects.fixed and size not in {None, expects.size}:
                raise BadInput(
                    f"--data.{name} {size}: {config.model.backbone} takes {expects.size} pixels"
                    " only"
                )
        if config.data.crop is None:
            config.data.crop = 1.0 if config.data.root is None else expects.crop
        if config.trainer.precision is None:
            config.trainer.precision = _precision(config.trainer.accelerator)
        if self.run is None:
            # Processes that DDP starts run this line again: they must find the same name.
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            config.name = (
                config.name or os.environ.get(NAME_VARIABLE) or f"{stamp}-{config.model.backbone}"
            )
            os.environ[NAME_VARIABLE] = config.name
            self.run = Run(storage.join(storage.normal(config.run_root), config.name))
            # None of several processes writes before all have come past here.
            if self.run.exists:
                raise BadInput(
                    f"{self.run.url}: there is a run of this name; choose another --name, or go on"
                    " with --resume last"
                )
        said = {"notes": config.get("notes"), "reproduces": config.get("reproduce")}
        said["tags"] = _words(config.get("tags"))
        self.said = {name: value for name, value in said.items() if value}
        if config.get("find"):
            config.trainer.logger = False  # there is no run to tell of
        # What is settled is this run's own: a config that another run starts from has none of it.
        self.loggers = copy.deepcopy(config.trainer.logger)
        self.mirrored: dict[str, str] = {}
        if self.verb == "fit" and getattr(rank_zero_only, "rank", 0) == 0:
            self.mirrored = settle(config.trainer.logger, self.run, self.said)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the callbacks that keep the run's directory."""
        self.config.data.classes = self.datamodule.class_names
        self.model.random_weights_allowed = self.config.data.root is None
        kwargs["callbacks"] = list(self.config_init.trainer.callbacks or [])
        if self.config.trainer.enable_progress_bar:
            # Left alone, Lightning chooses by what happens to be installed.
            kwargs["callbacks"].append(TQDMProgressBar())
        if self.verb == "fit":
            assert self.run is not None
            if self.config.model.compile:
                _see_that_it_compiles()
            kwargs["callbacks"] += callbacks_of(
                self.run, self.config, self._yaml(), self.resume, self.said, self.callbacks
            )
            kwargs["callbacks"] += [Mirror(*places) for places in self.mirrored.items()]
            if isinstance(self.config.trainer.profiler, str):
                kwargs["profiler"] = profiler_of(self.config.trainer.profiler)
        try:
            trainer: Trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, ImportError) as error:  # a missing GPU, say
            raise BadInput("--trainer: " + " ".join(str(error).split())) from error
        if self.callbacks and trainer.world_size > 1:
            raise BadInput(
                f"--trainer.devices: a trial is a single process, not {trainer.world_size};"
                " --processes runs several trials at once"
            )
        open_loggers(trainer)
        return trainer

    def _yaml(self) -> str:
        config = self.config.clone()
        for transient in ("config", "resume", "find", "notes", "tags", "reproduce"):
            config.pop(transient, None)
        config.trainer.logger = self.loggers
        text: str = self.parser.dump(config, skip_none=False, skip_validation=True)
        return text


_TEXTS = {
    "fit": "Train a model; without --data.root on the embedded synthetic sample.",
    "validate": "Score a run's best checkpoint on split val, with the config it was trained with.",
    "test": "Score a run's best checkpoint on split test, with the config it was trained with.",
}


def _words(given: list[str] | str | None) -> list[str]:
    """Each once, without blanks around."""
    words = given.split(",") if isinstance(given, str) else given or []
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))


def _check(config: Any) -> None:
    """Refuse values that make no sense. Raises BadInput."""
    if not 0 <= config.ema.decay < 1:
        raise BadInput(f"--ema.decay {config.ema.decay}: must be at least 0 and below 1")
    if config.early_stopping.patience < 0:
        raise BadInput(
            f"--early_stopping.patience {config.early_stopping.patience}: must be 0 (off) or more"
        )


def _see_that_it_compiles() -> None:
    """Compile something small. Raises BadInput where there is no C++ compiler, say."""
    try:
        torch.compile(torch.nn.Linear(1, 1))(torch.ones(1, 1))
    except Exception as error:  # dynamo's, inductor's, triton's or the C++ compiler's
        line = " ".join(str(error).split())[:160]
        raise BadInput(
            "--model.compile true: torch.compile does not work on this machine (is there a C++"
            f" compiler?): {line}"
        ) from None


def _precision(accelerator: str) -> str:
    """bf16 where the GPU computes in it natively, fp16 on other GPUs, fp32 on the CPU."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    major, _ = torch.cuda.get_device_capability()
    return "bf16-mixed" if major >= 8 else "16-mixed"  # Ampere is the first with bf16 units
