"""Folders, zips and tars: the same files, read where they lie; damage is said in one line."""

import gzip
import io
import os
import random
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed import images, retries, storage
from dogbreed.data import prepare
from dogbreed.data.build import REJECTS_FILE
from dogbreed.data.manifest import Manifest
from dogbreed.data.trees import Member, content, members, unzipped
from dogbreed.errors import BadInput
from dogbreed.images import BadImage
from dogbreed.ranges import Range, read_all, read_ranges
from tests.conftest import picture_file
from tests.data.official import ZIPPED, Files, put, tar_of, zip_of
from tests.doubles.gcs import FakeGCS

FILES = {
    "pug/1.jpg": bytes(range(256)) * 9,
    "pug/empty": b"",
    "beagle/ü #%+&[1].jpg": b"abc" * 5000,
    "top.txt": b"x",
}


def read(path: str) -> Files:
    """All files below a folder or in an archive."""
    return {member.name: content(member) for member in members(path)}


def damage(path: str) -> str:
    """What is said of an archive that cannot be listed, after its name."""
    with pytest.raises(BadInput) as caught:
        list(members(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


def written(folder: Path, name: str, data: bytes) -> str:
    put(folder, {name: data})
    return str(folder / name)


part = st.text("ab1ü #%+[&=~.", min_size=1, max_size=5).filter(lambda p: not p.startswith("."))
name = st.lists(part, min_size=1, max_size=3).map("/".join)
data = st.binary(max_size=600) | st.integers(0, 50_000).map(lambda n: b"dog" * n)


def no_file_is_a_folder(files: Files) -> bool:
    return not any(other.startswith(f"{name}/") for name in files for other in files)


class TestAlike:
    @settings(max_examples=25)
    @given(st.dictionaries(name, data, min_size=1, max_size=5).filter(no_file_is_a_folder))
    def test_folder_zip_and_tar_give_the_same_names_and_bytes(self, files: Files) -> None:
        with tempfile.TemporaryDirectory() as root:
            put(f"{root}/folder", files)
            assert read(f"{root}/folder") == files
            for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                with zipfile.ZipFile(f"{root}/x.zip", "w", method) as archive:
                    for name, content in files.items():
                        archive.writestr(name, content)
                assert read(f"{root}/x.zip") == files
            Path(root, "x.tar").write_bytes(tar_of(files))
            assert read(f"{root}/x.tar") == files

    @pytest.mark.parametrize("how", ZIPPED)
    def test_zips_of_all_kinds(self, tmp_path: Path, how: str) -> None:
        start = "dog-breed-identification/" if how == "wrapped" else ""
        path = written(tmp_path, "x.ZIP", zip_of(FILES, how))  # type: ignore[arg-type]
        assert read(path) == {start + name: data for name, data in FILES.items()}

    @pytest.mark.parametrize("how", ["gnu", "pax", "dotted"])
    def test_tars_of_all_kinds(self, tmp_path: Path, how: str) -> None:
        files = FILES | {f"{'deep/' * 40}1.jpg": b"a name beyond the 100 bytes of a header"}
        path = written(tmp_path, "x.tar", tar_of(files, how))  # type: ignore[arg-type]
        assert read(path) == files

    def test_hidden_files_and_folders_are_left_out_everywhere(self, tmp_path: Path) -> None:
        hidden = {".git/1.jpg": b"x", "pug/.1.jpg": b"x", "__MACOSX/pug/._1.jpg": b"x"}
        put(tmp_path / "folder", FILES | hidden)
        for path in (
            str(tmp_path / "folder"),
            written(tmp_path, "x.zip", zip_of(FILES | hidden)),
            written(tmp_path, "x.tar", tar_of(FILES | hidden, "dotted")),
        ):
            assert read(path) == FILES

    def test_a_zip_behind_another_file_is_read(self, tmp_path: Path) -> None:
        path = written(tmp_path, "x.zip", b"#!/bin/sh\nexit\n" + zip_of(FILES, "deflated"))
        assert read(path) == FILES

    def test_a_zip_in_the_form_for_large_files_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.zip"
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in FILES.items():
                with archive.open(name, "w", force_zip64=True) as file:
                    file.write(data)
        assert b"PK\x06\x06" in path.read_bytes()  # the end of a zip64's directory
        assert read(str(path)) == FILES

    def test_names_never_lead_out_of_the_data_set(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        starts = (f"{outside}/pug", f"file://{outside}/pug", "../../outside/pug", "..", "x", "y")
        files = {f"{s}/{k}.jpg": picture_file(seed=k) for k, s in enumerate(3 * starts)}
        for archive, packed in (("a.tar", tar_of(files)), ("b.zip", zip_of(files))):
            path, out = written(tmp_path, archive, packed), str(tmp_path / f"{archive} prepared")
            prepare.prepare("folder", out, path)
            kept = Manifest.open(out)
            assert len(kept) == 12
            assert all(r.url.startswith(f"{out}/") for r in kept.ranges(kept.take(range(12))))
            assert not outside.exists()

    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_an_archive_on_a_disk_is_listed_without_reading_its_pictures(
        self, tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photos = {f"pug/{k}.jpg": bytes(2**20) for k in range(8)}
        packed = zip_of(photos) if archive == "x.zip" else tar_of(photos)
        path = written(tmp_path, archive, packed)
        sizes: list[int] = []

        def noted(ranges: list[Range]) -> list[bytes | storage.StorageError]:
            sizes.extend(r.size for r in ranges)
            return read_all(ranges)

        monkeypatch.setattr("dogbreed.data.trees.read_all", noted)
        assert len(list(members(path))) == 8
        assert 0 < sum(sizes) < 2**20


class TestInABucket:
    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_an_archive_is_read_in_place(self, bucket: str, archive: str) -> None:
        packed = zip_of(FILES, "deflated") if archive == "x.zip" else tar_of(FILES)
        assert read(f"{put(bucket, {archive: packed})}/{archive}") == FILES

    def test_a_zip_is_listed_without_fetching_its_pictures(
        self, bucket: str, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dogbreed.data.trees._BLOCK", 1000)
        photos = {f"pug/{k}.jpg": random.Random(k).randbytes(20_000) for k in range(20)}
        put(bucket, {"x.zip": zip_of(photos)})
        gcs.reset()
        assert len(list(members(f"{bucket}/x.zip"))) == 20
        assert gcs.counts["media"] <= 5

    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_a_line_that_fails_and_cuts_gives_the_same_files(
        self, bucket: str, gcs: FakeGCS, archive: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
        monkeypatch.setattr("dogbreed.data.trees._BLOCK", 4096)
        packed = zip_of(FILES, "stored") if archive == "x.zip" else tar_of(FILES)
        url = f"{put(bucket, {archive: packed})}/{archive}"
        gcs.faults.error_rate = gcs.faults.cut_rate = 0.3
        assert read(url) == FILES
        assert gcs.counts["error"] > 0
        assert gcs.counts["cut"] > 0

    def test_a_bucket_that_stays_out_of_reach_is_one_line(
        self, bucket: str, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
        put(bucket, {"x.tar": tar_of(FILES)})
        gcs.faults.cut_rate = 1.0
        assert "bytes came instead of" in damage(f"{bucket}/x.tar")


class TestWhatIsNoArchive:
    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    @pytest.mark.parametrize(
        "data",
        [b"", b"a text file\n" * 100, gzip.compress(tar_of(FILES)), picture_file()],
        ids=["empty", "text", "gzip", "picture"],
    )
    def test_another_file_under_its_name(self, tmp_path: Path, archive: str, data: bytes) -> None:
        message = damage(written(tmp_path, archive, data))
        assert message.startswith("cannot be read as an archive: ")

    @pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "photos.7z", "1.jpg"])
    def test_a_file_that_is_no_folder_asks_to_be_unpacked(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path, name, gzip.compress(tar_of(FILES)))
        assert damage(path) == "no folder; of archives, .zip and .tar are read, unpack others"

    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_one_that_is_not_there(self, tmp_path: Path, bucket: str, archive: str) -> None:
        assert damage(str(tmp_path / archive)) == "no such file or bucket"
        assert damage(f"{bucket}/{archive}") == "no such file or bucket"

    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_a_folder_with_the_name_of_an_archive(self, tmp_path: Path, archive: str) -> None:
        (tmp_path / archive).mkdir()
        assert "IsADirectoryError" in damage(str(tmp_path / archive))


class TestDamage:
    def test_a_tar_cut_anywhere_is_an_error(self, tmp_path: Path) -> None:
        whole = tar_of(FILES)
        end = len(whole.rstrip(b"\0"))
        end += -end % 512  # there the zeros begin that end an archive
        for size in [*range(1, end + 1, 509), *range(512, end + 1, 512)]:
            message = damage(written(tmp_path, "x.tar", whole[:size]))
            assert message.startswith("cannot be read as an archive: ")

    def test_a_damaged_header_is_not_taken_for_a_tars_end(self, tmp_path: Path) -> None:
        whole = bytearray(tar_of(FILES))
        whole[whole.index(b"pug/empty")] ^= 1
        assert "damage within it" in damage(written(tmp_path, "x.tar", bytes(whole)))

    def test_a_size_beyond_all_files_is_an_error(self, tmp_path: Path) -> None:
        about = tarfile.TarInfo("pug/1.jpg")
        about.size = 2**80
        packed = about.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)
        assert "cannot be read" in damage(written(tmp_path, "x.tar", packed))

    def test_a_zip_cut_anywhere_is_an_error(self, tmp_path: Path) -> None:
        whole = zip_of(FILES, "deflated")
        for size in range(0, len(whole), 97):
            assert "cannot be read" in damage(written(tmp_path, "x.zip", whole[:size]))

    @pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
    def test_flipped_bytes_never_escape_as_another_error(
        self, tmp_path: Path, archive: str
    ) -> None:
        whole = zip_of(FILES, "deflated") if archive == "x.zip" else tar_of(FILES, "pax")
        end = 300 if archive == "x.zip" else len(whole)  # at a zip's end is its directory
        rng, listed, refused = random.Random(0), 0, 0
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[-rng.randrange(1, end)] ^= 1 << rng.randrange(8)
            path = written(tmp_path, archive, bytes(damaged))
            try:
                list(members(path))
                listed += 1
            except BadInput:
                refused += 1
        assert min(listed, refused) > 0

    def test_an_encrypted_zip_is_named(self, tmp_path: Path) -> None:
        whole = bytearray(zip_of({"pug/1.jpg": b"x"}))
        whole[whole.index(b"PK\1\2") + 8] |= 1
        message = damage(written(tmp_path, "x.zip", bytes(whole)))
        assert message == "pug/1.jpg is encrypted; unpack the archive first"

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_another_compression_than_deflate_is_named(self, tmp_path: Path, method: int) -> None:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("pug/1.jpg", b"x")
        assert f"pug/1.jpg is compressed by method {method};" in damage(str(path))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
    def test_a_picture_that_is_a_link_in_a_tar_is_not_passed_over(
        self, tmp_path: Path, kind: bytes
    ) -> None:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as archive:
            for name in ("readme", "pug/2.jpg"):
                about = tarfile.TarInfo(name)
                about.type, about.linkname = kind, "pug/1.jpg"
                archive.addfile(about)
        message = damage(written(tmp_path, "x.tar", sink.getvalue()))
        assert message.startswith("pug/2.jpg is a link or has holes;")

    @pytest.mark.parametrize("archive", ["folder", "x.tar"])
    def test_a_name_that_is_not_utf8_is_an_error(self, tmp_path: Path, archive: str) -> None:
        odd = b"pug/\xfc.jpg"
        if archive == "x.tar":
            whole = tar_of({"pug/U.jpg": b"x"})
            about = tarfile.TarInfo(os.fsdecode(odd))
            about.size = 1
            header = about.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            put(tmp_path, {archive: whole[:-10_240] + header + whole[-10_240:]})
        else:
            (tmp_path / archive / "pug").mkdir(parents=True)
            Path(os.fsdecode(os.fsencode(tmp_path / archive) + b"/" + odd)).write_bytes(b"x")
        assert damage(str(tmp_path / archive)) == (
            r"'pug/\udcfc.jpg' is no name in UTF-8; rename the file"
        )

    @pytest.mark.parametrize("how", ["stored", "deflated", "streamed"])
    def test_a_damaged_member_is_a_reject_and_its_neighbours_are_used(
        self, tmp_path: Path, how: str
    ) -> None:
        photos = {
            f"{b}/{k}.jpg": picture_file(seed=9 * k + len(b))
            for b in ("pug", "chow")
            for k in range(4)
        }
        path = written(tmp_path, "x.zip", zip_of(photos, how))  # type: ignore[arg-type]
        (member,) = (m for m in members(path) if m.name == "chow/2.jpg")
        whole = bytearray(Path(path).read_bytes())
        whole[member.offset + 60 + member.size // 2] ^= 1
        Path(path).write_bytes(whole)
        out = str(tmp_path / "out")
        prepare.prepare("folder", out, path)
        rejects = storage.read(f"{out}/{REJECTS_FILE}").decode().splitlines()
        assert len(rejects) == 2
        assert rejects[1].startswith("chow/2.jpg,")
        assert "damaged in the archive: " in rejects[1]
        kept = Manifest.open(out).table.column("id").to_pylist()
        assert kept == sorted(photos.keys() - {"chow/2.jpg"})

    def test_a_damaged_small_file_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        whole = bytearray(zip_of({"labels.csv": b"id,breed\n"}))
        whole[whole.index(b"id,breed")] ^= 1
        path = written(tmp_path, "x.zip", bytes(whole))
        with pytest.raises(BadInput, match=r"x\.zip: labels\.csv: damaged in the archive"):
            read(path)


def record(path: str) -> tuple[Member, bytes]:
    """The only member of a zip, and its record."""
    (member,) = members(path)
    (data,) = read_ranges([Range(member.url, member.offset, member.stored)])
    assert isinstance(data, bytes)
    return member, data


class TestUnzipped:
    @pytest.mark.parametrize("declared", [0, 5, 2**20 - 1, 2**20 + 1])
    def test_another_size_than_declared_is_damage(self, tmp_path: Path, declared: int) -> None:
        member, data = record(written(tmp_path, "x.zip", zip_of({"1": bytes(2**20)}, "deflated")))
        assert unzipped(data, 2**20, member.crc) == bytes(2**20)
        assert isinstance(unzipped(data, declared, member.crc), BadImage)

    @pytest.mark.parametrize("declared", [1000, images.MAX_BYTES + 1, 2**40])
    def test_a_bomb_is_not_unpacked(self, declared: int) -> None:
        pack = zlib.compressobj(wbits=-15)
        packed = b"".join([*(pack.compress(bytes(2**20)) for _ in range(100)), pack.flush()])
        header = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, 1, 0)
        tracemalloc.start()
        try:
            found = unzipped(header + b"1" + packed, declared, 0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert isinstance(found, BadImage)
        assert peak < 2 * 2**20

    def test_what_cannot_be_unpacked_is_damage(self, tmp_path: Path) -> None:
        member, data = record(written(tmp_path, "x.zip", zip_of({"1": bytes(999)}, "deflated")))
        start = 30 + len(member.name)
        found = unzipped(data[:start] + b"\xff" * 20, member.size, member.crc)
        assert isinstance(found, BadImage)

    @pytest.mark.parametrize("size", [0, 5, 29, 31, 40])
    def test_a_record_that_is_too_short_is_damage(self, tmp_path: Path, size: int) -> None:
        member, data = record(written(tmp_path, "x.zip", zip_of({"1.jpg": b"dog" * 100})))
        assert isinstance(unzipped(data[:size], member.size, member.crc), BadImage)
