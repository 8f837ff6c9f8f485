"""The only door to files, on this machine (`/path`, `file://`, `memory://`) and in a bucket (`gs://`).

Concurrency model: fsspec keeps one file system per process (its instance cache notices a fork),
and gcsfs runs its own event loop in a thread. Many small reads go out at once on that loop.
Every read can be checked against a SHA-256, because gcsfs accepts a body that came back short
or damaged. Writes are whole files and atomic: GCS shows an object only when its upload is
complete, and locally a temporary file is renamed into place.

Retries are ours and short. gcsfs' own begin with one to two seconds and cannot be set; a
middleware of aiohttp turns each failure into an exception that gcsfs hands on at once.
"""

import asyncio
import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from dogbreed.errors import BadInput

ATTEMPTS = 8
FIRST_PAUSE = 0.05  # seconds; doubles at each attempt up to LONGEST_PAUSE, with jitter
LONGEST_PAUSE = 2.0
TIMEOUT = 10.0  # seconds that a small read or write may take before it is asked again
WHOLE_TIMEOUT = 300.0  # seconds for a whole file, such as a checkpoint
IN_FLIGHT = 64  # requests at once in a process

T = TypeVar("T")

# Its errors reach the user as one line of ours; without a handler Python would print each twice.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


class StorageError(BadInput):
    """A file or bucket that cannot be used: missing, forbidden, or out of reach after retries."""


def digest_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def join(base: str, *parts: str) -> str:
    """`base` and `parts` with single slashes between; an absolute part stands alone."""
    for part in parts:
        base = part if "://" in part or part.startswith("/") else f"{base.rstrip('/')}/{part}"
    return base


def normal(url: str) -> str:
    """A URL or path as the project writes it: `~` expanded, no `file://`, no slash at the end."""
    url = url.removeprefix("file://")
    url = url if "://" in url else os.path.expanduser(url)
    return url.rstrip("/") or "/"


def is_local(url: str) -> bool:
    """Whether the file system behind `url` is this machine's disk."""
    return "://" not in url or url.startswith("file://")


class Transient(Exception):
    """A request that may succeed when asked again. Neither OSError nor aiohttp's: see above."""


async def _one_try(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        response = await handler(request)
        await response.read()  # a body that breaks off counts here too; kept for who asks next
    except aiohttp.ClientError as error:
        raise Transient(f"{type(error).__name__}: {error}") from error
    if response.status in {408, 429, 500, 502, 503, 504}:
        raise Transient(f"HTTP {response.status} {response.reason}")
    return response


_GCS_OPTIONS = {
    "session_kwargs": {"middlewares": (_one_try,)},
    "requests_timeout": WHOLE_TIMEOUT,  # gcsfs has none by itself
    "use_listings_cache": False,  # never expires, and hides what another process wrote
}


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """This process' file system for `url`, and the path in it.

    Raises:
        StorageError: no such protocol, or a package for it is missing.
    """
    try:
        url = normal(url)
        options = _GCS_OPTIONS if url.startswith(("gs://", "gcs://")) else {}
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{url}: {error}") from None
    return fs, path


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


def _pause(attempt: int) -> float:
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
            time.sleep(_pause(attempt))
    raise AssertionError("unreachable")


def read(url: str) -> bytes:
    """A whole file. Raises StorageError."""
    fs, path = filesystem(url)
    return retry(url, lambda: bytes(fs.cat_file(path)))


def write(url: str, data: bytes) -> None:
    """Write a whole file, atomically; missing folders are made. Raises StorageError."""
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        retry(url, lambda: fs.pipe_file(path, data))
        return
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as part:
            try:
                part.write(data)
                part.close()
                os.chmod(part.name, 0o644)
                os.replace(part.name, target)
            except BaseException:
                os.unlink(part.name)
                raise
    except OSError as error:  # a disk that refuses once refuses again
        raise explain(url, error) from error


def read_json(url: str) -> Any:
    """Parse a JSON file. Raises StorageError, also when it is no JSON."""
    try:
        return json.loads(read(url))
    except ValueError as error:
        raise StorageError(f"{url}: not valid JSON ({error})") from None


def write_json(url: str, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises StorageError."""
    write(url, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def exists(url: str) -> bool:
    """Whether there is such a file. Raises StorageError if the bucket cannot be asked."""
    fs, path = filesystem(url)
    try:
        return bool(retry(url, lambda: fs.info(path)["type"] == "file"))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise


def copy(source: str, target: str) -> None:
    """Copy within one file system; in a bucket the bytes don't pass through here.

    Raises:
        StorageError: as `read` and `write`.
    """
    fs, path = filesystem(source)
    if isinstance(fs, LocalFileSystem):
        write(target, read(source))
    else:
        retry(source, lambda: fs.cp_file(path, filesystem(target)[1]))


def download(url: str, path: str | Path) -> None:
    """Fetch a file to this machine, whole or not at all. Raises StorageError."""
    if is_local(url):
        try:
            shutil.copyfile(normal(url), path)
        except OSError as error:
            raise explain(url, error) from None
    else:
        write(str(path), read(url))


def folders(url: str) -> list[str]:
    """URLs of the folders right below `url`, sorted; empty if there is no such folder."""
    return [child for child, kind in _listing(url) if kind == "directory"]


def _listing(url: str) -> list[tuple[str, str]]:
    fs, path = filesystem(url)
    try:
        entries = retry(url, lambda: fs.ls(path, detail=True))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    names = ((entry["name"].rstrip("/").rsplit("/", 1)[-1], entry["type"]) for entry in entries)
    return sorted((join(normal(url), name), kind) for name, kind in names)


def find(url: str) -> list[tuple[str, int]]:
    """All files below a folder: (path relative to it, size in bytes), sorted.

    Hidden files and folders are left out.

    Raises:
        StorageError: there is no such folder or bucket, or it cannot be read.
    """
    fs, path = filesystem(url)
    found = retry(url, lambda: fs.find(path, detail=True))
    if not found and not retry(url, lambda: fs.isdir(path)):
        raise StorageError(f"{url}: no such folder or bucket")
    start = len(path.rstrip("/")) + 1
    files = ((name[start:], int(info["size"])) for name, info in found.items())
    return sorted(f for f in files if f[0] and not any(p.startswith(".") for p in f[0].split("/")))


def write_many(files: dict[str, bytes]) -> None:
    """Write many small files at once; all in one file system.

    Raises:
        StorageError: one of them could not be written.
    """
    if not files:
        return
    fs, _ = filesystem(next(iter(files)))
    if not isinstance(fs, AsyncFileSystem):
        for url, data in files.items():
            write(url, data)
        return

    async def put(gate: asyncio.Semaphore, url: str, data: bytes) -> None:
        async with gate:
            await retry_async(url, lambda: fs._pipe_file(fs._strip_protocol(url), data))

    async def put_all() -> None:
        gate = asyncio.Semaphore(IN_FLIGHT)
        await asyncio.gather(*(put(gate, url, data) for url, data in files.items()))

    sync(fs.loop, put_all)


async def retry_async(url: str, call: Callable[[], Any]) -> Any:
    """Await what `call` gives until it succeeds, at most `ATTEMPTS` times, each `TIMEOUT` long.

    Raises:
        StorageError: it cannot or did not succeed.
    """
    for attempt in range(ATTEMPTS):
        try:
            return await asyncio.wait_for(call(), TIMEOUT)
        except Exception as error:
            if _permanent(error) or attempt == ATTEMPTS - 1:
                raise explain(url, error) from error
            await asyncio.sleep(_pause(attempt))
    raise AssertionError("unreachable")
