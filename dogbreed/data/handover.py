"""From a worker to the process that trains: a batch's pictures in memory that both see."""

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dogbreed.data.dataset import Batch


class Handover:
    """Shared memory that is used over and over.

    torch shares each tensor in memory of its own. The kernel must find, empty and map its pages
    every time, in both processes, which takes a quarter as long as decoding does.

    Concurrency model: the process that trains lends a slot with each task, and a worker writes to
    no other. A batch's pictures are not copied out of it; the slot is lent again when the last
    tensor that looks at it is gone. One who keeps batches has them from torch, in memory of their
    own, once all slots are taken.

    Args:
        slots: batches that can be on their way or in use at a time.
        batch_size: the largest.
        size: side of the pictures in pixels.
        pin: copy to page-locked memory, for the copy to a GPU.
    """

    def __init__(self, slots: int, batch_size: int, size: int, *, pin: bool) -> None:
        pictures = torch.empty((slots, batch_size, size, size, 3), dtype=torch.uint8)
        self._pictures: Tensor = pictures.share_memory_()  # type: ignore[no-untyped-call]
        self._pin = pin
        self._free: deque[int] = deque()
        self._used: set[int] = set()

    def begin(self) -> None:
        """Start an epoch: nothing is on its way, also where the one before was left."""
        self._free = deque(set(range(len(self._pictures))) - self._used)

    def lend(self) -> int | None:
        """A free slot, or None."""
        return self._free.popleft() if self._free else None

    def room(self, slot: int, n: int) -> np.ndarray:
        """In a worker: a slot's room for n pictures, uint8, (n, S, S, 3)."""
        return self._pictures[slot, :n].numpy()

    def send(self, batch: Batch, slot: int) -> dict[str, Any]:
        """In a worker: what goes through a pipe, of a batch whose pictures lie in a slot."""
        # torch would share a tensor, however small; an array is sent as it is.
        rest = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in batch.items()}
        return rest | {"image": (slot, len(batch["image"]))}

    def take(self, sent: Any) -> Batch:
        """In the process that trains: the batch that a worker has sent."""
        image = sent["image"]
        if not isinstance(image, Tensor):
            slot, n = image
            self._used.add(slot)
            pictures = self.room(slot, n)
            weakref.finalize(pictures, self._take_back, slot)  # any tensor made of it keeps it
            image = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        batch: Any = {name: self._tensor(x) for name, x in (sent | {"image": image}).items()}
        return batch  # type: ignore[no-any-return]

    def _take_back(self, slot: int) -> None:
        self._used.discard(slot)
        self._free.append(slot)

    def _tensor(self, x: Any) -> Any:
        tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        return tensor.pin_memory() if self._pin and isinstance(tensor, Tensor) else tensor
