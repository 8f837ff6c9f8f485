"""The model package: what was written is read again, and nothing else passes for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration
from dogbreed.evaluate.rejection import Rejection

WEIGHTS = bytes(range(256)) * 40
MODEL: dict[str, Any] = {
    "run": "brave-beagle",
    "backbone": "mobilenetv3_large_100",
    "classes": [{"name": "beagle", "synset": "n02088364"}, {"name": "pug", "synset": "n02110958"}],
    "preprocessing": {"size": 224, "crop": 0.875, "flip": False},
    "data": {"name": "dogs", "version": "0123456789abcdef"},
    "pretraining": "ImageNet-1k",
    "metrics": {"val": {"accuracy": 0.91234567, "loss": 0.3}},
}


@pytest.fixture(params=["disk", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the place of a package on each kind of file system."""
    root = str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")
    return storage.join(root, "run", package.FOLDER)


def test_what_was_written_is_read_again(url: str) -> None:
    platt = {"slope": 0.9, "offset": -0.2}
    package.write(url, MODEL | {"temperature": 1.5, "platt": platt}, WEIGHTS)
    got = package.read(url)
    assert got.url == url
    assert got.calibration == Calibration(1.5, **platt)
    assert got.class_names == ["beagle", "pug"]
    assert got.weights() == WEIGHTS
    assert {name: got.model[name] for name in MODEL} == MODEL
    assert got.model["schema"] == package.SCHEMA_VERSION


def test_writing_leaves_the_callers_description_alone(url: str) -> None:
    before = dict(MODEL)
    package.write(url, MODEL, WEIGHTS)
    assert before == MODEL


def test_the_description_is_written_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = storage.write

    def noted(target: str, data: bytes) -> None:
        written.append(target.rsplit("/", 1)[-1])
        write(target, data)

    monkeypatch.setattr(storage, "write", noted)
    package.write(url, MODEL, WEIGHTS)
    assert sorted(written) == ["README.md", "model.json", "weights.safetensors"]
    assert written[-1] == "model.json"


def test_the_card_is_written_beside_it_with_the_scores_of_the_evaluation(url: str) -> None:
    summary = {"n": 50, "scores": {"top1": {"value": 0.9, "low": 0.85, "high": 0.95}}}
    package.write(url, MODEL, WEIGHTS, {"val": summary})
    text = storage.read(storage.join(url, package.CARD_FILE)).decode()
    assert "# brave-beagle" in text
    assert "0.900 (0.850 to 0.950)" in text


def test_a_missing_package_is_an_error_that_says_what_writes_one(url: str) -> None:
    with pytest.raises(BadInput, match="no model package here; `dogbreed fit` writes it") as caught:
        package.read(url)
    assert str(caught.value).startswith(url)


def test_a_package_of_a_newer_version_is_an_error_that_says_to_upgrade(url: str) -> None:
    package.write(url, MODEL, WEIGHTS)
    path = storage.join(url, package.MODEL_FILE)
    storage.write_json(path, storage.read_json(path) | {"schema": package.SCHEMA_VERSION + 1})
    with pytest.raises(BadInput, match="schema 4, this dogbreed reads up to 3; upgrade"):
        package.read(url)


def test_a_damaged_description_is_an_error(url: str) -> None:
    storage.write(storage.join(url, package.MODEL_FILE), b'{"schema": 1')
    with pytest.raises(BadInput, match="not valid JSON"):
        package.read(url)


@pytest.mark.parametrize("weights", [WEIGHTS[:-1], WEIGHTS + b"x", b"", WEIGHTS[::-1]])
def test_weights_of_another_package_are_an_error(url: str, weights: bytes) -> None:
    package.write(url, MODEL, WEIGHTS)
    storage.write(storage.join(url, package.WEIGHTS_FILE), weights)
    with pytest.raises(BadInput, match=r"not the weights that model.json describes"):
        package.read(url).weights()


def test_missing_weights_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    package.write(str(tmp_path), MODEL, WEIGHTS)
    (tmp_path / package.WEIGHTS_FILE).unlink()
    with pytest.raises(BadInput, match=r"weights.safetensors: no such file"):
        package.read(str(tmp_path)).weights()


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    package.write(str(tmp_path), MODEL, WEIGHTS)
    code = (
        "import sys; from dogbreed import package, images; package.read(sys.argv[1]).weights();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_package_of_schema_1_still_opens(url: str) -> None:
    package.write(url, MODEL, WEIGHTS)
    path = storage.join(url, package.MODEL_FILE)
    old = storage.read_json(path) | {"schema": 1}
    old["preprocessing"] = {"size": 224, "crop": 0.875}
    old.pop("temperature", None)
    old.pop("rejection", None)
    storage.write_json(path, old)
    got = package.read(url)
    assert (got.calibration, got.rejection) == (UNCALIBRATED, None)
    assert got.model["preprocessing"]["flip"] is False


REJECTION = Rejection("cosine", 0.25, means=np.eye(2, 3, dtype=np.float32), counts=np.array([3, 4]))


def test_rejection_is_read_again_and_must_be_the_one_described(url: str) -> None:
    package.write(url, MODEL, WEIGHTS, rejection=REJECTION)
    got = package.read(url).rejection
    assert got is not None
    assert (got.score, got.threshold, got.keeps) == ("cosine", 0.25, 0.95)
    np.testing.assert_array_equal(got.means, REJECTION.means)
    np.testing.assert_array_equal(got.counts, REJECTION.counts)
    storage.write(storage.join(url, package.REJECTION_FILE), b"something else")
    with pytest.raises(BadInput, match=r"not the rejection that model.json describes"):
        package.read(url)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 0.0}, "temperature 0.0: must be finite and above 0"),
        ({"temperature": float("inf")}, "temperature inf: must be finite"),
        ({"temperature": "hot"}, "model.json: "),
        ({"platt": {"slope": -1.0, "offset": 0.0}}, "slope -1.0: must be finite and above 0"),
        ({"platt": {"slope": 1.0, "offset": float("nan")}}, "offset nan: must be finite"),
        ({"platt": {"slope": 1.0, "shift": 0.0}}, "model.json: .*shift"),
        ({"platt": 0.9}, "model.json: "),
        ({"rejection": {"score": "energy"}}, "model.json has no 'threshold'"),
        ({"rejection": {"score": "odin", "threshold": 1.0}}, "'odin' is unknown; upgrade dogbreed"),
        ({"rejection": {"score": "cosine", "threshold": 1.0}}, "needs the breeds' means"),
    ],
)
def test_a_calibration_or_a_rejection_that_makes_no_sense_is_an_error(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    package.write(str(tmp_path), MODEL, WEIGHTS)
    path = storage.join(str(tmp_path), package.MODEL_FILE)
    storage.write_json(path, storage.read_json(path) | fields)
    with pytest.raises(BadInput, match=said):
        package.read(str(tmp_path))
