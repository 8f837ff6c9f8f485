"""What `POST /predict` does: a LitServe spec that makes one item of each picture.

Body, form and pixels are dealt with here, off the event loop, so that a picture that cannot be read
is answered in its place, and no worker ever sees it. What reaches a worker is uint8, (S, S, 3).
"""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import HTTPException, Request, Response
from litserve.specs.base import LitSpec
from starlette.requests import ClientDisconnect

from dogbreed.cores import cores
from dogbreed.images import BadImage
from dogbreed.monitor.log import PredictionLog
from dogbreed.monitor.rows import Prediction
from dogbreed.package import Package
from dogbreed.serve import uploads
from dogbreed.serve.answers import Entries
from dogbreed.serve.limits import Limits
from dogbreed.serve.links import Dispatcher, Job, WorkerDied, WorkerFailed
from dogbreed.serve.metrics import Metrics

_AGAIN = {"Retry-After": "1"}
_GONE = 499  # as nginx has it: the client had gone before there was an answer


class PredictSpec(LitSpec):  # type: ignore[misc]
    """The endpoint.

    Args:
        source: the package that answers.
        dispatcher: takes the pictures to the workers.
        limits: what is taken.
        metrics: counts.
        paths: where the endpoint lies.
        log: takes what was answered, or none.
    """

    def __init__(
        self,
        source: Package,
        dispatcher: Dispatcher,
        limits: Limits,
        metrics: Metrics,
        paths: list[str],
        log: PredictionLog | None = None,
    ) -> None:
        super().__init__()
        self.api_path = paths[0]
        self.entries = Entries(source)
        self.limits = limits
        self.inside = 0
        self.ready = self.explains = False
        self._dispatcher, self._metrics, self._log = dispatcher, metrics, log
        preprocessing = source.model["preprocessing"]
        self._size, self._crop = preprocessing["size"], preprocessing["crop"]
        self._pool = ThreadPoolExecutor(cores() + 3, "decode")
        for path in paths:
            self.add_endpoint(path, self.predict, ["POST"])

    def __getstate__(self) -> dict[str, Any]:
        """A worker needs no more of it than its name."""
        return {"api_path": self.api_path, "_endpoints": [], "_max_batch_size": 1}

    def decode_request(self, request: Any, context_kwargs: Any = None) -> Any:
        """A worker gets pictures: there is nothing to decode any more."""
        return request

    def encode_response(self, output: Any, context_kwargs: Any = None) -> Any:
        """The reply goes back as it is; JSON is made of it here."""
        return output

    async def predict(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            HTTPException: 400, 408, 413, 415, 500, 503, 504; see `openapi`.
        """
        about: dict[str, Any] = request.scope["about"]
        if not self.ready:
            raise HTTPException(503, "the model is being loaded", _AGAIN)
        self._refuse_large(int(request.headers.get("content-length", 0)))
        taken = self._enter(1)
        stage = "read"
        try:
            async with asyncio.timeout(self.limits.timeout):
                body = await self._body(request)
                stage = "answer"
                about["bytes"] = len(body)
                upload = await self._aside(
                    uploads.read,
                    body,
                    request.headers.get("content-type", ""),
                    request.query_params,
                    self.limits,
                )
                del body
                about["pictures"] = len(upload.files)
                taken += self._enter(len(upload.files) - 1)
                if upload.explain and not self.explains:
                    raise HTTPException(400, "explain: this model has no heat map to show")
                entries = await self._unless_gone(
                    request, self._answer(upload, about["request_id"])
                )
        except TimeoutError:
            if stage == "read":
                raise HTTPException(408, f"no whole body in {self.limits.timeout:g} s") from None
            detail = f"no answer in {self.limits.timeout:g} s; send fewer pictures, or later"
            raise HTTPException(504, detail) from None
        except ClientDisconnect:
            self._metrics.pictures.labels("left").inc(taken)
            return Response(status_code=_GONE)
        except WorkerDied:
            self._metrics.pictures.labels("failed").inc(taken)
            raise HTTPException(503, "the worker has ended; send it again", _AGAIN) from None
        except WorkerFailed:
            self._metrics.pictures.labels("failed").inc(taken)
            raise HTTPException(500, "the network failed; the server's log says how") from None
        finally:
            self.inside -= taken
        about["unreadable"] = sum(entry["status"] == "error" for entry in entries)
        said = {"predictions": entries} if upload.instances else entries
        return Response(json.dumps(said), media_type="application/json")

    def _refuse_large(self, size: int) -> None:
        if size > self.limits.body:
            raise HTTPException(413, f"more than {self.limits.body:,} bytes; send fewer pictures")

    def _enter(self, pictures: int) -> int:
        """Count pictures in, if there is room; they are counted out when the request ends."""
        if self.inside + pictures > self.limits.queue:
            raise HTTPException(503, "as many pictures wait as may; try again soon", _AGAIN)
        self.inside += pictures
        return pictures

    async def _body(self, request: Request) -> bytes:
        chunks, size = [], 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            self._refuse_large(size)
        return b"".join(chunks)

    async def _aside(self, function: Any, *arguments: Any) -> Any:
        """Call a function off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _unless_gone(self, request: Request, answer: Any) -> Any:
        """What `answer` gives; it is cancelled when the client goes away.

        Raises:
            ClientDisconnect: it did.
        """
        work = asyncio.ensure_future(answer)
        watch = asyncio.ensure_future(request.receive())  # after the body, it tells of the end
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            work.cancel()
            watch.cancel()

    async def _answer(self, upload: uploads.Upload, request_id: str) -> list[dict[str, Any]]:
        if len(upload.files) == 1:
            return [await self._one(upload, 0, request_id)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._one_of_many(upload, number, request_id))
                for number in range(len(upload.files))
            ]
        results = [task.result() for task in tasks]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def _one_of_many(self, upload: uploads.Upload, number: int, request_id: str) -> Any:
        try:
            return await self._one(upload, number, request_id)
        except (WorkerDied, WorkerFailed) as problem:
            return problem

    async def _one(self, upload: uploads.Upload, number: int, request_id: str) -> dict[str, Any]:
        """The entry of a picture."""
        file, start = upload.files[number], time.monotonic()
        try:
            picture = await self._aside(
                uploads.picture_of, file, self._size, self._crop, self.limits
            )
        except BadImage as problem:
            self._metrics.pictures.labels("unreadable").inc()
            return self.entries.failed(file.name, str(problem))
        job = Job(picture.pixels, upload.explain, asyncio.get_running_loop().create_future())
        self._dispatcher.put(job)
        reply = await job.reply
        seconds = {
            "decode": job.put_at - start,
            "queue": job.sent_at - job.put_at,
            "forward": reply.seconds,
        }
        for stage, took in seconds.items():
            self._metrics.stage.labels(stage).observe(took)
        self._metrics.pictures.labels("success").inc()
        make = self.entries.answered
        if reply.heat is None:
            entry = make(file.name, reply, upload.topk, picture.pixels)
        else:
            entry = await self._aside(make, file.name, reply, upload.topk, picture.pixels)
        self._metrics.breeds.labels(entry["breed"]).inc()
        self._metrics.confidence.observe(entry["probability"])
        if entry["is_dog"] is False:
            self._metrics.rejected.inc()
        if self._log is not None and reply.embedding is not None:
            data = file.data if self._log.wants_picture() else None
            self._log.put(
                Prediction(
                    time.time(),
                    request_id,
                    number,
                    entry,
                    reply.reject_score,
                    reply.embedding,
                    picture.pixels,
                    picture.size,
                    len(file.data),
                    data if isinstance(data, bytes) else None,
                    seconds,
                )
            )
        return dict(entry)
