"""Kaggle's Dog Breed Identification: from its zip or folder to a data set and a submission."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.data.kaggle import from_kaggle
from dogbreed.data.listing import items_of
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.errors import BadInput
from dogbreed.submission import read_form
from tests.data.official import KAGGLE, ZIPPED, Files, kaggle, kaggle_files, kaggle_id, put, zip_of

LABELS = "labels.csv"


def rows(data: Manifest) -> dict[str, tuple[str, str]]:
    """Id -> breed (empty without a label) and split."""
    names = [*data.classes, ""]  # the label -1 is the last
    rows = data.take(range(len(data)))
    return {row["id"]: (names[row["label"]], SPLITS[row["split"]]) for row in rows}


def prepared(path: str, out: Path) -> Manifest:
    prepare.prepare("kaggle", str(out), path)
    return Manifest.open(str(out))


def problem(folder: Path, files: Files) -> str:
    """What is said of such a folder, after its name."""
    path = put(folder / "bad", files)
    with pytest.raises(BadInput) as caught:
        from_kaggle(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


def with_labels(change: Callable[[str], str]) -> Files:
    """The files of the competition with another labels.csv."""
    files = kaggle_files()
    return files | {LABELS: change(files[LABELS].decode()).encode()}


class TestDataSet:
    def test_train_is_split_by_hash_and_test_is_without_labels(self, tmp_path: Path) -> None:
        found = rows(prepared(kaggle(tmp_path, each=30, test=5), tmp_path / "out"))
        train = {name: row for name, row in found.items() if row[1] != "unlabelled"}
        assert {name: breed for name, (breed, _) in train.items()} == {
            kaggle_id(breed, k): breed for breed in ("beagle", "pug") for k in range(30)
        }
        assert {split for _, split in train.values()} == {"train", "val", "test"}
        assert found.keys() - train.keys() == {kaggle_id("test", k) for k in range(5)}
        assert {found[name][0] for name in found.keys() - train.keys()} == {""}

    def test_folder_and_zips_are_the_same_version(self, tmp_path: Path, bucket: str) -> None:
        files = kaggle_files()
        put(bucket, {"dogs.zip": zip_of(files, "deflated")} | {f"f/{n}": files[n] for n in files})
        paths = [kaggle(tmp_path, zipped=how) for how in (None, *ZIPPED)]
        paths += [f"{bucket}/dogs.zip", f"{bucket}/f"]
        versions = {}
        for number, path in enumerate(paths):
            data = prepared(path, tmp_path / f"out{number}")
            versions[path] = data.version, json.dumps(read_form(data.root))
        assert len(versions) == 8
        assert len(set(versions.values())) == 1

    def test_the_name_is_that_of_the_archive(self, tmp_path: Path) -> None:
        data = prepared(kaggle(tmp_path, zipped="stored"), tmp_path / "out")
        assert data.name == KAGGLE
        assert data.dataset["source"]["kind"] == "kaggle"

    def test_pictures_in_other_places_of_the_archive_do_not_count(self, tmp_path: Path) -> None:
        extra = kaggle_files()[f"train/{kaggle_id('pug', 0)}.jpg"]
        others = dict.fromkeys(("a.jpg", "other/a.jpg", "train/deep/a.jpg"), extra)
        path = put(tmp_path / "k", kaggle_files() | others | {"old/my_labels.csv": b"x"})
        assert len(from_kaggle(path).table) == 11

    def test_a_file_that_is_no_picture_by_name_is_a_reject(self, tmp_path: Path) -> None:
        path = put(tmp_path / "k", kaggle_files() | {"train/Thumbs.db": b"x"})
        assert from_kaggle(path).rejects == {"train/Thumbs.db": "not named like a picture"}

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: "\ufeff" + text,
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text.rstrip("\n"),
            lambda text: text + "\n\n",
            lambda text: "\n\n".join(text.split("\n")),
            lambda text: text.replace("pug", '"pug"'),
        ],
        ids=["mark", "crlf", "no end", "blank end", "blank lines", "quotes"],
    )
    def test_labels_may_be_written_in_other_ways(
        self, tmp_path: Path, change: Callable[[str], str]
    ) -> None:
        found = from_kaggle(put(tmp_path / "k", with_labels(change)))
        breeds = {item.id: item.breed for item in items_of(found.table) if item.breed}
        assert breeds == {kaggle_id(b, k): b for b in ("beagle", "pug") for k in range(4)}


class TestSubmission:
    def test_columns_and_ids_are_kept_in_their_order(self, tmp_path: Path) -> None:
        path = kaggle(tmp_path, breeds=("pug", "beagle", "shih-tzu"), test=9)
        out = prepared(path, tmp_path / "out").root
        sample = list(csv.reader(Path(path, "sample_submission.csv").read_text().splitlines()))
        assert read_form(out) == (sample[0][1:], [row[0] for row in sample[1:]])
        assert json.loads(Path(out, "submission.json").read_text()).keys() == {"columns", "ids"}

    def test_an_unreadable_test_picture_is_a_reject_that_keeps_its_row(
        self, tmp_path: Path
    ) -> None:
        bad = kaggle_id("test", 1)
        path = put(tmp_path / "k", kaggle_files() | {f"test/{bad}.jpg": b"<html>"})
        data = prepared(path, tmp_path / "out")
        assert bad not in rows(data)
        assert Path(data.root, "rejects.csv").read_text().splitlines() == [
            "id,reason",
            f'{bad},"not a JPEG, PNG or WebP picture"',
        ]
        form = read_form(data.root)
        assert form is not None
        assert bad in form[1]

    def test_without_a_sample_there_is_no_form(self, tmp_path: Path) -> None:
        files = {n: d for n, d in kaggle_files().items() if not n.startswith(("sample", "test"))}
        data = prepared(put(tmp_path / "k", files), tmp_path / "out")
        assert read_form(data.root) is None
        assert len(data) == 8

    @pytest.mark.parametrize("text", ["", "id,pug\n", "id\nabc\n", "name,pug\nabc,1\n"])
    def test_a_sample_that_is_no_table_of_ids_is_an_error(self, tmp_path: Path, text: str) -> None:
        files = kaggle_files() | {"sample_submission.csv": text.encode()}
        assert problem(tmp_path, files) == "sample_submission.csv is no table of ids and breeds"


class TestMistakes:
    def test_rows_without_pictures_are_named(self, tmp_path: Path) -> None:
        files = kaggle_files()
        text = files[LABELS].decode().split("\n")
        name = text[3].split(",")[0]  # the fourth row of the file
        del files[f"train/{name}.jpg"]
        wanted = f"1 rows of labels.csv without a picture in train/: row 4: {name}"
        assert problem(tmp_path, files) == wanted

    def test_rows_are_counted_as_an_editor_does(self, tmp_path: Path) -> None:
        files = with_labels(lambda text: text.replace("\n", "\n\n"))
        name = files[LABELS].decode().split("\n")[4].split(",")[0]
        del files[f"train/{name}.jpg"]
        assert problem(tmp_path, files).endswith(f": row 5: {name}")

    def test_pictures_without_rows_are_named(self, tmp_path: Path) -> None:
        files = kaggle_files() | {"train/new.jpg": b"x"}
        assert problem(tmp_path, files) == "1 pictures without a row in labels.csv: train/new.jpg"

    def test_both_are_said_at_once_and_a_few_of_many_named(self, tmp_path: Path) -> None:
        files = kaggle_files(each=10)
        moved = {n.replace("train/", "train/x"): d for n, d in files.items() if "train/" in n}
        for name in [name for name in files if name.startswith("train/")]:
            del files[name]
        message = problem(tmp_path, files | moved)
        assert "20 rows of labels.csv without a picture in train/: row 2: " in message
        assert "; 20 pictures without a row in labels.csv: train/x" in message
        assert message.count("and 15 more") == 2

    def test_a_picture_for_training_and_for_test_is_named(self, tmp_path: Path) -> None:
        name = kaggle_id("pug", 0)
        files = kaggle_files()
        files[f"test/{name}.jpg"] = files[f"train/{name}.jpg"]
        assert problem(tmp_path, files) == f"1 names stand for several pictures: {name}"

    def test_an_id_on_two_rows_is_named(self, tmp_path: Path) -> None:
        name = kaggle_id("pug", 0)
        files = with_labels(lambda text: f"{text}{name},beagle\n")
        wanted = f"labels.csv, row 10: the id {name} stands there twice"
        assert problem(tmp_path, files) == wanted

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "labels.csv begins with [], not with id,breed"),
            ("breed,id\n", "labels.csv begins with ['breed', 'id'], not with id,breed"),
            ("id,breed,size\n", "begins with ['id', 'breed', 'size'], not with"),
            ("id;breed\n", "begins with ['id;breed'], not with id,breed"),
            ("\nid,breed\n", "begins with [], not with id,breed"),
            ("id,breed\na,\n", "labels.csv, row 2: ['a', ''] is not an id and a breed"),
            ("id,breed\n\n,pug\n", "labels.csv, row 3: ['', 'pug'] is not an id and a breed"),
            ("id,breed\na\n", "labels.csv, row 2: ['a'] is not an id and a breed"),
            ("id,breed\na,pug,1\n", "row 2: ['a', 'pug', '1'] is not an id and a breed"),
            (f"id,breed\na,{'x' * 200_000}\n", "labels.csv is no CSV: field larger than"),
            ("id,breed\n", "8 pictures without a row in labels.csv"),
        ],
    )
    def test_labels_that_are_none(self, tmp_path: Path, text: str, message: str) -> None:
        assert message in problem(tmp_path, with_labels(lambda _: text))

    def test_a_folder_without_labels_is_an_error(self, tmp_path: Path) -> None:
        files = kaggle_files()
        del files[LABELS]
        assert problem(tmp_path, files | {"my_labels.csv": b"id,breed\n"}).startswith(
            "no labels.csv in it;"
        )

    def test_a_breed_with_fewer_than_three_pictures_is_named(self, tmp_path: Path) -> None:
        files, rare = kaggle_files(), [kaggle_id("boxer", k) for k in range(2)]
        some = next(data for name, data in files.items() if name.startswith("train/"))
        files |= {f"train/{name}.jpg": some for name in rare}
        files[LABELS] += "".join(f"{name}, boxer \n" for name in rare).encode()
        del files["sample_submission.csv"]
        path = put(tmp_path / "k", files)
        with pytest.raises(BadInput, match=r"fewer than 3 pictures: boxer \(2\);"):
            prepared(path, tmp_path / "out")

    def test_a_submission_with_other_breeds_than_the_labels_is_an_error(
        self, tmp_path: Path
    ) -> None:
        files = kaggle_files()
        name = "sample_submission.csv"
        files[name] = files[name].replace(b"\n", b",0\n").replace(b",0\n", b",collie\n", 1)
        with pytest.raises(BadInput, match=r"1 breeds stand in only one of .*: collie"):
            prepared(put(tmp_path / "k", files), tmp_path / "out")


class TestCommand:
    def fails(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        assert main(["prepare", "--source", "kaggle", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("dogbreed prepare: error: ")

    def test_without_a_path_and_credentials_it_says_what_to_set(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
        message = self.fails(capsys, "--out", str(tmp_path / "out"))
        assert message.startswith("--source kaggle needs --path, the competition's zip or folder;")
        assert "KAGGLE_USERNAME and KAGGLE_KEY" in message

    def test_a_path_that_is_not_there_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--out", str(tmp_path / "out"), "--path"]
        for name in ("none.zip", "none"):
            path = str(tmp_path / name)
            assert self.fails(capsys, *words, path).startswith(f"{path}: no such ")
