"""`dogbreed prepare` as a process that is killed or interrupted, and run again."""

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data.listing import items_of
from dogbreed.data.manifest import Manifest
from dogbreed.data.sources import from_folder
from dogbreed.data.work import Recipe, units
from tests.conftest import picture_file
from tests.data.test_build import contents, tree
from tests.data.test_prepare import put
from tests.doubles.gcs import FakeGCS

PACKED = ["--shard_size", "30KB"]
DEADLINE = 60.0  # seconds that nothing here takes


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Give three units of loose pictures."""
    breeds = ("beagle", "pug", "whippet", "papillon")
    return {
        f"{breed}/{k}.jpg": picture_file(20 + k % 5, 20, seed=1000 * number + k)
        for number, breed in enumerate(breeds)
        for k in range(160)
    }


@pytest.fixture(scope="module")
def path(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write them into a folder; for reading only."""
    return put(str(tmp_path_factory.mktemp("killed") / "in"), files)


def words(path: str, out: str, *more: str) -> list[str]:
    return ["prepare", "--path", path, "--out", out, "--name", "dogs", "--workers", "2", *more]


class Prepare:
    """A process of `dogbreed prepare` in a session of its own."""

    def __init__(self, path: str, out: str, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dogbreed", *words(path, out, *more)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self) -> str:
        """Wait for it; what it said."""
        _, said = self.process.communicate(timeout=DEADLINE)
        return said.decode()

    def runs_for(self, seconds: float) -> bool:
        """Let it run for so long, or to its end."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def kill_all(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def kill_alone(self) -> None:
        """Kill the first process; wait until all that it started have ended."""
        self.process.send_signal(signal.SIGSTOP)  # it starts no more of them
        with self.all_end():
            self.process.kill()
        self.end()

    @contextmanager
    def all_end(self) -> Iterator[None]:
        """Wait until all processes have ended that there were at the beginning."""
        with ExitStack() as stack:
            poll, left = select.poll(), set()
            for pid in self.members():
                with suppress(ProcessLookupError):
                    left.add(handle := os.pidfd_open(pid))
                    stack.callback(os.close, handle)
                    poll.register(handle, select.POLLIN)
            yield
            deadline = time.monotonic() + DEADLINE
            while left and time.monotonic() < deadline:
                for handle, _ in poll.poll(1000 * DEADLINE):
                    poll.unregister(handle)
                    left.remove(handle)
            assert not left
        assert self.members() <= {self.process.pid}

    def members(self) -> set[int]:
        """Processes of the session that have not ended."""
        found = set()
        for folder in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                state, _, _, session = (
                    Path("/proc", folder, "stat").read_text().rpartition(")")[2].split()[:4]
                )
                if int(session) == self.process.pid and state != "Z":
                    found.add(int(folder))
        return found


class Told(Counter[str]):
    """What the double counts; somebody waits for the first stalled read."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        super().__init__()

    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, value)
        if key == "stall" and value:
            self.stalled.set()


class TestKilled:
    """Packed into six shards or so; a picture in the last of them is never answered."""

    SHARDS = ("--shard_size", "10KB")

    @pytest.fixture
    def source(self, gcs: FakeGCS, bucket: str, files: dict[str, bytes]) -> str:
        return put(bucket, {name: files[name] for name in list(files)[::10]})

    @pytest.fixture
    def begun(
        self, gcs: FakeGCS, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Prepare]:
        """A process that has come so far that one of its own waits for that picture."""
        *_, last = units(from_folder(source).table, Recipe("", "", 10_000, (0.8, 0.1, 0.1), 0))
        monkeypatch.setattr(gcs, "counts", told := Told())
        gcs.faults.only = f"{source[5:]}/{next(items_of(last)).id}"
        gcs.faults.stall_rate, gcs.faults.stall_seconds = 1.0, 3600.0
        process = Prepare(source, str(tmp_path / "out"), *self.SHARDS)
        assert told.stalled.wait(DEADLINE)
        assert len(process.members()) > 2
        yield process
        if process.process.poll() is None:
            process.kill_all()

    def test_nothing_lives_on_and_run_again_it_goes_on_to_the_same_end(
        self, gcs: FakeGCS, source: str, tmp_path: Path, begun: Prepare
    ) -> None:
        begun.kill_alone()
        gcs.faults.stall_rate = 0.0
        out = tmp_path / "out"
        done = {p.stem: p.stat().st_mtime_ns for p in (out / ".parts").rglob("*.parquet")}
        assert len(done) >= 3
        assert main(words(source, str(out), *self.SHARDS)) == 0
        times = {p.stem: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
        assert times.keys() > done.keys()
        assert all(times[name] <= done[name] for name in done)  # not written again
        assert main(words(source, str(tmp_path / "undisturbed"), *self.SHARDS)) == 0
        assert tree(str(out)) == tree(str(tmp_path / "undisturbed"))

    def test_ctrl_c_ends_all_processes_with_one_line(self, begun: Prepare) -> None:
        with begun.all_end():
            os.killpg(begun.process.pid, signal.SIGINT)
        assert begun.end() == "dogbreed prepare: interrupted\n"
        assert begun.process.returncode == 130


@pytest.mark.soak
class TestKilledOverAndOver:
    """Twenty kills at random moments."""

    @pytest.fixture(params=["disk", "bucket"])
    def outs(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
        """Give one empty place after the other."""
        if request.param == "disk":
            return (str(tmp_path / f"out{k}") for k in range(1000))
        gcs: FakeGCS = request.getfixturevalue("gcs")
        bucket = gcs.bucket()
        return (f"{bucket}/out{k}" for k in range(1000))

    @pytest.mark.parametrize("packed", [[], PACKED], ids=["loose", "packed"])
    def test_run_again_it_goes_on_to_the_same_end(
        self, path: str, files: dict[str, bytes], outs: Iterator[str], packed: list[str]
    ) -> None:
        seed = random.randrange(10**6)
        print(f"seed {seed}")
        draw = random.Random(seed)
        out = next(outs)
        started = time.monotonic()
        assert Prepare(path, out, *packed).end() == ""
        seconds = time.monotonic() - started
        undisturbed = tree(out)
        assert contents(Manifest.open(out)) == files

        out, kills = next(outs), 0
        while kills < 5:
            process = Prepare(path, out, *packed)
            moment = draw.uniform(0.2 * seconds, seconds)
            if process.runs_for(moment):
                print(f"killed after {moment:.3f} of {seconds:.3f} s")
                process.kill_alone() if draw.random() < 0.5 else process.kill_all()
                kills += 1
            else:
                assert process.end() == ""
                assert tree(out) == undisturbed
                out = next(outs)
        assert Prepare(path, out, *packed).end() == ""
        assert tree(out) == undisturbed
        assert not storage.files(storage.join(out, ".parts"))
