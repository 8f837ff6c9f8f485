"""Folders, zip files and tar files alike: what files lie in them, and where their bytes are.

An archive is never unpacked: a file in it is a range of the archive's bytes, which may lie in a
bucket too.
"""

import errno
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from dogbreed import images, storage
from dogbreed.errors import BadInput
from dogbreed.ranges import Range, read_all, read_ranges, whole

_BLOCK = 8 * 2**20  # bytes read at once from an archive in a bucket while it is listed
_LOCAL_BLOCK = 2**16  # and from one on a disk
_TABLE_BYTES = 2**30  # of a member that is no picture, at most
_LOCAL_HEADER = 30  # bytes of a zip's local file header before name and extra field
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_END = bytes(tarfile.BLOCKSIZE)  # of a tar
# What zipfile and tarfile raise of a damaged archive.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, ValueError)


class Member(NamedTuple):
    """A file in a folder or archive; the fields are those of `listing.Item`."""

    name: str
    url: str
    offset: int
    size: int
    stored: int
    kind: str
    crc: int

    def place(self) -> dict[str, Any]:
        """Where the bytes are, as arguments of an `Item`."""
        return {k: v for k, v in self._asdict().items() if k != "name"}


def is_archive(path: str) -> bool:
    """Whether this is the name of an archive that can be read in place."""
    return path.lower().endswith((".zip", ".tar"))


def members(path: str) -> Iterator[Member]:
    """The files below a folder or in a .zip or .tar, hidden ones left out.

    Raises:
        BadInput: no such folder or archive, or a damaged or encrypted one.
    """
    path = storage.normal(path)
    if not is_archive(path):
        if storage.exists(path):
            raise BadInput(f"{path}: no folder; of archives, .zip and .tar are read, unpack others")
        for name, size in storage.find(path):
            url = storage.join(path, name)
            yield Member(_checked(name, path), url, 0, size, size, "file", 0)
        return
    listed = _zipped if path.lower().endswith(".zip") else _tarred
    block = _LOCAL_BLOCK if storage.is_local(path) else _BLOCK
    try:
        with io.BufferedReader(_File(path), block) as file:
            for member in listed(file, path):
                # Absolute names would lead out of the data set.
                parts = [part for part in member.name.split("/") if part not in {"", "."}]
                if not any(part.startswith(".") for part in parts):
                    yield member._replace(name=_checked("/".join(parts), path))
    except _DAMAGED as error:
        raise BadInput(f"{path}: cannot be read as an archive: {error}; fetch it again") from None


def _checked(name: str, path: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{path}: {name!r} is no name in UTF-8; rename the file") from None
    return name


class _File(io.RawIOBase):
    """A file anywhere, for reading; what fails or comes short from a bucket is asked for again."""

    def __init__(self, url: str) -> None:
        self._whole = whole(url)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._whole.size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "a place before the start of the file")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._whole.size - self._at)
        if size <= 0:
            return 0
        (data,) = read_all([Range(self._whole.url, self._at, size)])
        buffer[:size] = data
        self._at += size
        return size


def _zipped(file: Any, url: str) -> Iterator[Member]:
    """The directory at a zip's end tells all but how long each local header is.

    So a member's range goes from its header to the next one's; APPNOTE.TXT, 4.3.
    """
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in entries[1:]), archive.start_dir]
    for info, end in zip(entries, ends, strict=True):
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise BadInput(f"{url}: {info.filename} is encrypted; unpack the archive first")
        if info.compress_type not in (_STORED, _DEFLATED):
            raise BadInput(
                f"{url}: {info.filename} is compressed by method {info.compress_type}; known are"
                " stored (0) and deflate (8), pack it again"
            )
        start = info.header_offset
        yield Member(info.filename, url, start, info.file_size, end - start, "zip", info.CRC)


def _tarred(file: Any, url: str) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all it has seen
            link = info.islnk() or info.issym()
            if info.issparse() or (link and images.is_picture_name(info.name)):
                raise BadInput(
                    f"{url}: {info.name} is a link or has holes; pack the archive again with tar's"
                    " --dereference --hard-dereference, without --sparse"
                )
            if info.isfile():
                yield Member(info.name, url, info.offset_data, info.size, info.size, "file", 0)
        file.seek(archive.offset)
        if file.read(len(_END)) != _END:  # tarfile takes a damaged header for the end
            raise tarfile.ReadError("its end is missing, or damage within it")


def unzipped(
    record: bytes, size: int, crc: int, limit: int = images.MAX_BYTES
) -> bytes | images.BadImage:
    """A zip's member from its record: local header, name, extra field, data.

    Args:
        record: the bytes from the local header up to the next record.
        size: of the member, in bytes.
        crc: CRC-32 of the member.
        limit: a member of more bytes is not unpacked.

    Returns:
        The member's bytes, or what is wrong with them.
    """
    if size > limit:
        return images.too_large(size)
    method = int.from_bytes(record[8:10], "little")
    name, extra = (int.from_bytes(record[k : k + 2], "little") for k in (26, 28))
    data = record[_LOCAL_HEADER + name + extra :]
    try:
        unpack = zlib.decompressobj(-15)
        data = unpack.decompress(data, size + 1) if method == _DEFLATED else data[:size]
    except zlib.error as error:
        return images.BadImage(f"damaged in the archive: {error}")
    if len(data) != size or zlib.crc32(data) != crc:
        return images.BadImage("damaged in the archive: its checksum differs")
    return data


def content(member: Member) -> bytes:
    """A small file's bytes.

    Raises:
        BadInput: it cannot be read, or is damaged.
    """
    data: bytes | Exception
    (data,) = read_ranges([Range(member.url, member.offset, member.stored)])
    if isinstance(data, bytes) and member.kind == "zip":
        data = unzipped(data, member.size, member.crc, _TABLE_BYTES)
    if not isinstance(data, bytes):
        raise BadInput(f"{member.url}: {member.name}: {data}")
    return data
