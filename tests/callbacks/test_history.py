"""What stays of a run beside its scores: the curves, and the package of its best epoch."""

import csv
import io
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dogbreed import package, storage
from dogbreed.callbacks.curves import curves
from dogbreed.cli import main
from dogbreed.runs import Run
from tests.test_training import fit_words, history


def row(epoch: int, samples: int, loss: float, top1: float) -> dict[str, str]:
    scores = {"train/loss": loss, "val/loss": loss + 0.5, "train/top1": top1, "val/top1": top1 / 2}
    place = {"epoch": str(epoch), "samples_seen": str(samples)}
    return place | {name: f"{value:.6f}" for name, value in scores.items()}


def picture(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert opened.format == "PNG"
        return opened.convert("RGB")


def test_curves_of_a_run_are_a_picture(tiny_dataset: str, tmp_path: Path) -> None:
    assert main(fit_words(tiny_dataset, str(tmp_path), "run")) == 0
    drawn = picture((tmp_path / "run/curves.png").read_bytes())
    assert min(drawn.size) > 300


def test_curves_follow_the_rows() -> None:
    rows = [row(0, 50, 2.0, 0.2), row(1, 100, 1.0, 0.5)]
    one, same = (picture(curves(rows, "run")) for _ in range(2))
    assert one.tobytes() == same.tobytes()
    other = picture(curves([rows[0], row(1, 100, 1.5, 0.5)], "run"))
    assert other.size == one.size
    assert other.tobytes() != one.tobytes()


def test_a_single_epoch_can_be_drawn() -> None:
    assert picture(curves([row(0, 50, 2.0, 0.2)], "run"))


def test_what_could_not_be_measured_leaves_a_gap_only() -> None:
    rows = [row(0, 50, float("nan"), 0.2), row(1, 100, 1.0, 0.5)]
    assert picture(curves(rows, "run"))


@pytest.mark.parametrize(
    ("monitor", "mode", "better"), [("top1", "max", max), ("loss", "min", min)]
)
def test_the_package_is_that_of_the_best_epoch(  # type: ignore[no-untyped-def]
    monitor: str, mode: str, better, tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--checkpoints.monitor", f"val/{monitor}")
    words += ["--checkpoints.mode", mode, "--trainer.max_epochs", "6", "--model.lr", "0.02"]
    assert main(words) == 0
    run = Run(f"{tmp_path}/run")
    rows = history(run)
    best = better(rows, key=lambda row: float(row[f"val/{monitor}"]))  # the first of equal ones
    assert best != rows[-1]
    scores = storage.read_json(run.path("evaluation/val.json"))["scores"]
    raw = scores["log_loss_uncalibrated"]["value"]
    assert raw == pytest.approx(float(best["val/log_loss"]), abs=1e-6)
    described = package.read(run.path("model")).model
    assert described["metrics"]["val"] == run.metrics()["val"]
    weights = load_file(tmp_path / "run/model/weights.safetensors")
    for which in ("best", "last"):
        state = torch.load(run.checkpoint(which), weights_only=True)
        equal = [
            torch.equal(state["state_dict"][f"network.body.{name}"], value)
            for name, value in weights.items()
        ]
        assert all(equal) == (which == "best")
        if which == "best":
            assert state["samples_seen"] == int(best["samples_seen"])


def test_a_row_says_how_long_the_epoch_took_and_how_fast_it_was(
    tiny_dataset: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    assert main(fit_words(tiny_dataset, str(tmp_path), "run")) == 0
    whole = time.monotonic() - start
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    assert 0 < sum(float(row["seconds"]) for row in rows) < whole
    assert all(float(row["train_images_per_s"]) > 0 for row in rows)
