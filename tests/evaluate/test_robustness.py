"""Pictures made worse, and how a model answers them."""

import json
from pathlib import Path

import numpy as np
import pytest

from dogbreed import scoring, storage
from dogbreed.cli import main
from dogbreed.evaluate import robustness
from dogbreed.evaluate.corruptions import CORRUPTIONS, UNITS
from dogbreed.runs import Run
from tests.conftest import smooth_picture
from tests.test_training import fit_words


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, 15, (64, 64, 3))
    return np.clip(np.asarray(smooth_picture(64, 64)) + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_further_from_the_picture_and_always_the_same(
    name: str, picture: np.ndarray
) -> None:
    change, strengths = CORRUPTIONS[name]
    before = picture.copy()
    seen = [change(picture, strength) for strength in strengths]
    assert all(of.shape == picture.shape and of.dtype == np.uint8 for of in seen)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(seen[2], change(picture, strengths[2]))
    if name != "rotation":  # turned further is not always further in pixels
        apart = [np.abs(of.astype(float) - picture).mean() for of in seen]
        assert apart == sorted(apart)
        assert apart[0] > 0.1
    assert UNITS[name]


def test_a_quarter_turn_is_one(picture: np.ndarray) -> None:
    turned = CORRUPTIONS["rotation"][0](picture, 90)
    np.testing.assert_allclose(turned.astype(int), np.rot90(picture).astype(int), atol=1)


def test_test_measures_them_and_the_report_shows_them(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(str(tmp_path / "run"))
    assert main(fit_words(tiny_dataset, str(tmp_path), "run")) == 0
    assert main(["test", "--run", run.url, "--corruptions", "6"]) == 0
    said = capsys.readouterr().out
    assert "colour cast" in said
    found = json.loads(storage.read(run.path("evaluation", robustness.FILE)))
    assert (found["n"], found["split"]) == (6, "test")
    assert found["corruptions"].keys() == CORRUPTIONS.keys()
    assert all(0 <= top1 <= 1 for of in found["corruptions"].values() for top1 in of["top1"])
    out = tmp_path / "report.html"
    assert main(["report", run.url, "--out", str(out)]) == 0
    html = out.read_text()
    assert 'id="robustness"' in html


def test_the_number_of_pictures_may_be_left_out() -> None:
    alone = f"--corruptions={robustness.PICTURES}"
    assert scoring._valued(["--json", "--corruptions"]) == ["--json=true", alone]
    assert scoring._valued(["--corruptions", "--json"]) == [alone, "--json=true"]
    assert scoring._valued(["--corruptions", "30"]) == ["--corruptions", "30"]
