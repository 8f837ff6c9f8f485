"""predict: a row for each picture, and the same answers as `test`."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.data import sample
from dogbreed.data.manifest import Manifest
from dogbreed.predict import FIELDS
from dogbreed.runs import Run
from tests.test_training import fit_words

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def run(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a run whose answers differ from picture to picture; for reading only."""
    root = str(tmp_path_factory.mktemp("runs"))
    words = fit_words(tiny_dataset, root, "run", "--model.lr", "0.02", "--model.warmup", "0.01")
    words += ["--checkpoints.monitor", "val/macro_f1"]  # not one answer for all
    assert main([*words, "--trainer.max_epochs", "10"]) == 0
    assert main(["test", "--run", f"{root}/run"]) == 0
    return f"{root}/run"


def predict(run: str, capsys: pytest.CaptureFixture[str], *words: str) -> Rows:
    """Rows that a prediction prints."""
    capsys.readouterr()
    assert main(["predict", "--run", run, *words]) == 0
    said = capsys.readouterr()
    assert all("not named like pictures" in line for line in said.err.splitlines())
    return list(csv.DictReader(io.StringIO(said.out)))


def put(folder: Path, *names: str) -> Path:
    """Draw a picture for each name; its number says which breed and which drawing."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.jpeg(number % 4, 100 + number))
    return folder


def test_a_split_is_answered_as_in_test(
    run: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, data = Run(run).metrics(), Manifest.open(tiny_dataset)
    for split in ("val", "test"):
        rows = predict(run, capsys, "--data", tiny_dataset, "--split", split)
        taken = data.take(data.rows_of(split))
        assert [row["id"] for row in rows] == [row["id"] for row in taken]
        right = [
            row["breed"] == data.classes[of["label"]] for row, of in zip(rows, taken, strict=True)
        ]
        assert sum(right) / len(right) == pytest.approx(scores[split]["top1"])
    assert len({row["breed"] for row in rows}) > 1


def test_test_is_the_split_by_default(
    run: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predict(run, capsys, "--data", tiny_dataset)
    assert rows == predict(run, capsys, "--data", tiny_dataset, "--split", "test")


def test_a_row_has_the_breed_its_probability_and_the_best_in_order(
    run: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = Manifest.open(tiny_dataset).classes
    rows = predict(run, capsys, "--data", tiny_dataset)
    for row in rows:
        assert list(row) == list(FIELDS)
        best = [entry.split(":") for entry in row["top5"].split(";")]
        assert sorted(name for name, _ in best) == classes  # all four, for there are no five
        shares = [float(share) for _, share in best]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert row["breed"] == best[0][0]
        assert float(row["probability"]) == pytest.approx(shares[0], abs=1e-4)
        assert row["error"] == ""


@pytest.mark.parametrize("size", ["1", "5"])
def test_the_batch_size_changes_no_answer(
    size: str, run: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predict(run, capsys, "--data", tiny_dataset)
    others = predict(run, capsys, "--data", tiny_dataset, "--batch_size", size)
    assert [(r["id"], r["breed"]) for r in others] == [(r["id"], r["breed"]) for r in rows]
    assert [float(r["probability"]) for r in others] == pytest.approx(
        [float(r["probability"]) for r in rows], abs=2e-6
    )


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_folder_is_searched_to_its_depth_for_pictures(
    place: str,
    run: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = put(tmp_path / "photos", "b.jpg", "a/deep/c.JPEG", "a/d.jpg")
    (photos / "notes.txt").write_text("no picture")
    url = str(photos)
    if place == "bucket":
        url = f"{request.getfixturevalue('bucket')}/photos"
        for path in photos.rglob("*.*"):
            storage.write(f"{url}/{path.relative_to(photos)}", path.read_bytes())
    rows = predict(run, capsys, "--images", url)
    assert [row["id"] for row in rows] == ["a/d.jpg", "a/deep/c.JPEG", "b.jpg"]
    assert {row["error"] for row in rows} == {""}


def test_files_in_a_list_are_answered_in_its_order(
    run: str, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    alone = {
        name: predict(run, capsys, "--images", f"{tmp_path}/{name}")[0]
        for name in ("a.jpg", "b.jpg", "c.jpg")
    }
    assert len({row["probability"] for row in alone.values()}) == 3
    storage.write(f"{bucket}/c.jpg", (tmp_path / "c.jpg").read_bytes())
    words = f"[{tmp_path}/b.jpg, {tmp_path}/a.jpg]"
    rows = predict(run, capsys, "--images", words)
    assert rows == [alone["b.jpg"], alone["a.jpg"]]
    (far,) = predict(run, capsys, "--images", f"{bucket}/c.jpg")
    assert far == alone["c.jpg"] | {"id": f"{bucket}/c.jpg"}


def test_a_picture_that_cannot_be_read_has_a_row_and_the_others_are_right(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = put(tmp_path / "photos", *(f"{k}.jpg" for k in range(7)))
    whole = predict(run, capsys, "--images", str(photos))
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:600])
    (photos / "4.jpg").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(photos / "5.jpg")
    rows = predict(run, capsys, "--images", str(photos), "--batch_size", "3")
    assert [row["id"] for row in rows] == [f"{k}.jpg" for k in range(7)]
    for k, row in enumerate(rows):
        if k in {1, 4, 5}:
            assert row["error"]
            assert (row["breed"], row["probability"], row["top5"]) == ("", "", "")
        else:
            assert (row["breed"], row["error"]) == (whole[k]["breed"], "")
            assert float(row["probability"]) == pytest.approx(
                float(whole[k]["probability"]), abs=2e-6
            )
    assert "below 16 pixels" in rows[5]["error"]


def test_no_name_at_all_is_an_error(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--run", run, "--images", ""]) == 2
    assert "say which pictures" in capsys.readouterr().err


def test_a_batch_of_which_nothing_can_be_read_is_rows_and_an_error(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    out = tmp_path / "breeds.csv"
    assert main(["predict", "--run", run, "--images", str(tmp_path), "--out", str(out)]) == 2
    assert "none of the 2 pictures could be read" in capsys.readouterr().err
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["error"] for row in rows] == ["not a JPEG, PNG or WebP picture"] * 2


def test_a_damaged_picture_of_a_data_set_is_told_by_its_digest(
    run: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "data")
    rows = predict(run, capsys, "--data", tiny_dataset)
    path = tmp_path / "data/pictures" / rows[2]["id"]
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    damaged = predict(run, capsys, "--data", f"{tmp_path}/data")
    assert "differ from the manifest's digest" in damaged[2]["error"]
    assert [r["breed"] for r in damaged if not r["error"]] == [
        r["breed"] for k, r in enumerate(rows) if k != 2
    ]


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_the_csv_goes_where_it_is_told(
    place: str,
    run: str,
    tiny_dataset: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(tmp_path) if place == "disk" else request.getfixturevalue("bucket")
    words = ["predict", "--run", run, "--data", tiny_dataset]
    capsys.readouterr()
    assert main([*words, "--out", "-"]) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--out", f"{root}/new/out.csv"]) == 0
    assert storage.read(f"{root}/new/out.csv").decode() == printed
    rows = printed.count("\n") - 1
    said = capsys.readouterr().out
    rejected = sum(row["rejected"] == "yes" for row in csv.DictReader(io.StringIO(printed)))
    about = f", {rejected} of them rejected as none of the breeds" if rejected else ""
    assert said == f"{rows} pictures{about}: {root}/new/out.csv\n"


def test_how_many_could_not_be_read_is_said(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = put(tmp_path / "photos", "a.jpg", "b.jpg")
    (photos / "c.jpg").write_bytes(b"x")
    out = f"{tmp_path}/out.csv"
    assert main(["predict", "--run", run, "--images", str(photos), "--out", out]) == 0
    rejected = Path(out).read_text().count(",yes,")  # which depends on what the small model learnt
    about = f", {rejected} of them rejected as none of the breeds" if rejected else ""
    said = f"3 pictures, 1 of them could not be read{about}: {out}\n"
    assert capsys.readouterr().out == said


def test_a_model_answers_wherever_its_package_lies(
    run: str, tiny_dataset: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predict(run, capsys, "--data", tiny_dataset)
    for name, _ in storage.find(f"{run}/model"):
        storage.write(f"{bucket}/m/{name}", storage.read(f"{run}/model/{name}"))
    assert main(["predict", "--model", f"{bucket}/m", "--data", tiny_dataset]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows
    root = run.rsplit("/", 1)[0]
    assert main(["predict", "--run_root", root, "--data", tiny_dataset]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows


def test_weights_that_the_package_does_not_describe_are_refused(
    run: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(f"{run}/model", tmp_path / "model")
    about = json.loads((tmp_path / "model/model.json").read_text())
    about["weights_sha256"] = "0" * 64
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    assert main(["predict", "--model", f"{tmp_path}/model", "--data", tiny_dataset]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "weights.safetensors: not the weights that model.json describes" in said.err


def test_pictures_of_the_same_name_in_two_folders_can_be_told_apart(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "a/x.jpg", "b/x.jpg")
    rows = predict(run, capsys, "--images", f"[{tmp_path}/a, {tmp_path}/b]")
    assert len({row["id"] for row in rows}) == 2


def test_a_row_says_whether_the_picture_is_rejected(
    run: str, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    threshold = Run(run).path("model")
    rejection = package.read(threshold).rejection
    assert rejection is not None
    rows = predict(run, capsys, "--data", tiny_dataset)
    for row in rows:
        assert row["rejected"] == (
            "yes" if float(row["reject_score"]) > rejection.threshold else "no"
        )


def test_what_a_model_without_a_threshold_rejects_is_left_open(
    run: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(f"{run}/model", tmp_path / "model")
    path = str(tmp_path / "model" / package.MODEL_FILE)
    storage.write_json(path, storage.read_json(path) | {"rejection": None})
    assert main(["predict", "--model", f"{tmp_path}/model", "--data", tiny_dataset]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["rejected"] for row in rows} == {""}


@pytest.mark.parametrize("way", ["heat", "grad_cam"])
def test_explanations_are_pictures_of_all_that_could_be_read(
    way: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = put(tmp_path / "photos", "a/x.jpg", "y.png")
    (photos / "z.jpg").write_bytes(b"x")
    words = ["--images", str(photos), "--explain", f"{tmp_path}/why", "--explain_by", way]
    assert len(predict(run, capsys, *words)) == 3
    found = sorted(name for name, _ in storage.find(f"{tmp_path}/why"))
    assert found == ["a/x.jpg", "y.png.jpg"]
    with Image.open(tmp_path / "why/a/x.jpg") as opened:
        assert opened.size == (32, 32)
