"""The order in which an epoch visits the pictures: pure functions, plain numpy.

Resuming needs one number, the samples seen so far: it gives the epoch and the place in it. What
remains of an epoch does not depend on how many processes or workers saw its first part, nor on
their batch size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Request(NamedTuple):
    """What the dataset is asked for: one batch of one rank."""

    epoch: int
    rows: np.ndarray
    """int64, (B,): rows of the manifest."""
    valid: np.ndarray
    """bool, (B,): False for padding, which must not count in a loss or a metric."""
    samples_seen: int
    """Samples consumed by all ranks since the start of the run, this batch included."""
    times: np.ndarray
    """int64, (B,): how often each row has come earlier in the epoch; see `balanced_rows`."""


def shard_numbers(files: np.ndarray) -> np.ndarray:
    """Number the files from 0 in the order in which they first appear: int64, (n,).

    Args:
        files: for each row a number that says in which file it lies, int64, (n,). The rows of a
            file may lie apart: rows are sorted by id, a packed file holds them in another order.
    """
    _, first, inverse = np.unique(files, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse]


def epoch_order(shards: np.ndarray, *, seed: int, epoch: int, window: int) -> np.ndarray:
    """A permutation of the rows for one epoch.

    Shards are shuffled, then rows are shuffled within a window of that many shards: rows of a
    batch lie in few files, so that their byte ranges merge. Loose files are shards of one row,
    for which this is a uniform shuffle.

    Args:
        shards: the shard number of each row, int64, (n,), from 0 upwards.
        seed: the run's seed.
        epoch: counted from 0.
        window: how many shards are mixed.

    Returns:
        int64, (n,): positions into `shards`.
    """
    if len(shards) == 0:
        return np.empty(0, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch])
    place = rng.permutation(int(shards.max()) + 1)
    return np.lexsort((rng.random(len(shards)), place[shards] // window))


def balanced_order(
    shards: np.ndarray, labels: np.ndarray, *, seed: int, epoch: int, window: int
) -> np.ndarray:
    """As many rows as there are, each class as often as each other, in an order as above.

    A loose file that is drawn several times comes at places that have nothing to do with each
    other; a row of a larger shard comes again within that shard's window.

    Args:
        shards: as for `epoch_order`.
        labels: as for `balanced_rows`.
        seed: the run's seed.
        epoch: counted from 0.
        window: how many shards are mixed.

    Returns:
        int64, (n,): positions into `shards`, some of them several times, some not at all.
    """
    rows = balanced_rows(labels, seed=seed, epoch=epoch)
    drawn = shards[rows]
    loose = np.bincount(shards)[drawn] == 1
    drawn[loose] = len(shards) + np.arange(loose.sum())  # each draw a shard of its own
    order = epoch_order(shard_numbers(drawn), seed=seed, epoch=epoch, window=window)
    visited: np.ndarray = rows[order]
    return visited


def balanced_rows(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The rows of a balanced epoch, class by class.

    Picture one endless sequence of draws that goes round the k classes, one from each in turn; an
    epoch is the next n of it. A class's draws run through its rows in a random order, then in
    another, and so on, across the ends of epochs: no row comes again before all others of its
    class have come, and each gets its turn even if an epoch has no room for all.

    Args:
        labels: the class of each row, (n,) integers; rows with a negative one are never drawn.
        seed: the run's seed.
        epoch: counted from 0.

    Returns:
        int64, (n,): positions into `labels`, n // k or n // k + 1 of each class. Every position
        once if no row has a class.
    """
    n = len(labels)
    by_class = np.argsort(labels, kind="stable")
    by_class = by_class[labels[by_class] >= 0]
    if len(by_class) == 0:
        return np.arange(n)
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)

    # Draw t is of class t % k. How many draws each class has had before this epoch, and after it:
    turn, k = np.arange(len(sizes)), len(sizes)
    before, after = -((turn - epoch * n) // k), -((turn - (epoch + 1) * n) // k)

    # All passes through a class that the epoch touches, one after the other, with all their rows.
    first_pass = before // sizes
    passes = -(-after // sizes) - first_pass
    class_of = np.repeat(turn, passes)
    number = _count_up(passes) + first_pass[class_of]
    pass_of = np.repeat(np.arange(len(class_of)), sizes[class_of])
    place = _count_up(sizes[class_of])
    class_of, number = class_of[pass_of], number[pass_of]
    rows = by_class[starts[class_of] + place]

    # Rows change places within a pass only, so `class_of`, `number` and `place` remain true.
    rows = rows[np.lexsort((_hashed(seed, number, rows), pass_of))]
    draw = number * sizes[class_of] + place
    drawn: np.ndarray = rows[(before[class_of] <= draw) & (draw < after[class_of])]
    return drawn


def _count_up(lengths: np.ndarray) -> np.ndarray:
    """0 to length - 1 for each length, one after the other: int64."""
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    counted: np.ndarray = np.arange(len(starts)) - starts
    return counted


def _hashed(seed: int, *numbers: np.ndarray) -> np.ndarray:
    """Random numbers, uint64, that follow from seed and numbers alone (splitmix64's rounds)."""
    key = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    for number in numbers:
        key = key + number.astype(np.uint64)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = key ^ (key >> np.uint64(31))
    return key


def requests(
    order: np.ndarray,
    *,
    epoch: int,
    consumed: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Request]:
    """The batches of one rank for what remains of an epoch.

    The union over the ranks is each remaining row exactly once. In the last batch a rank may
    have fewer rows than another; it is padded with rows marked invalid, so that all ranks take
    the same number of steps with batches of the same size.

    Args:
        order: rows of the manifest in the epoch's order, int64, (n,).
        epoch: counted from 0.
        consumed: samples of this epoch that all ranks have seen already.
        batch_size: rows of a rank's batch.
        rank: this process among `world_size`.
        world_size: the number of processes.
    """
    step, times = batch_size * world_size, _earlier(order)
    for start in range(consumed, len(order), step):
        chunk = order[start : start + step]
        rows, again = chunk[rank::world_size], times[start : start + step][rank::world_size]
        missing = -(-len(chunk) // world_size) - len(rows)
        yield Request(
            epoch=epoch,
            rows=np.concatenate([rows, np.repeat(chunk[:1], missing)]),
            valid=np.arange(len(rows) + missing) < len(rows),
            samples_seen=epoch * len(order) + start + len(chunk),
            times=np.concatenate([again, np.zeros(missing, np.int64)]),
        )


def _earlier(order: np.ndarray) -> np.ndarray:
    """How often each entry stands further ahead already: int64, (n,)."""
    by_row = np.argsort(order, kind="stable")
    earlier = np.empty(len(order), np.int64)
    earlier[by_row] = _count_up(np.unique(order, return_counts=True)[1])
    return earlier


def batches_done(rows: int, consumed: int, global_batch: int) -> int:
    """How many of an epoch's batches count as done after `consumed` samples.

    Counted from the end, so that done + remaining is the epoch's usual number of batches even if
    the first part of the epoch used another batch size.
    """
    return -(-rows // global_batch) - -(-(rows - consumed) // global_batch)
