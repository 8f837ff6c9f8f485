"""The engine: the module's own probabilities, calibrated as the package says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dogbreed import package
from dogbreed.engine import TorchEngine
from dogbreed.errors import BadInput
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration
from dogbreed.model.backbone import Network

BACKBONE = "test_efficientnet"


def network() -> Network:
    """Make a network whose BatchNorm tells training from evaluation."""
    torch.manual_seed(0)
    made = Network(BACKBONE, 5)
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    for _ in range(3):
        made(images)
    torch.nn.init.normal_(made.head.weight, std=0.5)  # type: ignore[arg-type]
    return made.eval()


def engine(folder: Path, source: Network, calibration: Calibration) -> TorchEngine:
    model = {
        "run": "run",
        "backbone": BACKBONE,
        "classes": [{"name": name} for name in "abcde"],
        "preprocessing": {"size": 32, "crop": 1.0},
        "temperature": calibration.temperature,
        "platt": calibration.platt,
        "data": {"name": "dogs", "version": "0" * 64},
        "pretraining": "none (random)",
        "metrics": {"val": {"top1": 0.5}},
    }
    package.write(str(folder), model, save(source.body.state_dict()))
    return TorchEngine(package.read(str(folder)), "cpu")


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("made", [Calibration(), Calibration(2.5), Calibration(0.5, 0.7, 0.4)])
def test_probabilities_are_the_softmax_of_the_modules_calibrated_logits(
    made: Calibration, tmp_path: Path, pictures: np.ndarray
) -> None:
    source = network()
    got = engine(tmp_path, source, made).answer(pictures).probabilities
    with torch.no_grad():
        logits = source(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    assert logits.std() > 0.1
    wanted = torch.from_numpy(made(logits.numpy())).softmax(1).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert (got.shape, got.dtype) == ((6, 5), np.float32)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(
    tmp_path: Path, pictures: np.ndarray
) -> None:
    made = engine(tmp_path, network(), UNCALIBRATED)
    whole = made.answer(pictures).probabilities
    for k in range(len(pictures)):
        np.testing.assert_allclose(
            made.answer(pictures[k : k + 1]).probabilities, whole[k : k + 1], rtol=1e-4
        )
    assert np.ptp(whole, axis=0).max() > 0.01


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    engine(tmp_path, network(), UNCALIBRATED)
    weights = tmp_path / package.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadInput, match=r"not the weights that model\.json describes"):
        TorchEngine(package.read(str(tmp_path)), "cpu")
