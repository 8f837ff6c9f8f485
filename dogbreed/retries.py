"""Asking again: short pauses, a limit for each try, one line for a person when it was in vain.

gcsfs' own retries begin with one to two seconds and cannot be set; a middleware of aiohttp turns
each failure into an exception that gcsfs hands on at once.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import aiohttp

from dogbreed.errors import BadInput

ATTEMPTS = 8
FIRST_PAUSE = 0.05  # seconds; doubles at each attempt up to LONGEST_PAUSE, with jitter
LONGEST_PAUSE = 2.0
TIMEOUT = 10.0  # seconds that a small read or write may take before it is asked again
DEADLINE = 40.0  # seconds after which a small read or write is not asked again
SLOWEST = 1e6  # bytes a second of the slowest line that all requests at once may share
IN_FLIGHT = 64  # requests at once in a process

body_taker: ContextVar[Callable[[bytes], None] | None] = ContextVar("body_taker", default=None)
"""Takes the body of the range that this task asks for, piece by piece; it is then found empty."""

T = TypeVar("T")


class StorageError(BadInput):
    """A file or bucket that cannot be used: missing, forbidden, or out of reach after retries."""


class Transient(Exception):
    """A request that may succeed when asked again. Neither OSError nor aiohttp's: see above."""


async def one_try(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware of aiohttp: raises `Transient` for what may succeed when asked again."""
    try:
        response = await handler(request)
        # A body that breaks off counts here too.
        if (take := body_taker.get()) and response.status == 206:
            async for piece in response.content.iter_any():
                take(piece)
        await response.read()  # kept for who asks next
    except aiohttp.ClientError as error:
        raise Transient(f"{type(error).__name__}: {error}") from error
    if response.status in {408, 429, 500, 502, 503, 504}:
        raise Transient(f"HTTP {response.status} {response.reason}")
    return response


def _permanent(error: BaseException) -> bool:
    """Whether asking again is in vain."""
    if isinstance(
        error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    ):
        return True
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs' 403
        return True
    code = getattr(error, "code", getattr(error, "status", None))
    return str(code) in {"400", "401", "403", "404"}


def explain(url: str, error: BaseException) -> StorageError:
    """One line for a person."""
    text = " ".join(str(error).split()) or "no answer in time"
    code = str(getattr(error, "code", getattr(error, "status", "")))
    if isinstance(error, FileNotFoundError) or code == "404":
        return StorageError(f"{url}: no such file or bucket")
    if isinstance(error, PermissionError) or "Forbidden" in text or code in {"401", "403"}:
        return StorageError(f"{url}: access denied ({text[:160]})")
    kind = "" if isinstance(error, Transient) else f"{type(error).__name__}: "
    return StorageError(f"{url}: {kind}{text[:200]}")


def pause(attempt: int) -> float:
    """Seconds to wait after a failure; `attempt` counts from 0."""
    return float(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1))


def retry(url: str, call: Callable[[], T]) -> T:
    """Call until it succeeds, at most `ATTEMPTS` times.

    Raises:
        StorageError: it cannot or did not succeed.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as error:  # gcsfs raises aiohttp's, requests' and google's own kinds
            if _permanent(error) or attempt == ATTEMPTS - 1:
                raise explain(url, error) from error
            time.sleep(pause(attempt))
    raise AssertionError("unreachable")


async def retry_async(url: str, call: Callable[[], Any], *, size: int) -> Any:
    """Await what `call` gives until it succeeds, at most `ATTEMPTS` times.

    Each try has `TIMEOUT`, all of them have `DEADLINE`, and on top the time that `size` bytes take
    when all others share the line.

    Raises:
        StorageError: it cannot or did not succeed.
    """
    transfer = size * IN_FLIGHT / SLOWEST
    end = time.monotonic() + DEADLINE + transfer
    for attempt in range(ATTEMPTS):
        try:
            return await asyncio.wait_for(call(), TIMEOUT + transfer)
        except Exception as error:
            last = attempt == ATTEMPTS - 1 or time.monotonic() > end
            if last or _permanent(error):
                raise explain(url, error) from error
            await asyncio.sleep(pause(attempt))
    raise AssertionError("unreachable")
