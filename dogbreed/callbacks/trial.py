"""Tells a tuning service how well a trial does."""

import json
import os
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed.model.module import DogModule

_FILE = "CLOUD_ML_HP_METRIC_FILE"
_USUAL_FILE = "/tmp/hypertune/output.metrics"


def is_trial() -> bool:
    """Whether this process is a trial of Vertex AI's hyperparameter tuning."""
    return bool({"CLOUD_ML_TRIAL_ID", _FILE} & set(os.environ))


class Trial(Callback):
    """Appends a line of JSON for each validation to the file that Vertex AI reads.

    The form is that of https://github.com/GoogleCloudPlatform/cloudml-hypertune.

    Args:
        monitor: the score to tell; a tuning job names it with `_` for `/`: `val_top1`.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.file = Path(os.environ.get(_FILE) or _USUAL_FILE)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a line."""
        assert isinstance(pl_module, DogModule)
        score = trainer.callback_metrics.get(self.monitor)
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not fitting or not trainer.is_global_zero or score is None:
            return
        line = {
            "timestamp": time.time(),
            "trial": os.environ.get("CLOUD_ML_TRIAL_ID", "0"),
            self.monitor.replace("/", "_"): str(float(score)),
            "global_step": str(trainer.global_step),
            "checkpoint_path": "",
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
