"""A cache of fetched bytes on this machine's disk, shared by workers and by runs.

Concurrency model: an entry is written under a temporary name and renamed, so a reader finds all
of it or nothing. Two writers of one entry write the same bytes. No lock is waited for: a claim
tells others that an entry is on its way, and the kernel takes it back when its holder dies. Each
process looks at the total size once per `max_bytes / 20` that it has written, and removes what
was used longest ago.

Known limitation: with P writing processes the bound can be exceeded by P / 20.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c

from dogbreed.storage import checked_digest

_PART = ".part-"  # begins the name of a file that is being written, or of a claim
_RECENT = 10.0  # seconds in which the time of the last use is not noted again
_ABANDONED = 3600.0  # seconds after which such a file is taken for a killed process' leftover
_SEAL = 4  # bytes of checksum at the end of an entry

_log = logging.getLogger(__name__)


class Cache:
    """Bytes by a name that looks like a SHA-256; bounded, least recently used first out.

    A disk that cannot be written to ends the writing, with one line in the log; never the run.

    Args:
        folder: made when it is needed.
        max_bytes: of all entries.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.works = True
        """Whether entries are still written."""
        self.silent = False
        """Leave the line in the log to another process."""
        # The first write of each process looks at what others left behind.
        self._unchecked = max_bytes

    def _path(self, name: str, prefix: str = "") -> str:
        return f"{self.folder}/{name[:2]}/{prefix}{checked_digest(name)}"

    def has(self, name: str) -> bool:
        """Whether there is such an entry."""
        return os.path.exists(self._path(name))

    def get(self, digest: str) -> bytes | None:
        """What was `put` under this SHA-256 (hex), or None. A damaged entry is removed."""
        try:
            handle = os.open(self._path(digest), os.O_RDONLY)
            try:
                sealed = os.pread(handle, _note_use(handle).st_size, 0)
            finally:
                os.close(handle)
        except OSError:
            return None
        data = sealed[:-_SEAL]
        if sealed[-_SEAL:] == _seal(digest, data):
            return data
        self.remove(digest)
        return None

    def open(self, name: str) -> "Entry | None":
        """An entry to read pieces from, if there is one."""
        try:
            return Entry(os.open(self._path(name), os.O_RDONLY))
        except OSError:
            return None

    def map(self, name: str) -> mmap.mmap | None:
        """All of an entry, mapped: it can be read also after others have removed it. Or None."""
        try:
            with open(self._path(name), "rb") as file:
                os.utime(file.fileno())
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # of an empty file, a ValueError
            return None

    def remove(self, name: str) -> None:
        """Forget an entry."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(name))

    def put(self, digest: str, data: bytes) -> None:
        """Keep `data`, whose SHA-256 (hex) the caller has checked, for `get`."""
        self.write(digest, data + _seal(digest, data))

    def write(self, name: str, data: bytes) -> None:
        """Keep `data` as it is, unless the disk cannot be written to."""
        self.fill(name, lambda write: write(data, 0))

    def fill(self, name: str, bring: Callable[[Callable[[bytes, int], None]], None]) -> None:
        """Keep what `bring` writes, all of it or nothing, unless the disk cannot be written to.

        Args:
            name: of the entry.
            bring: is given a function that takes bytes and their place in the entry, and that never
                fails. What it raises, an OSError apart, is raised here; nothing is kept then.
        """
        if not self.works:
            return
        path, failed = self._path(name), list[OSError]()

        def write(data: bytes, at: int) -> None:
            try:
                while data and not failed:
                    done = os.pwrite(handle, data, at)
                    data, at = data[done:], at + done
            except OSError as error:
                failed.append(error)

        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle, part = tempfile.mkstemp(dir=os.path.dirname(path), prefix=_PART)
            try:
                with os.fdopen(handle, "wb", buffering=0):
                    bring(write)
                    size = os.fstat(handle).st_size
                if failed:
                    raise failed[0]
                os.replace(part, path)
            except BaseException:
                os.unlink(part)
                raise
        except OSError as error:
            self.works = False
            if not self.silent:
                _log.warning("%s: nothing more is cached (%s)", self.folder, error.strerror)
            return
        self._unchecked += size
        if self._unchecked > self.max_bytes / 20:
            self._unchecked = 0
            self._evict()

    def claim(self, name: str) -> int | None:
        """Say that an entry is on its way, until `release` is given what this returns.

        None, if somebody else says so, of whichever process, or if nothing can be written.
        """
        path = self._path(name, _PART)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR)
        except OSError:
            return None
        if _locked(handle, fcntl.LOCK_EX):
            return handle
        os.close(handle)
        return None

    def release(self, name: str, claim: int) -> None:
        """Take a claim back."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(name, _PART))
        os.close(claim)

    def claimed(self, name: str) -> bool:
        """Whether somebody, of whichever process, says that the entry is on its way."""
        try:
            handle = os.open(self._path(name, _PART), os.O_RDWR)
        except OSError:
            return False
        try:
            return not _locked(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def _evict(self) -> None:
        entries, total, abandoned = [], 0, time.time() - _ABANDONED
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have removed it
                stat = path.stat()
                if not path.name.startswith(_PART):
                    entries.append((stat.st_mtime_ns, stat.st_size, path))
                elif stat.st_mtime < abandoned:
                    path.unlink()
                    continue
                total += stat.st_size
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


class Entry:
    """An entry held open. It can be read also after others have removed it."""

    def __init__(self, handle: int) -> None:
        self._handle, self._noted, self._size = handle, -_RECENT, 0
        self.removed = False
        """Whether others had removed it lately; its bytes take room until it is let go."""

    def __del__(self) -> None:
        os.close(self._handle)

    def read(self, start: int = 0, size: int = -1) -> bytes:
        """All bytes from `start`, or at most `size`. Raises OSError."""
        if (now := time.monotonic()) - self._noted >= _RECENT:
            about = _note_use(self._handle)
            self._noted, self._size, self.removed = now, about.st_size, not about.st_nlink
        return os.pread(self._handle, self._size if size < 0 else size, start)


def _note_use(handle: int) -> os.stat_result:
    """Tell `_evict` that an open file is in use: a mount may not keep access times."""
    about = os.fstat(handle)
    if time.time() - about.st_mtime > _RECENT:
        os.utime(handle)
    return about


def _seal(digest: str, data: bytes) -> bytes:
    """CRC-32C of the name and the data: it tells damage as SHA-256 does, at a tenth of the time."""
    crc: int = google_crc32c.extend(google_crc32c.value(digest.encode()), data)
    return crc.to_bytes(_SEAL, "little")


def _locked(handle: int, kind: int) -> bool:
    """Take a lock if it is free."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
