"""Weights & Biases without an account: where it writes, and how to sync later."""

import os
import tempfile
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from dogbreed.storage import is_local


def _asked_for(logger: Any) -> bool:
    entries = logger if isinstance(logger, list) else [logger]
    return any("WandbLogger" in str(getattr(entry, "class_path", "")) for entry in entries)


def write_where_possible(logger: Any, run_url: str) -> None:
    """Before W&B starts: offline if there is no key, and into the run's folder if that is local.

    Args:
        logger: the parsed `--trainer.logger`.
        run_url: the run's directory.
    """
    if not _asked_for(logger):
        return
    folder = run_url if is_local(run_url) else tempfile.mkdtemp(prefix="dogbreed-wandb-")
    os.makedirs(folder, exist_ok=True)
    os.environ.setdefault("WANDB_DIR", folder)
    if not os.environ.get("WANDB_API_KEY") and "WANDB_MODE" not in os.environ:
        import wandb

        if wandb.api.api_key is None:
            os.environ["WANDB_MODE"] = "offline"
            print("W&B: no key found, so the run is kept offline")


def sync_hint(trainer: Trainer) -> None:
    """After an offline run: the line that uploads it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            import wandb

            run = logger.experiment
            folder = str(run.dir).removesuffix("/files")
            offline = run.settings.mode == "offline" or run.settings._offline
            wandb.finish()
            if offline:
                print(f"W&B: upload this run with: wandb sync {folder}")
