"""int8: what the accuracy gate lets pass, and what it refuses."""

import colorsys
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.data.prepare import prepare
from dogbreed.engine import open_engine
from dogbreed.errors import BadInput
from dogbreed.export.export import export
from tests.export.runs import SIZE, make_fitted_run, make_run

BREEDS, EACH = 8, 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Squares of eight colours, more than 300 of them for training."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for breed in range(BREEDS):
        colour = 255 * np.array(colorsys.hsv_to_rgb(breed / BREEDS, 0.4, 0.6))
        (folder / f"dogs/breed{breed}").mkdir(parents=True)
        for k in range(EACH):
            noise = rng.normal(0, 3, 3) + rng.normal(0, 3, (SIZE, SIZE, 3))
            file = io.BytesIO()
            Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
            (folder / f"dogs/breed{breed}/{k}.jpg").write_bytes(file.getvalue())
    out = str(folder / "data")
    prepare("folder", out, str(folder / "dogs"), name="colours", splits="0.7,0.3,0")
    return Manifest.open(out)


@pytest.fixture(scope="module")
def run(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A MobileNetV3 whose channels differ much."""
    folder = tmp_path_factory.mktemp("run")
    return make_fitted_run("mobilenetv3_small_050", data, folder, spread=1.0)


@pytest.mark.e2e
def test_one_scale_for_all_channels_ruins_a_mobilenet_and_is_refused(run: str) -> None:
    with pytest.raises(BadInput, match=r"top-1 drops by \d\d\..*hurt most, .*nothing was written"):
        export("openvino", "int8", run=run, per_channel=False, keep=0, max_drop=0.1)
    assert not Path(run, "model/engines").exists()


@pytest.mark.e2e
def test_what_loses_little_passes(data: Manifest, tmp_path: Path) -> None:
    run = make_fitted_run("test_efficientnet", data, tmp_path, spread=0.0)
    export("openvino", "int8", run=run, max_drop=0.1)
    source = package.read(f"{run}/model")
    about = storage.read_json(f"{source.url}/engines/openvino-int8/engine.json")
    assert about["calibration"] == {"split": "train", "n": 300}
    assert about["gate"]["split"] == "val"
    assert about["gate"]["top1_drop"]["high"] <= 0.1
    answers = open_engine(source, "openvino-int8").answer(np.zeros((3, SIZE, SIZE, 3), np.uint8))
    assert answers.probabilities.sum(1) == pytest.approx(1, abs=1e-3)


def test_int8_needs_three_hundred_training_pictures(tiny_dataset: str, tmp_path: Path) -> None:
    run = make_run("test_efficientnet", Manifest.open(tiny_dataset), tmp_path)
    with pytest.raises(BadInput, match="training pictures, but int8 is calibrated with 300"):
        export("openvino", "int8", run=run)
