"""A tiny package, and servers on it: real processes on a free port."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from safetensors.torch import save

from dogbreed import package
from dogbreed.model.backbone import Network

BREEDS = ["pug", "border_terrier", "whippet", "basset"]
SIDE = 64
PATIENCE = 240.0  # seconds: for a machine with much else to do


def write_tiny(folder: str, **changes: Any) -> str:
    """Write a package of random weights whose answers differ from picture to picture."""
    torch.manual_seed(0)
    network = Network("mobilenetv3_small_050", len(BREEDS))
    pictures = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    for _ in range(3):
        network(pictures)
    torch.nn.init.normal_(network.head.weight, std=0.5)  # type: ignore[arg-type]
    model = {
        "run": "tiny",
        "backbone": "mobilenetv3_small_050",
        "classes": [{"name": name} for name in BREEDS],
        "preprocessing": {"size": SIDE, "crop": 0.9, "flip": False},
        "temperature": 1.0,
        "rejection": {"score": "energy", "threshold": 100.0, "keeps": 0.95},
        "data": {"name": "dogs", "version": "0" * 64},
        "pretraining": "none (random)",
        "metrics": {"val": {"top1": 0.5}},
    }
    package.write(folder, model | changes, save(network.eval().body.state_dict()))
    return folder


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write such a package once; for reading only."""
    return write_tiny(str(tmp_path_factory.mktemp("tiny") / "model"))


class Served:
    """A server's process, its log and its address."""

    def __init__(
        self,
        model: str,
        cwd: Path,
        *words: str,
        port: int | None = 0,
        python: str = sys.executable,
        **env: str,
    ) -> None:
        command = [python, "-m", "dogbreed", "serve", "--model", model]
        command += [] if port is None else ["--port", str(port)]
        root = Path(__file__).parents[2]
        # A fake of the keys that LitServe itself would lock every route with.
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "LIT_SERVER_API_KEY": "locked"}
        # Started in a folder of its own, where it must leave nothing behind.
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=cwd,
            env=os.environ | own | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                self.lines.append(line)
                self._news.put(line)
        self._news.put(None)

    def log(self, text: str) -> dict[str, Any]:
        """Wait for a line of the log that has `text` in it."""
        while line := self._news.get(timeout=PATIENCE):
            if text in line and line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                return said
        raise AssertionError(f"ended without {text!r}: {''.join(self.lines)}")

    def wait_ready(self) -> None:
        """Wait until it listens and is warm."""
        self.url = self.log("listening")["address"]
        self.log("is ready")

    def workers(self) -> list[psutil.Process]:
        """Processes with an engine."""
        children = psutil.Process(self.process.pid).children()
        servers = [child for child in children if "forkserver" in " ".join(child.cmdline())]
        return [worker for server in servers for worker in server.children()]

    def post(self, path: str = "/predict", **options: Any) -> requests.Response:
        """Send a request."""
        return requests.post(self.url + path, timeout=PATIENCE, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """Send a request."""
        return requests.get(self.url + path, timeout=PATIENCE, **options)

    def predict(self, *files: bytes, path: str = "/predict") -> Any:
        """What the server says of files in a form."""
        form = [("imagefiles", (f"{k}.jpg", data)) for k, data in enumerate(files)]
        answer = self.post(path, files=form)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str) -> float:
        """A number of /metrics; 0 before it is first counted."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def end(self) -> None:
        """End it, whatever it does."""
        family = [psutil.Process(self.process.pid), *self.workers()] if self.alive else []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise
        finally:
            self._reader.join(PATIENCE)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


@contextlib.contextmanager
def serving(
    model: str,
    cwd: Path,
    *words: str,
    port: int | None = 0,
    python: str = sys.executable,
    **env: str,
) -> Iterator[Served]:
    """Run a server until it is not needed any more."""
    served = Served(model, cwd, *words, port=port, python=python, **env)
    try:
        served.wait_ready()
        yield served
    finally:
        served.end()
