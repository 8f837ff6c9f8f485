"""The server's log: a line of JSON for each event, on standard output.

While a server runs, a thread of its own writes the lines: whoever reads them may stall, and who
answers requests must not.
"""

import contextlib
import datetime
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_HELD = 10_000  # lines that wait for a reader, at most; what comes then is dropped, and counted
_GATHER = 0.02  # seconds: one write for all lines of that time
_PATIENCE = 1.0  # seconds for the last lines


def log(severity: str, message: str, **fields: Any) -> None:
    """Say something, in the form that Cloud Logging reads."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "severity": severity, "message": message, **fields})
    if _writers:
        _writers[-1].put(line + "\n")
    else:
        print(line, flush=True)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Write by a thread meanwhile."""
    _writers.append(_Writer())
    try:
        yield
    finally:
        _writers.pop().close()


class _Writer:
    """Writes what is put until it is closed."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._to = sys.stdout.fileno()
        self._dropped = self._told = 0
        self._thread = threading.Thread(target=self._work, name="lines", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Take a line, and do not wait."""
        if self._lines.qsize() < _HELD:
            self._lines.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what there is, if somebody reads it."""
        self._lines.put(None)
        self._thread.join(_PATIENCE)

    def _work(self) -> None:
        going = True
        while going:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(_GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            going = None not in lines
            if dropped := self._dropped - self._told:
                self._told += dropped
                notice = {"severity": "WARNING", "message": f"{dropped} lines were dropped"}
                lines.append(json.dumps(notice) + "\n")
            text = "".join(line for line in lines if line).encode()
            # Not by sys.stdout: if this thread still held its lock at the end, Python would abort.
            with contextlib.suppress(OSError):  # the reader has gone
                while text:
                    text = text[os.write(self._to, text) :]


_writers: list[_Writer] = []
