"""From a worker to the process that trains: a batch's pictures in memory that both see."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dogbreed.data.dataset import Batch


class Handover:
    """Shared memory that is used over and over.

    torch shares each tensor in memory of its own. The kernel must find, empty and map its pages
    every time, in both processes, which takes a quarter as long as decoding does.

    Concurrency model: each worker goes round its own `prefetch` + 1 slots. torch's DataLoader
    asks a worker for a batch when it hands out the one `prefetch` before, so the batch before
    that, whose slot comes next, has been copied. No lock is needed.

    Args:
        workers: the number of worker processes.
        prefetch: batches that each worker has ready.
        batch_size: the largest.
        size: side of the pictures in pixels.
        pin: copy to page-locked memory, for the copy to a GPU.
    """

    def __init__(
        self, workers: int, prefetch: int, batch_size: int, size: int, *, pin: bool
    ) -> None:
        shape = (workers, prefetch + 1, batch_size, size, size, 3)
        slots = torch.empty(shape, dtype=torch.uint8)
        self._slots: Tensor = slots.share_memory_()  # type: ignore[no-untyped-call]
        self._pin = pin
        self._turn = 0

    def slot(self, n: int) -> tuple[tuple[int, int], np.ndarray]:
        """In a worker: the next slot's place, and its room for n pictures, uint8, (n, S, S, 3)."""
        info = get_worker_info()
        assert info is not None
        place = info.id, self._turn
        self._turn = (self._turn + 1) % self._slots.shape[1]
        return place, self._slots[place][:n].numpy()

    def send(self, batch: Batch, place: tuple[int, int]) -> dict[str, Any]:
        """In a worker: what goes through a pipe, of a batch whose pictures lie in a slot."""
        # torch would share a tensor, however small; an array is sent as it is.
        rest = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in batch.items()}
        return rest | {"image": (*place, len(batch["image"]))}

    def take(self, sent: dict[str, Any]) -> Batch:
        """In the process that trains: the batch, in memory of its own."""
        worker, turn, n = sent["image"]
        slot = self._slots[worker, turn, :n]
        image = (slot.pin_memory() if self._pin else slot.clone()).permute(0, 3, 1, 2)
        batch: Any = {name: self._tensor(x) for name, x in sent.items()} | {"image": image}
        return batch  # type: ignore[no-any-return]

    def _tensor(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        tensor = torch.from_numpy(x)
        return tensor.pin_memory() if self._pin else tensor
