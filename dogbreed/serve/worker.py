"""A worker: a process that holds an engine and answers batch after batch, in LitServe's loop."""

import logging
import os
import signal
import time
from typing import Any

import litserve
import numpy as np
from litserve.callbacks import CallbackRunner
from litserve.loops import BatchedLoop
from litserve.loops.loops import inference_worker
from litserve.specs.base import LitSpec

from dogbreed import package
from dogbreed.engine import open_engine
from dogbreed.errors import BadInput
from dogbreed.memory import keep_freed_memory
from dogbreed.monitor.rows import unit16
from dogbreed.orphans import end_with_parent
from dogbreed.retries import StorageError
from dogbreed.serve.links import Port, Reply

NICE = 10
_WARM_UP = 3  # batches of one before a worker counts as warm

Inputs = list[tuple[np.ndarray, bool]]


class Loop(BatchedLoop):  # type: ignore[misc]
    """LitServe's batched loop, with batches of what is there when the worker asks for one.

    LitServe's own way waits for company even when alone, and spins if told not to wait.
    """

    def get_batch_requests(self, lit_api: Any, request_queue: Port, transport: Port) -> Any:
        """The next batch; none has timed out, for the other end sees to that."""
        return request_queue.take(), []


class BreedAPI(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's hooks around an engine.

    Args:
        url: the package's folder.
        engine: a name that `open_engine` knows.
        device: torch's name of a device, or none.
        spec: the endpoint.
        batch_size: pictures in a batch at most.
        embed: whether replies have their embedding.
    """

    port: Port

    def __init__(
        self,
        url: str,
        engine: str,
        device: str | None,
        spec: LitSpec,
        batch_size: int,
        embed: bool = False,
    ) -> None:
        super().__init__(max_batch_size=batch_size, spec=spec, loop=Loop())
        self._url, self._engine_name, self._device_name = url, engine, device
        self._embed = embed

    def setup(self, device: str) -> None:
        """Open the engine and warm it up; the other end is told how that went."""
        try:
            source = package.read(self._url)
            self._engine = open_engine(source, self._engine_name, self._device_name, threads=1)
            side = source.model["preprocessing"]["size"]
            blank = np.zeros((1, side, side, 3), np.uint8)
            for _ in range(_WARM_UP):
                self._engine.answer(blank)
            try:
                explains = self._engine.answer(blank, heat=True).heat is not None
            except BadInput:
                explains = False
        except (BadInput, StorageError) as error:
            self.port.refused(str(error), foreseen=True)
            raise SystemExit(1) from None
        except Exception as error:
            logging.getLogger("dogbreed.serve").exception("the engine cannot be opened")
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.port.refused(f"{self._url}: {line}", foreseen=True)
            raise SystemExit(1) from None
        # From here on who takes and refuses requests goes first, where they share a core: otherwise
        # it is overrun by twice the load that the workers bear, and a refusal takes longer than
        # an answer.
        os.nice(NICE)
        self.port.loaded(explains=explains)

    def batch(self, inputs: Inputs) -> tuple[np.ndarray, list[bool]]:
        """Pictures, uint8, (B, S, S, 3), and which want their heat."""
        return np.stack([picture for picture, _ in inputs]), [heat for _, heat in inputs]

    def predict(self, batch: tuple[np.ndarray, list[bool]]) -> list[Reply]:
        """A reply for each picture."""
        pictures, heats = batch
        start = time.perf_counter()
        answers = self._engine.answer(pictures, heat=any(heats))
        seconds = time.perf_counter() - start
        embedding = unit16(answers.embedding) if self._embed else None
        return [
            Reply(
                answers.probabilities[k],
                float(answers.reject_score[k]),
                answers.heat[k] if heats[k] and answers.heat is not None else None,
                seconds,
                len(pictures),
                None if embedding is None else embedding[k],
            )
            for k in range(len(pictures))
        ]


def work(lit_api: BreedAPI, worker_id: int, port: Port) -> None:
    """What a worker's process runs: LitServe's `inference_worker`, which ends with the server."""
    for sign in (signal.SIGINT, signal.SIGTERM):  # may go to all; the server ends its own
        signal.signal(sign, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory()
    logging.basicConfig(format=f"worker {worker_id} [{os.getpid()}]: %(message)s")
    lit_api.port = port
    inference_worker(
        lit_api, "cpu", worker_id, port, port, port, CallbackRunner(), restart_workers=False
    )
