"""Kaggle's submission: every row it asks for, in its order, whatever became of the picture."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from dogbreed import package, storage
from dogbreed.breeds import SYNSETS
from dogbreed.cli import main
from dogbreed.data import manifest
from dogbreed.errors import BadInput
from dogbreed.model.backbone import Network
from dogbreed.submission import FORM_FILE, Submission
from tests.conftest import picture_file

BACKBONE = "test_efficientnet"
KNOWN = ["pug", "beagle", "chow", "boxer"]  # the model's order
COLUMNS = ["chow", "beagle", "pug", "boxer"]  # neither sorted nor the model's order
PICTURES = {f"{k:02x}f": picture_file(60, 50, seed=k) for k in range(8)}  # id -> bytes
ORDER = ["05f", "00f", "07f", "02f", "01f", "06f", "04f", "03f"]

Table = dict[str, dict[str, float]]  # id -> breed -> probability, in the file's order


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a package whose answers differ from picture to picture; for reading only."""
    torch.manual_seed(0)
    network = Network(BACKBONE, len(KNOWN))
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    for _ in range(3):
        network(images)
    torch.nn.init.normal_(network.head.weight, std=0.5)  # type: ignore[arg-type]
    url = str(tmp_path_factory.mktemp("model"))
    about = {
        "run": "run",
        "backbone": BACKBONE,
        "classes": [{"name": name} for name in KNOWN],
        "preprocessing": {"size": 32, "crop": 1.0},
        "temperature": 1.0,
        "data": {"name": "dogs", "version": "0" * 64},
        "pretraining": "none (random)",
        "metrics": {"val": {"top1": 0.5}},
    }
    package.write(url, about, save(network.body.state_dict()))
    return url


def dataset(
    root: Path | str,
    *,
    unlabelled: dict[str, bytes] = PICTURES,
    test: dict[str, bytes] | None = None,
    form: Any = None,
) -> str:
    """Write a data set with these splits, and `submission.json` if there is a form."""
    splits = {"unlabelled": unlabelled, "test": test or {}}
    rows = [
        {
            "id": name,
            "uri": f"pictures/{name}.jpg",
            "offset": 0,
            "size": len(data),
            "label": -1 if split == "unlabelled" else 0,
            "split": split,
            "width": 60,
            "height": 50,
            "digest": storage.digest_of(data),
            "group": storage.digest_of(data),
        }
        for split, pictures in splits.items()
        for name, data in pictures.items()
    ]
    for pictures in splits.values():
        for name, data in pictures.items():
            storage.write(storage.join(str(root), "pictures", f"{name}.jpg"), data)
    table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
    manifest.save(str(root), table, classes=[{"name": n} for n in COLUMNS], name="dogs")
    if form is not None:
        storage.write_json(storage.join(str(root), FORM_FILE), form)
    return str(root)


def form_of(ids: list[str] = ORDER, columns: list[str] = COLUMNS) -> dict[str, list[str]]:
    return {"columns": columns, "ids": ids}


def table_of(text: str) -> Table:
    """Parse a submission."""
    header, *rows = csv.reader(io.StringIO(text))
    assert header[0] == "id"
    assert len({row[0] for row in rows}) == len(rows)
    return {name: dict(zip(header[1:], map(float, shares), strict=True)) for name, *shares in rows}


def submit(
    model: str, data: str, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[Table, str]:
    """Print a submission; the table, and what was said on stderr."""
    capsys.readouterr()
    options = ["--model", model, "--data", data, "--batch_size", "3", *words]
    assert main(["predict", "--format", "kaggle", *options]) == 0
    said = capsys.readouterr()
    return table_of(said.out), said.err


def refused(model: str, data: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said instead of a submission."""
    capsys.readouterr()
    assert main(["predict", "--format", "kaggle", "--model", model, "--data", data]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def shares_of(row: dict[str, float]) -> list[float]:
    return list(row.values())


def test_header_and_rows_are_those_of_the_form_in_its_order(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, said = submit(model, dataset(tmp_path, form=form_of()), capsys)
    assert list(table) == ORDER
    assert {tuple(row) for row in table.values()} == {tuple(COLUMNS)}
    assert said == ""


def test_the_probabilities_are_those_of_the_usual_format(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path, form=form_of())
    table, _ = submit(model, data, capsys)
    assert main(["predict", "--model", model, "--data", data, "--split", "unlabelled"]) == 0
    usual = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sorted(row["id"] for row in usual) == sorted(table)
    for row in usual:
        assert table[row["id"]][row["breed"]] == pytest.approx(float(row["probability"]), abs=2e-6)
        for entry in row["top5"].split(";"):  # all four, for there are no five
            breed, share = entry.split(":")
            assert table[row["id"]][breed] == pytest.approx(float(share), abs=6e-5)
    assert len({row["probability"] for row in usual}) == len(usual)


def test_unlabelled_is_the_split_unless_another_is_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path, test={"aaa": picture_file(60, 50, seed=90)})
    assert list(submit(model, data, capsys)[0]) == sorted(PICTURES)
    assert list(submit(model, data, capsys, "--split", "test")[0]) == ["aaa"]
    assert main(["predict", "--model", model, "--data", data]) == 0
    assert [row["id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["aaa"]


def test_a_picture_that_cannot_be_read_has_a_uniform_row_and_is_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = submit(model, dataset(tmp_path / "whole", form=form_of()), capsys)
    broken = dict.fromkeys(("00f", "01f", "02f"), b"no picture")  # all of a batch
    broken["06f"] = PICTURES["06f"][:200]
    data = dataset(tmp_path / "data", unlabelled=PICTURES | broken, form=form_of())
    (tmp_path / "data/pictures/04f.jpg").unlink()
    table, said = submit(model, data, capsys)
    assert list(table) == ORDER
    for name, row in table.items():
        if name in broken or name == "04f":
            assert shares_of(row) == [0.25] * 4
        else:
            assert row == pytest.approx(whole[name], abs=2e-6)
    assert said.startswith("5 of 8 rows have no answer and are uniform, 1/4 each: ")
    assert said.count("\n") == 1
    assert "00f (not a JPEG, PNG or WebP picture), 02f (" in said
    assert "04f.jpg" in said


def test_an_id_without_a_picture_has_a_uniform_row_and_is_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = submit(model, dataset(tmp_path / "whole", form=form_of()), capsys)
    some = {name: data for name, data in PICTURES.items() if name not in {"00f", "07f"}}
    table, said = submit(model, dataset(tmp_path / "a", unlabelled=some, form=form_of()), capsys)
    assert list(table) == ORDER
    for name, row in table.items():
        assert row == (
            pytest.approx(whole[name], abs=2e-6) if name in some else dict.fromkeys(COLUMNS, 0.25)
        )
    assert said == (
        "2 of 8 rows have no answer and are uniform, 1/4 each:"
        " 00f (not in the split), 07f (not in the split)\n"
    )


def test_few_of_many_rows_without_an_answer_are_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [*ORDER, *(f"gone{k}" for k in range(7))]
    _, said = submit(model, dataset(tmp_path, form=form_of(ids)), capsys)
    assert said.startswith("7 of 15 rows")
    assert said.endswith("gone4 (not in the split) and 2 more\n")


def test_a_form_of_other_pictures_is_refused_from_more_than_half_of_its_ids_on(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [f"other{k}" for k in range(9)]
    half = dataset(tmp_path / "half", form=form_of([*ORDER, *others[:8]]))
    assert len(submit(model, half, capsys)[0]) == 16
    more = dataset(tmp_path / "more", form=form_of([*ORDER, *others]))
    said = refused(model, more, capsys)
    assert "9 of the 17 ids in submission.json are not in the split" in said
    assert more in said


def test_a_picture_that_is_no_row_is_left_out_unread_and_counted(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [name for name in ORDER if name not in {"01f", "06f"}]
    data = dataset(tmp_path, unlabelled=PICTURES | {"06f": b"broken"}, form=form_of(wanted))
    table, said = submit(model, data, capsys)
    assert list(table) == wanted
    assert all(shares_of(row) != [0.25] * 4 for row in table.values())
    assert said == "2 pictures of the split are no rows of the submission and left out: 01f, 06f\n"


def test_a_column_that_the_model_does_not_know_is_refused_with_the_nearest_name(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["beagel", "boxer", "zzz", "pugg", "qqq"]
    said = refused(model, dataset(tmp_path, form=form_of(columns=columns)), capsys)
    assert "4 of the submission's 5 breeds are unknown to the model: 'beagel', did you" in said
    assert "did you mean 'beagle'?; 'zzz'; 'pugg', did you mean 'pug'?; … (classes" in said
    assert "qqq" not in said


def test_breeds_that_are_no_columns_are_dropped_and_the_rest_sums_to_1(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = submit(model, dataset(tmp_path / "whole", form=form_of()), capsys)
    fewer = dataset(tmp_path / "fewer", form=form_of(columns=["pug", "boxer"]))
    table, said = submit(model, fewer, capsys)
    for name, row in table.items():
        both = whole[name]["pug"] + whole[name]["boxer"]
        assert list(row) == ["pug", "boxer"]
        assert row["pug"] == pytest.approx(whole[name]["pug"] / both, rel=1e-5)
        assert sum(shares_of(row)) == pytest.approx(1, abs=1e-6)
    assert said.startswith("2 of the model's breeds are no columns of the submission and dropped")
    assert said.endswith(": beagle, chow\n")


def test_without_a_form_columns_are_the_sorted_classes_and_rows_the_splits(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formed, _ = submit(model, dataset(tmp_path / "formed", form=form_of()), capsys)
    table, said = submit(model, dataset(tmp_path / "free"), capsys)
    assert list(table) == sorted(PICTURES)
    assert {tuple(row) for row in table.values()} == {tuple(sorted(COLUMNS))}
    assert table == formed
    assert said == ""


@pytest.mark.parametrize(
    "text",
    [
        "columns",
        "[]",
        "{}",
        json.dumps({"columns": COLUMNS}),
        json.dumps({"columns": COLUMNS, "ids": "05f"}),
        json.dumps({"columns": COLUMNS, "ids": [5, 6]}),
        json.dumps({"columns": COLUMNS, "ids": [["05f"]]}),
        json.dumps({"columns": COLUMNS, "ids": []}),
        json.dumps({"columns": [], "ids": ORDER}),
        json.dumps({"columns": [*COLUMNS, "pug"], "ids": ORDER}),
        json.dumps({"columns": COLUMNS, "ids": [*ORDER, "05f"]}),
        json.dumps({"columns": COLUMNS, "ids": [*ORDER, ""]}),
    ],
)
def test_a_form_that_prepare_does_not_write_is_refused(
    text: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path)
    (tmp_path / FORM_FILE).write_text(text)
    assert f"{data}/{FORM_FILE}: " in refused(model, data, capsys)


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_the_submission_goes_where_it_is_told_and_stdout_holds_nothing_else(
    place: str,
    model: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(tmp_path) if place == "disk" else request.getfixturevalue("bucket")
    some = {name: data for name, data in PICTURES.items() if name != "05f"}
    data = dataset(f"{root}/data", unlabelled=some | {"extra": b"x"}, form=form_of())
    words = ["predict", "--format", "kaggle", "--model", model, "--data", data]
    capsys.readouterr()
    assert main([*words, "--out", "-"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "id," + ",".join(COLUMNS)
    assert len(printed.out.splitlines()) == 1 + len(ORDER)
    assert printed.err.count("\n") == 2
    assert main([*words, "--out", f"{root}/new/submission.csv"]) == 0
    assert storage.read(f"{root}/new/submission.csv").decode() == printed.out
    said = capsys.readouterr()
    assert said.err == printed.err
    assert said.out == f"8 rows, 1 of them without an answer: {root}/new/submission.csv\n"


def test_nothing_readable_is_an_error(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path, unlabelled=dict.fromkeys(PICTURES, b"no picture"), form=form_of())
    out = f"{tmp_path}/out.csv"
    words = ["predict", "--format", "kaggle", "--model", model, "--data", data, "--out", out]
    assert main(words) == 2
    assert "none of the 8 pictures could be read" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--images", "x"], ["--images", "x", "--data", "y"], []])
def test_it_is_for_a_data_set_alone(
    words: list[str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["predict", "--format", "kaggle", "--model", model, *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "dogbreed predict: error: --format kaggle answers a data set: say --data DATA-SET,"
        " without --images\n"
    )


class TestSubmission:
    def test_a_row_sums_to_1_and_no_share_is_0(self) -> None:
        breeds, ids = list(SYNSETS), [str(k) for k in range(300)]
        logits = np.random.default_rng(0).normal(0, 1, (300, 120)).astype(np.float32)
        logits *= np.geomspace(0.01, 1000, 300, dtype=np.float32)[:, None]  # sure to overflowing
        powers = np.exp(logits - logits.max(1, keepdims=True))
        answers = powers / powers.sum(1, keepdims=True)
        assert (answers == 0).any()
        assert (answers == 1).any()
        made = Submission(sorted(breeds), ids, breeds)
        made.add(ids, [""] * 300, answers)
        table = table_of(made.finish()[0])
        for name, row in table.items():
            assert sum(shares_of(row)) == pytest.approx(1, abs=1e-8)
            assert min(shares_of(row)) >= 0.99e-15
            assert [row[breed] for breed in breeds] == pytest.approx(
                answers[int(name)], rel=1e-6, abs=1e-14
            )

    def test_uniform_rows_sum_to_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        table = table_of(Submission(list(SYNSETS), ["a"], list(SYNSETS)).finish()[0])
        assert sum(shares_of(table["a"])) == pytest.approx(1, abs=1e-8)
        assert shares_of(table["a"]) == pytest.approx([1 / 120] * 120, rel=1e-8)
        assert capsys.readouterr().err == (
            "1 of 1 rows have no answer and are uniform, 1/120 each: a (not in the split)\n"
        )

    def test_a_row_whose_breeds_are_all_impossible_is_uniform(self) -> None:
        made = Submission(["a", "b"], ["x"], ["a", "b", "c"])
        made.add(["x"], [""], np.array([[0, 0, 1]], np.float32))
        assert made.finish()[0] == "id,a,b\nx,0.5,0.5\n"

    def test_rows_are_filled_in_whatever_order(self) -> None:
        made = Submission(["a", "b"], ["x", "y", "z"], ["b", "a"])
        made.add(["z"], [""], np.array([[0.25, 0.75]]))
        made.add(["y", "x"], ["", ""], np.array([[0.5, 0.5], [0.125, 0.875]]))
        assert made.finish() == ("id,a,b\nx,0.875,0.125\ny,0.5,0.5\nz,0.75,0.25\n", "3 rows")

    def test_an_answer_that_is_no_number_is_refused(self) -> None:
        made = Submission(["a", "b"], ["x"], ["a", "b"])
        with pytest.raises(BadInput, match="answers with NaN"):
            made.add(["x"], [""], np.array([[np.nan, 1]], np.float32))
