"""Engines of a small network, from the command line to their answers."""

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dogbreed import package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine, TorchEngine, open_engine
from dogbreed.errors import BadInput
from dogbreed.evaluate.confidence import Calibration
from dogbreed.export.export import export
from dogbreed.export.graph import Exported, onnx_files, openvino_files, to_onnx
from dogbreed.export.pictures import Pictures
from dogbreed.exported import FILES, ExportedEngine, runner
from dogbreed.predict import predict
from tests.conftest import picture_file
from tests.export.runs import SIZE, make_run


@pytest.fixture(scope="module")
def run(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose network torch exports quickly."""
    folder = tmp_path_factory.mktemp("run")
    return make_run("test_efficientnet", Manifest.open(tiny_dataset), folder)


@pytest.fixture(scope="module")
def graph(run: str) -> Exported:
    """Its network as a graph."""
    return to_onnx(package.read(f"{run}/model"))


@pytest.fixture(scope="module")
def exported(run: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of its package with an engine."""
    folder = str(tmp_path_factory.mktemp("exported") / "model")
    export("openvino", run=run, out=folder)
    return folder


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def assert_same(engine: Engine, module: Engine, pictures: np.ndarray) -> None:
    """The engine says what the module says, of one picture and of many."""
    expected = module.answer(pictures, heat=True)
    assert np.ptp(expected.probabilities, axis=0).max() > 0.01
    for batch in (1, len(pictures)):  # the graph was traced with 2
        got = engine.answer(pictures[:batch], heat=True)
        for name in ("probabilities", "reject_score", "embedding", "heat"):
            mine, its = getattr(got, name), getattr(expected, name)[:batch]
            np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4, err_msg=name)
            assert mine.dtype == np.float32
    assert engine.answer(pictures).heat is None


@pytest.mark.parametrize("form", FILES)
def test_a_graph_answers_as_the_module_does(
    form: str, run: str, graph: Exported, pictures: np.ndarray
) -> None:
    files = {"onnx": onnx_files, "openvino": openvino_files}[form](graph)
    assert set(files) == set(FILES[form])
    engine = ExportedEngine(runner(form, "fp32", files, threads=1))
    assert_same(engine, TorchEngine(package.read(f"{run}/model"), "cpu"), pictures)


def test_bf16_keeps_its_weights_in_half_the_room(run: str, exported: str, tmp_path: Path) -> None:
    out = str(tmp_path / "model")
    own = str(shutil.copytree(run, tmp_path / "run"))  # another test reads this one's table
    export("openvino", "bf16", run=own, out=out, max_drop=1.0)
    sizes = [
        storage.read_json(f"{url}/engines/{name}/engine.json")["files"]["model.bin"]["bytes"]
        for url, name in ((exported, "openvino-fp32"), (out, "openvino-bf16"))
    ]
    assert sizes[1] < 0.6 * sizes[0]
    pictures = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    source = package.read(out)
    shares = [
        open_engine(source, name).answer(pictures).probabilities
        for name in ("torch", "openvino-bf16")
    ]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.2)


@pytest.mark.e2e
@pytest.mark.parametrize("form", FILES)
def test_an_exported_mobilenet_answers_as_the_module_does(
    form: Literal["onnx", "openvino"], tiny_dataset: str, pictures: np.ndarray, tmp_path: Path
) -> None:
    run = make_run("mobilenetv3_small_050", Manifest.open(tiny_dataset), tmp_path)
    export(form, run=run)
    source = package.read(f"{run}/model")
    assert_same(open_engine(source, f"{form}-fp32"), TorchEngine(source, "cpu"), pictures)
    operators = {node.op_type for node in to_onnx(source).model.graph.node}
    assert {"HardSwish", "HardSigmoid"} <= operators
    assert not {"Sigmoid", "BatchNormalization"} & operators


def test_export_ends_with_a_table_of_all_engines(run: str, exported: str) -> None:
    rows = storage.read_json(f"{run}/engines.json")["engines"]
    assert [row["name"] for row in rows] == ["torch", "openvino-fp32"]
    assert all(rate > 0 for row in rows for rate in row["images_per_s"].values())
    assert rows[1]["top1"] == rows[0]["top1"]
    assert Path(run, "engines.png").stat().st_size > 1000
    about = storage.read_json(f"{exported}/engines/openvino-fp32/engine.json")
    assert {"dogbreed", "torch", "openvino"} <= set(about["versions"])
    assert not Path(run, "model/engines").exists()


def test_the_best_engine_is_the_one_that_was_exported(exported: str) -> None:
    assert isinstance(open_engine(package.read(exported), "best"), ExportedEngine)


def test_predict_says_the_same_with_an_engine(exported: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(3):
        (tmp_path / f"photos/{k}.jpg").write_bytes(picture_file(seed=k))
    tables = []
    for engine in ("torch", "openvino-fp32"):
        out = tmp_path / f"{engine}.csv"
        predict([str(tmp_path / "photos")], model=exported, engine=engine, out=str(out))
        tables.append(list(csv.DictReader(out.read_text().splitlines())))
    for module, engine_row in zip(*tables, strict=True):
        assert (module["id"], module["breed"]) == (engine_row["id"], engine_row["breed"])
        theirs = float(engine_row["probability"])
        assert float(module["probability"]) == pytest.approx(theirs, abs=1e-3)


def test_an_engine_whose_file_was_changed_is_not_opened(exported: str, tmp_path: Path) -> None:
    source = package.copy(package.read(exported), str(tmp_path / "copy"))
    file = tmp_path / "copy/engines/openvino-fp32/model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match="not the file that was exported"):
        open_engine(source, "openvino-fp32")


@pytest.mark.parametrize("calibration", [Calibration(2.0, 0.8, 0.3), Calibration(1.7)])
def test_an_engine_of_another_state_of_the_package_is_not_opened(
    calibration: Calibration, exported: str
) -> None:
    source = package.read(exported)
    source = dataclasses.replace(source, calibration=calibration)
    with pytest.raises(BadInput, match="another state of the package"):
        open_engine(source, "openvino-fp32")


def test_an_engine_that_answers_otherwise_is_not_written(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogbreed.export.gates.MAX_DIFFERENCE", -1.0)
    with pytest.raises(BadInput, match="does not answer as the module does.*nothing was written"):
        export("openvino", run=run, out=str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_an_engine_that_is_not_there_is_named_with_those_that_are(exported: str) -> None:
    with pytest.raises(BadInput, match="no engine 'openvino-fp3'.*there is: torch, openvino-fp32"):
        open_engine(package.read(exported), "openvino-fp3")


def test_a_run_whose_data_has_changed_is_not_judged_by_other_pictures(
    run: str, tmp_path: Path
) -> None:
    data = Manifest.open(storage.read_json(f"{run}/run.json")["data"]["root"])
    changed = dataclasses.replace(data, dataset=data.dataset | {"version": "0" * 64})
    with pytest.raises(BadInput, match="version 000000000000 of the data.*say where"):
        Pictures.of(package.read(f"{run}/model"), changed, "val")
