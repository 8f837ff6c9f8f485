"""Workers around the data set, and the place in the epoch from which they go on."""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.order import Request, balanced_order, epoch_order, requests, shard_numbers
from dogbreed.errors import BadInput


class _Plan:
    """The requests of the epoch at hand, as torch's DataLoader wants them: a batch sampler."""

    def __init__(self) -> None:
        self.requests: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.requests


def _as_is(batch: Any) -> Any:
    """The data set hands out whole batches: nothing to collate."""
    return batch


class EpochLoader:
    """Iterates over an epoch, or over what remains of it.

    The epoch and the place in it follow from `samples_seen()`, which is asked when the first
    batch is drawn: Lightning makes its iterators before it tells an epoch's number. The length
    is always that of a whole epoch.

    Args:
        dataset: hands out batches.
        rows: rows of the manifest that make an epoch, int64, (n,).
        batch_size: of one process.
        shuffle: in an order that follows from `seed` and the epoch; otherwise in that of `rows`.
        window: how many shards the order mixes, see `order.epoch_order`.
        balance: the label of each of `rows`, (n,) integers, for an epoch with each of them as
            often as each other, see `order.balanced_rows`; needs `shuffle`.
        samples_seen: tells how many samples all processes have consumed.
        rank: this process among `world_size`.
        world_size: the number of processes.
        workers: processes that fetch and decode; 0 does it in this one.
        prefetch: batches that each worker has ready.
        pin: copy batches to page-locked memory, for the copy to a GPU.
    """

    def __init__(
        self,
        dataset: PictureDataset,
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
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        self.rows, self.batch_size, self.samples_seen = rows, batch_size, samples_seen
        self.seed, self.window, self.balance = seed, window, balance
        self.rank, self.world_size = rank, world_size
        self._shards = shard_numbers(dataset.manifest.files_of(rows)) if shuffle else None
        self._plan = _Plan()
        options: dict[str, Any] = {}
        if workers:
            # A forked process inherits gcsfs' event loop without its thread and hangs. The fork
            # server imports torch once, so each worker after it starts at once.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["dogbreed.data.dataset"])
            options = {
                "multiprocessing_context": context,
                "prefetch_factor": prefetch,
                "persistent_workers": True,
            }
        self._loader = DataLoader(
            dataset,
            batch_sampler=cast(Any, self._plan),  # torch knows lists of indices only
            collate_fn=_as_is,
            num_workers=workers,
            pin_memory=pin and torch.cuda.is_available(),
            **options,
        )

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (self.batch_size * self.world_size))

    def close(self) -> None:
        """End the workers now; left to the garbage collector each may hold it up for seconds."""
        self._loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader resumes; where, follows from `samples_seen`."""
        return {"samples_seen": self.samples_seen()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: `samples_seen` is asked anew."""

    def _order(self, epoch: int) -> np.ndarray:
        """Rows of the manifest as the epoch visits them: int64, (n,)."""
        if self._shards is None:
            return self.rows
        if self.balance is None:
            places = epoch_order(self._shards, seed=self.seed, epoch=epoch, window=self.window)
        else:
            places = balanced_order(
                self._shards, self.balance, seed=self.seed, epoch=epoch, window=self.window
            )
        order: np.ndarray = self.rows[places]
        return order

    def __iter__(self) -> Iterator[Batch]:
        epoch, consumed = divmod(self.samples_seen(), len(self.rows))
        self._plan.requests = requests(
            self._order(epoch),
            epoch=epoch,
            consumed=consumed,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )
        try:
            yield from self._loader
        except BadInput as error:  # of a worker's, torch makes the message a traceback
            line = str(error).strip().rsplit("\n", 1)[-1]
            raise BadInput(line.removeprefix("dogbreed.errors.BadInput: ")) from None
