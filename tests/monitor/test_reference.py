"""What a package keeps of the pictures that its model was validated on."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dogbreed import images, package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.errors import BadInput
from dogbreed.monitor import reference
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.statistics import statistics
from dogbreed.ranges import Range
from dogbreed.runs import Run


def test_fit_keeps_the_statistics_of_the_validation_pictures_and_of_no_others(
    monitored: package.Package, monitored_run: Run, tiny_dataset: str
) -> None:
    kept, data = Reference.read(monitored), Manifest.open(tiny_dataset)
    rows = data.take(data.rows_of("val"))
    seen = []
    for row, place in zip(rows, data.ranges(rows), strict=True):
        file = storage.read(place.url)
        picture = images.picture(file, 32, images.centre_box)
        seen.append(statistics(picture, row["width"], row["height"], len(file)))
    np.testing.assert_allclose(kept.statistics[:, :4], np.stack(seen)[:, :4], rtol=1e-6)  # not cut
    path = monitored_run.path("evaluation", "val.parquet")
    table = pq.read_table(io.BytesIO(storage.read(path)))
    for name in ("probability", "reject_score", "predicted", "rejected"):
        np.testing.assert_array_equal(getattr(kept, name), table.column(name).to_numpy())
    right = table.column("predicted").to_numpy() == table.column("label").to_numpy()
    np.testing.assert_array_equal(kept.right, right)
    lengths = np.linalg.norm(kept.embedding.astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)


def test_model_json_has_a_summary_of_them(monitored: package.Package, monitored_run: Run) -> None:
    about = monitored.model["reference"]
    assert about["of"] == "validation"
    assert about["n"] == monitored_run.metrics()["val"]["n"]
    assert about["top1"] == pytest.approx(monitored_run.metrics()["val"]["top1"])
    assert sum(about["answers"].values()) == about["n"]
    assert list(about["answers"]) == monitored.class_names
    quantiles = about["quantiles"]["brightness"]
    assert quantiles == sorted(quantiles)
    assert len(json.dumps(about)) < 5000


def test_of_many_pictures_a_part_is_kept(
    monitored_run: Run, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dogbreed.evaluate.evaluation import Evaluation

    monkeypatch.setattr(reference, "PICTURES", 7)
    monkeypatch.setattr(reference, "EMBEDDINGS", 3)
    data, rng = Manifest.open(tiny_dataset), np.random.default_rng(0)
    rows = data.take(data.rows_of("train"))
    n, names = len(rows), data.classes
    of = Evaluation(
        [row["id"] for row in rows],
        np.array([row["label"] for row in rows]),
        rng.normal(size=(n, len(names))).astype(np.float32),
        rng.normal(size=(n, 5)),
        names,
    )
    places = data.ranges(rows)
    places[0] = Range(places[0].url + ".gone", 0, 10)  # one that can't be read is passed over
    kept = Reference.of(of, places, 32, 1.0)
    assert len(kept.probability) in {6, 7}
    assert kept.embedding.shape == (3, 5)


def test_a_package_without_one_or_with_a_damaged_one_is_an_error(
    monitored: package.Package, tmp_path: Path
) -> None:
    copy = package.copy(monitored, str(tmp_path / "model"))
    (tmp_path / "model" / reference.FILE).write_bytes(b"x" * 100)
    with pytest.raises(BadInput, match=r"reference\.safetensors: not the one that model\.json"):
        Reference.read(copy)
    copy.model.pop("reference")
    with pytest.raises(BadInput, match="no statistics of its validation pictures"):
        Reference.read(copy)
