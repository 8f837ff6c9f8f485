"""The only door to files, on this machine (`/path`, `file://`, `memory://`) and in a bucket (`gs://`).

Concurrency model: fsspec keeps one file system per process (its instance cache notices a fork),
and gcsfs runs its own event loop in a thread. Many small reads go out at once on that loop.
Every read can be checked against a SHA-256, because gcsfs accepts a body that came back short
or damaged. Writes are whole files and atomic: GCS shows an object only when its upload is
complete, and locally a temporary file is renamed into place.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.local import LocalFileSystem

from dogbreed.errors import BadInput
from dogbreed.retries import IN_FLIGHT, explain, one_try, retry, retry_async
from dogbreed.retries import StorageError as StorageError

_PART = ".part-"  # begins the name of a file that is being written
WHOLE_TIMEOUT = 300.0  # seconds for a whole file, such as a checkpoint

if "STORAGE_EMULATOR_HOST" in os.environ:
    # gcsfs reads this when it is imported, and would ask an emulator for gRPC over TLS: each
    # request would then take a minute.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# Its errors reach the user as one line of ours; without a handler Python would print each twice.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_digest(text: str) -> str:
    """`text`, if it can be a SHA-256 in hex and nothing else, such as a path.

    Raises:
        BadInput: it is something else.
    """
    if not _SHA256.fullmatch(text):
        raise BadInput(f"{text[:80]!r} is not a SHA-256: the manifest is damaged")
    return text


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
    url = url.removeprefix("file://").removeprefix("local://")
    url = url if "://" in url else os.path.expanduser(url)
    return url.rstrip("/") or "/"


def is_local(url: str) -> bool:
    """Whether the file system behind `url` is this machine's disk."""
    return "://" not in url or url.startswith(("file://", "local://"))


_GCS_OPTIONS = {
    "session_kwargs": {"middlewares": (one_try,)},
    "requests_timeout": WHOLE_TIMEOUT,  # gcsfs has none by itself
    "use_listings_cache": False,  # never expires, and hides what another process wrote
}


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """This process' file system for `url`, and the path in it.

    Raises:
        StorageError: no such protocol, or a package for it is missing.
    """
    url = normal(url)
    if "://" not in url:  # fsspec would take a "::" in a name for a chain of URLs
        return LocalFileSystem(), os.path.abspath(url)
    try:
        options = _GCS_OPTIONS if url.startswith(("gs://", "gcs://")) else {}
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{url}: {error}") from None
    return fs, path


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
        part = target.parent / f"{_PART}{os.urandom(8).hex()}"
        try:
            part.write_bytes(data)
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
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
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
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
    return [child for child, kind, _ in _listing(url) if kind == "directory"]


def files(url: str) -> dict[str, int]:
    """URLs of the files right in the folder `url`, sorted, and their sizes in bytes.

    Hidden ones are left out. Empty if there is no such folder.
    """
    there = {child: size for child, kind, size in _listing(url) if kind == "file"}
    return {child: n for child, n in there.items() if not child.rsplit("/", 1)[-1].startswith(".")}


def _listing(url: str) -> list[tuple[str, str, int]]:
    """What lies right in a folder: its URL, kind and size in bytes."""
    fs, path = filesystem(url)
    try:
        entries = retry(url, lambda: fs.ls(path, detail=True))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    return sorted(
        (join(normal(url), e["name"].rstrip("/").rsplit("/", 1)[-1]), e["type"], e["size"] or 0)
        for e in entries
    )


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
    fs, _ = filesystem(next(iter(files), ""))
    if not isinstance(fs, AsyncFileSystem):
        for url, data in files.items():
            write(url, data)
        return
    puts = {u: (len(d), partial(fs._pipe_file, fs._strip_protocol(u), d)) for u, d in files.items()}
    sync(fs.loop, _all_at_once, puts)


def remove(urls: Sequence[str]) -> None:
    """Remove many files at once, all in one file system; one that is not there is passed over.

    Raises:
        StorageError: one of them could not be removed.
    """
    fs, _ = filesystem(next(iter(urls), ""))
    if isinstance(fs, AsyncFileSystem):
        calls = {url: (0, partial(fs._rm_file, fs._strip_protocol(url))) for url in urls}
        sync(fs.loop, _all_at_once, calls, missing_ok=True)
        return
    for url in urls:
        try:
            fs.rm_file(filesystem(url)[1])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise explain(url, error) from error


async def _all_at_once(
    calls: dict[str, tuple[int, Callable[[], Any]]], missing_ok: bool = False
) -> None:
    """Await what the calls give; each comes with its URL and the bytes that it moves."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(url: str, size: int, call: Callable[[], Any]) -> None:
        async with gate:
            try:
                await retry_async(url, call, size=size)
            except StorageError as error:
                if not (missing_ok and isinstance(error.__cause__, FileNotFoundError)):
                    raise

    await asyncio.gather(*(one(url, size, call) for url, (size, call) in calls.items()))


def sweep(url: str, below: bool = True) -> None:
    """Remove what killed writes left in a folder of this machine's disk.

    Args:
        url: the folder, which need not be there; nothing happens elsewhere than on a disk.
        below: look into the folders below as well, and remove those that are empty.
    """
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        return
    walk = os.walk(path, topdown=not below)
    for folder, _, names in walk if below else islice(walk, 1):
        for name in names:
            if name.startswith(_PART):
                Path(folder, name).unlink(missing_ok=True)
        if below:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)
