"""Overload, deaths and ends of a real server.

A worker is held by SIGSTOP: so what waits, waits for as long as a test wants.
"""

import concurrent.futures
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import picture_file
from tests.serve.conftest import PATIENCE, Served, serving

PHOTO = picture_file(100, 100, 1)
QUEUE = 6


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture(scope="module")
def served(tiny_package: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    words = ["--queue", str(QUEUE), "--pictures", "6", "--timeout", "60", "--batch_size", "2"]
    with serving(tiny_package, tmp_path_factory.mktemp("cwd"), *words) as made:
        yield made


def hold(served: Served) -> psutil.Process:
    """Stop the worker where it stands."""
    (worker,) = served.workers()
    worker.suspend()
    return worker


def until(served: Served, name: str, value: float) -> None:
    """Ask for a number of /metrics until it is as wanted."""
    for _ in range(20_000):
        if served.metric(name) == value:
            return
    raise AssertionError(f"{name} never became {value}")


def send(served: Served) -> requests.Response:
    return served.post(files={"imagefiles": ("a.jpg", PHOTO)})


def begin(served: Served) -> socket.socket:
    """Send a request and don't wait for its answer."""
    host, port = served.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
    head = "POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\n"
    sock.sendall(f"{head}Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO)
    return sock


def test_above_the_queue_requests_get_503_at_once_and_the_others_their_answers(
    served: Served, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    worker = hold(served)
    waiting = [pool.submit(send, served) for _ in range(QUEUE)]
    until(served, "dogbreed_inside_pictures", QUEUE)
    refused = send(served)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert not any(answer.done() for answer in waiting)
    worker.resume()
    assert {answer.result().status_code for answer in waiting} == {200}
    assert served.metric("dogbreed_inside_pictures") == 0


def test_a_worker_without_pictures_does_nothing(served: Served) -> None:
    assert send(served).status_code == 200
    (worker,) = served.workers()
    for _ in range(50):  # it may still be busy with the end
        before = worker.num_ctx_switches()
        for _ in range(10):
            served.get("/health")
        if worker.num_ctx_switches() == before:
            break
    for _ in range(100):
        served.get("/health")
    assert worker.num_ctx_switches() == before
    assert worker.status() == psutil.STATUS_SLEEPING


def test_a_client_that_goes_away_takes_its_pictures_with_it(served: Served) -> None:
    assert send(served).status_code == 200  # so the worker has asked for its next batch
    worker = hold(served)
    sent = served.metric("dogbreed_batch_pictures_sum")
    clients = [begin(served) for _ in range(QUEUE)]
    until(served, "dogbreed_inside_pictures", QUEUE)
    for client in clients:
        client.close()
    until(served, "dogbreed_inside_pictures", 0)
    assert served.metric("dogbreed_queue_pictures") == 0
    worker.resume()
    assert send(served).status_code == 200
    # The first went to the idle worker at once; of the others none was worked on.
    assert served.metric("dogbreed_batch_pictures_sum") - sent == 2


def test_a_killed_worker_is_replaced_its_requests_get_an_error_and_no_other_does(
    served: Served, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    assert send(served).status_code == 200
    worker = hold(served)
    nursery = worker.ppid()
    sent = served.metric("dogbreed_batch_pictures_sum")
    first = pool.submit(send, served)
    until(served, "dogbreed_batch_pictures_sum", sent + 1)
    others = [pool.submit(send, served) for _ in range(3)]
    until(served, "dogbreed_queue_pictures", 3)
    worker.kill()
    lost = first.result(PATIENCE)
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    assert "worker has ended" in lost.json()["detail"]
    assert not any(other.done() for other in others)
    assert {other.result(PATIENCE).status_code for other in others} == {200}
    assert served.metric("dogbreed_worker_restarts_total") == 1
    (another,) = served.workers()
    assert another.ppid() == nursery  # where all that it needs was imported already


def test_a_request_that_takes_too_long_gets_504(tiny_package: str, tmp_path: Path) -> None:
    with serving(tiny_package, tmp_path, "--timeout", "0.5") as served:
        with begin(served) as client, client.makefile("rb") as answers:
            # Of this one the body never comes.
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
            status = [line for line in answers_of(answers, 2) if line.startswith(b"HTTP/1.1")]
        assert [line.split()[1] for line in status][1] == b"408"
        worker = hold(served)
        late = send(served)
        assert late.status_code == 504
        assert "0.5 s" in late.json()["detail"]
        until(served, "dogbreed_inside_pictures", 0)
        # Nor does a worker that is stuck keep the server from ending.
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        psutil.wait_procs([worker], timeout=PATIENCE)
        assert not worker.is_running()


def test_a_sigterm_lets_what_was_begun_finish_and_leaves_nothing_behind(
    tiny_package: str, tmp_path: Path, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving(tiny_package, tmp_path) as served:
        assert send(served).status_code == 200  # so the worker has asked for its next batch
        worker = hold(served)
        waiting = pool.submit(send, served)
        until(served, "dogbreed_batch_pictures_sum", 2)
        family = psutil.Process(served.process.pid).children(recursive=True)
        assert worker in family
        for process in [psutil.Process(served.process.pid), *family]:
            process.terminate()  # as service managers do
        worker.resume()
        assert waiting.result(PATIENCE).status_code == 200
        assert served.process.wait(PATIENCE) == 0
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert alive == []
        with pytest.raises(requests.ConnectionError):
            served.get("/health")


def answers_of(stream: Any, count: int) -> list[bytes]:
    """Lines of so many answers."""
    lines: list[bytes] = []
    for _ in range(count):
        length = 0
        while (line := stream.readline()) not in {b"\r\n", b""}:
            lines.append(line)
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        stream.read(length)
    return lines


def test_a_sigterm_while_it_loads_ends_all_of_it(tiny_package: str, tmp_path: Path) -> None:
    served = Served(tiny_package, tmp_path)
    try:
        served.log("listening")
        family = psutil.Process(served.process.pid).children(recursive=True)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert alive == []
    finally:
        served.end()


def test_when_the_server_is_killed_its_workers_end(tiny_package: str, tmp_path: Path) -> None:
    with serving(tiny_package, tmp_path) as served:
        family = psutil.Process(served.process.pid).children(recursive=True)
        assert set(served.workers()) < set(family)
        os.kill(served.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert alive == []
