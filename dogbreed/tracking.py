"""Where loggers write: Weights & Biases without an account, and TensorBoard in a job."""

import os
import tempfile
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from dogbreed.storage import is_local


def write_where_possible(logger: Any, run_url: str) -> None:
    """Settle where W&B and TensorBoard write, and keep W&B offline if there is no key.

    Args:
        logger: the parsed `--trainer.logger`; its options are filled in.
        run_url: the run's directory; W&B writes there if it is local.
    """
    for entry in logger if isinstance(logger, list) else [logger]:
        kind = str(getattr(entry, "class_path", ""))
        if "TensorBoardLogger" in kind and is_local(entry.init_args.save_dir):
            # In a job of Vertex AI the local disk is lost at the end.
            options = entry.init_args
            options.save_dir = os.environ.get("AIP_TENSORBOARD_LOG_DIR") or options.save_dir
        if "WandbLogger" not in kind:
            continue
        import wandb  # takes a second

        options = entry.init_args
        if options.save_dir in {None, "."} and "WANDB_DIR" not in os.environ:
            options.save_dir = (
                run_url if is_local(run_url) else tempfile.mkdtemp(prefix="dogbreed-wandb-")
            )
            os.makedirs(options.save_dir, exist_ok=True)
        decided = options.offline or "WANDB_MODE" in os.environ
        if not decided and not wandb.login(prompt=False):
            # Not `offline`: Lightning sets the environment for it, which login has read by now.
            entry.dict_kwargs = {**entry.get("dict_kwargs", {}), "mode": "offline"}
            print("W&B: no key found, so the run is kept offline")


def sync_hint(trainer: Trainer) -> None:
    """After an offline run: the line that uploads it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            import wandb

            run = logger.experiment
            folder, offline = str(run.dir).removesuffix("/files"), run.offline
            wandb.finish()
            if offline:
                print(f"W&B: upload this run with: wandb sync {folder}")
