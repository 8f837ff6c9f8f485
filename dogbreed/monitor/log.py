"""The prediction log's writer: beside the requests, never in their way.

The event loop only puts what it has into a list. One thread makes rows of it, a second writes them,
a whole object at a time: GCS has no append, and takes about one write a second for a name, so each
object has a name of its own, in which the server's random name keeps those of several apart. What a
reader sees is always whole: on a disk a file is renamed into place.

Memory is bounded at both ends. What does not fit, because the log's bucket is gone or slow, is
dropped and counted; a request never waits. A server that is killed loses the rows of its last
`every` seconds, and those that could not be written yet; after a SIGTERM it writes them.
"""

import collections
import dataclasses
import io
import json
import random
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from dogbreed import images, storage
from dogbreed.monitor.rows import IMAGES, SUFFIX, Prediction, folder
from dogbreed.retries import pause

ROWS = 1000  # of an object, at most
PENDING = 64 * 2**20  # bytes of pictures that wait for their row, at most
READY = 64 * 2**20  # bytes of objects that wait to be written, at most
_PICTURES = 16 * 2**20  # bytes of kept pictures that go with an object
SIDE = 640  # pixels of a kept picture's longer side
_GATHER = 0.1  # seconds: many rows at once take less than one after another
_LONGEST_PAUSE = 15.0  # seconds between two tries


class Batch(NamedTuple):
    """An object to be, and pictures that its rows name: place in the log -> bytes."""

    name: str
    data: bytes
    pictures: dict[str, bytes]
    rows: int

    @property
    def held(self) -> int:
        """Bytes of memory that it takes."""
        return len(self.data) + sum(map(len, self.pictures.values()))


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """Where predictions are logged, and how.

    Args:
        url: the log's folder, on a disk or in a bucket.
        every: seconds after which rows are written, however few.
        keep: share of the pictures that are kept too.
    """

    url: str
    every: float = 30.0
    keep: float = 0.0


class PredictionLog:
    """Writes rows until it is closed.

    Args:
        options: where and how.
        model: the name of what answers.
        engine: what answers it.
        count: called with `written` or `dropped`, and a number of rows.
        say: called with a severity and a message, when writing fails and when it works again.
    """

    def __init__(
        self,
        options: LogOptions,
        model: str,
        engine: str,
        count: Callable[[str, int], None] = lambda outcome, rows: None,
        say: Callable[[str, str], None] = lambda severity, message: None,
    ) -> None:
        self.options, self.model, self.engine = options, model, engine
        self._count, self._say = count, say
        self._server = secrets.token_hex(4)
        self._made = self._pictures = 0
        self._lock = threading.Lock()
        self._pending: collections.deque[Prediction] = collections.deque()
        self._pending_bytes = self._held = 0
        self._news, self._closing, self._encoded = (threading.Event() for _ in range(3))
        self._ready: collections.deque[Batch] = collections.deque()
        self._ready_bytes = 0
        self._ready_news = threading.Event()
        self._failing = False
        self._threads = [
            threading.Thread(target=work, name=f"log-{work.__name__}", daemon=True)
            for work in (self._encode, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def wants_picture(self) -> bool:
        """Whether the next picture is one of those to keep."""
        return random.random() < self.options.keep

    def put(self, one: Prediction) -> None:
        """Take an answer; from any thread, and at once."""
        with self._lock:
            fits = self._pending_bytes + one.held <= PENDING and not self._closing.is_set()
            if fits:
                self._pending.append(one)
                self._pending_bytes += one.held
                self._held += 1
        if fits:
            self._news.set()
        else:
            self._count("dropped", 1)

    def _gone(self, outcome: str, rows: int) -> None:
        """Rows that were taken are held no more."""
        with self._lock:
            self._held -= rows
        self._count(outcome, rows)

    def close(self, seconds: float) -> int:
        """Write what there is, for so long at most.

        Returns:
            How many rows could not be written.
        """
        end = time.monotonic() + seconds
        self._closing.set()
        self._news.set()
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        with self._lock:
            return self._held

    def _encode(self) -> None:
        """Make rows of what was put, and objects of rows."""
        lines: list[bytes] = []
        pictures: dict[str, bytes] = {}
        day, since = "", time.monotonic()
        while True:
            left = since + self.options.every - time.monotonic() if lines else None
            self._news.wait(left if left is None else max(left, 0))
            self._closing.wait(_GATHER)
            self._news.clear()
            closing = self._closing.is_set()  # asked after the news is taken, or it would be missed
            while one := self._next():
                held = sum(map(len, pictures.values()))
                if lines and (one.day != day or len(lines) == ROWS or held > _PICTURES):
                    self._finish(day, lines, pictures)
                    lines, pictures = [], {}
                if not lines:
                    day, since = one.day, time.monotonic()
                try:
                    lines.append(self._line(one, pictures))
                except Exception as error:  # whatever it is, the next row may be made
                    self._say("ERROR", f"no row of a prediction: {type(error).__name__}: {error}")
                    self._gone("dropped", 1)
            if lines and (closing or time.monotonic() >= since + self.options.every):
                self._finish(day, lines, pictures)
                lines, pictures = [], {}
            if closing:
                self._encoded.set()
                self._ready_news.set()
                return

    def _next(self) -> Prediction | None:
        with self._lock:
            if not self._pending:
                return None
            one = self._pending.popleft()
            self._pending_bytes -= one.held
        return one

    def _line(self, one: Prediction, pictures: dict[str, bytes]) -> bytes:
        image = None
        if one.data is not None:
            self._pictures += 1
            name = f"{self._server}-{self._pictures:06d}.jpg"
            image = f"{IMAGES}/{folder(one.day, self.model)}/{name}"
            pictures[image] = kept(one.data)
        return json_line(one.row(self.engine, image))

    def _finish(self, day: str, lines: list[bytes], pictures: dict[str, bytes]) -> None:
        """Queue an object for writing; what there is no room for any more is dropped."""
        self._made += 1
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = f"{folder(day, self.model)}/{stamp}-{self._server}-{self._made:05d}{SUFFIX}"
        data = zipped(b"".join(lines))
        batch, dropped = Batch(name, data, pictures, len(lines)), 0
        with self._lock:
            self._ready.append(batch)
            self._ready_bytes += batch.held
            while self._ready_bytes > READY:  # the oldest: what was last is what matters
                old = self._ready.popleft()
                self._ready_bytes -= old.held
                dropped += old.rows
        if dropped:
            self._gone("dropped", dropped)
        self._ready_news.set()

    def _write(self) -> None:
        """Write objects, the oldest first, each until it is there."""
        tries = 0
        while True:
            with self._lock:
                batch = self._ready[0] if self._ready else None
            if batch is None:
                if self._encoded.is_set():
                    return
                self._ready_news.wait()
                self._ready_news.clear()
                continue
            try:
                if batch.pictures:  # first: no row names a picture that is not there
                    storage.write_many({self._url(n): data for n, data in batch.pictures.items()})
                storage.write(self._url(batch.name), batch.data)
            except storage.StorageError as error:
                self._tell(str(error))
                tries += 1
                if self._closing.wait(min(pause(tries) * 8, _LONGEST_PAUSE)):
                    time.sleep(_GATHER)  # the process ends soon; until then, try again
                continue
            tries = 0
            self._tell()
            with self._lock:
                if not (self._ready and self._ready[0] is batch):
                    continue  # it was given up meanwhile, and has been counted
                self._ready.popleft()
                self._ready_bytes -= batch.held
            self._gone("written", batch.rows)

    def _url(self, name: str) -> str:
        return storage.join(self.options.url, name)

    def _tell(self, problem: str = "") -> None:
        """Say when writing begins to fail, and when it works again."""
        if problem and not self._failing:
            self._say("ERROR", f"the prediction log cannot be written: {problem}")
        elif self._failing and not problem:
            self._say("INFO", "the prediction log is written again")
        self._failing = bool(problem)


def json_line(row: dict[str, object]) -> bytes:
    """A row as it stands in a file."""
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def zipped(lines: bytes) -> bytes:
    """Lines as gzip, without a search for repeats: most of a row is an embedding, which has none.

    That takes a third of the time, for files that are larger by a sixth.
    """
    how = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return how.compress(lines) + how.flush()


def kept(data: bytes) -> bytes:
    """A picture for the log: a JPEG of `SIDE` pixels at most, without the file's EXIF."""
    picture = images.decode(data)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
