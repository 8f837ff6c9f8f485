"""`dogbreed serve`: the verb."""

import os

from dogbreed import package, storage
from dogbreed.engine import see_torch
from dogbreed.errors import BadInput
from dogbreed.exported import best_name, read_engine
from dogbreed.monitor.log import LogOptions
from dogbreed.runs import newest
from dogbreed.serve.auth import Keys
from dogbreed.serve.forking import fork_server
from dogbreed.serve.limits import Limits


def serve(
    run: str | None = None,
    run_root: str = "runs",
    model: str | None = None,
    engine: str = "torch",
    device: str | None = None,
    host: str | None = None,
    port: int | None = None,
    workers: int = 1,
    batch_size: int = 16,
    batch_wait: float = 0.0,
    queue: int = 128,
    timeout: float = 30.0,
    body: int = 32_000_000,
    pictures: int = 64,
    pixels: int = 50_000_000,
    buckets: list[str] | None = None,
    api_keys_file: str | None = None,
    log: str | None = None,
    log_every: float = 30.0,
    log_images: float = 0.0,
) -> None:
    """Answer over HTTP which breed a picture shows, and show a page for it.

    POST /predict takes one or many pictures as a form (field imagefiles), as JSON in Vertex AI's
    form, or as they are; /docs says how, and / is a page for people. /health, /ready, /info and
    /metrics are for machines. The log is a line of JSON for each request, without its pictures.
    SIGTERM lets what was begun finish, and ends with status 0.

    Where an option is not given, the environment is asked: $AIP_HTTP_PORT or $PORT for --port (and
    then --host is 0.0.0.0), $AIP_STORAGE_URI for --model, $AIP_PREDICT_ROUTE and $AIP_HEALTH_ROUTE
    for further paths of /predict and /ready, $DOGBREED_API_KEYS for keys, with commas between.

    Args:
        run: the run whose model answers; by default the newest.
        run_root: where the newest run is looked for.
        model: a model package's folder, on disk or in a bucket, instead of a run, or a place that
            `dogbreed export --promote` wrote to.
        engine: what runs the network: torch, an engine of `dogbreed export` such as openvino-int8,
            or best, the fastest of them that can run here.
        device: torch's name of a device; by default a GPU if there is one.
        host: the address to listen at; by default 127.0.0.1: this machine alone.
        port: by default 8000.
        workers: processes with an engine each; on a GPU, or with few cores, one is enough.
        batch_size: pictures that the network sees at once, at most.
        batch_wait: seconds that a busy worker waits for a batch to fill; a lone picture never does.
        queue: pictures in the server, at most; above, requests get 503 at once.
        timeout: seconds for a request, at most; then it gets 504.
        body: bytes of a request, at most; above, it gets 413.
        pictures: pictures in a request, at most.
        pixels: pixels of a picture, at most, as its header says; above, it is not decoded.
        buckets: buckets that {"gcs": "gs://…"} may name; none by default.
        api_keys_file: file with API keys, one in a line, of which requests must bring one in the
            header X-API-Key; several let you change them without a gap.
        log: a folder or URL for the prediction log that `dogbreed drift` reads: a row for each
            answered picture, with statistics of it and its embedding, and neither its pixels nor
            its name nor who sent it. By default there is none.
        log_every: seconds after which its rows are written; a server that is killed loses them.
        log_images: share of the pictures, from 0 to 1, that the log keeps as well, without their
            EXIF, to be labelled; none by default.
    """
    if not (log_every > 0 and 0 <= log_images <= 1):
        raise BadInput("--log_every must be above 0 and --log_images from 0 to 1")
    if log_images and log is None:
        raise BadInput("--log_images: without --log there is no place for them")
    if log is not None:
        storage.filesystem(log)  # or its protocol is told of at once
    if workers < 1 or batch_size < 1:
        raise BadInput("--workers and --batch_size: must be at least 1")
    if not 0 <= batch_wait <= timeout:
        raise BadInput(f"--batch_wait {batch_wait}: must be from 0 to --timeout, in seconds")
    limits = Limits(body, pictures, pixels, queue, timeout, tuple(buckets or ()))
    keys = Keys.find(api_keys_file)
    said = os.environ.get("AIP_HTTP_PORT") or os.environ.get("PORT")
    if port is None and said is not None and not said.isdigit():
        raise BadInput(f"$AIP_HTTP_PORT or $PORT is {said!r}: must be a number")
    chosen = port if port is not None else int(said or 8000)
    if not 0 <= chosen < 2**16:
        raise BadInput(f"--port {chosen}: must be from 0 to 65535; 0 is any free one")
    source = package.read(_package(run, run_root, model))
    if engine == "best":
        engine = best_name(source)
    if engine != "torch":
        read_engine(source, engine)  # what is not there is told of at once
    else:
        see_torch(source)
        source.weights()  # a damaged package is told of at once
    fork_server(engine)  # which imports while this process does so
    if engine == "torch":
        # Then pictures are resized by the same kernel as in `dogbreed predict`.
        import torch

        torch.set_num_threads(1)
    from dogbreed.serve.server import Options, Server  # LitServe takes a second

    predict, health = (
        os.environ.get(name) or None for name in ("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE")
    )
    for route in (predict, health):
        if route is not None and not route.startswith("/"):
            raise BadInput(f"$AIP_PREDICT_ROUTE or $AIP_HEALTH_ROUTE is {route!r}: begin it with /")
    logged = None if log is None else LogOptions(storage.normal(log), log_every, log_images)
    options = Options(engine, device, workers, batch_size, batch_wait, predict, health, logged)
    Server(source, options, limits, keys).run(
        host or ("0.0.0.0" if said is not None else "127.0.0.1"), chosen
    )


def _package(run: str | None, run_root: str, model: str | None) -> str:
    """URL of the package that is meant."""
    if run is not None and model is not None:
        raise BadInput("--run and --model: say one of them")
    if run is not None:
        return storage.join(storage.normal(run), package.FOLDER)
    model = model or os.environ.get("AIP_STORAGE_URI") or None
    if model is None:
        holding = storage.join(package.FOLDER, package.MODEL_FILE)
        return storage.join(newest(run_root, holding=holding).url, package.FOLDER)
    return package.locate(storage.normal(model))  # Vertex AI may name what lies above it
