"""The loader: an epoch, or what remains of it, with any number of workers and processes."""

import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dogbreed.data.cache import Cache
from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import requests
from dogbreed.data.pages import names
from dogbreed.data.prepare import prepare
from dogbreed.data.transforms import Augment
from dogbreed.errors import BadInput
from tests.doubles.gcs import FakeGCS

N = 48


def loader(
    root: str,
    *,
    augment: bool = True,
    skip_bad: bool = False,
    cache: Cache | None = None,
    **options: Any,
) -> EpochLoader:
    data = Manifest.open(root)
    pictures = PictureDataset(
        data,
        np.arange(len(data.classes)),
        size=24,
        crop=1.0,
        augment=Augment() if augment else None,
        cache=cache,
        skip_bad=skip_bad,
    )
    standard = {"batch_size": 10, "shuffle": True, "seed": 3, "window": 4}
    return EpochLoader(pictures, np.arange(N), **standard | options)


def seen(batches: list[Batch]) -> list[int]:
    """Valid rows in the order in which they came."""
    return [int(row) for batch in batches for row in batch["row"][batch["valid"]]]


def by_row(batches: list[Batch]) -> dict[int, torch.Tensor]:
    return {
        int(row): image
        for batch in batches
        for row, image, valid in zip(batch["row"], batch["image"], batch["valid"], strict=True)
        if valid
    }


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a["samples_seen"], a["skipped"]) == (b["samples_seen"], b["skipped"])
        for name in ("image", "label", "valid", "row", "light"):
            assert torch.equal(a[name], b[name])


@pytest.fixture
def workers(tiny_dataset: str) -> Iterator[Callable[..., EpochLoader]]:
    """Make loaders with two workers, which end with the test."""
    made: list[EpochLoader] = []

    def make(root: str = tiny_dataset, **options: Any) -> EpochLoader:
        made.append(loader(root, workers=2, **options))
        return made[-1]

    yield make
    made.clear()


class TestEpoch:
    @pytest.mark.parametrize("batch_size", [1, 7, 10, 48, 100])
    def test_every_row_comes_exactly_once(self, tiny_dataset: str, batch_size: int) -> None:
        batches = list(loader(tiny_dataset, batch_size=batch_size))
        assert sorted(seen(batches)) == list(range(N))
        assert len(batches) == len(loader(tiny_dataset, batch_size=batch_size))
        assert batches[-1]["samples_seen"] == N

    def test_without_shuffling_rows_come_in_their_order(self, tiny_dataset: str) -> None:
        for rows in (np.arange(N), np.array([5, 40, 2])):
            whole = loader(tiny_dataset, shuffle=False)
            whole.rows = rows
            assert seen(list(whole)) == rows.tolist()

    def test_the_epoch_follows_from_the_samples_seen(self, tiny_dataset: str) -> None:
        at = 0
        epochs = loader(tiny_dataset, samples_seen=lambda: at)
        first = list(epochs)
        again = list(epochs)
        at = N
        second = list(epochs)
        assert_same(first, again)
        assert sorted(seen(second)) == list(range(N))
        assert seen(second) != seen(first)
        assert [batch["samples_seen"] for batch in second] == [58, 68, 78, 88, 96]
        later, earlier = by_row(second), by_row(first)
        assert not any(torch.equal(later[row], earlier[row]) for row in range(N))

    def test_samples_seen_are_asked_when_the_first_batch_is_drawn(self, tiny_dataset: str) -> None:
        at = 0
        batches = iter(loader(tiny_dataset, samples_seen=lambda: at))
        at = 40
        assert [batch["samples_seen"] for batch in batches] == [48]

    def test_another_seed_is_another_order(self, tiny_dataset: str) -> None:
        assert seen(list(loader(tiny_dataset, seed=4))) != seen(list(loader(tiny_dataset)))

    def test_ranks_share_an_epoch_with_equal_batches(self, tiny_dataset: str) -> None:
        options: dict[str, Any] = {"batch_size": 5, "world_size": 3}
        ranks = [loader(tiny_dataset, rank=rank, **options) for rank in range(3)]
        batches = [list(rank) for rank in ranks]
        assert sorted(row for rank in batches for row in seen(rank)) == list(range(N))
        assert {len(rank) for rank in ranks} == {len(rank) for rank in batches} == {4}
        for step in zip(*batches, strict=True):
            assert len({batch["image"].shape for batch in step}) == 1


class TestResume:
    @pytest.mark.parametrize("epoch", [0, 2])
    @pytest.mark.parametrize("done", [10, 30, 47])
    def test_after_a_stop_exactly_the_rest_comes_as_it_would_have(
        self, tiny_dataset: str, epoch: int, done: int
    ) -> None:
        whole = list(loader(tiny_dataset, samples_seen=lambda: epoch * N))
        rest = list(loader(tiny_dataset, samples_seen=lambda: epoch * N + done))
        assert seen(rest) == seen(whole)[done:]
        assert rest[-1]["samples_seen"] == (epoch + 1) * N
        before = by_row(whole)
        assert all(torch.equal(image, before[row]) for row, image in by_row(rest).items())

    def test_another_batch_size_and_more_ranks_see_the_same_rest(self, tiny_dataset: str) -> None:
        whole = list(loader(tiny_dataset))
        options: dict[str, Any] = {"batch_size": 4, "world_size": 2, "samples_seen": lambda: 20}
        rest = [b for rank in range(2) for b in loader(tiny_dataset, rank=rank, **options)]
        assert sorted(seen(rest)) == sorted(seen(whole)[20:])
        before = by_row(whole)
        assert all(torch.equal(image, before[row]) for row, image in by_row(rest).items())

    def test_its_length_stays_that_of_a_whole_epoch(self, tiny_dataset: str) -> None:
        assert len(loader(tiny_dataset, samples_seen=lambda: 30)) == 5

    def test_after_the_last_sample_the_next_epoch_begins(self, tiny_dataset: str) -> None:
        assert len(list(loader(tiny_dataset, samples_seen=lambda: N))) == 5


class TestBalance:
    LABELS = np.repeat([0, 1, 2], [3, 10, 35])

    @pytest.mark.parametrize("epoch", [0, 3])
    @pytest.mark.parametrize("done", [10, 33])
    def test_after_a_stop_exactly_the_rest_comes_as_it_would_have(
        self, tiny_dataset: str, epoch: int, done: int
    ) -> None:
        def balanced(at: int, **options: Any) -> EpochLoader:
            return loader(tiny_dataset, balance=self.LABELS, samples_seen=lambda: at, **options)

        whole = list(balanced(epoch * N))
        assert np.bincount(self.LABELS[seen(whole)]).tolist() == [16, 16, 16]
        assert whole[-1]["samples_seen"] == (epoch + 1) * N
        rest = list(balanced(epoch * N + done, batch_size=7))
        assert seen(rest) == seen(whole)[done:]
        shared: dict[str, Any] = {"batch_size": 4, "world_size": 2}
        ranks = [b for rank in range(2) for b in balanced(epoch * N + done, rank=rank, **shared)]
        assert sorted(seen(ranks)) == sorted(seen(whole)[done:])

    def test_its_length_is_that_of_any_epoch(self, tiny_dataset: str) -> None:
        assert len(loader(tiny_dataset, balance=self.LABELS)) == len(loader(tiny_dataset))


class TestAhead:
    """What workers fetch ahead does not show in what comes out."""

    @pytest.fixture
    def tasks(self, gcs: FakeGCS, bucket: str, tiny_folder: Path, tmp_path: Path) -> EpochLoader:
        """A loader over a packed data set in a bucket; its workers are never started."""
        prepare("folder", bucket, str(tiny_folder), shard_size="20kB", splits="1,0,0")
        data = Manifest.open(bucket)
        pictures = PictureDataset(
            data,
            np.arange(len(data.classes)),
            size=24,
            crop=1.0,
            cache=Cache(tmp_path / "cache", 10**9),
        )
        rows = data.rows_of("train")
        return EpochLoader(pictures, rows, batch_size=10, shuffle=True, seed=3, window=2, workers=2)

    @pytest.mark.parametrize("consumed", [0, 17])
    def test_requests_are_those_of_the_order(self, tasks: EpochLoader, consumed: int) -> None:
        order = tasks.order(1)
        wanted = list(requests(order, epoch=1, consumed=consumed, batch_size=10))
        got = [task.request for task in tasks._tasks(order, 1, consumed)]
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    def test_each_page_is_dealt_once_and_before_a_batch_needs_it(self, tasks: EpochLoader) -> None:
        manifest = tasks.manifest
        all_ = list(tasks._tasks(tasks.order(0), 0, 0))
        dealt = [[page.name for page in task.pages] for task in all_]
        assert len(set(chain(*dealt))) == len(list(chain(*dealt)))
        for place, task in enumerate(all_):
            there = set(chain(*dealt[: max(place + 1, 2)]))  # two workers begin at once
            assert len(task.next) == 0  # they lie on pages
            for picture in manifest.ranges(manifest.take(task.request.rows)):
                assert there >= set(names(picture))

    def test_loose_pictures_are_begun_one_batch_of_the_same_worker_ahead(
        self, tasks: EpochLoader
    ) -> None:
        tasks._cache = None
        got = list(tasks._tasks(tasks.order(0), 0, 0))
        for task, later in zip(got, got[2:], strict=False):
            assert np.array_equal(task.next, later.request.rows)
        assert [len(task.next) for task in got[-2:]] == [0, 0]
        assert not any(task.pages for task in got)

    def test_a_data_set_on_this_disk_needs_nothing_ahead(self, tiny_dataset: str) -> None:
        made = loader(tiny_dataset, workers=2)
        got = list(made._tasks(made.order(0), 0, 0))
        assert not any(len(task.next) or task.pages for task in got)

    def test_a_batch_tells_what_it_cost(self, tiny_dataset: str) -> None:
        batches = list(loader(tiny_dataset))
        assert sum(batch["cost"]["misses"] for batch in batches) == N
        assert sum(batch["cost"]["requests"] for batch in batches) == N
        pictures = Manifest.open(tiny_dataset)
        assert sum(batch["cost"]["bytes"] for batch in batches) == sum(
            row["size"] for row in pictures.take(range(N))
        )
        assert all(batch["cost"]["decode_seconds"] > 0 for batch in batches)


class TestWorkers:
    def test_batches_from_a_bucket_are_those_from_the_disk(
        self,
        gcs: FakeGCS,
        bucket: str,
        workers: Callable[..., EpochLoader],
        tiny_folder: Path,
        tmp_path: Path,
    ) -> None:
        for shard_size in (None, "20kB"):
            roots = [f"{place}/{shard_size}" for place in (tmp_path, bucket)]
            for root in roots:
                prepare(
                    "folder", root, str(tiny_folder), shard_size=shard_size, splits="1,0,0", seed=1
                )
            local, remote = roots
            options: dict[str, Any] = {"shuffle": True, "window": 2}
            cached = workers(remote, cache=Cache(tmp_path / "cache", 10**9), **options)
            for _ in range(2):
                assert_same(list(cached), list(loader(local, **options)))
            assert sum(batch["cost"]["misses"] for batch in cached) == 0

    def test_batches_are_those_without_workers_epoch_after_epoch(
        self, tiny_dataset: str, workers: Callable[..., EpochLoader]
    ) -> None:
        at = 0
        with_workers = workers(samples_seen=lambda: at)
        without = loader(tiny_dataset, samples_seen=lambda: at)
        for at in (0, N, 2 * N + 20):  # noqa: B007 - the loaders ask for it
            assert_same(list(with_workers), list(without))

    def test_batches_that_are_kept_stay_as_they_are(
        self, tiny_dataset: str, workers: Callable[..., EpochLoader]
    ) -> None:
        kept = list(workers(batch_size=4))  # more of them than a worker has room for
        assert_same(kept, list(loader(tiny_dataset, batch_size=4)))
        assert all(b["image"].is_contiguous(memory_format=torch.channels_last) for b in kept)

    def test_an_epoch_broken_off_does_not_show_in_the_next(
        self, tiny_dataset: str, workers: Callable[..., EpochLoader]
    ) -> None:
        both = workers()
        first = next(iter(both))
        assert_same([first], list(loader(tiny_dataset))[:1])
        assert_same(list(both), list(loader(tiny_dataset)))

    def test_a_skipped_picture_is_reported_from_a_worker(
        self, tiny_dataset: str, workers: Callable[..., EpochLoader], tmp_path: Path
    ) -> None:
        root, name = damaged_copy(tiny_dataset, tmp_path)
        batches = list(workers(root, skip_bad=True))
        assert [problem.split(":")[0] for batch in batches for problem in batch["skipped"]] == [
            name
        ]
        assert len(seen(batches)) == N - 1

    def test_a_bad_picture_is_the_error_that_names_it(
        self, tiny_dataset: str, workers: Callable[..., EpochLoader], tmp_path: Path
    ) -> None:
        root, name = damaged_copy(tiny_dataset, tmp_path)
        with pytest.raises(BadInput, match=f"picture {name}: ") as caught:
            list(workers(root))
        assert "\n" not in str(caught.value)


def damaged_copy(root: str, folder: Path) -> tuple[str, str]:
    """A copy of a data set with one damaged picture, and the id of that."""
    copy = folder / "copy"
    shutil.copytree(root, copy)
    name = Manifest.open(str(copy)).take([17])[0]["id"]
    (copy / "pictures" / name).write_bytes(b"damaged")
    return str(copy), name
