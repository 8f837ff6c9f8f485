"""What every logger gets beside the module's own: settings, rates, and the samples seen."""

from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed.model.module import DogModule
from dogbreed.runs import Run


class Logged(Callback):
    """Logs all settings, with each batch the rate of each group, with each score the samples seen.

    Args:
        run: the run's directory; its run.json is written before a fit starts.
        config: all settings, as YAML.
    """

    def __init__(self, run: Run, config: str) -> None:
        self.run, self.config = run, config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the settings, and what run.json knows: versions of code and data, weights, device."""
        if not (trainer.is_global_zero and trainer.loggers):
            return
        settings: dict[str, Any] = yaml.safe_load(self.config)
        settings["data"].pop("classes")
        settings["run"] = {"url": self.run.place, **self.run.read()}
        settings["run"].pop("state")  # it will not stay so
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the rates that the step is taken with."""
        if trainer.loggers:
            pl_module.log_dict({f"lr/{name}": rate for name, rate in rates(trainer).items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the samples seen beside the epoch's means."""
        self._log_samples(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the samples seen beside the scores."""
        if trainer.state.fn == "fit":
            self._log_samples(pl_module)

    def _log_samples(self, module: LightningModule) -> None:
        assert isinstance(module, DogModule)
        # Equal in all processes; without sync_dist Lightning would warn.
        module.log("samples_seen", float(module.samples_seen), sync_dist=True)


def rates(trainer: Trainer) -> dict[str, float]:
    """Learning rate of each part of the network, by its name.

    A part may have a group that decays and one that does not; their rates are the same.
    """
    groups = trainer.optimizers[0].param_groups
    return {group["name"].removesuffix("_no_decay"): group["lr"] for group in groups}
