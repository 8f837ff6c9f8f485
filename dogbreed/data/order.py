"""The order in which an epoch visits the pictures: a pure function, plain numpy.

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


def shard_numbers(files: np.ndarray) -> np.ndarray:
    """Number the stretches of rows that lie in one file: int64, (n,), starting at 0."""
    starts = np.ones(len(files), dtype=np.int64)
    starts[1:] = files[1:] != files[:-1]
    return np.cumsum(starts) - 1


def epoch_order(shards: np.ndarray, *, seed: int, epoch: int, window: int) -> np.ndarray:
    """A permutation of the rows for one epoch.

    Shards are shuffled, then rows are shuffled within a window of that many shards: rows of a
    batch lie in few files, so that their byte ranges merge. Loose files are shards of one row,
    for which this is a uniform shuffle.

    Args:
        shards: the shard number of each row, int64, (n,), from 0 upwards without gaps.
        seed: the run's seed.
        epoch: counted from 0.
        window: how many shards are mixed.

    Returns:
        int64, (n,): positions into `shards`.
    """
    if len(shards) == 0:
        return np.empty(0, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch])
    place = rng.permutation(int(shards[-1]) + 1)
    return np.lexsort((rng.random(len(shards)), place[shards] // window))


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
    step = batch_size * world_size
    for start in range(consumed, len(order), step):
        chunk = order[start : start + step]
        rows = chunk[rank::world_size]
        missing = -(-len(chunk) // world_size) - len(rows)
        yield Request(
            epoch=epoch,
            rows=np.concatenate([rows, np.repeat(chunk[:1], missing)]),
            valid=np.arange(len(rows) + missing) < len(rows),
            samples_seen=epoch * len(order) + start + len(chunk),
        )


def batches_done(rows: int, consumed: int, global_batch: int) -> int:
    """How many of an epoch's batches count as done after `consumed` samples.

    Counted from the end, so that done + remaining is the epoch's usual number of batches even if
    the first part of the epoch used another batch size.
    """
    return -(-rows // global_batch) - -(-(rows - consumed) // global_batch)
