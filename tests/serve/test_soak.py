"""A server under more than it can do, under rubbish, and with its workers killed.

Prints what it has measured: `nox -s soak -- tests/serve -s`. `SOAK_MINUTES=1` for a first look.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import picture_file
from tests.serve.conftest import Served, serving
from tests.serve.load import PHOTOS, Load

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
UPLOADS = 20_000
KILLS = 10
PROMPT = 2.0  # seconds; from a client that shares the machine with the server


@pytest.fixture
def served(tiny_package: str, tmp_path: Path) -> Iterator[Served]:
    """Start a server of two workers on all cores but one, which is left to who asks."""
    cores = psutil.Process().cpu_affinity() or [0]
    words = ["--workers", "2", "--queue", "64"]
    try:
        psutil.Process().cpu_affinity(cores[1:] or cores)
        with serving(tiny_package, tmp_path, *words) as made:
            psutil.Process().cpu_affinity(cores[:1])
            while made.metric("dogbreed_workers_ready") < 2:
                pass
            yield made
    finally:
        psutil.Process().cpu_affinity(cores)


def resident(served: Served) -> int:
    """Bytes of memory of the server and its workers."""
    family = [psutil.Process(served.process.pid), *served.workers()]
    return sum(process.memory_info().rss for process in family)


def test_at_twice_the_load_it_can_bear_each_answer_is_right_or_a_prompt_refusal(
    served: Served,
) -> None:
    load = Load(served)
    rate = asyncio.run(load.closed(16, 20))
    load.said.clear()
    memory = []

    async def run() -> None:
        running = asyncio.create_task(load.open(2 * rate, MINUTES * 60))
        while not running.done():
            memory.append(resident(served))
            await asyncio.wait({running}, timeout=MINUTES)
        await running

    asyncio.run(run())
    quarter = len(memory) // 4
    early, late = (
        statistics.median(part) for part in (memory[quarter:-quarter], memory[-quarter:])
    )
    slow = sum(seconds > PROMPT for seconds in load.refused)
    print(f"\n{rate:.0f} requests/s borne, {2 * rate:.0f} sent for {MINUTES} min: {load.said}")
    print(f"503 after {statistics.median(load.refused):.3f} s, at most {max(load.refused):.2f} s")
    print(f"requests were sent {load.late:.2f} s late at most")
    print(f"memory {early / 2**20:.0f} MiB in the middle, {late / 2**20:.0f} MiB at the end")
    assert set(load.said) == {"right", "refused"}
    assert slow == 0
    assert late < early * 1.05
    assert served.predict(PHOTOS[0])[0]["top5"] == load.right[0]


def test_a_killed_worker_under_load_loses_its_own_batch_and_nothing_else(served: Served) -> None:
    load = Load(served)

    async def run() -> None:
        running = asyncio.create_task(load.closed(8, 40 * KILLS))
        for killed in range(1, KILLS + 1):
            await asyncio.sleep(5)
            begun = time.monotonic()
            served.workers()[0].kill()
            name = "dogbreed_worker_restarts_total"
            while await asyncio.to_thread(served.metric, name) < killed:
                await asyncio.sleep(0.01)
            while await asyncio.to_thread(served.metric, "dogbreed_workers_ready") < 2:
                await asyncio.sleep(0.05)
            print(f"\nboth workers again after {time.monotonic() - begun:.1f} s")
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(run())
    print(load.said)
    assert set(load.said) <= {"right", "worker died"}
    assert load.said["worker died"] <= 8 * KILLS  # as many as were asking
    assert served.metric("dogbreed_worker_restarts_total") == KILLS


def test_rubbish_is_refused_and_harms_nobody(served: Served) -> None:
    load = Load(served)
    host, port = served.url.removeprefix("http://").split(":")
    statuses: Counter[int] = Counter()

    def send(seed: int) -> None:
        rng = random.Random(seed)
        data, whole = rubbish(rng)
        with socket.create_connection((host, int(port)), timeout=120) as sock:
            first = b""
            # The server may have refused, and closed, before all of it was sent.
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
                if not whole:
                    sock.shutdown(socket.SHUT_WR)
                first = sock.makefile("rb").readline()
        statuses[int(first.split()[1]) if first else 0] += 1

    with ThreadPoolExecutor(8) as pool:
        for start in range(0, UPLOADS, 1000):
            list(pool.map(send, range(start, start + 1000)))
            assert served.predict(PHOTOS[0])[0]["top5"] == load.right[0]
    print(f"\n{UPLOADS} uploads: {dict(statuses)}")
    assert statuses.total() == UPLOADS
    assert statuses[0] < UPLOADS / 5  # clients that ended within their request, or sent too much
    assert not [status for status in statuses if status >= 500]
    assert served.metric("dogbreed_worker_restarts_total") == 0
    assert not [line for line in served.lines if '"ERROR"' in line]


def rubbish(rng: random.Random) -> tuple[bytes, bool]:
    """A request that is wrong in one of many ways, and whether there is an end to it."""
    make = rng.choice([_file, _file, _file, _form, _form, _json, _long])
    return (make(rng), True) if rng.random() < 0.9 else (_torn(rng), False)


def _request(body: bytes, kind: str, more: str = "", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST /predict HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {size}\r\n{more}\r\n".encode("latin-1", "replace") + body


def _bad_picture(rng: random.Random) -> bytes:
    """Cut, spoiled, a bomb, empty, or something else altogether."""
    format = rng.choice(["JPEG", "PNG", "WEBP"])
    good = picture_file(64, 48, rng.randrange(20), format)
    spoiled = bytearray(good)
    for _ in range(rng.randrange(1, 40)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    side = rng.choice([0, 1, 30_000, 2**31 - 1])
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return rng.choice(
        [
            good[: rng.randrange(len(good))],
            bytes(spoiled),
            b"\x89PNG\r\n\x1a\n" + bomb,
            b"",
            b"GIF89a" + bytes(40),
            b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
            b"<?php system($_GET[0]); ?>",
            b"PK\x03\x04" + rng.randbytes(60),
            rng.randbytes(rng.randrange(2000)),
        ]
    )


def _file(rng: random.Random) -> bytes:
    kind = rng.choice(["image/jpeg", "image/png", "image/x", "application/octet-stream", "text/x"])
    return _request(_bad_picture(rng), kind)


def _form(rng: random.Random) -> bytes:
    names = ["a.jpg", "", "../../etc/passwd", "\u00e4\u0000\u202e.jpg", "n" * 5000, 'a"b;c\r\nX: y']
    parts = b""
    for _ in range(rng.randrange(4)):
        field = rng.choice(["imagefiles", "imagefiles", "imagefile", "", "i" * 3000])
        head = f'Content-Disposition: form-data; name="{field}"; filename="{rng.choice(names)}"'
        extra = rng.choice(["", "Content-Type: image/jpeg\r\n", "X: " + "y" * 9000 + "\r\n"])
        parts += f"--b\r\n{head}\r\n{extra}\r\n".encode() + _bad_picture(rng) + b"\r\n"
    body = parts + rng.choice([b"--b--\r\n", b"", b"--b", b"--c--\r\n"])
    boundary = rng.choice(["b", "b", "b", "", "c", "b" * 100])
    return _request(body, f"multipart/form-data; boundary={boundary}")


def _json(rng: random.Random) -> bytes:
    values: list[Any] = [None, 3, "", "x" * 1000, [], {}, {"b64": "////"}, {"b64": 3}]
    values += [{"gcs": "gs://none/x"}, {"gcs": "file:///etc/passwd"}, {"b64": "", "gcs": ""}]
    said = {
        "instances": rng.choice([rng.choices(values, k=rng.randrange(5)), *values]),
        "parameters": rng.choice([*values, {"topk": -1}, {"explain": "perhaps"}]),
    }
    text = json.dumps(said)
    return _request(
        text[: rng.choice([len(text), rng.randrange(len(text))])].encode(), "application/json"
    )


def _long(rng: random.Random) -> bytes:
    """Headers and addresses beyond all measure, and other methods."""
    long = rng.randrange(70_000, 100_000)  # uvicorn's bound is 64 KiB
    return rng.choice(
        [
            _request(b"", "image/jpeg", more="X: " + "y" * long + "\r\n"),
            b"GET /" + b"a" * long + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            b"DELETE /predict HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /predict HTTP/9.9\r\n\r\n",
        ]
    )


def _torn(rng: random.Random) -> bytes:
    """A request whose end never comes, or bytes that are none."""
    return rng.choice(
        [
            _request(b"x" * 10, "image/jpeg", length=rng.choice([1000, 10**12])),
            _form(rng)[: rng.randrange(1, 300)],
            rng.randbytes(rng.randrange(1, 500)),
        ]
    )
