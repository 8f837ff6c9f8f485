"""Workers around the data set, and the place in the epoch from which they go on."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from itertools import chain, repeat
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple, Unpack, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dogbreed.data.dataset import Batch, PictureDataset
from dogbreed.data.epochs import Epochs, Order
from dogbreed.data.handover import Handover
from dogbreed.data.manifest import PLACE
from dogbreed.data.order import Request
from dogbreed.data.pages import Page, Plan
from dogbreed.errors import BadInput
from dogbreed.memory import keep_freed_memory
from dogbreed.orphans import end_with_parent
from dogbreed.storage import is_local

_PATIENCE_AT_FIRST = 1.0  # seconds that a worker's first batch waits for pages
_PATIENCE = 20.0  # seconds, for all others
_IN_USE = 3  # batches beside those that workers prepare: one that comes, and two of Lightning's


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
    slot: int | None = None
    """Of the handover, where the batch goes; None: to memory of its own."""


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
            coming = manifest.ranges(manifest.take(task.next, PLACE))
            reader.begin(coming, task.pages, patience=task.patience)
        if self.handover is None or task.slot is None:
            return self.pictures.__getitems__(task.request)
        room = self.handover.room(task.slot, len(task.request.rows))
        return self.handover.send(self.pictures.read(task.request, room), task.slot)


def _in_worker(_: int) -> None:
    """End with the parent; share what is fetched at once; let the first speak for the disk."""
    end_with_parent()
    keep_freed_memory()  # each decoded picture is a large block: a fifteenth of a worker's time
    info = get_worker_info()
    assert info is not None
    reader = cast(_Tasks, info.dataset).pictures.reader
    reader.fetchers = max(2, reader.fetchers // info.num_workers)
    if reader.cache is not None:
        reader.cache.silent = info.id > 0


def _as_is(batch: Any) -> Any:
    """The data set hands out whole batches: nothing to collate."""
    return batch


class EpochLoader(Epochs):
    """Pictures of an epoch, or of what remains of it.

    Args:
        dataset: hands out batches.
        rows: rows of the manifest that make an epoch, int64, (n,).
        workers: processes that fetch and decode; 0 does it in this one.
        prefetch: batches that each worker has ready.
        pin: copy batches to page-locked memory, for the copy to a GPU.
        order: see `Epochs`.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        rows: np.ndarray,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
        **order: Unpack[Order],
    ) -> None:
        super().__init__(dataset.manifest, rows, **order)
        batch_size, self._cache = self.batch_size, dataset.reader.cache
        self._ahead = workers if not is_local(self.manifest.root) else 0
        self._pages: Plan | None = None
        self._plan = _Plan()
        options: dict[str, Any] = {}
        self._handover: Handover | None = None
        if workers:
            slots = workers * prefetch + _IN_USE
            pinned = pin and torch.cuda.is_available()
            self._handover = Handover(slots, batch_size, dataset.size, pin=pinned)
            options = {
                "multiprocessing_context": fork_server(),
                "prefetch_factor": prefetch,
                "persistent_workers": True,
                "worker_init_fn": _in_worker,
            }
        self._loader = DataLoader(
            cast(Any, _Tasks(dataset, self._ahead > 0, self._handover)),
            collate_fn=_as_is,
            batch_sampler=cast(Any, self._plan),  # torch knows lists of indices only
            num_workers=workers,
            pin_memory=pin and not workers and torch.cuda.is_available(),
            **options,
        )

    def close(self) -> None:
        """End the workers now; left to the garbage collector each may hold it up for seconds."""
        self._loader._iterator = None

    def __iter__(self) -> Iterator[Batch]:
        epoch, consumed = self.place()
        tasks = self._tasks(self.order(epoch), epoch, consumed)
        self._plan.tasks = self._lent(tasks)
        taken = self._handover.take if self._handover else _as_is
        try:
            yield from map(taken, self._loader)
        except BadInput as error:  # of a worker's, torch makes the message a traceback
            line = str(error).strip().rsplit("\n", 1)[-1]
            raise BadInput(line.removeprefix("dogbreed.errors.BadInput: ")) from None

    def _lent(self, tasks: Iterator[_Task]) -> Iterator[_Task]:
        """Each task with a slot for its batch. Begins when workers have ended the last epoch's."""
        if self._handover is None:
            return (yield from tasks)
        self._handover.begin()
        for task in tasks:
            yield task._replace(slot=self._handover.lend())

    def _tasks(self, order: np.ndarray, epoch: int, consumed: int) -> Iterator[_Task]:
        """Of each batch the rows, with what its worker fetches ahead: the workers take turns."""
        coming = self.requests(order, epoch, consumed)
        if not self._ahead:
            yield from (_Task(request, order[:0], [], 0.0) for request in coming)
            return
        plan = self._page_plan()
        deal = plan.deal(order[consumed:], self._ahead)
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
            files = self.shards
            if files is None:
                files = self.manifest.files_of(self.rows)
            self._pages = Plan(
                self.manifest,
                self.rows,
                files,
                window=0 if self.shards is None else self.window,
                room=0 if self._cache is None else self._cache.max_bytes,
            )
        return self._pages
