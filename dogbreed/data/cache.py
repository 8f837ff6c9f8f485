"""A cache of fetched bytes on this machine's disk, shared by workers and by runs.

Concurrency model: an entry is written under a temporary name and renamed, so a reader finds all
of it or nothing; entries are named by the digest of their content, so two writers of one entry
write the same bytes. There are no locks. Each process looks at the total size once per
`max_bytes / 20` that it has written, and removes what was used longest ago.

Known limitation: with P writing processes the bound can be exceeded by P / 20.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from dogbreed.storage import checked_digest, digest_of


class Cache:
    """Bytes by their SHA-256, bounded, least recently used first out."""

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        # The first write of each process looks at what others left behind.
        self._unchecked = max_bytes

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / checked_digest(digest)

    def get(self, digest: str) -> bytes | None:
        """The bytes with this SHA-256 (hex), or None. A damaged entry is removed."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
            os.utime(path)  # last use, for `_evict`; a mount may not keep access times
        except OSError:
            return None
        if digest_of(data) == digest:
            return data
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, digest: str, data: bytes) -> None:
        """Keep `data`. A full or read-only disk loses the entry, never the run."""
        path = self._path(digest)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(part, path)
            except BaseException:
                os.unlink(part)
                raise
        self._unchecked += len(data)
        if self._unchecked > self.max_bytes / 20:
            self._unchecked = 0
            self._evict()

    def _evict(self) -> None:
        entries = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have removed it
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
