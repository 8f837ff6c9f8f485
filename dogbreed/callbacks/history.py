"""Writes what each epoch scored, and at the end the model package of the best one."""

import csv
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save

from dogbreed import package, storage
from dogbreed.callbacks.checkpoint import Checkpoints
from dogbreed.callbacks.curves import curves
from dogbreed.callbacks.logged import rates
from dogbreed.callbacks.throughput import Spent, Throughput
from dogbreed.data.datamodule import DogDataModule, data_of
from dogbreed.evaluate.evaluation import FOLDER, Evaluation, sentence, values_of
from dogbreed.model.backbone import preprocessing
from dogbreed.model.module import DogModule
from dogbreed.monitor.reference import Reference
from dogbreed.runs import CURVES_FILE, HISTORY_FILE, Run


class History(Callback):
    """A line on the terminal and a row in metrics.csv for each validation.

    The rows are kept here and written as a whole: a bucket knows no appending.

    Args:
        run: the run's directory.
        checkpoints: knows the best one.
        throughput: knows how fast training went.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, throughput: Throughput) -> None:
        self.run, self.checkpoints, self.throughput = run, checkpoints, throughput
        self.rows: list[dict[str, Any]] = []
        self._since = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the rows of a resumed run, up to where its checkpoint stands."""
        assert isinstance(pl_module, DogModule)
        path = self.run.path(HISTORY_FILE)
        if trainer.is_global_zero and trainer.ckpt_path and storage.exists(path):
            rows = csv.DictReader(io.StringIO(storage.read(path).decode()))
            self.rows = [r for r in rows if int(r["samples_seen"]) <= pl_module.samples_seen]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also for a validation that a resumed run has to catch up with."""
        self._since = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row."""
        assert isinstance(pl_module, DogModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        train, skipped = pl_module.train_results(), pl_module.skipped_so_far()
        if not trainer.is_global_zero:
            return
        spent = self.throughput.epoch
        rate = spent.images_per_s * trainer.world_size
        val = pl_module.results["val"] | {"loss": float(trainer.callback_metrics["val/loss"])}
        epoch = (pl_module.samples_seen - 1) // data_of(trainer).train_size
        row: dict[str, Any] = {
            "epoch": epoch,
            "samples_seen": pl_module.samples_seen,
            "seconds": f"{time.monotonic() - self._since:.2f}",
            "train_images_per_s": f"{rate:.1f}",
            "waiting": f"{spent.waiting:.4f}",
            "cache_hits": f"{spent.cache_hits:.4f}",
            "fetched_mb": f"{spent.bytes / 1e6:.1f}",
            "skipped": skipped,
        }
        row |= {f"train/{name}": f"{value:.6f}" for name, value in train.items()}
        row |= {f"val/{k}": v if k == "n" else f"{v:.6f}" for k, v in val.items()}
        row |= {f"lr/{part}": f"{rate:.3e}" for part, rate in rates(trainer).items()}
        self.rows.append(row)
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        line = (
            f"epoch {epoch + 1}/{epochs}  {pl_module.samples_seen:,} samples"
            f"  {rate:.0f} images/s{_hint(spent)}"
            f"  train loss {train['loss']:.3f}, top-1 {train['top1']:.3f}"
            f"  val log-loss {val['log_loss']:.3f}, top-1 {val['top1']:.3f}"
        )
        if trainer.progress_bar_callback:
            trainer.progress_bar_callback.print(line)  # above the bar
        else:
            print(line, flush=True)
        self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        storage.write(self.run.path(HISTORY_FILE), text.getvalue().encode())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write curves, metrics.json and the model package, and say what to type next."""
        assert isinstance(pl_module, DogModule)
        if not trainer.is_global_zero:
            return
        if not self.checkpoints.best_results:
            print(
                f"the run lies in {self.run.url}; without a validation there is no best checkpoint"
            )
            return
        answered = self.checkpoints.best_answered
        assert answered is not None
        data, name = data_of(trainer), self.run.url.rsplit("/", 1)[-1]
        title = f"{name}: {pl_module.backbone} on {data.manifest.name}"
        storage.write(self.run.path(CURVES_FILE), curves(self.rows, title))
        evaluation = answered.evaluation(data).fitted()
        report = evaluation.write(self.run.path(FOLDER), "val", data.seen())
        results = values_of(report)
        folder, weights = self.run.path(package.FOLDER), self._best_weights(pl_module)
        description = describe(pl_module, data) | {
            "temperature": evaluation.calibration.temperature,
            "platt": evaluation.calibration.platt,
            "run": name,
            "metrics": self.run.record(val=results),
            "reference": _reference(folder, data, answered.rows, evaluation),
        }
        package.write(folder, description, weights, {"val": report}, evaluation.rejection)
        print(f"validation of {data.manifest.name}: {sentence(report)}")
        print(f"first weights: {pl_module.weights_used}")
        print(f"the run lies in {self.run.url}; next: dogbreed test --run {self.run.url}")

    def _best_weights(self, module: DogModule) -> bytes:
        """The best checkpoint's network as safetensors."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "best.ckpt"
            storage.download(self.run.checkpoint("best"), path)
            state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        prefix = "network.body."
        return save(
            {
                name.removeprefix(prefix): value.contiguous()
                for name, value in state.items()
                if name.startswith(prefix)
            }
        )


def _hint(spent: Spent) -> str:
    """What a user could do about the speed, if it is the data that is waited for."""
    if spent.limit == "model":
        return ""
    return f" ({spent.waiting:.0%} of the time waiting: {spent.limit} is the limit)"


def _reference(
    folder: str, data: DogDataModule, rows: np.ndarray, evaluation: Evaluation
) -> dict[str, Any] | None:
    """Keep what the validation pictures were like; what model.json says of it."""
    places = data.manifest.ranges(data.manifest.take(rows))
    try:
        made = Reference.of(evaluation, places, data.eval_size, data.crop)
    except storage.StorageError as error:
        print(f"no statistics of the validation pictures, which drift would want: {error}")
        return None
    return made.write(folder, data.class_names)


def describe(module: DogModule, data: DogDataModule) -> dict[str, Any]:
    """The fields of model.json that follow from the model and its data."""
    expects = preprocessing(module.backbone)
    known = {entry["name"]: entry for entry in data.manifest.dataset["classes"]}
    return {
        "backbone": module.backbone,
        "classes": [known.get(name, {"name": name}) for name in module.class_names],
        "preprocessing": {
            "size": data.eval_size,
            "crop": data.crop,
            "mean": expects.mean,
            "std": expects.std,
            "flip": module.network.flip,
        },
        "pretraining": module.weights_used,
        "data": {"name": data.manifest.name, "version": data.manifest.version},
    }
