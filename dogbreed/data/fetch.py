"""A data set's archive from its official address: goes on where it broke off, checked at the end.

`<path>.part` holds what has come so far, `<path>.part.json` which version of the file that is: the
server is asked for the rest only of the same version, so that two files are never glued together.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from tqdm import tqdm

from dogbreed import retries, storage
from dogbreed.errors import BadInput
from dogbreed.retries import StorageError, Transient, explain

CHUNK = 1 << 16  # bytes read at once, and lost at most when the process is killed
TIMEOUTS = (10.0, 30.0)  # seconds to connect, and without a byte
BY_HAND = "fetch it by other means and give it with --path"


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    auth: tuple[str, str] | None = None,
) -> Path:
    """Download `url` to `path`, unless it is there; a download that was ended goes on.

    Args:
        url: http or https. Redirects are followed.
        path: a file on this machine; missing folders are made.
        sha256: in hex. Without it, a line is printed that says what was found.
        size: bytes of the file, where known.
        auth: user name and password; not handed on to another host.

    Raises:
        StorageError: (a BadInput) no such file, no access, no network, other bytes than expected,
            no room on the disk, or another process fetches it now.
        BadInput: `url` is not http or https.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise BadInput(f"{url}: not an address of http or https")
    target, expected = Path(path), sha256 and sha256.lower()
    notes = Path(f"{target}.part.json")

    def is_there() -> bool:
        if not target.is_file() or size not in (None, target.stat().st_size):
            return False
        return expected is None or _digest(target) == expected

    try:
        if is_there():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(Path(f"{target}.part")) as part:
            if is_there():  # another process has ended just now
                os.unlink(part.name)
                return target
            _download(url, part, size, auth)
            os.fsync(part.fileno())
            found = _digest(Path(part.name))
            if expected is None:
                print(f"{target}: SHA-256 {found}, not checked: none is known for {url}")
            elif found != expected:
                os.unlink(part.name)
                notes.unlink(missing_ok=True)
                raise StorageError(f"{url}: SHA-256 {found} instead of {expected}, thrown away")
            os.replace(part.name, target)
            notes.unlink(missing_ok=True)
    except OSError as error:  # the network's are dealt with below: this is the disk
        raise StorageError(f"{explain(str(target), error)}; what has come is kept") from error
    return target


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending that no other process may open so at the same time."""
    with path.open("ab") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who held the lock may have renamed the file before letting go of it
            ours = os.path.samestat(os.fstat(part.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise StorageError(f"{path}: another process is fetching it: wait for its end")
        yield part


def _length(part: BinaryIO) -> int:
    part.flush()
    return os.fstat(part.fileno()).st_size


def _download(url: str, part: BinaryIO, size: int | None, auth: tuple[str, str] | None) -> None:
    """Complete `part`, in as many requests as it takes while they bring something."""
    furthest, failures = _length(part), 0  # bytes, and tries in vain since then
    with requests.Session() as session:
        session.auth = auth
        while True:
            try:
                return _transfer(session, url, part, size)
            except (requests.RequestException, urllib3.exceptions.HTTPError, Transient) as error:
                reached = _length(part)
                failures = 0 if reached > furthest else failures + 1
                furthest = max(reached, furthest)
                final = isinstance(error, ValueError | requests.TooManyRedirects)  # a wrong address
                if final or failures == retries.ATTEMPTS:
                    reason = getattr(error.args[0] if error.args else None, "reason", error)
                    later = "" if final else "try again later, or "
                    raise StorageError(f"{explain(url, reason)}: {later}{BY_HAND}") from error
            time.sleep(retries.pause(failures))


def _transfer(session: requests.Session, url: str, part: BinaryIO, size: int | None) -> None:
    """Ask once for what `part` lacks and append it.

    Raises:
        Transient, RequestException, HTTPError: not all of it came this time.
        StorageError: it never will.
    """
    there, notes = _length(part), f"{part.name}.json"
    header, value = _noted(notes, url) if there else ("", "")  # tell versions of the file apart
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes: ranges are counted in them
    if value:
        headers |= {"Range": f"bytes={there}-", "If-Range": value}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        status, got = response.status_code, response.headers
        if status in {401, 403}:
            hint = "give valid credentials, accept the rules on the data set's page"
            raise StorageError(f"{url}: access denied (HTTP {status}): {hint}, or {BY_HAND}")
        if status in {404, 410}:
            raise StorageError(f"{url}: no such file (HTTP {status}): {BY_HAND}")
        span = got.get("Content-Range", "")
        if value and status in {206, 416}:
            same = got.get(header, value) == value  # not every server heeds If-Range
            if same and span == f"bytes */{there}" and size in (None, there):
                return  # it was whole already
            if not same or not span.startswith(f"bytes {there}-"):
                part.truncate(0)
                raise Transient("the file has changed on the server")
        elif status == 200:
            part.truncate(there := 0)
            etag = got.get("ETag", "")
            strong = etag.startswith('"')  # a weak one, W/"...", may stand for other bytes too
            version = ["ETag", etag] if strong else ["Last-Modified", got.get("Last-Modified", "")]
            storage.write_json(notes, [url, *version])
        else:
            raise Transient(f"HTTP {status} {response.reason}")
        # a 206 may bring less than all the rest
        end = got.get("Content-Length", "") if status == 200 else span.rpartition("/")[2]
        total = int(end) if end.isdigit() else size
        if size not in (None, total):
            raise StorageError(f"{url}: {total:,} bytes instead of {size:,}: the file has changed")
        name = Path(part.name).stem
        with tqdm(
            desc=name, initial=there, total=total, unit="B", unit_scale=True, disable=None
        ) as bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                part.write(chunk)
                bar.update(len(chunk))
    if total is not None and _length(part) != total:
        raise Transient(f"the body ended after {_length(part):,} of {total:,} bytes")


def _noted(notes: str, url: str) -> tuple[str, str]:
    """The header that tells versions of the file apart, and its value for the part; or nothing."""
    with suppress(StorageError):
        match storage.read_json(notes):
            case [known, str(header), str(value)] if known == url:
                return header, value
    return "", ""


def kaggle_credentials() -> tuple[str, str] | None:
    """User name and key of Kaggle's API (its "legacy API key"), from where its own client looks.

    That is KAGGLE_USERNAME with KAGGLE_KEY, or kaggle.json in KAGGLE_CONFIG_DIR, else in ~/.kaggle
    or ~/.config/kaggle. None if there are none.

    Raises:
        BadInput: kaggle.json is damaged or not to be read.
    """
    if (user := os.environ.get("KAGGLE_USERNAME")) and (key := os.environ.get("KAGGLE_KEY")):
        return user, key
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    own = os.environ.get("KAGGLE_CONFIG_DIR")
    for folder in [own] if own else ["~/.kaggle", f"{config}/kaggle"]:
        file = f"{storage.normal(folder)}/kaggle.json"
        if storage.exists(file):
            match storage.read_json(file):
                case {"username": str(user), "key": str(key)}:
                    return user, key
            raise BadInput(f"{file}: no username and key in it: get a new one from kaggle.com")
    return None
