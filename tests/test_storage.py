"""Storage: the same behaviour on a disk, in memory and in a bucket, also when things go wrong."""

import errno
import os
import random
import resource
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from dogbreed import ranges as ranges_module
from dogbreed import retries, storage
from dogbreed.ranges import Range, copy_range, read_ranges, whole
from dogbreed.storage import StorageError
from tests.doubles.gcs import FakeGCS

NAMES = ["a.bin", "deep/er/b.bin", "a b/ü+%2F#&=[1].jpg"]


@pytest.fixture(params=["disk", "memory", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give an empty place on each kind of file system."""
    if request.param == "disk":
        yield str(tmp_path)
    elif request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        yield url
        memory = fsspec.filesystem("memory")
        if memory.exists(url):
            memory.rm(url, recursive=True)
    else:
        yield request.getfixturevalue("bucket")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries follow at once."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


def bytes_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def fill(bucket: str, objects: int, size: int = 1000) -> list[Range]:
    """Put objects into a bucket; a range with its digest for all of each."""
    files = {f"{bucket}/{k:03d}": bytes_of(k, size) for k in range(objects)}
    storage.write_many(files)
    return [Range(url, 0, size, storage.digest_of(data)) for url, data in files.items()]


def assert_one_line(error: object, *words: str) -> None:
    assert isinstance(error, StorageError)
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    for word in words:
        assert word in text


class TestFiles:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("size", [0, 1, 40_000])
    def test_what_was_written_is_read_again(self, root: str, name: str, size: int) -> None:
        url = storage.join(root, name)
        storage.write(url, bytes_of(1, size))
        assert storage.read(url) == bytes_of(1, size)
        assert whole(url) == Range(url, 0, size)

    def test_a_second_write_replaces_the_first(self, root: str) -> None:
        url = storage.join(root, "a")
        storage.write(url, b"a long first version")
        storage.write(url, b"second")
        assert storage.read(url) == b"second"

    def test_many_files_are_written_at_once(self, root: str) -> None:
        files = {storage.join(root, f"{k % 3}/{k}"): bytes_of(k, 50) for k in range(40)}
        storage.write_many(files)
        assert {url: storage.read(url) for url in files} == files

    def test_no_files_are_written_without_complaint(self) -> None:
        storage.write_many({})

    def test_a_missing_file_is_an_error_that_names_it(self, root: str) -> None:
        url = storage.join(root, "none.bin")
        for action in (storage.read, whole, storage.read_json):
            with pytest.raises(StorageError) as caught:
                action(url)
            assert_one_line(caught.value, url, "no such file")

    def test_exists_is_true_of_files_only(self, root: str) -> None:
        storage.write(storage.join(root, "folder/file"), b"x")
        assert storage.exists(storage.join(root, "folder/file"))
        assert not storage.exists(storage.join(root, "folder"))
        assert not storage.exists(storage.join(root, "folder/other"))
        assert not storage.exists(storage.join(root, "none/other"))

    def test_json_round_trip(self, root: str) -> None:
        url, value = storage.join(root, "x.json"), {"name": "Grünbär", "list": [1, 2.5, None]}
        storage.write_json(url, value)
        assert storage.read_json(url) == value
        assert "Grünbär" in storage.read(url).decode()

    @pytest.mark.parametrize("data", [b"{not json", b"\xff\xfe\x00", b""])
    def test_a_damaged_json_file_is_an_error_that_names_it(self, root: str, data: bytes) -> None:
        url = storage.join(root, "x.json")
        storage.write(url, data)
        with pytest.raises(StorageError) as caught:
            storage.read_json(url)
        assert_one_line(caught.value, url, "not valid JSON")

    def test_find_lists_all_visible_files_below_with_sizes_sorted(self, root: str) -> None:
        sizes = {"b/c/2.jpg": 2, "b/1.jpg": 1, "a.jpg": 3, "ü b#%.jpg": 4}
        hidden = {".hidden": 1, "b/.thumbs/1.jpg": 1}
        storage.write_many(
            {storage.join(root, n): bytes(size) for n, size in (sizes | hidden).items()}
        )
        assert storage.find(root) == sorted(sizes.items())
        assert storage.find(root + "/") == sorted(sizes.items())
        assert storage.find(storage.join(root, "b")) == [("1.jpg", 1), ("c/2.jpg", 2)]

    def test_find_in_a_missing_folder_is_an_error(self, root: str) -> None:
        storage.write(storage.join(root, "other/file"), b"x")
        url = storage.join(root, "none")
        with pytest.raises(StorageError) as caught:
            storage.find(url)
        assert_one_line(caught.value, url, "no such folder")

    def test_folders_are_those_right_below(self, root: str) -> None:
        storage.write_many({storage.join(root, n): b"x" for n in ("b/c/1", "a/1", "file")})
        assert storage.folders(root) == [storage.join(root, "a"), storage.join(root, "b")]
        assert storage.folders(storage.join(root, "b")) == [storage.join(root, "b/c")]

    def test_a_missing_folder_has_no_folders(self, root: str) -> None:
        storage.write(storage.join(root, "other/file"), b"x")
        assert storage.folders(storage.join(root, "none")) == []

    def test_a_copy_is_equal_and_leaves_the_original(self, root: str) -> None:
        source, target = storage.join(root, "a"), storage.join(root, "deep/b")
        storage.write(source, b"content")
        storage.write(target, b"what was there before")
        storage.copy(source, target)
        assert storage.read(source) == storage.read(target) == b"content"

    def test_a_copy_of_nothing_is_an_error(self, root: str) -> None:
        with pytest.raises(StorageError) as caught:
            storage.copy(storage.join(root, "none"), storage.join(root, "b"))
        assert_one_line(caught.value, "none", "no such file")
        assert not storage.exists(storage.join(root, "b"))

    def test_a_download_is_the_same_bytes_on_this_disk(self, root: str, tmp_path: Path) -> None:
        url, target = storage.join(root, "a"), tmp_path / "downloaded"
        storage.write(url, bytes_of(2, 40_000))
        storage.download(url, target)
        assert target.read_bytes() == bytes_of(2, 40_000)

    def test_a_failed_download_leaves_the_old_file(self, root: str, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_bytes(b"old")
        with pytest.raises(StorageError) as caught:
            storage.download(storage.join(root, "none"), target)
        assert_one_line(caught.value, "none", "no such file")
        assert target.read_bytes() == b"old"


class TestRemove:
    def test_many_files_are_removed_and_no_others(self, root: str) -> None:
        urls = [storage.join(root, f"{k % 3}/ü+%#&=[{k}].jpg") for k in range(40)]
        storage.write_many(dict.fromkeys(urls, b"x"))
        storage.remove(urls[5:])
        assert [url for url in urls if storage.exists(url)] == urls[:5]

    def test_what_is_not_there_is_passed_over(self, root: str) -> None:
        here = storage.join(root, "here")
        storage.write(here, b"x")
        storage.remove([storage.join(root, "none/file"), here, storage.join(root, "none")])
        assert not storage.exists(here)

    def test_no_files_are_removed_without_complaint(self) -> None:
        storage.remove([])

    def test_what_cannot_be_removed_is_an_error_of_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(StorageError) as caught:
            storage.remove([str(tmp_path / "folder")])
        assert_one_line(caught.value, str(tmp_path / "folder"))

    def test_a_forbidden_bucket_is_an_error_of_one_line(self, gcs: FakeGCS, bucket: str) -> None:
        gcs.faults.forbidden.add(bucket[5:])
        with pytest.raises(StorageError) as caught:
            storage.remove([f"{bucket}/a"])
        assert_one_line(caught.value, f"{bucket}/a", "access denied")

    @pytest.mark.usefixtures("quick")
    def test_a_bucket_out_of_breath_is_asked_again(self, gcs: FakeGCS, bucket: str) -> None:
        urls = [r.url for r in fill(bucket, 40)]
        gcs.faults.error_rate = 0.3
        storage.remove(urls)
        assert gcs.counts["error"] > 0
        gcs.reset()
        assert storage.files(bucket) == {}


class TestListing:
    def test_files_are_those_right_below(self, root: str) -> None:
        names = ["b", "a b+%#[1]", ".hidden", "c/1", "c/d/2"]
        storage.write_many({storage.join(root, n): b"x" for n in names})
        assert list(storage.files(root)) == [storage.join(root, n) for n in sorted(names[:2])]
        assert storage.files(root + "/") == storage.files(root)
        assert list(storage.files(storage.join(root, "c"))) == [storage.join(root, "c/1")]

    def test_a_missing_folder_has_no_files(self, root: str) -> None:
        storage.write(storage.join(root, "other/file"), b"x")
        assert storage.files(storage.join(root, "none")) == {}


class TestSweep:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in (".part-1", "a/.part-2", "a/b/.part-3", "a/picture.jpg", ".parts/x"):
            storage.write(str(tmp_path / name), b"x")
        (tmp_path / "empty/empty").mkdir(parents=True)
        return tmp_path

    def there(self, folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*")}

    def test_leftovers_and_empty_folders_go_and_all_else_stays(self, folder: Path) -> None:
        storage.sweep(str(folder))
        assert self.there(folder) == {"a", "a/picture.jpg", ".parts", ".parts/x"}

    def test_not_below_it_looks_at_the_folder_alone(self, folder: Path) -> None:
        before = self.there(folder)
        storage.sweep(str(folder), below=False)
        assert self.there(folder) == before - {".part-1"}

    def test_a_folder_left_empty_goes_and_a_missing_one_is_passed_over(
        self, tmp_path: Path
    ) -> None:
        storage.write(str(tmp_path / "a/b/.part-1"), b"x")
        for _ in range(2):
            storage.sweep(str(tmp_path / "a"))
            assert not (tmp_path / "a").exists()
            storage.sweep(str(tmp_path / "a"), below=False)

    def test_elsewhere_than_on_a_disk_nothing_happens(self, bucket: str) -> None:
        storage.write(f"{bucket}/.part-1", b"x")
        storage.sweep(bucket)
        assert storage.exists(f"{bucket}/.part-1")


class TestNames:
    def test_join_puts_single_slashes_and_lets_an_absolute_part_stand_alone(self) -> None:
        assert storage.join("gs://b/", "c", "d.jpg") == "gs://b/c/d.jpg"
        assert storage.join("/data", "/other/x") == "/other/x"
        assert storage.join("gs://b", "gs://c/x") == "gs://c/x"

    def test_normal_names_have_no_scheme_of_files_and_no_slash_at_the_end(self) -> None:
        assert storage.normal("file:///data/dogs/") == "/data/dogs"
        assert storage.normal("gs://bucket/") == "gs://bucket"
        assert storage.normal("/") == "/"
        assert storage.normal("~/dogs") == str(Path.home() / "dogs")

    def test_a_file_url_is_the_file(self, tmp_path: Path) -> None:
        storage.write(f"file://{tmp_path}/a", b"x")
        assert (tmp_path / "a").read_bytes() == b"x"
        assert storage.is_local(f"file://{tmp_path}")
        assert not storage.is_local("gs://bucket")

    def test_an_unknown_protocol_is_an_error_of_one_line(self) -> None:
        with pytest.raises(StorageError) as caught:
            storage.read("nonsense://x/y")
        assert_one_line(caught.value, "nonsense://x/y")


class TestAtomicWrite:
    """A full disk, seen through the limit that the kernel puts on the size of a file."""

    @pytest.fixture
    def full_disk(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(retries, "ATTEMPTS", 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @pytest.mark.usefixtures("full_disk")
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        target = tmp_path / "last.ckpt"
        target.write_bytes(b"old")
        with pytest.raises(StorageError) as caught:
            storage.write(str(target), bytes(50_000))
        assert_one_line(caught.value, str(target))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EFBIG
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["last.ckpt"]

    def test_a_successful_write_leaves_only_the_file(self, tmp_path: Path) -> None:
        storage.write(str(tmp_path / "a/b"), b"x")
        assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["a", "a/b"]

    def test_others_may_read_what_was_written(self, tmp_path: Path) -> None:
        storage.write(str(tmp_path / "a"), b"x")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644

    @pytest.mark.usefixtures("quick")
    def test_a_file_in_place_of_a_folder_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"x")
        with pytest.raises(StorageError) as caught:
            storage.write(str(tmp_path / "a/b"), b"y")
        assert_one_line(caught.value, str(tmp_path / "a"))


class TestReadRanges:
    @pytest.fixture
    def packed(self, root: str) -> tuple[list[Range], list[bytes]]:
        """A file of 50 neighbours, and what lies in each."""
        pieces = [bytes_of(k, 100 + k) for k in range(50)]
        url = storage.join(root, "shard.tar")
        storage.write(url, b"".join(pieces))
        ranges, offset = [], 0
        for piece in pieces:
            ranges.append(Range(url, offset, len(piece), storage.digest_of(piece)))
            offset += len(piece)
        return ranges, pieces

    def test_each_range_is_its_bytes_in_the_order_asked_for(
        self, packed: tuple[list[Range], list[bytes]]
    ) -> None:
        ranges, pieces = packed
        order = [7, 3, 49, 3, 0, 20, 21, 22]
        assert read_ranges([ranges[k] for k in order]) == [pieces[k] for k in order]

    def test_overlapping_and_empty_ranges(self, root: str) -> None:
        url, data = storage.join(root, "a"), bytes_of(1, 1000)
        storage.write(url, data)
        spans = [(0, 1000), (10, 20), (5, 500), (999, 1), (10, 0)]
        got = read_ranges([Range(url, offset, size) for offset, size in spans])
        assert got == [data[offset : offset + size] for offset, size in spans]

    def test_no_ranges_are_no_results(self) -> None:
        assert read_ranges([]) == []

    @pytest.mark.usefixtures("quick")
    def test_a_wrong_digest_is_an_error_in_its_place(self, root: str) -> None:
        for name in "abc":
            storage.write(storage.join(root, name), name.encode() * 10)
        ranges = [Range(storage.join(root, n), 0, 10, storage.digest_of(b"a" * 10)) for n in "abc"]
        ranges[2] = Range(ranges[2].url, 0, 10)
        first, second, third = read_ranges(ranges)
        assert (first, third) == (b"a" * 10, b"c" * 10)
        assert_one_line(second, ranges[1].url, "differ")

    @pytest.mark.usefixtures("quick")
    def test_a_range_beyond_the_end_is_an_error_in_its_place(self, root: str) -> None:
        for name in "ab":
            storage.write(storage.join(root, name), b"0123456789")
        a, b = (storage.join(root, name) for name in "ab")
        short, good, outside = read_ranges([Range(a, 5, 10), Range(b, 5, 5), Range(a, 10**6, 10)])
        assert good == b"56789"
        assert_one_line(short, a)
        assert_one_line(outside, a)

    def test_a_missing_file_is_an_error_in_its_place(self, root: str) -> None:
        storage.write(storage.join(root, "a"), b"0123456789")
        a, none = storage.join(root, "a"), storage.join(root, "none")
        good, bad = read_ranges([Range(a, 0, 10), Range(none, 0, 10)])
        assert good == b"0123456789"
        assert_one_line(bad, none, "no such file")

    @pytest.mark.usefixtures("quick")
    def test_a_damaged_range_leaves_its_neighbours_in_the_file_alone(
        self, packed: tuple[list[Range], list[bytes]]
    ) -> None:
        ranges, pieces = packed
        there = ranges[4]
        ranges[4] = Range(there.url, there.offset, there.size, storage.digest_of(b"other"))
        got = read_ranges(ranges)
        assert_one_line(got[4], there.url, "differ")
        assert got[:4] + got[5:] == pieces[:4] + pieces[5:]

    @pytest.mark.usefixtures("quick")
    def test_a_file_that_ends_early_leaves_the_ranges_before_its_end_alone(self, root: str) -> None:
        url = storage.join(root, "shard.tar")
        storage.write(url, b"0123456789")
        got = read_ranges([Range(url, 0, 5), Range(url, 5, 5), Range(url, 10, 5)])
        assert got[:2] == [b"01234", b"56789"]
        assert_one_line(got[2], url)


def copied(here: Range) -> tuple[bytes, int]:
    """What `copy_range` hands on, put where it belongs, and in how many pieces."""
    data, pieces = bytearray(), 0

    def write(piece: bytes, at: int) -> None:
        nonlocal pieces
        pieces += 1
        data[at : at + len(piece)] = piece

    copy_range(here, write)
    return bytes(data), pieces


class TestCopyRange:
    def test_it_hands_on_what_lies_there(self, root: str) -> None:
        url, data = storage.join(root, "a"), bytes_of(1, 5000)
        storage.write(url, data)
        assert copied(Range(url, 17, 3000))[0] == data[17:3017]

    def test_of_a_bucket_the_pieces_come_as_they_arrive(self, bucket: str) -> None:
        data = bytes_of(1, 3 * 2**20)
        storage.write(f"{bucket}/a", data)
        got, pieces = copied(Range(f"{bucket}/a", 5, 2**21))
        assert got == data[5 : 5 + 2**21]
        assert pieces > 4

    @pytest.mark.usefixtures("quick")
    def test_a_body_cut_off_is_asked_for_again_from_its_start(
        self, gcs: FakeGCS, bucket: str
    ) -> None:
        data = bytes_of(1, 100_000)
        storage.write(f"{bucket}/a", data)
        gcs.faults.cut_rate, gcs.faults.error_rate = 0.3, 0.1
        for start in range(20):
            assert copied(Range(f"{bucket}/a", start, 90_000))[0] == data[start : start + 90_000]
        assert gcs.counts["cut"] > 0
        assert gcs.counts["error"] > 0

    @pytest.mark.usefixtures("quick")
    def test_what_is_not_all_there_is_an_error_of_one_line(self, root: str) -> None:
        url = storage.join(root, "a")
        storage.write(url, bytes(100))
        for here, words in ((Range(url, 50, 100), "instead of 100"), (Range(f"{url}b", 0, 5), "b")):
            with pytest.raises(StorageError) as caught:
                copied(here)
            assert_one_line(caught.value, here.url, words)


class TestRequests:
    """What goes over the wire, counted by the double."""

    def test_neighbours_travel_in_one_request(self, gcs: FakeGCS, bucket: str) -> None:
        url, data = f"{bucket}/shard.tar", bytes_of(1, 100_000)
        storage.write(url, data)
        ranges = [Range(url, k * 1000, 900) for k in range(100)]
        random.Random(0).shuffle(ranges)
        gcs.counts.clear()
        got = read_ranges(ranges)
        assert got == [data[r.offset : r.offset + r.size] for r in ranges]
        assert gcs.counts["media"] == 1

    def test_ranges_far_apart_travel_alone(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranges_module, "MERGE_GAP", 1000)
        url = f"{bucket}/shard.tar"
        storage.write(url, bytes(100_000))
        gcs.counts.clear()
        read_ranges([Range(url, 0, 10), Range(url, 1010, 10), Range(url, 5000, 10)])
        assert gcs.counts["media"] == 2  # a gap of 1000 is read over, one of 3980 is not

    def test_a_merged_request_is_bounded(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranges_module, "MERGE_LIMIT", 10_000)
        url = f"{bucket}/shard.tar"
        storage.write(url, bytes(100_000))
        gcs.counts.clear()
        read_ranges([Range(url, k * 1000, 1000) for k in range(100)])
        assert gcs.counts["media"] == 10

    def test_requests_at_once_are_many_but_bounded(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranges_module, "IN_FLIGHT", 16)
        monkeypatch.setattr(storage, "IN_FLIGHT", 16)
        ranges = fill(bucket, 150)
        assert 8 < gcs.counts["peak"] <= 16
        gcs.counts.clear()
        gcs.faults.latency = 0.2
        assert all(isinstance(data, bytes) for data in read_ranges(ranges))
        assert gcs.counts["media"] == 150
        assert 8 < gcs.counts["peak"] <= 16

    def test_a_copy_in_a_bucket_does_not_pass_through_here(self, gcs: FakeGCS, bucket: str) -> None:
        storage.write(f"{bucket}/a", b"x")
        gcs.counts.clear()
        storage.copy(f"{bucket}/a", f"{gcs.bucket()}/b")
        assert gcs.counts["media"] == 0

    def test_what_another_process_wrote_is_seen(self, gcs: FakeGCS, bucket: str) -> None:
        storage.write(f"{bucket}/a/1", b"x")
        assert storage.folders(bucket) == [f"{bucket}/a"]
        assert not storage.exists(f"{bucket}/b/1")
        other = fsspec.filesystem("gs", use_listings_cache=False, skip_instance_cache=True)
        other.pipe_file(f"{bucket}/b/1", b"y")
        assert storage.folders(bucket) == [f"{bucket}/a", f"{bucket}/b"]
        assert storage.exists(f"{bucket}/b/1")
        assert storage.find(bucket) == [("a/1", 1), ("b/1", 1)]


@pytest.mark.usefixtures("quick")
class TestFaults:
    @pytest.mark.parametrize("fault", ["cut", "corrupt"])
    def test_spoiled_bodies_are_asked_for_again(
        self, gcs: FakeGCS, bucket: str, fault: str
    ) -> None:
        ranges = fill(bucket, 40)
        setattr(gcs.faults, f"{fault}_rate", 0.3)
        got = read_ranges(ranges)
        assert [storage.digest_of(data) for data in got] == [r.digest for r in ranges]
        assert gcs.counts[fault] > 0

    @pytest.mark.parametrize("fault", ["cut", "corrupt"])
    def test_a_body_that_is_always_spoiled_is_an_error_for_its_range_only(
        self, gcs: FakeGCS, bucket: str, fault: str
    ) -> None:
        ranges = fill(bucket, 5)
        setattr(gcs.faults, f"{fault}_rate", 1.0)
        gcs.faults.only = "/002"
        got = read_ranges(ranges)
        assert_one_line(got.pop(2), ranges[2].url)
        assert got == [bytes_of(k, 1000) for k in (0, 1, 3, 4)]
        assert gcs.counts[fault] == retries.ATTEMPTS

    def test_a_short_body_is_noticed_without_a_digest(self, gcs: FakeGCS, bucket: str) -> None:
        (known,) = fill(bucket, 1)
        gcs.faults.cut_rate = 1.0
        (got,) = read_ranges([Range(known.url, 0, known.size)])
        assert_one_line(got, known.url, "instead of 1000")

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_server_out_of_breath_is_asked_again(
        self, gcs: FakeGCS, bucket: str, status: int
    ) -> None:
        gcs.faults.error_status, gcs.faults.error_rate = status, 0.3
        ranges = fill(bucket, 20)
        got = read_ranges(ranges)
        assert [storage.digest_of(data) for data in got] == [r.digest for r in ranges]
        for call in (storage.read, storage.exists, whole):
            gcs.faults.fail_next = 2
            assert call(ranges[0].url)
        gcs.faults.fail_next = 2
        assert len(storage.find(bucket)) == 20
        assert gcs.counts["error"] > 8

    def test_two_writes_of_a_name_within_a_second_succeed(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.05)
        gcs.faults.rewrites_refused = 1
        for text in (b"first", b"second"):
            storage.write(f"{bucket}/metrics.json", text)
        assert storage.read(f"{bucket}/metrics.json") == b"second"
        assert gcs.counts["429"] > 0

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_server_that_never_recovers_is_an_error_after_all_attempts(
        self, gcs: FakeGCS, bucket: str, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 3)
        (there,) = fill(bucket, 1)
        gcs.faults.error_status, gcs.faults.error_rate = status, 1.0
        with pytest.raises(StorageError) as caught:
            storage.read(there.url)
        assert_one_line(caught.value, there.url, str(status))
        assert gcs.counts["error"] == 3
        with pytest.raises(StorageError) as caught:
            storage.write_many({there.url: b"x"})
        assert_one_line(caught.value, there.url, str(status))
        assert_one_line(read_ranges([there])[0], there.url, str(status))

    def test_a_stalled_request_is_given_up_and_asked_again(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ranges = fill(bucket, 20)
        monkeypatch.setattr(retries, "TIMEOUT", 1.0)
        gcs.faults.stall_rate, gcs.faults.stall_seconds = 0.3, 600
        got = read_ranges(ranges)
        assert [storage.digest_of(data) for data in got] == [r.digest for r in ranges]
        assert gcs.counts["stall"] > 0

    def test_a_request_that_always_stalls_is_an_error_that_says_so(
        self, gcs: FakeGCS, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ranges = fill(bucket, 3)
        monkeypatch.setattr(retries, "TIMEOUT", 2.0)
        monkeypatch.setattr(retries, "ATTEMPTS", 1)
        gcs.faults.stall_rate, gcs.faults.stall_seconds, gcs.faults.only = 1.0, 600, "/001"
        first, stalled, third = read_ranges(ranges)
        assert (first, third) == (bytes_of(0, 1000), bytes_of(2, 1000))
        assert_one_line(stalled, ranges[1].url, "Timeout")

    def test_a_server_that_is_gone_is_an_error_of_one_line(
        self, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        with pytest.raises(StorageError) as caught:
            storage.read("gs://bucket/a")
        assert_one_line(caught.value, "gs://bucket/a")


ACTIONS: dict[str, Callable[[str], object]] = {
    "read": lambda url: storage.read(f"{url}/a"),
    "whole": lambda url: whole(f"{url}/a"),
    "write": lambda url: storage.write(f"{url}/a", b"x"),
    "write_many": lambda url: storage.write_many({f"{url}/a": b"x", f"{url}/b": b"x"}),
    "copy": lambda url: storage.copy(f"{url}/a", f"{url}/b"),
    "find": storage.find,
}


class TestBucketsThatCannotBeUsed:
    """No retry helps: the error comes at the first try."""

    @pytest.mark.parametrize("name", ACTIONS)
    def test_a_missing_bucket_is_an_error_of_one_line(self, gcs: FakeGCS, name: str) -> None:
        with pytest.raises(StorageError) as caught:
            ACTIONS[name]("gs://no-such-bucket")
        assert_one_line(caught.value, "gs://no-such-bucket", "no such")

    @pytest.mark.parametrize("name", [*ACTIONS, "exists", "folders"])
    def test_a_forbidden_bucket_is_an_error_of_one_line(
        self, gcs: FakeGCS, bucket: str, name: str
    ) -> None:
        action = ACTIONS | {
            "exists": lambda url: storage.exists(f"{url}/a"),
            "folders": storage.folders,
        }
        gcs.faults.forbidden.add(bucket[5:])
        with pytest.raises(StorageError) as caught:
            action[name](bucket)
        assert_one_line(caught.value, bucket, "access denied")

    def test_ranges_of_such_buckets_are_errors_in_their_place(
        self, gcs: FakeGCS, bucket: str
    ) -> None:
        forbidden = gcs.bucket()
        gcs.faults.forbidden.add(forbidden[5:])
        (there,) = fill(bucket, 1)
        good, missing, denied = read_ranges(
            [there, Range("gs://no-such-bucket/a", 0, 9), Range(f"{forbidden}/a", 0, 9)]
        )
        assert good == bytes_of(0, 1000)
        assert_one_line(missing, "gs://no-such-bucket/a", "no such")
        assert_one_line(denied, forbidden, "access denied")
        assert gcs.counts["403"] == 1
