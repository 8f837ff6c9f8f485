"""Production: what may be promoted, what the pointer says, and the way back."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.export.export import export

PICTURES = 400


def make_run(folder: Path, right: int = 300, version: str = "0" * 64) -> str:
    """A run that was tested, with so many right answers of `PICTURES`."""
    url = str(folder)
    model = {
        "run": folder.name,
        "backbone": "any",
        "classes": [{"name": "pug"}, {"name": "basset"}],
        "preprocessing": {"size": 32, "crop": 1.0, "flip": False},
        "temperature": 1.0,
        "data": {"name": "dogs", "version": version},
        "pretraining": "none (random)",
        "metrics": {},
    }
    weights = save({"x": np.full(3, right, np.float32)})
    package.write(f"{url}/model", model, weights)
    label = np.arange(PICTURES) % 2
    predicted = np.where(np.arange(PICTURES) < right, label, 1 - label)
    names = [f"{k}.jpg" for k in range(PICTURES)]
    file = io.BytesIO()
    pq.write_table(pa.table({"id": names, "label": label, "predicted": predicted}), file)
    storage.write(f"{url}/evaluation/test.parquet", file.getvalue())
    data = {"name": "dogs", "version": version, "root": "/dogs"}
    storage.write_json(f"{url}/evaluation/test.json", {"data": data})
    storage.write_json(f"{url}/run.json", {"created": "2026"})
    return url


def present(place: str) -> str:
    """Name of the run whose model a place answers with."""
    return str(package.read(place).model["run"])


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_better_model_takes_the_place_and_the_earlier_one_can_come_back(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue("bucket") if where == "bucket" else str(tmp_path)
    place = f"{bucket}/production"
    export(promote=place, run=make_run(tmp_path / "first"))
    assert present(place) == "first"
    export(promote=place, run=make_run(tmp_path / "second", right=310))
    assert present(place) == "second"
    export(promote=place, rollback=True)
    assert present(place) == "first"
    package.read(place).weights()


def test_a_model_that_is_worse_is_not_promoted(tmp_path: Path) -> None:
    place = str(tmp_path / "production")
    export(promote=place, run=make_run(tmp_path / "first"))
    worse = make_run(tmp_path / "worse", right=270)
    before = sorted(tmp_path.glob("production/**/*"))
    with pytest.raises(BadInput, match=r"worse than the present package: .*0\.6750"):
        export(promote=place, run=worse)
    assert present(place) == "first"
    assert sorted(tmp_path.glob("production/**/*")) == before


def test_a_model_that_is_worse_by_chance_alone_may_be_promoted(tmp_path: Path) -> None:
    place = str(tmp_path / "production")
    export(promote=place, run=make_run(tmp_path / "first"))
    export(promote=place, run=make_run(tmp_path / "second", right=299))
    assert present(place) == "second"


def test_a_run_that_was_not_tested_is_not_promoted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first")
    storage.remove([f"{run}/evaluation/test.json"])
    with pytest.raises(BadInput, match="never tested; run: dogbreed test --run"):
        export(promote=str(tmp_path / "production"), run=run)
    assert not (tmp_path / "production").exists()


def test_models_are_compared_on_the_same_pictures_alone(tmp_path: Path) -> None:
    place = str(tmp_path / "production")
    export(promote=place, run=make_run(tmp_path / "first"))
    other = make_run(tmp_path / "other", right=400, version="1" * 64)
    with pytest.raises(BadInput, match=r"not tested on dogs.*--data\.root /dogs"):
        export(promote=place, run=other)
    # `dogbreed test --data.root /dogs` leaves this:
    own = make_run(tmp_path / "scored", right=310)
    for file in ("test.json", "test.parquet"):
        data = storage.read(f"{own}/evaluation/{file}")
        storage.write(f"{other}/evaluation/others/dogs@000000000000/{file}", data)
    export(promote=place, run=other)
    assert present(place) == "other"


def test_a_damaged_package_is_not_promoted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first")
    storage.write(f"{run}/model/weights.safetensors", save({"x": np.zeros(3)}))
    with pytest.raises(BadInput, match="not the weights that model.json describes"):
        export(promote=str(tmp_path / "production"), run=run)
    assert not (tmp_path / "production").exists()


def test_there_is_no_way_back_before_the_first(tmp_path: Path) -> None:
    place = str(tmp_path / "production")
    with pytest.raises(BadInput, match="nothing was promoted here"):
        export(promote=place, rollback=True)
    export(promote=place, run=make_run(tmp_path / "first"))
    with pytest.raises(BadInput, match="is the first package"):
        export(promote=place, rollback=True)


@pytest.mark.parametrize("path", ["../elsewhere", "packages/..", "packages/a/b", "/etc", None])
def test_a_pointer_leads_to_a_promoted_package_alone(path: str | None, tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "current.json"), {"package": path})
    with pytest.raises(BadInput, match=r"current.json is not one"):
        package.read(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --format"),
        ({"format": "onnx", "promote": "x"}, "either --format"),
        ({"format": "onnx", "precision": "bf16"}, "no bf16 kernels"),
        ({"format": "onnx", "calibration": 10}, "must be at least 300"),
        ({"rollback": True}, "goes with --promote"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "first")
    with pytest.raises(BadInput, match=message):
        export(run=run, **options)  # type: ignore[arg-type]
