"""What a loader of any kind goes by: the batches of an epoch, and the place in it of a run."""

import math
from collections.abc import Callable, Iterator
from typing import Required, TypedDict

import numpy as np

from dogbreed.data.dataset import Batch
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import Request, balanced_order, epoch_order, requests, shard_numbers


class Order(TypedDict, total=False):
    """What makes an epoch's batches."""

    batch_size: Required[int]
    """Of one process."""
    shuffle: bool
    """In an order that follows from `seed` and the epoch; otherwise in that of the rows."""
    seed: int
    window: int
    """How many shards the order mixes, see `order.epoch_order`."""
    balance: np.ndarray | None
    """The label of each of the rows, (n,) integers, for an epoch with each label as often as each
    other, see `order.balanced_rows`; needs `shuffle`."""
    samples_seen: Callable[[], int]
    """Tells how many samples all processes have consumed."""
    rank: int
    """This process among `world_size`."""
    world_size: int


class Epochs:
    """The batches of an epoch, or of what remains of it.

    The epoch and the place in it follow from `samples_seen()`, which is asked when the first
    batch is drawn: Lightning makes its iterators before it tells an epoch's number. The length
    is always that of a whole epoch.

    Args:
        manifest: the opened data set.
        rows: rows of the manifest that make an epoch, int64, (n,).
        order: see `Order`.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 1,
        balance: np.ndarray | None = None,
        samples_seen: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.manifest, self.rows = manifest, rows
        self.batch_size, self.samples_seen = batch_size, samples_seen
        self.seed, self.window, self.balance = seed, window, balance
        self.rank, self.world_size = rank, world_size
        self.shards = shard_numbers(manifest.files_of(rows)) if shuffle else None

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError

    def close(self) -> None:
        """End what works for it."""

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader resumes; where, follows from `samples_seen`."""
        return {"samples_seen": self.samples_seen()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: `samples_seen` is asked anew."""

    def place(self) -> tuple[int, int]:
        """The epoch at hand, and how many of its samples are consumed."""
        return divmod(self.samples_seen(), len(self.rows))

    def requests(self, order: np.ndarray, epoch: int, consumed: int) -> Iterator[Request]:
        """The batches of what remains of an epoch in that order."""
        return requests(
            order,
            epoch=epoch,
            consumed=consumed,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )

    def order(self, epoch: int) -> np.ndarray:
        """Rows of the manifest as the epoch visits them: int64, (n,)."""
        if self.shards is None:
            return self.rows
        if self.balance is None:
            places = epoch_order(self.shards, seed=self.seed, epoch=epoch, window=self.window)
        else:
            places = balanced_order(
                self.shards, self.balance, seed=self.seed, epoch=epoch, window=self.window
            )
        order: np.ndarray = self.rows[places]
        return order
