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
  process speaks HTTP and keeps the workers (`workers`), each at the end of a socket (`links`).
- `lifespan`: starts and ends the workers, in place of LitServe's reading of its queues.
"""

import contextlib
import dataclasses
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
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
from dogbreed.serve.envelope import Envelope
from dogbreed.serve.limits import Limits
from dogbreed.serve.lines import log, writing
from dogbreed.serve.links import Dispatcher, Job
from dogbreed.serve.metrics import Metrics
from dogbreed.serve.service import PredictSpec
from dogbreed.serve.worker import BreedAPI
from dogbreed.serve.workers import Workers

GRACE = 5.5  # seconds for the requests that a SIGTERM finds; Cloud Run kills after 10 in all
LOG_GRACE = 1.5  # seconds for the rows of the prediction log after that
_KEEP_ALIVE = 75  # seconds: longer than a load balancer's, or it sends into a closed connection


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
        self._workers = Workers(
            self._api,
            options.workers,
            engine,
            self._dispatcher,
            self._changed,
            self._metrics.restarts.inc,
            self._stop,
        )
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
        gc.freeze()  # what was imported would be looked through while requests wait, and at the end
        with writing():
            log("INFO", f"listening on {address}", address=address, pid=os.getpid())
            try:
                self._uvicorn.run([listener])
            finally:
                self._workers.kill()
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
        self._workers.start()
        try:
            yield
        finally:
            self._workers.close()
            log("INFO", "ended")

    def _changed(self, explains: bool | None) -> None:
        """A worker is warm, or has ended."""
        if explains is not None:
            self._spec.explains = explains
        self._spec.ready = bool(self._warm())

    def _warm(self) -> list[int]:
        return self._workers.warm()

    def _stop(self, problem: str, foreseen: bool) -> None:
        self._problem = self._problem or (problem, foreseen)
        self._uvicorn.should_exit = True

    def _on_batch(self, batch: list[Job]) -> None:
        self._metrics.batch.observe(len(batch))
