"""The model card: what the Hub reads of it, and what a person does."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dogbreed import package, storage
from dogbreed.breeds import SYNSETS
from dogbreed.evaluate.card import card, renew
from dogbreed.runs import Run

MODEL: dict[str, Any] = {
    "run": "brave-beagle",
    "backbone": "mobilenetv3_large_100",
    "classes": [{"name": name} for name in list(SYNSETS)[:4]],
    "preprocessing": {"size": 224, "crop": 0.875},
    "data": {"name": "dogs", "version": "0123456789abcdef" * 4},
    "pretraining": "imagenet: timm/mobilenetv3_large_100.ra_in1k",
    "temperature": 1.25,
    "rejection": {"score": "max_probability", "threshold": -0.125, "keeps": 0.95},
    "metrics": {"val": {"top1": 0.75, "log_loss": 1.0, "n": 40}},
}
SUMMARY: dict[str, Any] = {
    "n": 80,
    "scores": {
        "top1": {"value": 0.7, "low": 0.65, "high": 0.75},
        "ece": {"value": 0.015, "low": 0.01, "high": 0.03},
        "ece_uncalibrated": {"value": 0.09, "low": 0.07, "high": 0.11},
    },
}


def test_the_hub_reads_scores_data_set_and_version() -> None:
    read = ModelCard(card(MODEL, MODEL["metrics"], {"test": SUMMARY})).data
    assert read.library_name == "timm"
    assert read.pipeline_tag == "image-classification"
    assert read.base_model == "timm/mobilenetv3_large_100.ra_in1k"
    assert read.model_name == "brave-beagle"
    found = {
        (of.dataset_split, of.metric_type): (of.metric_value, of.dataset_name, of.dataset_revision)
        for of in read.eval_results
    }
    about = ("dogs", "0123456789abcdef" * 4)
    assert found == {
        ("val", "accuracy"): (0.75, *about),
        ("val", "log_loss"): (1.0, *about),
        ("test", "accuracy"): (0.7, *about),
        ("test", "expected_calibration_error"): (0.015, *about),
    }


def test_it_says_what_the_scores_are_worth() -> None:
    text = card(MODEL, MODEL["metrics"], {"test": SUMMARY})
    for words in (
        "0.700 (0.650 to 0.750)",
        "| pictures | 40 | 80 |",
        "temperature of 1.25",
        "ECE on test is 0.0150, without them 0.0900",
        "rejection score (max probability) lies above -0.125",
        "keeps 95% of the validation pictures",
        "4 of the 4 breeds are classes of ImageNet-1k",
        "Chihuahua, Japanese Spaniel",
        "dogbreed predict --model",
    ):
        assert words in text


def test_a_model_of_the_sample_is_of_no_use_on_photographs_and_says_so() -> None:
    made = {"data": {"name": "synthetic-breeds", "version": "0" * 64}, "rejection": None}
    text = card(MODEL | made | {"pretraining": "none (random)"}, {}, {})
    for words in ("no use on photographs", "Not measured", "names a breed for any picture"):
        assert words in text
    assert "classes of ImageNet" not in text


@pytest.mark.parametrize("name", ["<script>x</script>", "a: [b", "x\n---\ny", "a|b", "*a*_b_ #"])
def test_names_break_neither_metadata_nor_text(name: str) -> None:
    data = {"name": name, "version": "0" * 64}
    made = card(MODEL | {"run": name, "data": data, "classes": [{"name": name}]}, {}, {})
    text = card(MODEL | {"run": name, "data": data}, MODEL["metrics"], {})
    assert "<script>" not in made.split("---", 2)[2]
    read = ModelCard(text).data
    assert read.model_name == name
    assert {of.dataset_name for of in read.eval_results} == {name}


def test_it_is_renewed_from_what_the_run_knows_now(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    renew(run)
    assert not list(tmp_path.iterdir())
    package.write(run.path("model"), MODEL, b"weights")
    run.record(val=MODEL["metrics"]["val"], test={"top1": 0.7, "n": 80})
    storage.write_json(run.path("evaluation/test.json"), SUMMARY)
    renew(run)
    text = storage.read(run.path("model/README.md")).decode()
    assert "| top-1 | 0.750 | 0.700 (0.650 to 0.750) |" in text
