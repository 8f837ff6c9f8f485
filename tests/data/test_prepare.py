"""`dogbreed prepare`: from class folders anywhere to a data set anywhere."""

import csv
import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from dogbreed import images, retries, storage
from dogbreed.cli import main
from dogbreed.data import prepare, sample, work
from dogbreed.data.build import REJECTS_FILE
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.errors import BadInput
from dogbreed.ranges import read_ranges
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS

Place = Callable[[str], str]
PLACES = ["disk", "memory", "bucket"]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Give a function that makes an empty place on a kind of file system."""
    memories: list[str] = []

    def make(kind: str) -> str:
        if kind == "disk":
            return str(tmp_path / uuid.uuid4().hex)
        if kind == "bucket":
            gcs: FakeGCS = request.getfixturevalue("gcs")
            return gcs.bucket()
        memories.append(f"memory://{uuid.uuid4().hex}")
        return memories[-1]

    yield make
    memory = fsspec.filesystem("memory")
    for url in memories:
        if memory.exists(url):
            memory.rm(url, recursive=True)


def photographs(each: int = 4, breeds: tuple[str, ...] = ("beagle", "pug")) -> dict[str, bytes]:
    """Small pictures, no two equal, in class folders."""
    return {
        f"{breed}/{k}.jpg": picture_file(24 + k % 5, 20, seed=1000 * number + k)
        for number, breed in enumerate(breeds)
        for k in range(each)
    }


def put(root: str, files: dict[str, bytes]) -> str:
    storage.write_many({storage.join(root, name): data for name, data in files.items()})
    return root


def opened(out: str) -> Manifest:
    return Manifest.open(out)


def rows_by_id(data: Manifest) -> dict[str, dict[str, object]]:
    return {row["id"]: row for row in data.take(range(len(data)))}


def splits_by_id(data: Manifest) -> dict[str, str]:
    return {name: SPLITS[int(str(row["split"]))] for name, row in rows_by_id(data).items()}


def rejects(out: str) -> dict[str, str]:
    text = storage.read(storage.join(out, REJECTS_FILE)).decode()
    table = list(csv.reader(io.StringIO(text)))
    assert table[0] == ["id", "reason"]
    return dict(table[1:])


class TestFromAnywhereToAnywhere:
    @pytest.mark.parametrize("source", PLACES)
    @pytest.mark.parametrize("target", PLACES)
    def test_pictures_are_copied_unchanged_and_listed(
        self, place: Place, source: str, target: str
    ) -> None:
        files = photographs()
        path, out = put(place(source), files), place(target)
        prepare.prepare("folder", out, path)
        data = opened(out)
        assert data.classes == ["beagle", "pug"]
        assert data.root == out
        rows = data.take(range(len(data)))
        assert [row["id"] for row in rows] == sorted(files)
        assert dict(zip(sorted(files), read_ranges(data.ranges(rows)), strict=True)) == (files)
        for row in rows:
            assert row["label"] == ("beagle", "pug").index(row["id"].split("/")[0])
            assert (row["width"], row["height"]) == images.decode(files[row["id"]]).size
            assert row["digest"] == storage.digest_of(files[row["id"]])
        assert rejects(out) == {}
        assert files == {
            name: storage.read(storage.join(path, name)) for name, _ in storage.find(path)
        }

    def test_names_with_odd_characters_are_kept(self, place: Place) -> None:
        names = [f"{breed}/a b [{k}]&=?.JPG" for breed in ("shih tzu ü#%+", "Ü") for k in range(3)]
        odd = {name: picture_file(24, 20, seed=k) for k, name in enumerate(names)}
        for kind in ("disk", "bucket"):
            out = place(kind)
            prepare.prepare("folder", out, put(place(kind), odd))
            data = opened(out)
            assert data.classes == ["shih tzu ü#%+", "Ü"]
            assert read_ranges(data.ranges(data.take(range(6)))) == list(odd.values())

    def test_a_single_breed_is_an_error(self, place: Place) -> None:
        path, out = put(place("disk"), photographs(breeds=("pug",))), place("disk")
        with pytest.raises(BadInput, match="only one breed, pug"):
            prepare.prepare("folder", out, path)

    def test_relative_paths_and_home_folders_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(str(tmp_path / "dogs"), photographs())
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        prepare.prepare("folder", "~/out", "dogs/")
        assert opened(str(tmp_path / "out")).name == "dogs"

    def test_more_pictures_than_a_chunk(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(work, "CHUNK", 5)
        files, out = photographs(each=9), place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        assert sorted(rows_by_id(opened(out))) == sorted(files)

    def test_a_bucket_out_of_breath_loses_no_picture(
        self, place: Place, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
        files = photographs(each=10)
        path, out = put(place("bucket"), files), place("bucket")
        gcs.faults.error_rate = gcs.faults.cut_rate = 0.2
        gcs.faults.only = ".jpg"
        prepare.prepare("folder", out, path)
        assert gcs.counts["error"] > 0
        assert gcs.counts["cut"] > 0
        gcs.reset()
        rows = opened(out).take(range(20))
        assert read_ranges(opened(out).ranges(rows)) == [files[r["id"]] for r in rows]

    def test_what_dataset_json_says(self, place: Place) -> None:
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), photographs()), name="mine", seed=3)
        about = opened(out).dataset
        assert about["name"] == "mine"
        assert about["source"] == {
            "kind": "folder",
            "seed": 3,
            "splits": [0.8, 0.1, 0.1],
            "crop": "none",
            "rejected": 0,
            "in_several_splits": 0,
        }
        assert about["classes"] == [
            {"name": "beagle", "title": "Beagle", "synset": "n02088364"},
            {"name": "pug", "title": "Pug", "synset": "n02110958"},
        ]

    def test_the_same_pictures_are_the_same_version_wherever_they_lie(self, place: Place) -> None:
        versions = set()
        for kind in PLACES:
            out = place(kind)
            prepare.prepare("folder", out, put(place(kind), photographs()))
            versions.add(opened(out).version)
        assert len(versions) == 1


class TestFolders:
    def test_only_pictures_in_class_folders_count(self, place: Place) -> None:
        others = {
            "beagle/notes.txt": b"x",
            "beagle/.hidden.jpg": picture_file(),
            ".thumbs/1.jpg": picture_file(),
            "at the top.jpg": picture_file(),
        }
        deeper = {"pug/summer/9.png": picture_file(format="PNG")}
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), photographs() | others | deeper))
        data = opened(out)
        assert sorted(rows_by_id(data)) == sorted(photographs() | deeper)
        assert data.classes == ["beagle", "pug"]
        assert rows_by_id(data)["pug/summer/9.png"]["label"] == 1

    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_folders_of_splits_are_kept(self, place: Place, val: str) -> None:
        files = {
            f"{split}/{name}": picture_file(24, 20, seed=50 * number + k)
            for number, split in enumerate(("train", val, "test"))
            for k, name in enumerate(photographs())
        }
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        names = {"train": "train", val: "val", "test": "test"}
        assert splits_by_id(opened(out)) == {name: names[name.split("/")[0]] for name in files}
        assert opened(out).classes == ["beagle", "pug"]

    def test_folders_of_splits_may_begin_with_a_capital(self, place: Place) -> None:
        files = {
            f"{split}/{name}": picture_file(24, 20, seed=50 * number + k)
            for number, split in enumerate(("Train", "Test"))
            for k, name in enumerate(photographs())
        }
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        assert splits_by_id(opened(out)) == {n: n.split("/")[0].lower() for n in files}

    def test_a_breed_beside_a_folder_of_a_split_is_an_error(self, place: Place) -> None:
        path = put(place("disk"), photographs(breeds=("test", "beagle")))
        with pytest.raises(BadInput, match="folders of splits and of breeds side by side: beagle"):
            prepare.prepare("folder", place("disk"), path)

    def test_pictures_in_more_than_one_split_are_counted(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = {f"train/{name}": data for name, data in photographs().items()}
        files |= {f"test/{name}": data for name, data in photographs().items()}
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        n = len(photographs())
        assert opened(out).dataset["source"]["in_several_splits"] == n
        assert "duplicates in several splits, scores will flatter: " in capsys.readouterr().out

    def test_the_upright_size_is_listed(self, place: Place) -> None:
        turned = Image.Exif()
        turned[0x0112] = 6
        files = photographs() | {"pug/turned.jpg": picture_file(50, 20, exif=turned)}
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        row = rows_by_id(opened(out))["pug/turned.jpg"]
        assert (row["width"], row["height"]) == (20, 50)


BAD = {
    "beagle/empty.jpg": (b"", "not a JPEG, PNG or WebP picture"),
    "beagle/page.jpg": (b"<html>404</html>", "not a JPEG, PNG or WebP picture"),
    "pug/tiny.png": (picture_file(8, 300, format="PNG"), "8x300: a side is below 16 pixels"),
    "pug/cut.jpg": (picture_file(300, 200)[:2000], "broken picture"),
}


class TestRejects:
    def test_unusable_files_are_named_with_reasons_and_left_out(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = {name: data for name, (data, _) in BAD.items()}
        out = place("bucket")
        prepare.prepare("folder", out, put(place("disk"), photographs() | bad))
        found = rejects(out)
        assert found.keys() == bad.keys()
        assert all(BAD[name][1] in reason for name, reason in found.items())
        assert sorted(rows_by_id(opened(out))) == sorted(photographs())
        assert opened(out).dataset["source"]["rejected"] == 4
        assert f"4 of 12 files rejected, see {out}/rejects.csv" in capsys.readouterr().out
        kept = {name for name, _ in storage.find(out) if name.startswith("pictures/")}
        assert kept == {f"pictures/{name}" for name in photographs()}

    def test_a_file_that_cannot_be_fetched_is_an_error_and_not_a_reject(
        self, place: Place, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        path, out = put(place("bucket"), photographs()), place("disk")
        gcs.faults.cut_rate, gcs.faults.only = 1.0, "pug/2.jpg"
        with pytest.raises(BadInput, match=r"pug/2\.jpg: .* bytes came instead of"):
            prepare.prepare("folder", out, path)
        assert not storage.exists(storage.join(out, "dataset.json"))

    def test_a_picture_in_no_class_folder_is_named(self, place: Place) -> None:
        path, out = put(place("disk"), photographs() | {"stray.jpg": picture_file()}), place("disk")
        prepare.prepare("folder", out, path)
        assert rejects(out) == {"stray.jpg": "lies in no folder named after a breed"}

    def test_a_file_beyond_the_limit_is_rejected_by_its_size(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "MAX_BYTES", 3000)
        files, out = photographs() | {"pug/large.jpg": picture_file() + bytes(9000)}, place("disk")
        prepare.prepare("folder", out, put(place("disk"), files))
        assert list(rejects(out)) == ["pug/large.jpg"]
        assert "at most 3,000 are read" in rejects(out)["pug/large.jpg"]


class TestSplits:
    def test_pictures_added_later_never_move_the_others(self, place: Place) -> None:
        first, second = place("disk"), place("disk")
        prepare.prepare("folder", first, put(place("disk"), photographs(each=30)))
        more = photographs(each=45, breeds=("beagle", "pug", "whippet"))
        prepare.prepare("folder", second, put(place("disk"), more))
        before, after = splits_by_id(opened(first)), splits_by_id(opened(second))
        assert before.items() <= after.items()
        assert len(set(before.values())) == 3

    def test_equal_files_share_group_and_split_whatever_their_names(self, place: Place) -> None:
        files = photographs(each=20)
        twins = {f"pug/copy of {k}.jpg": files[f"pug/{k}.jpg"] for k in range(20)}
        out = place("disk")
        prepare.prepare("folder", out, put(place("disk"), files | twins))
        rows, splits = rows_by_id(opened(out)), splits_by_id(opened(out))
        for k in range(20):
            a, b = f"pug/{k}.jpg", f"pug/copy of {k}.jpg"
            assert rows[a]["group"] == rows[b]["group"]
            assert splits[a] == splits[b]

    def test_shares_are_those_asked_for(self, place: Place) -> None:
        out = place("disk")
        path = put(place("disk"), photographs(each=200))
        prepare.prepare("folder", out, path, splits="0.5,0.3,0.2")
        counts = opened(out).dataset["counts"]
        shares = [sum(counts[split].values()) / 400 for split in ("train", "val", "test")]
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.08)

    def test_another_seed_draws_other_splits(self, place: Place) -> None:
        path, got = put(place("disk"), photographs(each=30)), []
        for seed in (0, 1):
            out = place("disk")
            prepare.prepare("folder", out, path, seed=seed)
            got.append(splits_by_id(opened(out)))
        assert got[0] != got[1]


class TestContactSheet:
    def test_it_is_a_picture_of_the_pictures(self, place: Place) -> None:
        out = place("bucket")
        red = {f"pug/red{k}.jpg": flat((250, 0, 0), k) for k in range(6)}
        blue = {f"beagle/blue{k}.jpg": flat((0, 0, 250), k) for k in range(3)}
        prepare.prepare("folder", out, put(place("disk"), red | blue))
        with Image.open(io.BytesIO(storage.read(f"{out}/contact_sheet.png"))) as sheet:
            assert sheet.format == "PNG"
            pixels = np.asarray(sheet.convert("RGB"), int)
        area = 70 * 70
        assert area * 5.9 < (np.abs(pixels - (250, 0, 0)).max(2) < 12).sum() < area * 6.2
        assert area * 2.9 < (np.abs(pixels - (0, 0, 250)).max(2) < 12).sum() < area * 3.2

    def test_many_breeds_stand_in_columns(self, place: Place) -> None:
        sizes = []
        for number in (12, 13, 41):
            out = place("disk")
            breeds = tuple(f"breed_{k:02d}" for k in range(number))
            prepare.prepare("folder", out, put(place("disk"), photographs(3, breeds)))
            with Image.open(f"{out}/contact_sheet.png") as sheet:
                sizes.append(sheet.size)
        widths, heights = zip(*sizes, strict=True)
        assert widths[0] < widths[1] < widths[2]
        assert max(heights) < 2 * heights[0]


def flat(colour: tuple[int, int, int], k: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40 + k, 40), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


class TestCommand:
    """The words of a command, its exit status and what it says."""

    def fails(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        assert main(["prepare", *words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        start = "dogbreed prepare: error: "
        assert lines[0].startswith(start)
        return lines[0].removeprefix(start)

    def test_done_is_status_zero_and_says_what_is_next(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = put(place("disk"), photographs(each=20)), place("bucket")
        words = ["--source", "folder", "--path", path, "--out", out, "--splits", "0.5,0.25,0.25"]
        assert main(["prepare", *words]) == 0
        captured = capsys.readouterr()
        assert "40 pictures of 2 breeds" in captured.out
        assert opened(out).version[:12] in captured.out
        assert f"--data.root {out}" in captured.out
        assert captured.err == ""

    def test_without_pictures_to_validate_on_it_says_so(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = put(place("disk"), photographs()), place("disk")
        words = ["--source", "folder", "--path", path, "--out", out, "--splits", "1,0,0"]
        assert main(["prepare", *words]) == 0
        said = capsys.readouterr().out
        assert "no pictures for val: fit needs both" in said
        assert "next:" not in said

    def test_a_place_in_the_folder_of_the_pictures_is_an_error(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = put(place("disk"), photographs())
        words = ["--source", "folder", "--path", path]
        for places in (["--out", f"{path}/set"], ["--out", place("disk"), "--pictures", path]):
            assert "lies in the source's folder" in self.fails(capsys, *words, *places)
        assert sorted(name for name, _ in storage.find(path)) == sorted(photographs())

    def test_the_sample_is_a_source(self, tmp_path: Path) -> None:
        words = ["--source", "sample", "--per_class", "3", "--out", str(tmp_path), "--seed", "2"]
        assert main(["prepare", *words]) == 0
        data = opened(str(tmp_path))
        assert (data.name, len(data)) == ("synthetic-breeds", 3 * len(sample.BREEDS))
        assert data.classes == sorted(sample.BREEDS)
        rows = data.take([0])
        breed = sample.BREEDS.index(rows[0]["id"].split("/")[0])
        assert read_ranges(data.ranges(rows)) == [sample.jpeg(breed, 0, seed=2)]

    def test_help_lists_the_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["prepare", "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(option in text for option in ("--source", "--path", "--out", "--splits"))

    def test_options_can_come_from_a_file(self, place: Place, tmp_path: Path) -> None:
        path, out = put(place("disk"), photographs()), place("disk")
        (tmp_path / "c.yaml").write_text(f"source: folder\npath: {path}\nout: /nowhere\nseed: 5\n")
        assert main(["prepare", "--config", str(tmp_path / "c.yaml"), "--out", out]) == 0
        assert opened(out).dataset["source"]["seed"] == 5

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--source", "folder", "--path", "x"], "--out is missing"),
            (["--source", "folder", "--out", "OUT"], "needs --path"),
            (["--source", "folder", "--path", "/no/such", "--out", "OUT"], "/no/such: no such"),
            (["--source", "folder", "--path", "gs://no-such", "--out", "OUT"], "no such"),
            (["--source", "floder", "--out", "OUT"], "floder"),
            (["--source", "sample", "--out", "OUT", "--splits", "0.9,0.9,0.1"], "add up to 1"),
            (["--source", "sample", "--out", "OUT", "--splits", "1.5,-0.5,0"], "add up to 1"),
            (["--source", "sample", "--out", "OUT", "--splits", "0.8,0.2"], "three numbers"),
            (["--source", "sample", "--out", "OUT", "--per_class", "many"], "per_class"),
            (["--source", "sample", "--out", "OUT", "--sede", "1"], "did you mean 'seed'?"),
            (["--source", "sample", "--out", "nonsense://x"], "nonsense"),
            (["--source", "sample", "--out", "gs://no-such/x", "--per_class", "3"], "no such"),
            (
                ["--source", "sample", "--out", "OUT", "--per_class", "0"],
                "--per_class 0: must be at least 1",
            ),
            (["--config", "/no/such.yaml"], "/no/such.yaml"),
        ],
    )
    @pytest.mark.usefixtures("gcs")
    def test_wrong_words_are_status_two_and_one_line(
        self,
        words: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = str(tmp_path / "out")
        assert message in self.fails(capsys, *(out if word == "OUT" else word for word in words))
        assert not storage.exists(storage.join(out, "dataset.json"))

    def test_a_folder_without_pictures_is_an_error(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = put(place("disk"), {"beagle/notes.txt": b"x", "top.jpg": picture_file()})
        words = ["--source", "folder", "--path", path, "--out", place("disk")]
        assert "no pictures (.jpeg, .jpg, .png, .webp)" in self.fails(capsys, *words)

    def test_a_breed_with_fewer_than_three_is_an_error_that_names_it(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = photographs() | {"boxer/1.jpg": picture_file(), "boxer/2.jpg": b"no picture"}
        files |= {"boxer/3.jpg": picture_file(seed=3)}
        out = place("bucket")
        words = ["--source", "folder", "--path", put(place("disk"), files), "--out", out]
        message = self.fails(capsys, *words)
        assert "fewer than 3 readable pictures: boxer (2);" in message
        assert list(rejects(out)) == ["boxer/2.jpg"]
        with pytest.raises(BadInput, match="no data set here"):
            opened(out)

    @pytest.mark.parametrize("kind", ["disk", "bucket"])
    def test_run_again_with_more_pictures_it_extends_the_data_set(
        self, place: Place, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        path, out = put(place("disk"), photographs()), place(kind)
        words = ["--source", "folder", "--path", path, "--out", out]
        assert main(["prepare", *words]) == 0
        before, splits = opened(out), splits_by_id(opened(out))
        put(path, {"pug/new.jpg": picture_file(seed=5)})
        capsys.readouterr()
        assert main(["prepare", *words]) == 0
        assert "9 pictures of 2 breeds" in capsys.readouterr().out
        assert opened(out).version != before.version
        assert splits_by_id(opened(out)).items() >= splits.items()
        assert storage.exists(f"{out}/pictures/pug/new.jpg")

    def test_run_again_with_other_options_is_an_error_that_changes_nothing(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = put(place("disk"), photographs()), place("bucket")
        words = ["--source", "folder", "--path", path, "--out", out]
        assert main(["prepare", *words]) == 0
        version = opened(out).version
        capsys.readouterr()
        assert "there is a data set with --seed 0 already" in self.fails(
            capsys, *words, "--seed", "1"
        )
        assert opened(out).version == version

    def test_a_forbidden_bucket_is_an_error(
        self, place: Place, gcs: FakeGCS, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = put(place("disk"), photographs()), place("bucket")
        gcs.faults.forbidden.add(out[5:])
        words = ["--source", "folder", "--path", path, "--out", out]
        assert "access denied" in self.fails(capsys, *words)


class TestEmbeddedSample:
    def test_it_is_drawn_once_into_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sample, "PER_CLASS", 12)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        root = prepare.embedded_sample()
        assert Path(root).parent == tmp_path / "dogbreed"
        assert opened(root).classes == sorted(sample.BREEDS)
        assert set(opened(root).dataset["counts"]) == {"train", "val", "test"}
        written = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")}
        assert prepare.embedded_sample() == root
        assert {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} == written
