"""Folders and archives of class folders, and the choice of some pictures by their ids."""

from pathlib import Path

import pytest

from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.data.kaggle import from_kaggle
from dogbreed.data.listing import items_of
from dogbreed.data.manifest import Manifest
from dogbreed.data.sources import Source, from_folder, only
from dogbreed.data.stanford import from_stanford
from dogbreed.errors import BadInput
from tests.conftest import picture_file
from tests.data.official import (
    ZIPPED,
    Files,
    Stanford,
    kaggle,
    kaggle_files,
    kaggle_id,
    put,
    tar_of,
    zip_of,
)

PHOTOS = {
    f"{breed}/{k}.jpg": picture_file(40, 32, seed=100 * number + k)
    for number, breed in enumerate(("beagle", "pug"))
    for k in range(4)
}


def breeds(source: Source) -> dict[str, str]:
    return {item.id: item.breed for item in items_of(source.table)}


def splits(source: Source) -> dict[str, str]:
    return {item.id: item.split for item in items_of(source.table)}


def ids(source: Source) -> set[str]:
    return set(source.table.column("id").to_pylist())


class TestArchives:
    def test_folder_zip_and_tar_are_the_same_data_set(self, tmp_path: Path, bucket: str) -> None:
        files = PHOTOS | {"pug/notes.txt": b"x", "stray.jpg": picture_file(seed=7)}
        put(tmp_path / "dogs", files)
        put(bucket, {"dogs.zip": zip_of(files, "deflated"), "dogs.tar": tar_of(files)})
        found = set()
        for number, path in enumerate(
            (str(tmp_path / "dogs"), f"{bucket}/dogs.zip", f"{bucket}/dogs.tar")
        ):
            out = str(tmp_path / f"out{number}")
            prepare.prepare("folder", out, path)
            data = Manifest.open(out)
            rejects = Path(out, "rejects.csv").read_text()
            found.add((data.version, data.name, rejects))
        ((_, name, rejects),) = found
        assert name == "dogs"
        assert rejects.splitlines() == [
            "id,reason",
            'pug/notes.txt,"not named like a picture (.jpeg, .jpg, .png, .webp)"',
            "stray.jpg,lies in no folder named after a breed",
        ]

    @pytest.mark.parametrize("how", ZIPPED)
    def test_a_folder_around_the_class_folders_does_not_count(
        self, tmp_path: Path, how: str
    ) -> None:
        put(tmp_path, {"dogs.zip": zip_of(PHOTOS, how)})  # type: ignore[arg-type]
        source = from_folder(str(tmp_path / "dogs.zip"))
        assert breeds(source) == {name: name.split("/")[0] for name in PHOTOS}
        assert source.rejects == {}

    def test_a_folder_around_folders_of_splits_does_not_count(self, tmp_path: Path) -> None:
        names = [f"{split}/{name}" for split in ("train", "valid", "test") for name in PHOTOS]
        put(tmp_path, {"x.tar": tar_of({f"my dogs/{name}": b"x" for name in names})})
        source = from_folder(str(tmp_path / "x.tar"))
        assert breeds(source) == {name: name.split("/")[1] for name in names}
        assert set(splits(source).values()) == {"train", "val", "test"}

    def test_a_single_folder_of_a_split_keeps_its_meaning(self, tmp_path: Path) -> None:
        put(tmp_path, {"x.tar": tar_of({f"train/{name}": b"x" for name in PHOTOS})})
        assert set(splits(from_folder(str(tmp_path / "x.tar"))).values()) == {"train"}

    def test_in_a_folder_the_first_folders_are_breeds_even_if_there_is_one_alone(
        self, tmp_path: Path
    ) -> None:
        names = {f"boxer/{season}/{k}.jpg": b"x" for season in ("summer", "winter") for k in "123"}
        put(tmp_path / "more", names)  # to add to a data set
        assert set(breeds(from_folder(str(tmp_path / "more"))).values()) == {"boxer"}

    def test_a_name_that_stands_in_a_tar_twice_is_an_error(self, tmp_path: Path) -> None:
        first, second = tar_of(PHOTOS), tar_of({"pug/1.jpg": picture_file(seed=99)})
        end = len(first.rstrip(b"\0"))
        end += -end % 512
        put(tmp_path, {"x.tar": first[:end] + second})
        with pytest.raises(BadInput, match=r"1 names stand for several pictures: pug/1\.jpg"):
            from_folder(str(tmp_path / "x.tar"))

    def test_pictures_above_the_class_folders_are_no_class(self, tmp_path: Path) -> None:
        put(tmp_path, {"x.zip": zip_of({"a.jpg": b"x", "b.jpg": b"x"})})
        with pytest.raises(BadInput, match=r"no pictures .* in folders named after breeds"):
            from_folder(str(tmp_path / "x.zip"))

    def test_a_compressed_tar_is_refused_with_what_to_do(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        put(tmp_path, {"photos.tar.gz": b"\x1f\x8b"})
        words = ["--path", str(tmp_path / "photos.tar.gz"), "--out", str(tmp_path / "out")]
        assert main(["prepare", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("no folder; of archives, .zip and .tar are read, unpack others")


@pytest.fixture
def folder(tmp_path: Path) -> Source:
    files = dict.fromkeys([*PHOTOS, "pug/only.one.jpg", "pug/deep/er.png", "pug/4.PNG"], b"x")
    return from_folder(put(tmp_path / "dogs", files))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return str(tmp_path / "ids.txt")


class TestOnly:
    @pytest.mark.parametrize(
        ("line", "wanted"),
        [
            ("pug/1.jpg", "pug/1.jpg"),
            ("pug/1", "pug/1.jpg"),
            ("  pug/1.jpg\t", "pug/1.jpg"),
            ("./pug/1.jpg", "pug/1.jpg"),
            ("/home/me/dogs/pug/1.jpg", "pug/1.jpg"),
            ("only.one.jpg", "pug/only.one.jpg"),
            ("only.one", "pug/only.one.jpg"),
            ("pug/deep/er", "pug/deep/er.png"),
            ("deep/er.png", "pug/deep/er.png"),
            ("pug/4", "pug/4.PNG"),
        ],
    )
    def test_a_line_names_a_picture(
        self, folder: Source, lines: str, line: str, wanted: str
    ) -> None:
        Path(lines).write_text(f"{line}\n")
        assert ids(only(folder, lines)) == {wanted}

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_remarks_blank_lines_and_repetitions_do_not_count(
        self, folder: Source, lines: str, end: str, mark: str
    ) -> None:
        text = ["pug/1.jpg", "", "# those from summer", "  ", "beagle/2.jpg", "pug/1"]
        Path(lines).write_bytes((mark + end.join(text)).encode())
        assert ids(only(folder, lines)) == {"pug/1.jpg", "beagle/2.jpg"}

    def test_an_unknown_id_is_named_with_its_line_in_the_file(
        self, folder: Source, lines: str
    ) -> None:
        Path(lines).write_text("# chosen\n\npug/1\npug/77\n\n\n# more\nboxer/1.jpg\n")
        with pytest.raises(BadInput) as caught:
            only(folder, lines)
        assert str(caught.value) == (
            f"{lines}: 2 ids of no picture: line 4: pug/77, line 8: boxer/1.jpg"
        )

    def test_an_id_of_several_pictures_is_named_with_its_line(
        self, folder: Source, lines: str
    ) -> None:
        Path(lines).write_text("\n3.jpg\npug/1.jpg\n")
        with pytest.raises(BadInput) as caught:
            only(folder, lines)
        assert str(caught.value) == f"{lines}: 1 ids of several pictures: line 2: 3.jpg"

    def test_of_two_suffixes_the_one_that_is_written_counts(
        self, tmp_path: Path, lines: str
    ) -> None:
        source = from_folder(put(tmp_path / "two", {"pug/1.jpg": b"x", "pug/1.png": b"x"}))
        Path(lines).write_text("pug/1.png")
        assert ids(only(source, lines)) == {"pug/1.png"}
        Path(lines).write_text("pug/1")
        with pytest.raises(BadInput, match="1 ids of several pictures"):
            only(source, lines)

    def test_a_file_without_ids_is_an_error(self, folder: Source, lines: str) -> None:
        Path(lines).write_text("# nothing yet\n\n")
        with pytest.raises(BadInput, match="there is no id in it"):
            only(folder, lines)

    def test_of_many_unknown_ids_a_few_are_named(self, folder: Source, lines: str) -> None:
        Path(lines).write_text("".join(f"no/{k}\n" for k in range(2000)))
        with pytest.raises(BadInput, match=r"2,000 ids of no picture: line 1: .* and 1,995 more$"):
            only(folder, lines)

    def test_the_listings_order_does_not_depend_on_the_lines(
        self, folder: Source, lines: str
    ) -> None:
        every = folder.table.column("id").to_pylist()
        for names in (list(PHOTOS)[:5], list(PHOTOS)[4::-1]):
            Path(lines).write_text("\n".join(names))
            found = only(folder, lines).table.column("id").to_pylist()
            assert found == [name for name in every if name in names]

    def test_kaggles_ids_and_file_names_choose_also_of_the_test_pictures(
        self, tmp_path: Path, lines: str
    ) -> None:
        source = from_kaggle(kaggle(tmp_path))
        names = [kaggle_id("pug", 0), kaggle_id("beagle", 1), kaggle_id("test", 2)]
        Path(lines).write_text(f"{names[0]}\ntrain/{names[1]}.jpg\n{names[2]}.jpg\n")
        found = only(source, lines)
        assert splits(found) == {names[0]: "", names[1]: "", names[2]: "unlabelled"}
        assert found.submission == source.submission

    def test_stanfords_names_choose(self, tmp_path: Path, lines: str) -> None:
        stanford = Stanford()
        source = from_stanford(stanford.put(tmp_path / "s"), crop=True)
        chosen = [*stanford.train[:2], *stanford.test[:1]]
        Path(lines).write_text(f"{chosen[0]}\nImages/{chosen[1]}\n{Path(chosen[2]).stem}\n")
        assert ids(only(source, lines)) == {Path(name).stem for name in chosen}
        assert only(source, lines).has_test

    def test_ids_in_a_bucket_make_a_small_data_set(self, tmp_path: Path, bucket: str) -> None:
        files: Files = kaggle_files(each=5)
        chosen = [kaggle_id(breed, k) for breed in ("beagle", "pug") for k in range(3)]
        put(bucket, {"ids": "\n".join(chosen).encode(), "dogs.zip": zip_of(files, "deflated")})
        out = str(tmp_path / "out")
        prepare.prepare("kaggle", out, f"{bucket}/dogs.zip", ids=f"{bucket}/ids")
        assert Manifest.open(out).table.column("id").to_pylist() == sorted(chosen)

    def test_a_missing_file_of_ids_is_an_error(self, folder: Source, lines: str) -> None:
        with pytest.raises(BadInput, match=r"ids\.txt: no such file"):
            only(folder, lines)


class TestShards:
    @pytest.mark.parametrize("size", ["0", "-5", "64XB", "many", "0.5", "MB", "1e9", "inf", ""])
    def test_a_size_that_is_none_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
    ) -> None:
        words = ["--source", "sample", "--out", str(tmp_path), f"--shard_size={size}"]
        assert main(["prepare", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--shard_size {size}: say a number of bytes, such as 64MB or 1GB" in line

    @pytest.mark.parametrize("size", ["64MB", "64 mb", "64M", "64000000", "0.064GB", "64000K"])
    def test_sizes_are_read(self, size: str) -> None:
        assert prepare._bytes(size) == 64_000_000
