"""int8: what the accuracy gate lets pass, and what it refuses."""

import colorsys
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.data.prepare import prepare
from dogbreed.engine import TorchEngine, open_engine
from dogbreed.errors import BadInput
from dogbreed.export.export import export
from dogbreed.export.pictures import Pictures
from dogbreed.exported import FILES
from tests.export.runs import SIZE, make_fitted_run, make_run

BREEDS, EACH = 8, 60
SPREAD = 3.0


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


def engine_json(run: str, name: str) -> dict[str, Any]:
    """What was noted with an engine."""
    about: dict[str, Any] = storage.read_json(f"{run}/model/engines/{name}/engine.json")
    return about


@pytest.mark.e2e
def test_one_scale_for_all_channels_ruins_a_mobilenet_and_is_refused(run: str) -> None:
    with pytest.raises(BadInput, match=r"top-1 drops by \d\d\..*hurt most, .*nothing was written"):
        export("openvino", "int8", run=run, per_channel=False, keep=0, max_drop=0.1)
    assert not Path(run, "model/engines").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("form", FILES)
def test_what_loses_little_passes(
    form: Literal["onnx", "openvino"], data: Manifest, tmp_path: Path
) -> None:
    run = make_fitted_run("test_efficientnet", data, tmp_path, spread=0.0)
    export(form, "int8", run=run, max_drop=0.1)
    about = engine_json(run, f"{form}-int8")
    assert about["calibration"] == {"split": "train", "n": 300}
    assert about["gate"]["split"] == "val"
    assert about["gate"]["top1_drop"]["high"] <= 0.1
    assert about["kept_in_float32"] == []
    source = package.read(f"{run}/model")
    pictures = next(Pictures.of(source, data, "val").batches("pictures"))
    got = open_engine(source, f"{form}-int8").answer(pictures)
    assert source.rejection is not None
    scores = source.rejection.scores(
        got.probabilities, got.embedding, source.calibration.temperature
    )
    np.testing.assert_allclose(got.reject_score, scores, atol=5e-4)  # a step of 8 bits is 4e-3


@pytest.mark.e2e
def test_a_layer_that_int8_ruins_stays_in_float32_by_itself(data: Manifest, tmp_path: Path) -> None:
    run = make_fitted_run(
        "mobilenetv3_small_050", data, tmp_path, spread=SPREAD, where="blocks.2.0.bn1"
    )
    options = {"run": run, "per_channel": False, "max_drop": 0.2}
    with pytest.raises(BadInput, match=r"0 layers in float32.*nothing was written"):
        export("openvino", "int8", keep=0, **options)
    export("openvino", "int8", keep=4, **options)
    about = engine_json(run, "openvino-int8")
    assert 2 <= len(about["kept_in_float32"]) <= 4
    assert about["gate"]["top1_drop"]["high"] <= 0.2


@pytest.mark.e2e
def test_int8_answers_the_same_in_batches_of_any_size(
    run: str, data: Manifest, tmp_path: Path
) -> None:
    """OpenVINO computes int8 graphs wrongly if their batch is not fixed."""
    export("openvino", "int8", run=run, out=str(tmp_path / "model"), max_drop=1.0)
    source = package.read(str(tmp_path / "model"))
    engine = open_engine(source, "openvino-int8")
    pictures = next(Pictures.of(source, data, "val").batches("pictures"))
    alone = np.concatenate([engine.answer(each[None]).probabilities for each in pictures])
    module = TorchEngine(source, "cpu").answer(pictures).probabilities
    assert (alone.argmax(1) == module.argmax(1)).mean() > 0.5  # by chance it would be an eighth
    for size in (2, 7, 8, 13, len(pictures)):
        np.testing.assert_allclose(
            engine.answer(pictures[:size]).probabilities, alone[:size], atol=1e-3
        )


def test_int8_needs_three_hundred_training_pictures(tiny_dataset: str, tmp_path: Path) -> None:
    run = make_run("test_efficientnet", Manifest.open(tiny_dataset), tmp_path)
    with pytest.raises(BadInput, match="training pictures, but int8 is calibrated with 300"):
        export("openvino", "int8", run=run)
