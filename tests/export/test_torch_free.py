"""Predicting and serving in an environment that holds no torch: what docker/serve.lock installs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed import package
from dogbreed.data.manifest import Manifest
from dogbreed.engine import TorchEngine
from dogbreed.export.export import export
from dogbreed.images import picture
from tests.conftest import picture_file
from tests.export.runs import make_run
from tests.serve.conftest import serving

ROOT = Path(__file__).parents[2]
ABSENT = ("torch", "lightning", "timm", "torchvision", "pyarrow", "scipy", "matplotlib")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter of such an environment, and the project in it."""
    folder = tmp_path_factory.mktemp("environment")
    uv, inside = [sys.executable, "-m", "uv"], str(folder / "venv/bin/python")
    lock = ["--require-hashes", "-r", str(ROOT / "docker/serve.lock")]
    install = [*uv, "pip", "install", "--quiet", "--python", inside]
    for words in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
        [*install, *lock],
        [*install, "--no-deps", str(ROOT)],
    ):
        subprocess.run(words, check=True)
    return inside


@pytest.fixture(scope="module")
def model(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A package with an engine."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run("test_efficientnet", Manifest.open(tiny_dataset), folder)
    export("openvino", run=run)
    return f"{run}/model"


@pytest.mark.e2e
def test_predict_answers_as_the_module_does_where_no_torch_is(
    python: str, model: str, tmp_path: Path
) -> None:
    for name in ABSENT:
        found = subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False)
        assert found.returncode != 0, name
    (tmp_path / "a.jpg").write_bytes(picture_file(64, 64))
    words = ["predict", "--model", model, "--engine", "best", "--images", "a.jpg", "--out", "a.csv"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "dogbreed", *words], check=True, cwd=tmp_path, env=env)
    row = next(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    ours = package.read(model)
    seen = picture((tmp_path / "a.jpg").read_bytes(), 64, lambda w, h: (0, 0, w, h))[None]
    shares = TorchEngine(ours, "cpu").answer(seen).probabilities[0]
    assert row["breed"] == ours.class_names[shares.argmax()]
    assert float(row["probability"]) == pytest.approx(float(shares.max()), abs=1e-3)


@pytest.mark.e2e
def test_all_that_is_installed_takes_little_room(python: str) -> None:
    (packages,) = Path(python).parents[1].glob("lib/python*/site-packages")
    size = sum(file.lstat().st_size for file in packages.rglob("*") if file.is_file())
    assert size <= 450e6


@pytest.mark.e2e
def test_a_request_is_answered_where_no_torch_is(python: str, model: str, tmp_path: Path) -> None:
    with serving(model, tmp_path, "--engine", "openvino-fp32", python=python) as served:
        assert served.get("/info").json()["server"]["engine"] == "openvino-fp32"
        (entry,) = served.predict(picture_file(64, 64))
        assert entry["status"] == "success"
        assert 0 < entry["probability"] <= 1
        explained = served.predict(picture_file(64, 64), path="/predict?explain=true")
        assert "heat" in json.dumps(explained[0])


@pytest.mark.e2e
@pytest.mark.parametrize("words", [["predict", "--images", "a.jpg"], ["serve", "--port", "0"]])
def test_torch_as_an_engine_is_said_to_be_missing(
    words: list[str], python: str, model: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture_file(64, 64))
    command = [python, "-m", "dogbreed", *words, "--model", model]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "torch is not installed; exported engines: openvino-fp32" in found.stderr
