"""Workers around the data set, and the place in the epoch from which they go on."""

import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.handover import Handover
from dogbreed.data.order import Request, balanced_order, epoch_order, requests, shard_numbers
from dogbreed.data.pages import Page, Plan
from dogbreed.errors import BadInput
from dogbreed.orphans import end_with_parent
from dogbreed.storage import is_local

_PATIENCE_AT_FIRST = 1.0  # seconds that a worker's first batch waits for pages
_PATIENCE = 20.0  # seconds, for all others


def fork_server() -> ForkServerContext:
    """The process that forks the workers, begun if need be; it imports for all of them.

    It takes seconds to do so. Whoever knows that workers are to come calls this ahead.
    """
    # A process forked from this one would inherit gcsfs' event loop without its thread, and hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dogbreed.data.dataset", "gcsfs"])
    forkserver.ensure_running()
    return context


class _Task(NamedTuple):
    """What a worker is asked for: a batch, and what it fetches meanwhile."""

    request: Request
    next: np.ndarray
    """int64, (k,): rows of the worker's next batch that don't lie on pages."""
    pages: list[Page]
    """For later batches, of any worker."""
    patience: float
    """Seconds to wait for pages that are on their way."""


class _Plan:
    """The tasks of the epoch at hand, as torch's DataLoader wants them: a batch sampler."""

    def __init__(self) -> None:
        self.tasks: Iterator[_Task] = iter(())

    def __iter__(self) -> Iterator[_Task]:
        return self.tasks


class _Tasks(Dataset[Any]):
    """The data set as workers see it."""

    def __init__(self, pictures: PictureDataset, ahead: bool, handover: Handover | None) -> None:
        self.pictures, self.ahead, self.handover = pictures, ahead, handover

    def __getitems__(self, task: _Task) -> Any:
        if self.ahead:
            manifest, reader = self.pictures.manifest, self.pictures.reader
            coming = manifest.ranges(manifest.take(task.next))
            reader.begin(coming, task.pages, patience=task.patience)
        if self.handover is None:
            return self.pictures.__getitems__(task.request)
        place, room = self.handover.slot(len(task.request.rows))
        return self.handover.send(self.pictures.read(task.request, room), place)


def _in_worker(_: int) -> None:
    """End with the parent; of all workers the first speaks for the disk that they share."""
    end_with_parent()
    info = get_worker_info()
    assert info is not None
    cache = cast(_Tasks, info.dataset).pictures.reader.cache
    if cache is not None:
        cache.silent = info.id > 0


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
        self._manifest, self._cache = dataset.manifest, dataset.reader.cache
        self._shards = shard_numbers(self._manifest.files_of(rows)) if shuffle else None
        self._ahead = workers if not is_local(self._manifest.root) else 0
        self._pages: Plan | None = None
        self._plan = _Plan()
        options: dict[str, Any] = {}
        self._taken: Callable[[Any], Batch] = _as_is
        handover = None
        if workers:
            pin = pin and torch.cuda.is_available()
            handover = Handover(workers, prefetch, batch_size, dataset.size, pin=pin)
            self._taken = handover.take
            options = {
                "multiprocessing_context": fork_server(),
                "prefetch_factor": prefetch,
                "persistent_workers": True,
                "worker_init_fn": _in_worker,
            }
        self._loader = DataLoader(
            cast(Any, _Tasks(dataset, self._ahead > 0, handover)),
            collate_fn=_as_is,
            batch_sampler=cast(Any, self._plan),  # torch knows lists of indices only
            num_workers=workers,
            pin_memory=pin and not workers and torch.cuda.is_available(),
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
        self._plan.tasks = self._tasks(self._order(epoch), epoch, consumed)
        try:
            yield from map(self._taken, self._loader)
        except BadInput as error:  # of a worker's, torch makes the message a traceback
            line = str(error).strip().rsplit("\n", 1)[-1]
            raise BadInput(line.removeprefix("dogbreed.errors.BadInput: ")) from None

    def _tasks(self, order: np.ndarray, epoch: int, consumed: int) -> Iterator[_Task]:
        """Of each batch the rows, with what its worker fetches ahead: the workers take turns."""
        coming = requests(
            order,
            epoch=epoch,
            consumed=consumed,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )
        if not self._ahead:
            yield from (_Task(request, order[:0], [], 0.0) for request in coming)
            return
        plan = self._page_plan()
        deal = plan.deal(order[consumed:])
        step = self.batch_size * self.world_size
        begun: deque[Request | None] = deque()
        for number, later in enumerate(chain(coming, repeat(None, self._ahead))):
            begun.append(later)
            if len(begun) <= self._ahead:
                continue
            request = begun.popleft()
            if request is None:
                return
            rows = order[:0] if later is None else later.rows
            place = number - self._ahead
            patience = _PATIENCE if place >= self._ahead else _PATIENCE_AT_FIRST
            yield _Task(request, rows[~plan.covers(rows)], deal((place + 1) * step), patience)

    def _page_plan(self) -> Plan:
        if self._pages is None:
            files = self._shards
            if files is None:
                files = self._manifest.files_of(self.rows)
            self._pages = Plan(
                self._manifest,
                self.rows,
                files,
                window=0 if self._shards is None else self.window,
                room=0 if self._cache is None else self._cache.max_bytes,
            )
        return self._pages
