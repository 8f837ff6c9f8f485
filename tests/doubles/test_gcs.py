"""The double of Google Cloud Storage, seen through the real gcsfs."""

import asyncio
import base64
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import fsspec.asyn
import gcsfs
import pytest
from gcsfs.retry import HttpError

from tests.doubles.gcs import FakeGCS, Faults

DATA = bytes(range(256)) * 160  # 40 kB, as a picture

# aiohttp says so of each body above 1 MiB that gcsfs gives it, and there is no other way to do it
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@pytest.fixture
def fs(gcs: FakeGCS) -> gcsfs.GCSFileSystem:
    """Make a fresh file system; the double is found through the environment."""
    return gcsfs.GCSFileSystem()


@pytest.fixture
def picture(fs: gcsfs.GCSFileSystem, gcs: FakeGCS, bucket: str) -> str:
    """Put one object into a bucket of its own."""
    fs.pipe_file(f"{bucket}/dogs/1.jpg", DATA)
    gcs.counts.clear()
    return f"{bucket}/dogs/1.jpg"


def test_gcsfs_is_the_one_without_grpc() -> None:
    """The environment variable was set early enough."""
    assert gcsfs.GCSFileSystem.__module__ == "gcsfs.core"


@pytest.mark.parametrize("name", ["1.jpg", "a b/ü+%2F?#&=.jpg"])
def test_round_trip(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str, name: str) -> None:
    """What was written is read again, whatever the name."""
    fs.pipe_file(f"{bucket}/{name}", DATA)
    assert fs.cat_file(f"{bucket}/{name}") == DATA
    assert fs.find(bucket) == [f"{bucket[5:]}/{name}"]
    assert (gcs.counts["write"], gcs.counts["media"], gcs.counts["list"]) == (1, 1, 1)


@pytest.mark.parametrize("span", [(0, 1), (100, 300), (40_000, 50_000), (-7, None), (5, None)])
def test_ranges(fs: gcsfs.GCSFileSystem, picture: str, span: tuple[int, int | None]) -> None:
    """A part of an object is what slicing gives."""
    assert fs.cat_file(picture, *span) == DATA[slice(*span)]


def test_listing(fs: gcsfs.GCSFileSystem, bucket: str) -> None:
    """Folders are listed as in a tree."""
    fs.pipe({f"{bucket}/{name}": b"x" for name in ("a/1", "a/2", "b/c/3")})
    root = bucket[5:]
    assert fs.ls(bucket, detail=False) == [f"{root}/a", f"{root}/b"]
    assert fs.ls(f"{bucket}/a", detail=False) == [f"{root}/a/1", f"{root}/a/2"]
    assert fs.glob(f"{bucket}/**/3") == [f"{root}/b/c/3"]


def test_large_object(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str, tmp_path: Path) -> None:
    """Six megabytes go up in several requests and come down again as a stream."""
    data = os.urandom(6 << 20)
    with fs.open(f"{bucket}/large", "wb", block_size=1 << 20) as file:
        file.write(data)
    assert gcs.counts["write"] == 1
    assert gcs.counts["chunk"] >= 1
    fs.get_file(f"{bucket}/large", str(tmp_path / "large"))
    assert (tmp_path / "large").read_bytes() == data


def test_info(fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """Size, digest and own metadata of an object are told."""
    fs.pipe_file(picture, DATA, metadata={"by": "test"}, content_type="image/jpeg")
    fs.invalidate_cache()
    info = fs.info(picture)
    assert (info["size"], info["contentType"]) == (len(DATA), "image/jpeg")
    assert info["metadata"] == {"by": "test"}
    assert info["md5Hash"] == base64.b64encode(hashlib.md5(DATA).digest()).decode()


def test_copy_move_delete(fs: gcsfs.GCSFileSystem, bucket: str, picture: str) -> None:
    """Objects are copied, moved and deleted."""
    fs.copy(picture, f"{bucket}/copy")
    fs.mv(f"{bucket}/copy", f"{bucket}/moved")
    fs.rm(picture)
    assert fs.find(bucket) == [f"{bucket[5:]}/moved"]
    assert fs.cat_file(f"{bucket}/moved") == DATA


def test_missing(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str) -> None:
    """What does not exist, object or bucket, is FileNotFoundError at the first try."""
    for path in (f"{bucket}/none", "gs://no-such-bucket/none"):
        with pytest.raises(FileNotFoundError):
            fs.cat_file(path)
        with pytest.raises(FileNotFoundError):
            fs.info(path)
    assert gcs.counts["media"] == 2


def test_forbidden_bucket(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str, picture: str) -> None:
    """A forbidden bucket refuses everything at the first try, other buckets work."""
    gcs.faults.forbidden.add(gcs.bucket()[5:])
    assert fs.cat_file(picture) == DATA
    gcs.faults.forbidden.add(bucket[5:])
    for action in (fs.cat_file, fs.ls, lambda path: fs.pipe_file(path, b"x")):
        with pytest.raises(OSError, match="Forbidden"):
            action(picture)
    assert gcs.counts["403"] == 3


def test_cut_body_looks_whole(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """Gcsfs takes a short body for the object: only a known digest or size tells."""
    gcs.faults.cut_rate = 1.0
    short = fs.cat_file(picture)
    assert len(short) < len(DATA)
    assert DATA.startswith(short)
    assert gcs.counts["cut"] == gcs.counts["media"] == 1
    assert len(fs.cat_file(picture, 100, 300)) < 200


def test_corrupt_body_looks_whole(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """Gcsfs takes a body with a wrong byte: only a digest tells."""
    gcs.faults.corrupt_rate = 1.0
    read = fs.cat_file(picture)
    assert sum(a != b for a, b in zip(read, DATA, strict=True)) == 1
    assert gcs.counts["corrupt"] == 1


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [503, 429])
def test_errors_are_retried(
    gcs: FakeGCS, fs: gcsfs.GCSFileSystem, picture: str, status: int
) -> None:
    """Gcsfs repeats a refused request, five times at the most."""
    gcs.faults.error_status = status
    gcs.faults.fail_next = 5
    assert fs.cat_file(picture) == DATA
    assert (gcs.counts["error"], gcs.counts["media"]) == (5, 1)
    gcs.faults.error_rate = 1.0
    with pytest.raises(HttpError) as caught:
        fs.cat_file(picture)
    assert caught.value.code == status
    assert (gcs.counts["error"], gcs.counts["media"]) == (11, 1)


@pytest.mark.usefixtures("quick_retries")
def test_rewrites_refused(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """A second write to the same name gets 429 for a while, one to another name does not."""
    gcs.faults.rewrites_refused = 6
    fs.pipe_file(picture, b"new")
    fs.pipe_file(picture + "2", b"other")
    with pytest.raises(HttpError) as caught:
        fs.pipe_file(picture, b"newer")
    assert caught.value.code == 429
    assert (gcs.counts["429"], gcs.counts["write"]) == (6, 2)
    assert fs.cat_file(picture) == b"new"
    fs.pipe_file(picture, b"newer")
    assert fs.cat_file(picture) == b"newer"


def test_stall(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """A read that hangs can be given up, and the session still works."""
    gcs.faults.stall_rate, gcs.faults.stall_seconds = 1.0, 60.0

    async def give_up() -> None:
        reading = asyncio.ensure_future(fs._cat_file(picture))
        while not gcs.counts["stall"]:
            assert not reading.done()
            await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    fsspec.asyn.sync(fs.loop, give_up)
    assert gcs.counts["stall"] == 1
    gcs.faults.stall_rate = 0.0
    assert fs.cat_file(picture) == DATA


def test_only(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str, picture: str) -> None:
    """Faults can be kept to some objects."""
    fs.pipe_file(f"{bucket}/cats/1.jpg", DATA)
    gcs.faults.only = "/cats/"
    gcs.faults.cut_rate = 1.0
    assert fs.cat_file(picture) == DATA
    assert fs.cat_file(f"{bucket}/cats/1.jpg") != DATA


def test_draws_are_seeded(gcs: FakeGCS, fs: gcsfs.GCSFileSystem, bucket: str) -> None:
    """The same seed spoils the same objects, however the requests are ordered."""
    paths = [f"{bucket}/{number}" for number in range(40)]
    fs.pipe(dict.fromkeys(paths, DATA))

    def spoiled(seed: int) -> list[str]:
        gcs.reset()
        gcs.faults = Faults(corrupt_rate=0.3, seed=seed)
        return [path for path, data in fs.cat(paths).items() if data != DATA]

    first = spoiled(1)
    assert 2 < len(first) < 30
    assert spoiled(1) == first
    assert spoiled(2) != first


def test_many_at_once(gcs: FakeGCS, bucket: str, picture: str) -> None:
    """Hundreds of requests at one time are answered, each with what belongs to it."""
    fs = gcsfs.GCSFileSystem(session_kwargs={"connector_owner": True})
    bodies = {f"{bucket[5:]}/many/{number}": os.urandom(5000) for number in range(300)}
    fs.pipe(bodies, batch_size=-1)
    gcs.counts.clear()
    gcs.faults.latency = 0.5
    assert fs.cat(list(bodies), batch_size=-1) == bodies
    assert gcs.counts["media"] == 300
    assert gcs.counts["peak"] >= 90  # aiohttp itself opens 100 connections at the most
    gcs.reset()
    assert gcs.faults == Faults()
    assert not gcs.counts


def test_threads(fs: gcsfs.GCSFileSystem, picture: str) -> None:
    """Threads can share the file system."""
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(fs.cat_file, [picture] * 64)) == {DATA}


def start(*command: str) -> "subprocess.Popen[str]":
    """Start a Python process in the folder of the project."""
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_by_hand(tmp_path: Path) -> None:
    """As a program the double serves a folder, says how to reach it, and ends at SIGTERM."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "1.jpg").write_bytes(DATA)
    options = ("--port", "0", "--bucket", "mine", "--folder", str(tmp_path))
    with start("-m", "tests.doubles.gcs", *options) as process:
        assert process.stdout
        proxy = process.stdout.readline().removeprefix("export STORAGE_EMULATOR_HOST=").strip()
        while not process.stdout.readline().startswith("# gs://mine is ready"):
            pass
        with urlopen(f"{proxy}/storage/v1/b/mine/o/a%20b%2F1.jpg?alt=media") as answer:
            assert answer.read() == DATA
        process.terminate()
        assert process.wait(timeout=60) == 0


def test_no_orphan() -> None:
    """The server ends with its starter, even when that one is killed."""
    code = "from tests.doubles.gcs import *; g = FakeGCS().__enter__(); print(g.server, flush=True)"
    with start("-c", f"{code}; threading.Event().wait()") as process:
        assert process.stdout
        server = process.stdout.readline().strip()
        urlopen(f"{server}/storage/v1/b").close()
        process.kill()

    async def wait_for_end() -> None:
        with pytest.raises(OSError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", int(server.split(":")[2]))
                writer.close()
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(wait_for_end(), 60))
