"""Pictures to the workers and answers back, over one Unix socket for each worker.

LitServe hands each worker a request queue and a transport; `Port` is both. At the other end, in the
process that speaks HTTP, a `Link` for each worker belongs to one `Dispatcher`, which holds the
pictures that wait. So a batch is put together when a worker asks for one, out of what is there; a
picture that nobody waits for any more is taken back; and a worker's death is seen at once, as the
end of its socket, by those alone whose pictures it had.

A frame is its length, 8 bytes, and a pickle. Both ends are processes of this server.
"""

import asyncio
import contextlib
import dataclasses
import pickle
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from litserve.transport.base import MessageTransport
from litserve.utils import LitAPIStatus

_LENGTH = struct.Struct("!Q")


class WorkerDied(Exception):
    """The worker that had the picture has ended; the picture may be sent again."""


class WorkerFailed(Exception):
    """The network could not answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a worker says of one picture.

    Args:
        probabilities: float32, (classes,).
        reject_score: higher is less like the breeds.
        heat: float32, (h, w), or none.
        seconds: that the network took for the batch.
        batch: pictures in it.
        embedding: float16, (D,), of length 1, or none: for the prediction log.
    """

    probabilities: np.ndarray
    reject_score: float
    heat: np.ndarray | None
    seconds: float
    batch: int
    embedding: np.ndarray | None = None


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """A picture on its way: uint8, (S, S, 3); whether its heat is wanted; where the reply goes."""

    picture: np.ndarray
    heat: bool
    reply: asyncio.Future[Reply]
    put_at: float = 0.0
    sent_at: float = 0.0


class Port(MessageTransport):  # type: ignore[misc]
    """The worker's end: LitServe's request queue, transport and table of setup states in one.

    Args:
        sock: connected to a `Link`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._answers: list[tuple[int, Any, str]] = []

    def take(self) -> list[tuple[int, int, tuple[np.ndarray, bool]]]:
        """Deliver what is answered, and wait for a batch, in the form that LitServe's loops take.

        Raises:
            SystemExit: the other end is gone.
        """
        self._put("ready", self._answers)
        self._answers = []
        try:
            length = _LENGTH.unpack(self._receive(_LENGTH.size))[0]
            batch: list[tuple[int, np.ndarray, bool]] = pickle.loads(self._receive(length))
        except (EOFError, OSError):
            raise SystemExit(0) from None
        return [(0, uid, (picture, heat)) for uid, picture, heat in batch]

    def send(self, item: Any, consumer_id: int) -> None:
        """Keep an answer until the batch is done, in LitServe's form."""
        uid, (answer, status, *_) = item
        if status != LitAPIStatus.START:
            self._answers.append((uid, answer, status))

    def loaded(self, **about: Any) -> None:
        """Tell that the engine is warm, and what it can do."""
        self._put("loaded", about)

    def refused(self, problem: str, foreseen: bool) -> None:
        """Tell that the engine cannot be had; `foreseen`: because of the package or an option."""
        self._put("refused", {"problem": problem, "foreseen": foreseen})

    def __setitem__(self, name: str, status: str) -> None:
        """LitServe's setup states; `loaded` and `refused` say more."""

    def __bool__(self) -> bool:
        return True

    async def areceive(self, timeout: int | None = None, consumer_id: int | None = None) -> Any:
        """Nothing is received by this way."""
        raise NotImplementedError

    def _put(self, kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value), protocol=5)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `take` sees the end
            self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def _receive(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data


class Dispatcher:
    """The pictures that wait, and the workers that wait for pictures.

    All of it runs in one event loop.

    Args:
        batch_size: pictures in a batch at most.
        batch_wait: seconds that a worker which has just been busy waits for a batch to fill; one
            that was idle never waits.
        on_batch: called with each batch when it is sent.
    """

    def __init__(
        self, batch_size: int, batch_wait: float, on_batch: Callable[[list[Job]], None]
    ) -> None:
        self.batch_size, self._wait, self._on_batch = batch_size, batch_wait, on_batch
        self._waiting: dict[int, Job] = {}
        self._idle: list[Link] = []
        self._filling: set[Link] = set()
        self._last = 0

    def __len__(self) -> int:
        """Pictures that no worker has yet."""
        return len(self._waiting)

    def put(self, job: Job) -> None:
        """Queue a picture; it goes to a worker now if one is idle."""
        self._last += 1
        uid = self._last
        job.put_at = time.monotonic()
        self._waiting[uid] = job
        # Also when its client goes away, or has waited too long.
        job.reply.add_done_callback(lambda _: self._waiting.pop(uid, None))
        self._feed()

    def ready(self, link: "Link") -> None:
        """A worker asks for a batch."""
        if self._waiting and self._wait and len(self._waiting) < self.batch_size:
            self._filling.add(link)
            asyncio.get_running_loop().call_later(self._wait, self._filled, link)
        else:
            self._idle.append(link)
            self._feed()

    def _filled(self, link: "Link") -> None:
        if link in self._filling:
            self._filling.remove(link)
            self._idle.append(link)
            self._feed()

    def lost(self, link: "Link") -> None:
        """A worker is gone."""
        self._filling.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    def _feed(self) -> None:
        while self._filling and len(self._waiting) >= self.batch_size:
            self._idle.append(self._filling.pop())
        while self._idle and self._waiting:
            batch: dict[int, Job] = {}
            while self._waiting and len(batch) < self.batch_size:
                uid = next(iter(self._waiting))
                job = self._waiting.pop(uid)
                if not job.reply.done():  # otherwise its client has gone away, or waited too long
                    batch[uid] = job
            if batch:
                now = time.monotonic()
                for job in batch.values():
                    job.sent_at = now
                self._on_batch(list(batch.values()))
                self._idle.pop().send(batch)


class Link(asyncio.Protocol):
    """This process' end of the socket to one worker.

    Args:
        dispatcher: whose pictures the worker gets.
        on_loaded: called when the worker's engine is warm.
        on_refused: called with the reason when it cannot be had.
        on_lost: called when the worker has ended.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        on_loaded: Callable[[dict[str, Any]], None],
        on_refused: Callable[[dict[str, Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._on_loaded, self._on_refused, self._on_lost = on_loaded, on_refused, on_lost
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._sent: dict[int, Job] = {}
        self.loaded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def send(self, batch: dict[int, Job]) -> None:
        """Give the worker a batch that it has asked for."""
        assert self._transport is not None
        self._sent.update(batch)
        rows = [(uid, job.picture, job.heat) for uid, job in batch.items()]
        data = pickle.dumps(rows, protocol=5)
        self._transport.write(_LENGTH.pack(len(data)))
        self._transport.write(data)

    def close(self) -> None:
        """Let the worker go: it ends when it has done its batch."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            kind, value = pickle.loads(memoryview(self._data)[_LENGTH.size : end].toreadonly())
            del self._data[:end]
            if kind == "loaded":
                self.loaded = True
                self._on_loaded(value)
            elif kind == "refused":
                self._on_refused(value)
            else:
                self._answered(value)

    def _answered(self, answers: list[tuple[int, Any, str]]) -> None:
        for uid, answer, status in answers:
            job = self._sent.pop(uid)
            if job.reply.done():
                continue
            if status == LitAPIStatus.OK:
                job.reply.set_result(answer)
            else:
                job.reply.set_exception(WorkerFailed())
        self._dispatcher.ready(self)

    def connection_lost(self, problem: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._dispatcher.lost(self)
        for job in self._sent.values():
            if not job.reply.done():
                job.reply.set_exception(WorkerDied())
        self._sent.clear()
        self._on_lost()
