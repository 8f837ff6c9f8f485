"""Stanford Dogs: official lists, names and boxes, from the archives or what was in them."""

import contextlib
import io
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.data.listing import items_of
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.data.stanford import fetch_archives, from_stanford
from dogbreed.errors import BadInput
from dogbreed.ranges import read_ranges
from tests.conftest import smooth_picture
from tests.data.official import CHIHUAHUA, PACKED, Box, Stanford, put, tar_of

FIRST = f"{CHIHUAHUA}/n02085620_0.jpg"


def stem(name: str) -> str:
    return Path(name).stem


def prepared(path: str, out: Path, **options: str) -> Manifest:
    prepare.prepare("stanford-dogs", str(out), path, **options)  # type: ignore[arg-type]
    return Manifest.open(str(out))


def splits(data: Manifest) -> dict[str, str]:
    return {row["id"]: SPLITS[row["split"]] for row in data.take(range(len(data)))}


def rejects(data: Manifest) -> dict[str, str]:
    lines = Path(data.root, "rejects.csv").read_text().splitlines()[1:]
    return dict(line.replace('"', "").split(",", 1) for line in lines)


def problem(path: str, *, crop: bool = False) -> str:
    """What is said of such a folder, after its name."""
    with pytest.raises(BadInput) as caught:
        from_stanford(path, crop=crop)
    message = str(caught.value)
    assert message.startswith(path)
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


class TestDataSet:
    def test_the_official_test_list_wins_and_the_rest_is_hashed(self, tmp_path: Path) -> None:
        stanford = Stanford(train=100, test=10)
        found = splits(prepared(stanford.put(tmp_path), tmp_path / "out", splits="0.6,0.2,0.2"))
        assert {name for name, split in found.items() if split == "test"} == set(
            map(stem, stanford.test)
        )
        train = [found[stem(name)] for name in stanford.train]
        assert set(train) == {"train", "val"}
        assert 0.15 < train.count("val") / len(train) < 0.35  # a quarter: 0.2 of 0.6 + 0.2

    def test_breeds_have_kaggles_names_and_ids_are_stems(self, tmp_path: Path) -> None:
        stanford = Stanford()
        data = prepared(stanford.put(tmp_path), tmp_path / "out")
        assert data.classes == ["chihuahua", "japanese_spaniel"]
        rows = data.table.to_pylist()
        assert [row["id"] for row in rows] == sorted(map(stem, stanford.images))
        for row in rows:
            assert row["label"] == ("n02085620", "n02085782").index(row["id"].split("_")[0])
        assert data.dataset["source"]["kind"] == "stanford-dogs"

    @pytest.mark.parametrize("crop", ["none", "box"])
    def test_tars_and_trees_are_the_same_version(
        self, tmp_path: Path, bucket: str, crop: str
    ) -> None:
        roots = [Stanford().put(tmp_path / how, how) for how in PACKED]
        roots += [Stanford().put(f"{bucket}/{how}", how) for how in PACKED[::2]]
        versions = {
            root: prepared(root, tmp_path / f"out{k}", crop=crop).version
            for k, root in enumerate(roots)
        }
        assert len(versions) == 8
        assert len(set(versions.values())) == 1

    def test_pictures_are_copied_unchanged(self, tmp_path: Path) -> None:
        stanford = Stanford()
        data = prepared(stanford.put(tmp_path), tmp_path / "out")
        copied = read_ranges(data.ranges(data.take(range(len(data)))))
        by_id = {stem(name): content for name, content in stanford.images.items()}
        assert copied == [by_id[name] for name in sorted(by_id)]

    def test_boxes_are_not_needed_without_cutting(self, tmp_path: Path) -> None:
        stanford = Stanford()
        stanford.annotations = {}
        path = stanford.put(tmp_path, "trees")
        assert len(from_stanford(path, crop=False).table) == 12
        assert problem(path, crop=True).startswith("neither annotation.tar nor Annotation/ is")

    def test_equal_pictures_across_the_official_lists_are_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stanford = Stanford()
        for test, train in zip(stanford.test[:2], stanford.train[:2], strict=True):
            stanford.images[test] = stanford.images[train]
        data = prepared(stanford.put(tmp_path), tmp_path / "out")
        assert data.dataset["source"]["in_several_splits"] == 2
        assert "duplicates in several splits, scores will flatter: " in capsys.readouterr().out
        found = splits(data)
        assert all(found[stem(name)] == "test" for name in stanford.test)
        assert all(found[stem(name)] in {"train", "val"} for name in stanford.train)
        listed = storage.read(f"{data.root}/duplicates.csv").decode()
        assert all(stem(name) in listed for name in stanford.test[:2] + stanford.train[:2])

    def test_other_files_beside_the_pictures_are_rejects(self, tmp_path: Path) -> None:
        stanford = Stanford()
        stanford.images |= {f"{CHIHUAHUA}/notes.txt": b"x", "n02110341-dalmatian/d.jpg": b"x"}
        stanford.images |= {"beagle/b.jpg": b"x", "top.jpg": b"x"}
        found = from_stanford(stanford.put(tmp_path), crop=False).rejects
        nowhere = "lies in no folder named after a synset of the 120 breeds"
        assert found == {
            f"Images/{CHIHUAHUA}/notes.txt": "not named like a picture",
            "Images/n02110341-dalmatian/d.jpg": nowhere,
            "Images/beagle/b.jpg": nowhere,
            "Images/top.jpg": nowhere,
        }


class TestBoxes:
    def cut(self, tmp_path: Path, *boxes: Box) -> Image.Image | str:
        """The first picture cut to the first of the boxes, or why it is rejected."""
        stanford = Stanford()
        stanford.box(FIRST, *boxes)
        data = prepared(stanford.put(tmp_path), tmp_path / "out", crop="box")
        if reason := rejects(data).get(stem(FIRST)):
            return reason
        assert data.dataset["source"]["crop"] == "box"
        row = next(r for r in data.take(range(len(data))) if r["id"] == stem(FIRST))
        (content,) = read_ranges(data.ranges([row]))
        assert isinstance(content, bytes)
        picture = Image.open(io.BytesIO(content))
        assert (picture.width, picture.height) == (row["width"], row["height"])
        return picture

    @pytest.mark.parametrize(
        ("boxes", "wanted"),
        [
            ([(8, 4, 40, 36)], (8, 4, 40, 36)),
            ([(10, 20, 60, 47), (0, 0, 30, 30)], (10, 20, 60, 47)),  # the first counts
            ([(0, 0, 64, 48)], (0, 0, 64, 48)),
            ([(30, 20, 900, 700)], (30, 20, 64, 48)),
            ([(0, 0, 999_999_999, 999_999_999)], (0, 0, 64, 48)),
        ],
    )
    def test_a_picture_is_cut_to_its_first_box(
        self, tmp_path: Path, boxes: list[Box], wanted: Box
    ) -> None:
        picture = self.cut(tmp_path, *boxes)
        assert isinstance(picture, Image.Image)
        expected = np.asarray(smooth_picture(64, 48, seed=0).crop(wanted), float)
        assert picture.size == expected.shape[1::-1]
        assert np.abs(np.asarray(picture, float) - expected).mean() < 4  # two JPEGs at 95

    @pytest.mark.parametrize(
        "box", [(8, 8, 8, 40), (40, 30, 20, 10), (0, 0, 15, 40), (60, 0, 90, 40), (70, 0, 99, 40)]
    )
    def test_a_box_without_a_picture_in_it_is_a_reject(self, tmp_path: Path, box: Box) -> None:
        reason = self.cut(tmp_path, box)
        assert isinstance(reason, str)
        assert reason.startswith(f"box {box} of 64x48: a side is below 16")

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace("bndbox", "box"),
            lambda text: text.replace("<xmin>8<", "<xmin>left<"),
            lambda text: text.replace("<xmin>8<", f"<xmin>{10**30}<"),
            lambda text: "",
        ],
    )
    def test_an_annotation_without_a_box_is_an_error_that_names_the_picture(
        self, tmp_path: Path, change: object
    ) -> None:
        stanford = Stanford()
        text = stanford.annotations[FIRST.removesuffix(".jpg")].decode()
        assert callable(change)
        stanford.annotations[FIRST.removesuffix(".jpg")] = change(text).encode()
        path = stanford.put(tmp_path)
        assert problem(path, crop=True) == f"1 pictures have no annotated box: {FIRST}"

    def test_a_missing_annotation_is_an_error(self, tmp_path: Path) -> None:
        stanford = Stanford()
        for name in stanford.train[:7]:
            del stanford.annotations[name.removesuffix(".jpg")]
        message = problem(stanford.put(tmp_path), crop=True)
        assert message.startswith(f"7 pictures have no annotated box: {FIRST}, ")

    def test_more_annotations_than_are_read_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dogbreed.data.stanford._AT_ONCE", 5)
        stanford = Stanford()
        for k, name in enumerate(stanford.images):
            stanford.box(name, (k, k + 1, k + 30, k + 40))
        for how in ("gnu", "trees"):
            table = from_stanford(stanford.put(tmp_path / how, how), crop=True).table
            boxes = {item.id: item.box for item in items_of(table)}
            assert boxes == {
                stem(name): (k, k + 1, k + 30, k + 40) for k, name in enumerate(stanford.images)
            }


class TestMistakes:
    def test_pictures_in_neither_list_are_named(self, tmp_path: Path) -> None:
        stanford = Stanford()
        name = stanford.train.pop()
        message = problem(stanford.put(tmp_path))
        assert message == f"1 pictures stand in neither list: {name}"

    def test_listed_pictures_that_are_missing_are_named(self, tmp_path: Path) -> None:
        stanford = Stanford()
        gone = [stanford.train[0], stanford.test[1]]
        for name in gone:
            del stanford.images[name]
        message = problem(stanford.put(tmp_path))
        assert message == f"2 listed pictures are missing: {gone[0]}, {gone[1]}"

    def test_several_kinds_are_said_at_once(self, tmp_path: Path) -> None:
        stanford = Stanford()
        extra, gone = stanford.train.pop(), stanford.test[0]
        del stanford.images[gone]
        assert problem(stanford.put(tmp_path)) == (
            f"1 listed pictures are missing: {gone}; 1 pictures stand in neither list: {extra}"
        )

    def test_pictures_in_both_lists_are_named(self, tmp_path: Path) -> None:
        stanford = Stanford()
        stanford.test += stanford.train[:1]
        assert f"1 pictures for training and test: {FIRST}" in problem(stanford.put(tmp_path))

    @pytest.mark.parametrize(
        ("gone", "message"),
        [
            ("images.tar", "neither images.tar nor Images/ is there;"),
            ("lists.tar", "neither lists.tar nor lists/ is there;"),
            ("annotation.tar", "neither annotation.tar nor Annotation/ is there;"),
        ],
    )
    def test_a_missing_part_is_named_with_what_to_do(
        self, tmp_path: Path, gone: str, message: str
    ) -> None:
        path = Stanford().put(tmp_path)
        Path(path, gone).unlink()
        found = problem(path, crop=True)
        assert found.startswith(message)
        assert "--source stanford-dogs without --path fetches them" in found

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        assert "neither lists.tar nor lists/ is there" in problem(str(tmp_path / "none"))

    @pytest.mark.parametrize("list_", ["train_list.mat", "test_list.mat"])
    def test_a_missing_list_is_named(self, tmp_path: Path, list_: str) -> None:
        path = Stanford().put(tmp_path)
        lists = {name: data for name, data in Stanford().lists().items() if name != list_}
        put(path, {"lists.tar": tar_of(lists)})
        assert problem(path).endswith(f"/lists.tar: no {list_} in it")

    @pytest.mark.parametrize("what", ["garbage", "empty", "cut", "damaged", "another variable"])
    def test_a_list_that_is_not_matlabs_is_named(self, tmp_path: Path, what: str) -> None:
        path, lists = Stanford().put(tmp_path), Stanford().lists()
        good, other = lists["train_list.mat"], io.BytesIO()
        savemat(other, {"names": np.zeros(3)})  # type: ignore[arg-type]
        lists["train_list.mat"] = {
            "garbage": b"n02085620-Chihuahua/n02085620_0.jpg\n" * 20,
            "empty": b"",
            "cut": good[: len(good) // 2],
            "damaged": good[:128] + b"\xff" * 64 + good[192:],
            "another variable": other.getvalue(),
        }[what]
        put(path, {"lists.tar": tar_of(lists)})
        assert "train_list.mat is no list in MATLAB's format" in problem(path)


class TestCommand:
    @pytest.mark.parametrize("source", ["folder", "kaggle", "sample"])
    def test_boxes_are_there_with_stanford_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
    ) -> None:
        words = ["--source", source, "--path", str(tmp_path), "--out", str(tmp_path / "out")]
        assert main(["prepare", *words, "--crop", "box"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--crop box needs annotated boxes, which --source stanford-dogs has" in line
        assert not (tmp_path / "out").exists()

    def test_shares_for_train_and_val_are_needed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--path", Stanford().put(tmp_path), "--out", str(tmp_path / "out")]
        words += ["--source", "stanford-dogs", "--splits", "0,0,1"]
        assert main(["prepare", *words]) == 2
        assert "say how to share the rest" in capsys.readouterr().err


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder at an address of this machine."""

    def handler(*words: object) -> Quiet:
        return Quiet(*words, directory=str(folder))  # type: ignore[arg-type]

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class TestFetching:
    def test_the_archives_are_fetched_from_an_address(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        Stanford().put(tmp_path / "site" / "dogs")
        out = str(tmp_path / "out")
        with served(tmp_path / "site") as site:
            prepare.prepare("stanford-dogs", out, address=f"{site}/dogs/")
        assert len(Manifest.open(out)) == 12
        assert Manifest.open(out).name == "stanford-dogs"

    def test_what_is_there_is_not_fetched_again(self, tmp_path: Path) -> None:
        path = Stanford().put(tmp_path)
        assert fetch_archives(Path(path), "http://127.0.0.1:1") == path

    def test_a_missing_archive_at_an_address_is_named(self, tmp_path: Path) -> None:
        Stanford().put(tmp_path / "site")
        (tmp_path / "site" / "lists.tar").unlink()
        with served(tmp_path / "site") as site, pytest.raises(BadInput, match=r"lists\.tar"):
            fetch_archives(tmp_path / "here", site)
