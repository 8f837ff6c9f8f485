"""Weights & Biases: axes, where the run came from, what came of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed import breeds, package, storage
from dogbreed.callbacks.checkpoint import Checkpoints
from dogbreed.data.datamodule import DogDataModule, data_of
from dogbreed.data.manifest import DATASET_FILE, MANIFEST_FILE
from dogbreed.evaluate.evaluation import FOLDER
from dogbreed.evaluate.figures import TITLES, lower_is_better
from dogbreed.model.module import DogModule
from dogbreed.runs import Run
from dogbreed.tracking import wandb_runs


class WandbRun(Callback):
    """Says against what each value is drawn, links data and model, and ends with charts.

    Args:
        run: the run's directory, which keeps the W&B run's id.
        checkpoints: knows the best one.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints) -> None:
        self.run, self.checkpoints = run, checkpoints

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the id, so that a resumed run goes on in the same W&B run; define the axes."""
        if stage != "fit":
            return
        for run in wandb_runs(trainer):
            self.run.update(wandb={"id": run.id, "project": run.project})
            define_axes(run)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Link the data; let rows of a run that goes on stand behind those that it has."""
        assert isinstance(pl_module, DogModule)
        for run in wandb_runs(trainer):
            if run.offline:
                # The server would know the last step. No step exceeds the samples seen, so that
                # rows are overwritten only where a run goes on from before the place of its end.
                run.log({}, step=pl_module.samples_seen, commit=False)
            manifest = data_artifact(data_of(trainer))
            if run.offline:  # where W&B takes no inputs, it stands among the outputs
                run.log_artifact(manifest)
            else:
                run.use_artifact(manifest)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put state and the kept checkpoint's scores into the summary; add charts and the model."""
        for run in wandb_runs(trainer):
            self._summarise(run)
            if not self.checkpoints.best_results:
                continue
            report = storage.read_json(self.run.path(FOLDER, "val.json"))
            for name, score in report["scores"].items():
                run.summary[f"best/val/{name}"] = score["value"]
            run.log(charts(report, self.run.path(FOLDER, "val.parquet"), data_of(trainer)))
            run.log_artifact(model_artifact(self.run), aliases=["latest", "best"])

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The summary knows how it ended, and the best so far."""
        for run in wandb_runs(trainer):
            self._summarise(run)

    def _summarise(self, run: Any) -> None:
        best = self.checkpoints.best_results
        run.summary.update({f"best/val/{name}": value for name, value in best.items()})
        run.summary["state"] = self.run.read()["state"]  # W&B's own knows no preempted, no pruned


def define_axes(run: Any) -> None:
    """Draw batches against samples seen and epochs against epochs; keep each score's best."""
    for axis in ("samples_seen", "epoch"):
        run.define_metric(axis)
    run.define_metric("*", step_metric="samples_seen", step_sync=True)
    for name in [*TITLES, "loss"]:
        best = "min" if lower_is_better(f"val/{name}") or name == "loss" else "max"
        run.define_metric(f"val/{name}", step_metric="epoch", summary=f"{best},last")
    for name in ("train/loss", "train/top1"):
        run.define_metric(name, step_metric="epoch")


def data_artifact(data: DogDataModule) -> wandb.Artifact:
    """The data set by reference: W&B learns where its manifest lies and its version."""
    manifest = data.manifest
    about = {"version": manifest.version, "root": manifest.root, "classes": len(manifest.classes)}
    artifact = wandb.Artifact(_name(manifest.name), "dataset", metadata=about)
    # Of a file in a bucket the reference alone says nothing of the content.
    with artifact.new_file("version.txt") as file:
        file.write(manifest.version)
    for name in (MANIFEST_FILE, DATASET_FILE):
        _refer(artifact, storage.join(manifest.root, name), name)
    return artifact


def model_artifact(run: Run) -> wandb.Artifact:
    """The model package by reference; its model.json, which is small, goes along."""
    folder = run.path(package.FOLDER)
    model = storage.read_json(storage.join(folder, package.MODEL_FILE))
    about = {name: model[name] for name in ("backbone", "pretraining", "data", "metrics")}
    artifact = wandb.Artifact(
        _name(f"{run.url.rsplit('/', 1)[-1]}-model"), "model", metadata={**about, "run": run.place}
    )
    for name, _ in storage.find(folder):
        if name == package.MODEL_FILE:
            with artifact.new_file(name, "wb") as file:
                file.write(storage.read(storage.join(folder, name)))
        else:
            _refer(artifact, storage.join(folder, name), name)
    return artifact


def _refer(artifact: wandb.Artifact, url: str, name: str) -> None:
    local = storage.is_local(url)
    # In a bucket W&B would ask with a client and credentials of its own.
    artifact.add_reference(Path(url).absolute().as_uri() if local else url, name, checksum=local)


def _name(text: str) -> str:
    """`text` as W&B takes an artifact's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)[:128]


def charts(report: dict[str, Any], table: str, data: DogDataModule) -> dict[str, Any]:
    """Confusion matrix and reliability curve of the validation pictures.

    Args:
        report: what evaluation/val.json says.
        table: URL of evaluation/val.parquet.
        data: names the classes.
    """
    import io

    names = [breeds.title(name) for name in data.class_names]
    rows = pq.read_table(io.BytesIO(storage.read(table)), columns=["label", "predicted"])
    pairs = np.stack([rows[name].to_numpy() for name in ("label", "predicted")], axis=1)
    # W&B's own asks for all classes², most of them zero, and cuts off what exceeds 10,000 rows.
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    filled = [
        [names[true], names[predicted], int(n)]
        for (true, predicted), n in zip(cells, counts, strict=True)
    ]
    confusion = wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns, filled),
        {str(column): column for column in columns},
        {"title": "Confusion matrix"},
    )
    curves = {
        name: [(b["confidence"], b["accuracy"]) for b in report[key] if b["n"]]
        for name, key in (
            ("calibrated", "reliability"),
            ("without", "reliability_uncalibrated"),
        )
    } | {"ideal": [(0.0, 0.0), (1.0, 1.0)]}
    reliability = wandb.plot.line_series(
        xs=[[x for x, _ in points] for points in curves.values()],
        ys=[[y for _, y in points] for points in curves.values()],
        keys=list(curves),
        title="Reliability: share of right answers",
        xname="probability shown",
    )
    return {"val/confusion": confusion, "val/reliability": reliability}
