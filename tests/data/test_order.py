"""The order of an epoch, for any data set, seed, batch size and number of processes."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.data.order import (
    Request,
    balanced_order,
    balanced_rows,
    batches_done,
    epoch_order,
    requests,
    shard_numbers,
)

sizes_of_shards = st.lists(st.integers(1, 12), min_size=1, max_size=20)
seeds, epochs = st.integers(0, 2**32), st.integers(0, 1000)
labels_of_rows = st.lists(st.integers(-1, 6), max_size=60).map(np.array)
batch_sizes, worlds = st.integers(1, 9), st.integers(1, 5)


def shards_of(sizes: Sequence[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def all_ranks(
    order: np.ndarray, *, consumed: int, batch_size: int, world_size: int, epoch: int = 0
) -> list[list[Request]]:
    """The requests of every rank."""
    return [
        list(
            requests(
                order,
                epoch=epoch,
                consumed=consumed,
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]


def valid_rows(batches: Sequence[Request]) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows[batch.valid]]


class TestEpochOrder:
    @given(sizes_of_shards, seeds, epochs, st.integers(1, 30))
    def test_it_is_a_permutation(
        self, sizes: list[int], seed: int, epoch: int, window: int
    ) -> None:
        order = epoch_order(shards_of(sizes), seed=seed, epoch=epoch, window=window)
        assert order.dtype == np.int64
        assert sorted(order) == list(range(sum(sizes)))

    @given(sizes_of_shards, seeds, epochs, st.integers(1, 30))
    def test_it_is_a_pure_function(
        self, sizes: list[int], seed: int, epoch: int, window: int
    ) -> None:
        shards = shards_of(sizes)
        first = epoch_order(shards, seed=seed, epoch=epoch, window=window)
        np.random.default_rng(0).random(10)
        epoch_order(shards, seed=seed + 1, epoch=epoch, window=window)
        again = epoch_order(shards, seed=seed, epoch=epoch, window=window)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(shards, shards_of(sizes))

    @given(sizes_of_shards, seeds, epochs)
    def test_a_window_of_one_keeps_each_shard_together(
        self, sizes: list[int], seed: int, epoch: int
    ) -> None:
        shards = shards_of(sizes)
        visited = shards[epoch_order(shards, seed=seed, epoch=epoch, window=1)]
        assert len(np.flatnonzero(np.diff(visited))) == len(sizes) - 1

    @given(sizes_of_shards, seeds, epochs, st.integers(1, 30))
    def test_shards_of_different_windows_are_never_mixed(
        self, sizes: list[int], seed: int, epoch: int, window: int
    ) -> None:
        shards = shards_of(sizes)
        visited = shards[epoch_order(shards, seed=seed, epoch=epoch, window=window)]
        spans = [np.flatnonzero(visited == shard)[[0, -1]] for shard in range(len(sizes))]
        open_at_once = [sum(a <= i <= b for a, b in spans) for i in range(len(visited))]
        assert max(open_at_once) <= window

    def test_another_epoch_or_seed_is_another_order(self) -> None:
        shards = np.arange(200)
        orders = [
            epoch_order(shards, seed=seed, epoch=epoch, window=8).tolist()
            for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        assert all(a != b for k, a in enumerate(orders) for b in orders[:k])

    def test_loose_files_are_mixed_evenly(self) -> None:
        """Each row comes to each tenth of the epoch about equally often, whatever the window."""
        counts = np.zeros((10, 10))
        for epoch in range(2000):
            order = epoch_order(np.arange(10), seed=0, epoch=epoch, window=3)
            counts[np.arange(10), order] += 1
        assert ((counts - 200) ** 2 / 200).sum() < 130  # chi square, 81 degrees: p below 0.001

    def test_all_shards_in_one_window_are_mixed_evenly(self) -> None:
        shards = shards_of([100, 100])
        first = shards[epoch_order(shards, seed=0, epoch=0, window=2)[:100]]
        assert 30 < first.sum() < 70

    @given(sizes_of_shards, seeds, st.integers(1, 30))
    def test_rows_of_a_shard_may_lie_apart(self, sizes: list[int], seed: int, window: int) -> None:
        shards = np.random.default_rng(seed).permutation(shards_of(sizes))
        visited = shards[epoch_order(shards, seed=seed, epoch=0, window=window)]
        assert sorted(visited) == sorted(shards)
        spans = [np.flatnonzero(visited == shard)[[0, -1]] for shard in range(len(sizes))]
        assert max(sum(a <= i <= b for a, b in spans) for i in range(len(visited))) <= window

    @pytest.mark.parametrize(
        ("seed", "epoch", "window", "order"),
        [
            (0, 0, 8, [1, 3, 11, 8, 7, 4, 2, 6, 10, 5, 9, 0]),
            (3, 2, 8, [4, 0, 1, 5, 7, 11, 3, 10, 9, 2, 8, 6]),
            (3, 2, 2, [5, 3, 0, 10, 4, 11, 1, 7, 9, 2, 8, 6]),
        ],
    )
    def test_the_order_of_loose_files_is_that_of_all_versions(
        self, seed: int, epoch: int, window: int, order: list[int]
    ) -> None:
        """A run that an older version began is resumed where it was."""
        shards = shard_numbers(np.arange(12) * 7 % 23)
        assert epoch_order(shards, seed=seed, epoch=epoch, window=window).tolist() == order

    def test_no_rows_are_an_empty_order(self) -> None:
        assert epoch_order(np.empty(0, np.int64), seed=0, epoch=0, window=8).tolist() == []


class TestShardNumbers:
    @given(sizes_of_shards, seeds)
    def test_each_file_is_a_shard_wherever_its_rows_lie(self, sizes: list[int], seed: int) -> None:
        files = np.random.default_rng(seed).permutation(shards_of(sizes) * 7 % 1000)
        shards = shard_numbers(files)
        assert shards.dtype == np.int64
        assert set(shards) == set(range(len(sizes)))
        assert len(set(zip(files, shards, strict=True))) == len(sizes)

    @given(st.permutations(range(20)))
    def test_loose_files_are_numbered_as_they_lie(self, files: list[int]) -> None:
        assert shard_numbers(np.array(files)).tolist() == list(range(20))

    def test_a_file_has_the_number_of_its_first_row(self) -> None:
        assert shard_numbers(np.array([5, 5, 3, 5, 4, 3])).tolist() == [0, 0, 1, 0, 2, 1]

    def test_no_files_are_no_shards(self) -> None:
        assert shard_numbers(np.empty(0, np.int64)).tolist() == []


class TestBalancedRows:
    @given(labels_of_rows, seeds, epochs)
    def test_each_class_comes_as_often_as_each_other(
        self, labels: np.ndarray, seed: int, epoch: int
    ) -> None:
        rows = balanced_rows(labels, seed=seed, epoch=epoch)
        classes = set(labels[labels >= 0].tolist())
        assert rows.dtype == np.int64
        assert len(rows) == len(labels)
        if not classes:
            assert rows.tolist() == list(range(len(labels)))
            return
        drawn = labels[rows].tolist()
        share = len(labels) // len(classes)
        assert set(drawn) == classes
        assert {drawn.count(label) for label in classes} <= {share, share + 1}

    @given(labels_of_rows, seeds, st.integers(1, 12))
    def test_a_row_comes_again_when_all_of_its_class_have_come(
        self, labels: np.ndarray, seed: int, number: int
    ) -> None:
        """Also across the ends of epochs, each of which is computed alone."""
        drawn = np.concatenate([balanced_rows(labels, seed=seed, epoch=e) for e in range(number)])
        for label in set(labels[labels >= 0].tolist()):
            members = np.flatnonzero(labels == label)
            stream = drawn[labels[drawn] == label]
            for start in range(0, len(stream), len(members)):
                turn = stream[start : start + len(members)].tolist()
                assert len(set(turn)) == len(turn)
                assert set(turn) <= set(members.tolist())

    @given(labels_of_rows, seeds, st.integers(1, 30))
    def test_over_epochs_the_odd_rows_go_round_the_classes(
        self, labels: np.ndarray, seed: int, number: int
    ) -> None:
        drawn = np.concatenate([balanced_rows(labels, seed=seed, epoch=e) for e in range(number)])
        counts = np.unique(labels[drawn][labels[drawn] >= 0], return_counts=True)[1]
        if len(counts):
            assert counts.max() - counts.min() <= 1

    def test_other_turns_epochs_and_seeds_are_other_orders(self) -> None:
        labels = np.repeat([0, 1], [40, 160])
        first = balanced_rows(labels, seed=0, epoch=0)
        turns = first[labels[first] == 0][:80].reshape(2, 40).tolist()
        assert turns[0] != turns[1]
        for seed, epoch in ((0, 1), (1, 0), (2**32, 0)):
            other = balanced_rows(labels, seed=seed, epoch=epoch)
            assert set(other[labels[other] == 1]) != set(first[labels[first] == 1])

    def test_each_order_of_a_class_is_as_likely_as_each_other(self) -> None:
        labels = np.repeat([0, 1], [4, 20_000])
        drawn = balanced_rows(labels, seed=0, epoch=0)
        turns = drawn[labels[drawn] == 0][:10_000].reshape(-1, 4)
        counts = np.unique(turns, axis=0, return_counts=True)[1]
        expected = len(turns) / 24
        assert len(counts) == 24
        assert ((counts - expected) ** 2 / expected).sum() < 49.7  # 23 degrees: p below 0.001


class TestBalancedOrder:
    @given(labels_of_rows, seeds, epochs, st.integers(1, 9))
    def test_it_visits_the_rows_of_the_balanced_epoch(
        self, labels: np.ndarray, seed: int, epoch: int, window: int
    ) -> None:
        shards = np.arange(len(labels)) % 3
        order = balanced_order(shards, labels, seed=seed, epoch=epoch, window=window)
        assert sorted(order) == sorted(balanced_rows(labels, seed=seed, epoch=epoch))

    @given(sizes_of_shards, seeds, st.integers(1, 5))
    def test_shards_of_several_rows_are_read_a_window_at_a_time(
        self, sizes: list[int], seed: int, window: int
    ) -> None:
        shards = shards_of([size + 1 for size in sizes])
        labels = np.random.default_rng(seed).integers(0, 3, len(shards))
        visited = shards[balanced_order(shards, labels, seed=seed, epoch=1, window=window)]
        spans = [np.flatnonzero(visited == shard)[[0, -1]] for shard in set(visited.tolist())]
        assert max(sum(a <= i <= b for a, b in spans) for i in range(len(visited))) <= window

    def test_a_loose_file_comes_again_anywhere_in_the_epoch(self) -> None:
        labels = np.repeat([0, 1], [1, 399])
        order = balanced_order(np.arange(400), labels, seed=0, epoch=0, window=2)
        tenths = (order == 0).reshape(10, 40).sum(1)
        assert tenths.sum() == 200
        assert 8 < tenths.min() <= tenths.max() < 32


class TestRequests:
    @given(st.integers(0, 60), batch_sizes, worlds)
    def test_the_ranks_together_see_each_row_exactly_once(
        self, n: int, batch_size: int, world_size: int
    ) -> None:
        order = np.random.default_rng(n).permutation(n) + 100
        ranks = all_ranks(order, consumed=0, batch_size=batch_size, world_size=world_size)
        assert sorted(row for rank in ranks for row in valid_rows(rank)) == sorted(order)

    @given(st.integers(0, 60), batch_sizes, worlds)
    def test_all_ranks_take_the_same_steps_with_batches_of_the_same_size(
        self, n: int, batch_size: int, world_size: int
    ) -> None:
        ranks = all_ranks(np.arange(n), consumed=0, batch_size=batch_size, world_size=world_size)
        shapes = {tuple(len(batch.rows) for batch in rank) for rank in ranks}
        assert len(shapes) == 1
        assert {len(batch.valid) for rank in ranks for batch in rank} <= set(shapes.pop())
        for step in zip(*ranks, strict=True):
            assert len({batch.samples_seen for batch in step}) == 1

    @given(st.integers(0, 60), batch_sizes, worlds)
    def test_padding_is_the_least_that_makes_the_ranks_equal(
        self, n: int, batch_size: int, world_size: int
    ) -> None:
        ranks = all_ranks(np.arange(n), consumed=0, batch_size=batch_size, world_size=world_size)
        for number, step in enumerate(zip(*ranks, strict=True)):
            padding = sum(int((~batch.valid).sum()) for batch in step)
            whole = number < len(ranks[0]) - 1
            assert padding == (0 if whole else -n % world_size)
            assert all((np.diff(batch.valid.astype(int)) <= 0).all() for batch in step)

    @given(
        st.integers(1, 60),
        st.tuples(batch_sizes, worlds),
        st.tuples(batch_sizes, worlds),
        st.integers(0, 20),
        seeds,
    )
    def test_what_is_left_after_a_stop_is_exact_for_another_batch_and_number_of_ranks(
        self, n: int, before: tuple[int, int], after: tuple[int, int], steps: int, seed: int
    ) -> None:
        order = np.random.default_rng(seed).permutation(n)
        first = all_ranks(order, consumed=0, batch_size=before[0], world_size=before[1], epoch=3)
        seen = sorted(row for rank in first for row in valid_rows(rank[:steps]))
        consumed = first[0][:steps][-1].samples_seen - 3 * n if steps else 0
        assert consumed == len(seen)
        second = all_ranks(
            order, consumed=consumed, batch_size=after[0], world_size=after[1], epoch=3
        )
        left = [row for rank in second for row in valid_rows(rank)]
        assert sorted(seen + left) == list(range(n))

    @given(st.integers(1, 60), batch_sizes, worlds, epochs, st.integers(0, 60))
    def test_samples_seen_counts_to_the_end_of_the_epoch(
        self, n: int, batch_size: int, world_size: int, epoch: int, consumed: int
    ) -> None:
        ranks = all_ranks(
            np.arange(n),
            consumed=min(consumed, n - 1),
            batch_size=batch_size,
            world_size=world_size,
            epoch=epoch,
        )
        seen = [batch.samples_seen for batch in ranks[0]]
        assert all(b - a <= batch_size * world_size for a, b in pairwise(seen))
        assert seen == sorted(set(seen))
        assert seen[-1] == (epoch + 1) * n
        assert {batch.epoch for batch in ranks[0]} == {epoch}

    @given(st.integers(0, 60), batch_sizes, worlds)
    def test_a_global_batch_is_the_next_rows_of_the_order_whatever_the_ranks(
        self, n: int, batch_size: int, world_size: int
    ) -> None:
        order = np.random.default_rng(n).permutation(n)
        ranks = all_ranks(order, consumed=0, batch_size=batch_size, world_size=world_size)
        at = 0
        for step in zip(*ranks, strict=True):
            rows = sorted(row for batch in step for row in batch.rows[batch.valid])
            assert rows == sorted(order[at : at + batch_size * world_size])
            at += len(rows)

    @given(st.lists(st.integers(0, 5), max_size=30), batch_sizes, worlds, st.integers(0, 30))
    def test_a_row_that_comes_again_counts_how_often_it_has_come(
        self, rows: list[int], batch_size: int, world_size: int, consumed: int
    ) -> None:
        ranks = all_ranks(
            np.array(rows, np.int64),
            consumed=consumed,
            batch_size=batch_size,
            world_size=world_size,
        )
        got = [
            (row, times)
            for steps in zip(*ranks, strict=True)
            for request in steps
            for row, times in zip(
                request.rows[request.valid], request.times[request.valid], strict=True
            )
        ]
        wanted = [(row, rows[:at].count(row)) for at, row in enumerate(rows)]
        assert sorted(got) == sorted(wanted[consumed:])

    def test_a_finished_epoch_has_no_batches_left(self) -> None:
        assert list(requests(np.arange(10), epoch=0, consumed=10, batch_size=3)) == []


class TestBatchesDone:
    @given(st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 64))
    def test_done_and_remaining_are_the_batches_of_an_epoch(
        self, rows: int, consumed: int, global_batch: int
    ) -> None:
        consumed = min(consumed, rows)
        remaining = list(
            requests(np.arange(rows), epoch=0, consumed=consumed, batch_size=global_batch)
        )
        done = batches_done(rows, consumed, global_batch)
        assert done + len(remaining) == -(-rows // global_batch)
        assert done >= 0

    @pytest.mark.parametrize(("consumed", "done"), [(0, 0), (32, 1), (96, 3), (100, 4)])
    def test_whole_batches_count_as_done(self, consumed: int, done: int) -> None:
        assert batches_done(100, consumed, 32) == done
