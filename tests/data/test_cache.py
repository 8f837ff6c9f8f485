"""The cache of fetched bytes: bounded, never wrong, never in the way."""

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dogbreed.data.cache import Cache
from dogbreed.errors import BadInput
from dogbreed.storage import digest_of

SIZE = 1000  # bytes of an entry, its checksum included


def entry(number: int) -> tuple[str, bytes]:
    """The digest and the bytes of an entry."""
    data = random.Random(number).randbytes(SIZE - 4)
    return digest_of(data), data


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Give an empty cache with room for twenty entries."""
    return Cache(tmp_path / "cache", 20 * SIZE)


def has(cache: Cache, number: int) -> bool:
    digest, data = entry(number)
    got = cache.get(digest)
    assert got in (None, data)
    return got is not None


class TestEntries:
    def test_what_was_put_is_got(self, cache: Cache) -> None:
        digest, data = entry(0)
        assert cache.get(digest) is None
        cache.put(digest, data)
        assert cache.get(digest) == data

    def test_another_run_finds_it(self, cache: Cache) -> None:
        cache.put(*entry(0))
        assert has(Cache(cache.folder, cache.max_bytes), 0)

    def test_putting_twice_keeps_one(self, cache: Cache) -> None:
        for _ in range(3):
            cache.put(*entry(0))
        assert len(files(cache.folder)) == 1

    @pytest.mark.parametrize("damage", [b"", b"x", bytes(SIZE)])
    def test_a_damaged_entry_is_not_given_out_and_removed(
        self, cache: Cache, damage: bytes
    ) -> None:
        cache.put(*entry(0))
        (path,) = files(cache.folder)
        path.write_bytes(damage)
        assert cache.get(entry(0)[0]) is None
        assert files(cache.folder) == []
        cache.put(*entry(0))
        assert has(cache, 0)

    def test_an_entry_under_a_false_name_is_not_given_out(self, cache: Cache) -> None:
        for number in range(2):
            cache.put(*entry(number))
        one, other = files(cache.folder)
        one.write_bytes(other.read_bytes())
        assert has(cache, 0) + has(cache, 1) == 1

    def test_a_home_folder_is_expanded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        Cache("~/here", 10 * SIZE).put(*entry(0))
        assert len(files(tmp_path / "here")) == 1


class TestBound:
    def test_it_never_grows_by_more_than_a_twentieth_over_its_bound(self, cache: Cache) -> None:
        for number in range(100):
            cache.put(*entry(number))
            assert used_bytes(cache.folder) <= cache.max_bytes * 1.05
        assert used_bytes(cache.folder) >= cache.max_bytes * 0.9

    def test_what_was_used_longest_ago_goes_first(self, cache: Cache) -> None:
        for number in range(20):
            cache.put(*entry(number))
        for number, path in enumerate(cache._path(entry(k)[0]) for k in range(20)):
            os.utime(path, (1_000_000 + number,) * 2)
        assert has(cache, 0)  # now it is the one used last
        for number in range(20, 25):
            cache.put(*entry(number))
        kept = [number for number in range(25) if has(cache, number)]
        assert 0 in kept
        assert kept == [0, *range(25 - len(kept) + 1, 25)]
        assert len(kept) in (20, 21)

    def test_what_an_earlier_run_left_counts(self, cache: Cache) -> None:
        for number in range(20):
            cache.put(*entry(number))
        Cache(cache.folder, 5 * SIZE).put(*entry(50))
        assert used_bytes(cache.folder) <= 5 * SIZE

    def test_what_a_killed_process_left_half_written_counts_and_goes(self, cache: Cache) -> None:
        cache.put(*entry(0))
        part = files(cache.folder)[0].parent / ".part-killed"
        part.write_bytes(bytes(30 * SIZE))
        os.utime(part, (1, 1))
        Cache(cache.folder, cache.max_bytes).put(*entry(1))
        assert not part.exists()
        assert has(cache, 0)

    def test_what_others_are_writing_counts_and_stays(self, cache: Cache) -> None:
        cache.put(*entry(0))
        part = files(cache.folder)[0].parent / ".part-another"
        part.write_bytes(bytes(30 * SIZE))
        Cache(cache.folder, cache.max_bytes).put(*entry(1))
        assert files(cache.folder) == [part]

    def test_what_was_left_half_written_an_hour_ago_goes_however_much_room_there_is(
        self, cache: Cache
    ) -> None:
        cache.put(*entry(0))
        folder = files(cache.folder)[0].parent
        for name, age in (("old", 4000), ("new", 10)):
            (folder / f".part-{name}").write_bytes(b"x")
            os.utime(folder / f".part-{name}", (time.time() - age,) * 2)
        Cache(cache.folder, cache.max_bytes).put(*entry(1))
        assert [path.name for path in folder.glob(".part-*")] == [".part-new"]
        assert has(cache, 0)

    def test_an_entry_larger_than_the_bound_is_not_kept(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, SIZE // 2)
        cache.put(*entry(0))
        assert files(tmp_path) == []


def fill_disk_and_put(cache: Cache, *numbers: int) -> None:
    """Put entries while the kernel limits the size of a file to half of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        for number in numbers:
            cache.put(*entry(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFill:
    def test_what_is_written_piece_by_piece_is_an_entry(self, cache: Cache) -> None:
        name, data = entry(0)

        def bring(write: Callable[[bytes, int], None]) -> None:
            write(bytes(10), 0)  # a first try, which gets no further
            for at in (20, 0, 10):
                write(data[at : at + 10], at)
            write(data[30:], 30)

        cache.fill(name, bring)
        there = cache.open(name)
        assert there is not None
        assert there.read() == data

    def test_what_is_not_brought_to_its_end_is_not_kept(self, cache: Cache) -> None:
        def bring(write: Callable[[bytes, int], None]) -> None:
            write(b"half", 0)
            raise BadInput("gone")

        with pytest.raises(BadInput, match="gone"):
            cache.fill(entry(0)[0], bring)
        assert files(cache.folder) == []
        assert cache.works


class TestPieces:
    def test_a_piece_is_what_lies_there(self, cache: Cache) -> None:
        name, data = entry(0)
        cache.write(name, data)
        there = cache.open(name)
        assert there is not None
        assert there.read() == data
        assert there.read(10, 20) == data[10:30]
        assert there.read(len(data) - 5, 20) == data[-5:]
        assert cache.open(entry(1)[0]) is None

    def test_what_is_removed_is_gone(self, cache: Cache) -> None:
        cache.put(*entry(0))
        cache.remove(entry(0)[0])
        cache.remove(entry(1)[0])
        assert not cache.has(entry(0)[0])


class TestClaims:
    def test_an_entry_is_claimed_by_one_at_a_time(self, cache: Cache) -> None:
        other, name = Cache(cache.folder, cache.max_bytes), entry(0)[0]
        assert not other.claimed(name)
        claim = cache.claim(name)
        assert claim is not None
        assert other.claimed(name)
        assert other.claim(name) is None
        assert other.claim(entry(1)[0]) is not None
        cache.release(name, claim)
        assert not other.claimed(name)
        assert other.claim(name) is not None

    def test_the_claim_of_a_killed_process_is_none(self, cache: Cache) -> None:
        process = multiprocessing.get_context("forkserver").Process(
            target=claim_and_die, args=(cache.folder, entry(0)[0])
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(files(cache.folder)) == 1
        assert not cache.claimed(entry(0)[0])
        assert cache.claim(entry(0)[0]) is not None

    def test_a_folder_that_cannot_be_made_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_bytes(b"a file where the folder should be")
        cache = Cache(tmp_path / "cache", SIZE)
        assert cache.claim(entry(0)[0]) is None
        assert not cache.claimed(entry(0)[0])


def claim_and_die(folder: Path, name: str) -> None:
    assert Cache(folder, SIZE).claim(name) is not None
    os.kill(os.getpid(), signal.SIGKILL)


class TestDiskThatCannotBeUsed:
    def test_a_folder_that_cannot_be_made_loses_entries_only(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_bytes(b"a file where the folder should be")
        cache = Cache(tmp_path / "cache", 2 * SIZE)
        for number in range(5):
            cache.put(*entry(number))
            assert not has(cache, number)
        assert (tmp_path / "cache").read_bytes() == b"a file where the folder should be"

    def test_a_full_disk_ends_the_writing_with_one_line_and_leaves_no_parts(
        self, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.put(*entry(0))
        fill_disk_and_put(cache, 1, 2, 3)
        cache.put(*entry(4))
        assert [has(cache, number) for number in range(5)] == [True] + [False] * 4
        assert len(files(cache.folder)) == 1
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{cache.folder}: ")
        assert "\n" not in record.getMessage()

    def test_one_that_is_silent_leaves_the_line_to_another(
        self, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.silent = True
        fill_disk_and_put(cache, 1)
        assert not cache.works
        assert caplog.records == []

    def test_entries_that_cannot_be_removed_are_passed_over(self, cache: Cache) -> None:
        """A folder is what not even root can unlink."""
        (cache.folder / "ab" / "folder").mkdir(parents=True)
        os.utime(cache.folder / "ab" / "folder", (1, 1))
        small = Cache(cache.folder, SIZE)
        small.put(*entry(0))
        small.put(*entry(1))
        assert used_bytes(cache.folder) <= SIZE


def work(folder: Path, max_bytes: int, first: int, wrong: "multiprocessing.Queue[int]") -> None:
    """What one process of many does: puts and gets of entries that the others use too."""
    cache = Cache(folder, max_bytes)
    count = 0
    for number in range(first, first + 200):
        digest, data = entry(number % 40)
        cache.put(digest, data)
        got = cache.get(entry((number * 7) % 40)[0])
        count += got is not None and got != entry((number * 7) % 40)[1]
    wrong.put(count)


def test_processes_share_it_without_a_wrong_byte(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    wrong = context.Queue()
    processes = [
        context.Process(target=work, args=(tmp_path, 20 * SIZE, first, wrong)) for first in (0, 17)
    ]
    for process in processes:
        process.start()
    counts = [wrong.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert counts == [0, 0]
    assert [process.exitcode for process in processes] == [0, 0]
    assert used_bytes(tmp_path) <= 20 * SIZE * 1.1
    assert all(digest_of(path.read_bytes()[:-4]) == path.name for path in files(tmp_path))
