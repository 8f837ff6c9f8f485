"""What fit, validate and test write of their answers: scores, and a row for each picture."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.data.manifest import Manifest
from dogbreed.engine import TorchEngine
from dogbreed.evaluate.evaluation import SCHEMA, values_of
from dogbreed.runs import Run
from tests.test_training import fit_words

SCORES = {"top1", "top5", "macro_f1", "log_loss", "ece"}


def read(run: Run, split: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The report, and the columns of the table."""
    report = json.loads(storage.read(run.path("evaluation", f"{split}.json")))
    table = pq.read_table(io.BytesIO(storage.read(run.path("evaluation", f"{split}.parquet"))))
    assert table.schema.equals(SCHEMA)
    return report, table.to_pydict()


@pytest.fixture(scope="module")
def run(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run whose answers differ, and test it; for reading only."""
    root = str(tmp_path_factory.mktemp("runs"))
    words = fit_words(tiny_dataset, root, "run", "--model.lr", "0.02", "--model.warmup", "0.01")
    words += ["--checkpoints.monitor", "val/macro_f1"]  # not one answer for all
    assert main([*words, "--trainer.max_epochs", "8"]) == 0
    assert main(["test", "--run", f"{root}/run"]) == 0
    return Run(f"{root}/run")


@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_and_rows_agree_with_one_another_and_with_the_data(
    split: str, run: Run, tiny_dataset: str
) -> None:
    report, rows = read(run, split)
    data = Manifest.open(tiny_dataset)
    taken = data.take(data.rows_of(split))
    assert rows["id"] == [row["id"] for row in taken]
    assert rows["label"] == [row["label"] for row in taken]
    label, predicted = np.array(rows["label"]), np.array(rows["predicted"])
    scores = {name: score["value"] for name, score in report["scores"].items()}
    assert set(scores) == SCORES | {"log_loss_uncalibrated", "ece_uncalibrated"}
    assert scores["top1"] == pytest.approx((label == predicted).mean())
    assert scores["log_loss"] == pytest.approx(-np.log(rows["true_probability"]).mean(), rel=1e-4)
    assert all(s["low"] <= s["value"] <= s["high"] for s in report["scores"].values())
    for five, shares, probability, best in zip(
        rows["top5"], rows["top5_probability"], rows["probability"], predicted, strict=True
    ):
        assert sorted(five) == [0, 1, 2, 3]  # all four, for there are no five
        assert (five[0], shares[0]) == (best, probability)
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert report["split"] == split
    assert report["n"] == len(taken) == sum(row["n"] for row in report["reliability"])
    assert report["data"]["version"] == data.version
    assert values_of(report) == run.metrics()[split]
    threshold = report["rejection"]["threshold"]
    assert rows["rejected"] == [score > np.float32(threshold) for score in rows["reject_score"]]
    assert report["rejection"]["rejected"] == pytest.approx(np.mean(rows["rejected"]))


def test_breeds_have_precision_recall_and_f1_and_confused_pairs_are_counted(run: Run) -> None:
    report, rows = read(run, "test")
    with np.errstate(invalid="ignore"):
        expected = precision_recall_fscore_support(
            rows["label"], rows["predicted"], labels=range(4), zero_division=0
        )
    for k, breed in enumerate(report["per_breed"]):
        got = [breed["precision"] or 0, breed["recall"], breed["f1"], breed["n"]]
        assert got == pytest.approx([column[k] for column in expected])
    names = [breed["name"] for breed in report["per_breed"]]
    wrong = [
        (names[a], names[b])
        for a, b in zip(rows["label"], rows["predicted"], strict=True)
        if a != b
    ]
    pairs = {(pair["true"], pair["predicted"]): pair["n"] for pair in report["confused"]}
    assert pairs == {pair: wrong.count(pair) for pair in wrong}
    assert wrong
    counts = [pair["n"] for pair in report["confused"]]
    assert counts == sorted(counts, reverse=True)


def test_the_calibration_and_threshold_of_the_package_are_those_of_validation(run: Run) -> None:
    model = package.read(run.path("model"))
    val, rows = read(run, "val")
    test, _ = read(run, "test")
    assert model.rejection is not None
    for report in (val, test):
        assert report["temperature"] == model.calibration.temperature
        assert report["platt"] == model.calibration.platt
        assert report["rejection"]["threshold"] == model.rejection.threshold
    assert 1 not in (model.calibration.temperature, model.calibration.slope)
    assert val["scores"]["log_loss"]["value"] <= val["scores"]["log_loss_uncalibrated"]["value"]
    kept = 1 - np.mean(rows["rejected"])
    assert kept == pytest.approx(0.95, abs=1 / len(rows["id"]))


def test_validate_says_again_what_fit_said(run: Run) -> None:
    before = read(run, "val")
    storage.remove([run.path("evaluation", "val.json")])
    assert main(["validate", "--run", run.url]) == 0
    report, rows = read(run, "val")
    assert report.pop("data").items() >= before[0].pop("data").items()
    assert rows["predicted"] == before[1]["predicted"]
    assert rows["reject_score"] == pytest.approx(before[1]["reject_score"], abs=2e-3)
    for name, score in report["scores"].items():
        assert score == pytest.approx(before[0]["scores"][name], rel=1e-4, abs=1e-6)


def test_the_package_answers_as_the_evaluation_says(run: Run, tiny_dataset: str) -> None:
    _, rows = read(run, "test")
    source = package.read(run.path("model"))
    from dogbreed.data.dataset import PictureDataset

    data = Manifest.open(tiny_dataset)
    pictures = PictureDataset(
        data, np.arange(4), size=32, crop=source.model["preprocessing"]["crop"]
    )
    images = [pictures[row]["image"][0].permute(1, 2, 0) for row in data.rows_of("test")]
    answers = TorchEngine(source, "cpu").answer(torch.stack(images).numpy(), heat=True)
    assert answers.probabilities.max(1) == pytest.approx(rows["probability"], abs=1e-4)
    assert answers.reject_score == pytest.approx(rows["reject_score"], abs=2e-3)
    assert answers.heat is not None
    assert len(answers.heat) == len(images)


def test_a_resumed_run_has_the_evaluation_of_the_best_epoch_before_it(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.max_epochs")
    assert main([*words, "1"]) == 0
    run = Run(f"{tmp_path}/run")
    before = read(run, "val")
    for name in ("val.json", "val.parquet"):
        storage.remove([run.path("evaluation", name)])
    checkpoint = torch.load(run.checkpoint("last"), weights_only=True)
    state = next(v for k, v in checkpoint["callbacks"].items() if "Checkpoints" in k)
    state["best"] = math.inf  # so that the second epoch is not the best
    torch.save(checkpoint, run.checkpoint("last"))
    assert main([*words, "2", "--resume", "last"]) == 0
    assert read(run, "val") == before
