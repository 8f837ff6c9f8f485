"""Runs' directories as fit, validate and test leave them, made without training."""

import io
from typing import Any

import numpy as np
import yaml
from PIL import Image

from dogbreed import storage
from dogbreed.data.manifest import Manifest
from dogbreed.evaluate.evaluation import FOLDER, Evaluation, values_of
from dogbreed.runs import Run

ROW = "{epoch},{seen},{rate},{train:.6f},{loss:.6f},{top1:.6f},{top1:.6f},1.000e-03"
HEAD = "epoch,samples_seen,train_images_per_s,train/loss,val/log_loss,train/top1,val/top1,lr/head"


def began(root: str, name: str, **about: Any) -> Run:
    """Make a run that has not got further than its first second."""
    run = Run(storage.join(root, name))
    fields: dict[str, Any] = {
        "name": name,
        "created": "2026-03-01T10:00:00.000001+00:00",
        "state": "running",
        "weights": "none (random)",
        "data": {"name": "tiny", "version": "ab" * 32, "root": f"{root}/none"},
    }
    run.update(**{**fields, **about})
    config = {"model": {"backbone": "test_net", "lr": 0.001}, "data": {"batch_size": 16}}
    storage.write(run.path("config.yaml"), yaml.safe_dump(config).encode())
    return run


def exported(run: Run, name: str = "openvino-int8") -> None:
    """Say what `dogbreed export` would of an engine, with a picture that is wider than a phone."""
    speed = {"images_per_s": {"1": 61.0, "8": 68.4}, "p50_ms": 16.4, "bytes": 11_300_000}
    drop = {"value": 0.0043, "low": -0.0026, "high": 0.012}
    engines = [
        {"name": "torch", "top1": 0.8135, "top1_drop": None} | speed,
        {"name": name, "top1": 0.8092, "top1_drop": drop} | speed,
    ]
    about = {"threads": 1, "split": "val", "engines": engines}
    storage.write_json(run.path("engines.json"), about)
    file = io.BytesIO()
    Image.new("RGB", (900, 600), "white").save(file, "PNG")
    storage.write(run.path("engines.png"), file.getvalue())


def trained(root: str, name: str, top1: float = 0.5, epochs: int = 2, **about: Any) -> Run:
    """Make a run that was validated after each epoch, and whose last epoch scored `top1`."""
    run = began(root, name, **{"state": "done", **about})
    rows = [
        ROW.format(
            epoch=e,
            seen=24 * (e + 1),
            rate=100,
            train=2 - e,
            loss=1.5 - top1 / (epochs - e),
            top1=top1 / (epochs - e),
        )
        for e in range(epochs)
    ]
    storage.write(run.path("metrics.csv"), "\n".join([HEAD, *rows, ""]).encode())
    run.record(val={"top1": top1, "top5": 1.0, "log_loss": 1.5 - top1, "macro_f1": top1, "n": 12})
    return run


def scored(
    root: str, name: str, data: str, splits: tuple[str, ...] = ("val", "test"), skill: float = 1.0,
    **about: Any,
) -> Run:  # fmt: skip
    """Make a run with evaluations of a prepared data set; more `skill`, more right answers."""
    of = Manifest.open(data)
    seen = {"name": of.name, "version": of.version, "root": of.root, "image_size": 32, "crop": 1.0}
    run = trained(root, name, **{"data": seen, **about})
    for split in splits:
        rows = of.rows_of(split)
        labels = of.column("label")[rows].astype(np.int64)
        rng = np.random.default_rng(len(split))
        logits = rng.normal(0, 1, (len(rows), len(of.classes))).astype(np.float32)
        logits[np.arange(len(rows)), labels] += skill
        ids = [row["id"] for row in of.take(rows)]
        made = Evaluation(ids, labels, logits, logits[:, :2], of.classes).fitted()
        run.record(**{split: values_of(made.write(run.path(FOLDER), split, seen))})
    return run
