"""A read that does not answer in good time is asked for once more; the first good answer counts.

A request in a thousand may hang for many seconds although nothing is wrong. What good time is
follows from how long other reads have taken lately, so that a slow line is not taken for a stall.
"""

import asyncio
import statistics
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

LEAST = 1.0  # seconds that every read is waited for
TIMES = 4.0  # the usual time that a read is waited for
AT_FIRST = 2.5  # seconds, before it is known what is usual, and a second more for each MB
ALIKE = 2**20  # bytes that take about as long as a request without any

T = TypeVar("T")


class Pace:
    """How long reads have taken lately, whatever their size."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque(maxlen=32)  # seconds for each `ALIKE` bytes

    def note(self, seconds: float, size: int) -> None:
        """A read of `size` bytes was answered after so long."""
        self._taken.append(seconds / (1 + size / ALIKE))

    def patience(self, size: int) -> float:
        """Seconds after which a read of `size` bytes is asked for again."""
        if len(self._taken) < 8:
            return AT_FIRST + size / 1e6
        usual = statistics.median(self._taken) * (1 + size / ALIKE)
        return max(LEAST, TIMES * usual)


async def first_good(ask: Callable[[], Awaitable[T]], patience: float) -> T:
    """What `ask` gives; asked a second time if that takes longer than `patience` seconds.

    The answer that comes first counts, the other question is withdrawn.

    Raises:
        Exception: what `ask` raises, if no answer is good.
    """
    asked = [asyncio.ensure_future(ask())]
    try:
        done, pending = await asyncio.wait(asked, timeout=patience)
        if not done:
            asked.append(asyncio.ensure_future(ask()))
            pending = set(asked)
        while pending and all(answer.exception() for answer in done):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        return next((a for a in done if not a.exception()), next(iter(done))).result()
    finally:
        for answer in asked:
            answer.cancel()
