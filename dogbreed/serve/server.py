"""The server: LitServe's application, with its own care for workers and for its end.

LitServe's extension points carry what they can: `service.PredictSpec` is its endpoint,
`worker.BreedAPI` has its hooks, `worker.Loop` its batches, `links.Port` is its queue and transport,
`BreedAPI.authorize` its door, `Envelope` a middleware. This module is the one place where something
of LitServe's is replaced, each for what was measured of 0.2.19:

- `_register_internal_endpoints`: `/` is taken before a page could be added, `/docs` loads scripts
  from elsewhere, and `/health` asks for the API key.
- `run`: a SIGTERM leaves the workers behind, answering on; a dead worker is noticed every two
  seconds, and its clients wait on; the queues live in a further process, are without bound, and
  know of no client that goes away; `client.py` is written to the working directory. Here one
  process speaks HTTP and is the parent of the workers, each at the end of a socket (`links`).
- `lifespan`: starts and ends the workers, in place of LitServe's reading of its queues.
"""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from multiprocessing.context import SpawnProcess
from typing import Any

import litserve
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from dogbreed import __version__
from dogbreed.errors import BadInput
from dogbreed.monitor.log import LogOptions, PredictionLog
from dogbreed.monitor.rows import model_of
from dogbreed.package import Package
from dogbreed.serve import openapi, page
from dogbreed.serve.auth import Keys
from dogbreed.serve.envelope import Envelope, log
from dogbreed.serve.limits import Limits
from dogbreed.serve.links import Dispatcher, Job, Link, Port
from dogbreed.serve.metrics import Metrics
from dogbreed.serve.service import PredictSpec
from dogbreed.serve.worker import BreedAPI, work

GRACE = 6.5  # seconds for the requests that a SIGTERM finds; Cloud Run kills after 10 in all
LOG_GRACE = 2.0  # seconds for the rows of the prediction log after that
_KEEP_ALIVE = 75  # seconds: longer than a load balancer's, or it sends into a closed connection
_PATIENCE = 30.0  # seconds between two starts of a worker that ends again and again, at most


@dataclasses.dataclass(frozen=True)
class Options:
    """How a server is to be.

    Args:
        engine: a name that `open_engine` knows.
        device: torch's name of a device, or none.
        workers: processes with an engine.
        batch_size: pictures in a batch at most.
        batch_wait: seconds; see `Dispatcher`.
        predict_route: a further path of `/predict`, or none.
        health_route: a further path that answers like `/ready`, or none.
        log: the prediction log, or none.
    """

    engine: str = "torch"
    device: str | None = None
    workers: int = 1
    batch_size: int = 16
    batch_wait: float = 0.0
    predict_route: str | None = None
    health_route: str | None = None
    log: LogOptions | None = None


class Server(litserve.LitServer):  # type: ignore[misc]
    """A model package behind HTTP.

    Args:
        source: the package.
        options: how.
        limits: what is taken.
        keys: who may ask.
    """

    def __init__(self, source: Package, options: Options, limits: Limits, keys: Keys) -> None:
        self._source, self._options, self._limits, self._keys = source, options, limits, keys
        self._links: dict[int, Link] = {}  # by worker id
        self._processes: dict[int, SpawnProcess] = {}
        self._deaths: dict[int, int] = {}  # since the worker was last warm
        self._ending = False
        self._problem: tuple[str, bool] | None = None
        self._dispatcher = Dispatcher(options.batch_size, options.batch_wait, self._on_batch)
        paths = list(dict.fromkeys(["/predict", options.predict_route or "/predict"]))
        self._metrics = Metrics(
            model_of(source),
            lambda: len(self._dispatcher),
            lambda: self._spec.inside,
            self._warm,
        )
        name, engine, wanted = model_of(source), options.engine, options.log
        self._log = PredictionLog(wanted, name, engine, self._metrics.log, log) if wanted else None
        self._spec = PredictSpec(source, self._dispatcher, limits, self._metrics, paths, self._log)
        size = options.batch_size
        self._api = BreedAPI(source.url, engine, options.device, self._spec, size, bool(wanted))
        self._api.authorize = keys.check
        probes = {"/health", "/ready", options.health_route or "/ready"}
        routes = {*paths, *probes, "/", "/info", "/metrics", "/docs", "/openapi.json"}
        super().__init__(
            self._api,
            accelerator="cpu",  # the engine finds its device itself
            timeout=False,
            disable_openapi_url=True,
            middlewares=[(Envelope, {"metrics": self._metrics, "routes": routes})],
        )

    def _register_internal_endpoints(self) -> None:
        """Routes beside `/predict`; see the module for why not LitServe's."""
        document = openapi.document(self._source, self._limits, bool(self._keys), self._options)

        async def health() -> Response:
            return Response("ok\n", media_type="text/plain")

        async def ready() -> Response:
            if self._spec.ready:
                return Response("ready\n", media_type="text/plain")
            return Response("loading\n", 503, {"Retry-After": "1"}, "text/plain")

        async def info(request: Request) -> Response:
            self._keys.check(request)
            return JSONResponse(self._about())

        async def metrics(request: Request) -> Response:
            self._keys.check(request)
            return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

        async def schema() -> Response:
            return JSONResponse(document)

        routes = {"/health": health, "/info": info, "/metrics": metrics, "/openapi.json": schema}
        # Vertex AI sends requests as soon as its health route answers, wherever that lies.
        routes |= {"/ready": ready, self._options.health_route or "/ready": ready}
        for path, answer in routes.items():
            self.app.add_api_route(path, answer, methods=["GET"])
        page.register(self.app, document)

    def _about(self) -> dict[str, Any]:
        model = {k: v for k, v in self._source.model.items() if k not in {"classes", "reference"}}
        return {
            "model": {**model, "classes": self._source.class_names},
            "server": {
                "dogbreed": __version__,
                "engine": self._options.engine,
                "workers": len(self._warm()),
                "batch_size": self._options.batch_size,
                "explains": self._spec.explains,
                "limits": dataclasses.asdict(self._limits) | {"buckets": len(self._limits.buckets)},
            },
        }

    def run(self, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Serve until a SIGTERM or a Ctrl-C, then finish what was begun.

        Raises:
            BadInput: the address cannot be had, or the engine cannot be opened.
            SystemExit: 0 after a SIGTERM, 1 if a worker ended while it loaded.
        """
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            raise BadInput(f"--host {host} --port {port}: {error.strerror or error}") from None
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,  # type: ignore[arg-type] # it is only waited for
        )
        self._uvicorn = uvicorn.Server(config)
        # Uvicorn ends gracefully by itself, and then raises the signal once more.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        where = f"[{host}]" if ":" in host else host
        address = f"http://{where}:{listener.getsockname()[1]}"
        log("INFO", f"listening on {address}", address=address, pid=os.getpid())
        try:
            self._uvicorn.run([listener])
        finally:
            self._end_workers()
            if self._log is not None and (lost := self._log.close(LOG_GRACE)):
                log("ERROR", f"{lost} rows of the prediction log could not be written any more")
            if self._problem is not None:
                text, foreseen = self._problem
                if foreseen:
                    raise BadInput(text) from None
                print(f"dogbreed serve: {text}", file=sys.stderr)
                sys.exit(1)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the workers, which load while `/health` already answers; end them."""
        for worker_id in range(self._options.workers):
            await self._start(worker_id)
        try:
            yield
        finally:
            self._ending = True
            for link in self._links.values():
                link.close()
            log("INFO", "ended")

    def _warm(self) -> list[int]:
        loaded = [worker_id for worker_id, link in self._links.items() if link.loaded]
        return [self._processes[worker_id].pid or 0 for worker_id in loaded]

    async def _start(self, worker_id: int) -> None:
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=work,
            args=(self._api, worker_id, Port(theirs)),
            name=f"worker-{worker_id}",
            daemon=True,
        )
        process.start()
        self._processes[worker_id] = process
        theirs.close()  # the worker's end of it is now the only one

        def make() -> Link:
            return Link(
                self._dispatcher,
                lambda about: self._loaded(worker_id, about),
                lambda about: self._refused(worker_id, about),
                lambda: self._lost(worker_id),
            )

        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(make, sock=ours)
        self._links[worker_id] = link

    def _loaded(self, worker_id: int, about: dict[str, Any]) -> None:
        self._deaths[worker_id] = 0
        self._spec.explains = about["explains"]
        self._spec.ready = True
        log("INFO", f"worker {worker_id} is ready", worker=worker_id)

    def _refused(self, worker_id: int, about: dict[str, Any]) -> None:
        if self._deaths.get(worker_id) is None:
            self._stop(about["problem"], about["foreseen"])
        else:
            log("ERROR", f"worker {worker_id}: {about['problem']}", worker=worker_id)

    def _lost(self, worker_id: int) -> None:
        """A worker has ended: another takes its place."""
        del self._links[worker_id]
        process = self._processes[worker_id]
        self._spec.ready = bool(self._warm())
        if self._ending or self._problem:
            return
        process.join(1)  # it has closed its socket: it is ending
        if worker_id not in self._deaths:
            self._stop(f"worker {worker_id} ended while it loaded ({process.exitcode})", False)
            return
        self._deaths[worker_id] += 1
        pause = min(0.5 * 2 ** (self._deaths[worker_id] - 1), _PATIENCE)
        pause = 0.0 if self._deaths[worker_id] == 1 else pause
        log(
            "ERROR",
            f"worker {worker_id} has ended ({process.exitcode}); another starts",
            worker=worker_id,
        )
        self._metrics.restarts.inc()

        async def again() -> None:
            await asyncio.sleep(pause)
            if not self._ending:
                await self._start(worker_id)

        self._again = asyncio.get_running_loop().create_task(again())

    def _stop(self, problem: str, foreseen: bool) -> None:
        self._problem = self._problem or (problem, foreseen)
        self._uvicorn.should_exit = True

    def _end_workers(self) -> None:
        """Whatever they do: a batch that nobody waits for any more, or loading."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(1)
            if process.is_alive():
                process.kill()

    def _on_batch(self, batch: list[Job]) -> None:
        self._metrics.batch.observe(len(batch))
