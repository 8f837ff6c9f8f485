"""Pages: packed files in stretches, which of them an epoch needs and when."""

import os
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dogbreed import ranges, storage
from dogbreed.data import cache as cache_module
from dogbreed.data import manifest as manifest_module
from dogbreed.data import pages
from dogbreed.data import reader as reader_module
from dogbreed.data.cache import Cache
from dogbreed.data.manifest import Manifest
from dogbreed.data.pages import Kept, Page, Plan
from dogbreed.data.reader import Reader
from dogbreed.ranges import Range
from tests.doubles.gcs import FakeGCS

EACH, FILES, SIZE = 30, 4, 700
ROOM = 10**9


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of some four pictures, whose edges lie within pictures."""
    monkeypatch.setattr(pages, "PAGE", 3000)
    pages._name.cache_clear()


def pictures(number: int) -> list[bytes]:
    return [random.Random(1000 * number + k).randbytes(SIZE + k) for k in range(EACH)]


def build(root: str, splits: str = "train") -> Manifest:
    """Files of 30 pictures with a gap in front, rows in another order than bytes."""
    rows = []
    for number in range(FILES):
        data = b"\0" * 512
        for k, picture in enumerate(pictures(number)):
            rows.append(
                {
                    "id": f"{storage.digest_of(picture)[:8]}",
                    "uri": f"{number}.tar",
                    "offset": len(data),
                    "size": len(picture),
                    "label": 0,
                    "split": splits.split()[k % len(splits.split())],
                    "digest": storage.digest_of(picture),
                }
            )
            data += picture
        storage.write(f"{root}/{number}.tar", data)
    table = pa.Table.from_pylist(rows, manifest_module.SCHEMA)
    manifest_module.save(root, table, classes=[{"name": "dog"}], name="packed")
    return Manifest.open(root)


def plan(data: Manifest, rows: np.ndarray, *, window: int = 1, room: int = ROOM) -> Plan:
    return Plan(data, rows, data.files_of(rows), window=window, room=room)


def all_pages(made: Plan, order: np.ndarray) -> list[Page]:
    deal, dealt = made.deal(order), []
    for position in range(len(order)):
        dealt += deal(position)
    return dealt


class TestPlan:
    def test_the_pages_of_an_epoch_are_each_byte_of_its_pictures_once(self, tmp_path: Path) -> None:
        data = build(str(tmp_path))
        rows = data.rows_of("train")
        dealt = all_pages(plan(data, rows), rows)
        assert len({(page.url, page.number) for page in dealt}) == len(dealt)
        for there in data.ranges(data.take(rows)):
            on = sorted(
                (page.range.offset, page.range.end)
                for page in dealt
                if page.url == there.url
                and page.range.offset < there.end
                and page.range.end > there.offset
            )
            assert on[0][0] <= there.offset
            assert on[-1][1] >= there.end
        for page in dealt:
            assert page.range.end <= (tmp_path / page.url.rsplit("/", 1)[-1]).stat().st_size

    def test_pages_come_in_the_order_of_their_first_use_and_not_long_before(
        self, tmp_path: Path
    ) -> None:
        data = build(str(tmp_path))
        rows = data.rows_of("train")
        by_file = rows[np.argsort(data.files_of(rows), kind="stable")]
        deal = plan(data, rows).deal(by_file)
        urls = [page.url for page in deal(0)]
        assert len(set(urls)) <= 2  # of four files: that at hand, and the next
        for position in range(0, len(rows), EACH):
            urls += [page.url for page in deal(position)]
        assert list(dict.fromkeys(urls)) == list(
            dict.fromkeys(there.url for there in data.ranges(data.take(by_file)))
        )

    def test_no_more_than_some_are_handed_out_with_a_batch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "MOST", 16)
        data = build(str(tmp_path))
        rows = data.rows_of("train")
        deal = plan(data, rows, window=9).deal(rows)
        assert len(deal(0)) == pages.MOST
        assert 0 < len(deal(0)) <= pages.MOST

    def test_the_first_batches_share_what_is_due_at_the_start(self, tmp_path: Path) -> None:
        data = build(str(tmp_path))
        rows = data.rows_of("train")
        deal = plan(data, rows, window=9).deal(rows, 3)
        shares = [len(deal(0)) for _ in range(4)]
        assert max(shares[:3]) - min(shares[:3]) <= 1
        assert (sum(shares), shares[3]) == (len(all_pages(plan(data, rows, window=9), rows)), 0)

    def test_pages_of_which_little_is_needed_are_not_fetched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "WORTH", 0.5)
        data = build(str(tmp_path), "train train train train train train train val")
        made = plan(data, data.rows_of("val"))
        assert not made.covers(data.rows_of("val")).any()
        assert all_pages(made, data.rows_of("val")) == []
        assert plan(data, data.rows_of("train")).covers(data.rows_of("train")).all()

    def test_a_cache_without_room_for_them_gets_none(self, tmp_path: Path) -> None:
        data = build(str(tmp_path))
        rows = data.rows_of("train")
        assert not plan(data, rows, room=0).covers(rows).any()
        assert not plan(data, rows, window=4, room=100_000).covers(rows).any()
        assert plan(data, rows, window=1, room=100_000).covers(rows).all()

    def test_loose_files_have_none(self, tiny_dataset: str) -> None:
        data = Manifest.open(tiny_dataset)
        rows = data.rows_of("train")
        assert not plan(data, rows).covers(rows).any()
        assert all_pages(plan(data, rows), rows) == []


class TestReader:
    @pytest.fixture
    def data(self, gcs: FakeGCS, bucket: str) -> Manifest:
        """A packed data set in a bucket; counts begin at nothing."""
        data = build(bucket)
        gcs.reset()
        return data

    def read(self, reader: Reader, data: Manifest) -> list[str]:
        found = reader.read(data.ranges(data.take(data.rows_of("train"))))
        return [storage.digest_of(piece) for piece in found if isinstance(piece, bytes)]

    def fetched(self, reader: Reader, data: Manifest) -> list[Page]:
        """Have all pages fetched."""
        rows = data.rows_of("train")
        dealt = all_pages(plan(data, rows, window=9), rows)
        reader.begin([], dealt, patience=600)
        return dealt

    def test_pages_are_fetched_once_and_pictures_cut_out_of_them(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path
    ) -> None:
        reader = Reader(Cache(tmp_path, ROOM))
        dealt = self.fetched(reader, data)
        wanted = [row["digest"] for row in data.take(data.rows_of("train"))]
        assert self.read(reader, data) == wanted
        assert gcs.counts["media"] == len(dealt)
        cost = reader.cost(0, 0)
        assert (cost["hits"], cost["misses"], cost["requests"]) == (120, 0, len(dealt))
        assert cost["bytes"] == sum(page.size for page in dealt)
        assert self.read(Reader(Cache(tmp_path, ROOM)), data) == wanted  # another run
        assert gcs.counts["media"] == len(dealt)

    def test_a_page_in_the_cache_or_on_its_way_elsewhere_is_not_fetched_again(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path
    ) -> None:
        cache = Cache(tmp_path, ROOM)
        rows = data.rows_of("train")
        elsewhere, *rest = all_pages(plan(data, rows, window=9), rows)
        claim = cache.claim(elsewhere.name)
        assert claim is not None
        reader = Reader(cache)
        reader.begin([], [elsewhere, *rest], patience=600)
        cache.write(elsewhere.name, storage.read(elsewhere.url)[elsewhere.range.offset :][:3000])
        cache.release(elsewhere.name, claim)
        gcs.counts.clear()
        assert len(self.read(reader, data)) == 120
        assert gcs.counts["media"] <= len(rest)

    def test_of_many_pages_that_wait_some_are_claimed_and_all_are_fetched(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader_module, "CLAIMS", 2)
        monkeypatch.setattr(reader_module, "AT_ONCE", 1)
        gcs.faults.only, gcs.faults.stall_rate, gcs.faults.stall_seconds = ".tar", 1.0, 3600.0
        cache = Cache(tmp_path, ROOM)
        reader = Reader(cache)
        dealt = self.fetched(reader, data)
        assert sum(cache.claimed(page.name) for page in dealt) <= 4
        gcs.faults.stall_rate = 0.0
        while not all(cache.has(page.name) for page in dealt):
            time.sleep(0.01)
        assert gcs.counts["media"] <= len(dealt) + 1  # the stalled one twice

    def test_a_page_that_comes_between_the_look_and_the_wait_is_used(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path
    ) -> None:
        coming = {
            page.name: page
            for page in all_pages(plan(data, data.rows_of("train")), data.rows_of("train"))
        }

        class JustInTime(Cache):
            def claimed(self, name: str) -> bool:
                if name in coming:
                    page = coming.pop(name)
                    (whole,) = ranges.read_ranges([page.range])
                    assert isinstance(whole, bytes)
                    self.write(name, whole)
                return False

        wanted = len(coming)
        reader = Reader(JustInTime(tmp_path, ROOM))
        reader.begin([], [], patience=600)
        assert len(self.read(reader, data)) == 120
        assert gcs.counts["media"] == wanted

    def test_a_spoiled_page_costs_a_fetch_of_its_pictures_and_nothing_else(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path
    ) -> None:
        cache = Cache(tmp_path, ROOM)
        reader = Reader(cache)
        dealt = self.fetched(reader, data)
        wanted = self.read(reader, data)
        page = cache.folder / dealt[0].name[:2] / dealt[0].name
        page.write_bytes(bytes(page.stat().st_size))
        assert self.read(reader, data) == wanted
        assert not cache.has(dealt[0].name)
        assert 0 < reader.cost(0, 0)["misses"] <= 6

    def test_a_page_that_cannot_be_had_is_not_waited_for_twice(
        self, gcs: FakeGCS, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from dogbreed import retries

        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        gcs.faults.error_rate, gcs.faults.only = 1.0, "/0.tar"
        reader = Reader(Cache(tmp_path, ROOM))
        self.fetched(reader, data)
        assert len(self.read(reader, data)) == 120 - EACH

    def test_without_a_cache_pictures_are_fetched_by_themselves(
        self, gcs: FakeGCS, data: Manifest
    ) -> None:
        reader = Reader(None)
        assert len(self.read(reader, data)) == 120
        assert reader.cost(0, 0)["misses"] == 120

    def test_the_next_batch_is_fetched_meanwhile(self, gcs: FakeGCS, data: Manifest) -> None:
        first, second = np.split(data.rows_of("train"), 2)
        reader = Reader(None)
        ranges = data.ranges(data.take(first)), data.ranges(data.take(second))
        reader.begin(ranges[1], [], patience=0)
        reader.read(ranges[0])
        reader.begin([], [], patience=0)
        assert reader._now is not None
        reader._now.result()
        gcs.counts.clear()
        assert all(isinstance(piece, bytes) for piece in reader.read(ranges[1]))
        assert gcs.counts["media"] == 0


class TestKept:
    @pytest.fixture
    def data(self, tmp_path: Path) -> bytes:
        """Three pages of a file, in the cache."""
        data = random.Random(0).randbytes(7000)
        for number in range(3):
            page = Page("gs://b/a", number, min(3000, 7000 - number * 3000))
            Cache(tmp_path, ROOM).write(page.name, data[page.range.offset : page.range.end])
        return data

    def there(self, data: bytes, offset: int, size: int) -> Range:
        piece = data[offset : offset + size]
        return Range("gs://b/a", offset, size, storage.digest_of(piece))

    def test_a_picture_is_cut_out_of_one_page_or_more(self, data: bytes, tmp_path: Path) -> None:
        kept = Kept(Cache(tmp_path, ROOM))
        for offset, size in ((1, 10), (2900, 200), (0, 7000), (6990, 10)):
            assert kept.cut(self.there(data, offset, size)) == data[offset : offset + size]
        assert kept.cut(Range("gs://b/a", 6990, 20, storage.digest_of(b"x"))) is None
        assert kept.cut(Range("gs://b/other", 0, 20, storage.digest_of(b"x"))) is None

    def test_a_page_is_read_on_after_it_was_removed(self, data: bytes, tmp_path: Path) -> None:
        cache = Cache(tmp_path, ROOM)
        kept, first, later = Kept(cache), self.there(data, 0, 10), self.there(data, 10, 10)
        assert kept.cut(first)
        cache.remove(pages.names(first)[0])
        assert kept.cut(later) == data[10:20]
        assert Kept(cache).cut(later) is None

    def test_a_removed_page_is_let_go_when_its_use_is_noted(
        self, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_module, "_RECENT", 0.0)
        cache = Cache(tmp_path, ROOM)
        kept, first = Kept(cache), self.there(data, 0, 10)
        assert kept.cut(first)
        cache.remove(pages.names(first)[0])
        assert kept.cut(first)
        assert kept.cut(first) is None

    def test_a_process_holds_some_pages_open_and_no_more(
        self, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "HELD", 2)
        kept, before = Kept(Cache(tmp_path, ROOM)), len(os.listdir("/dev/fd"))
        for offset in (0, 3000, 6000, 0, 3000):
            assert kept.cut(self.there(data, offset, 10)) == data[offset : offset + 10]
        assert len(os.listdir("/dev/fd")) == before + 2
        del kept
        assert len(os.listdir("/dev/fd")) == before
