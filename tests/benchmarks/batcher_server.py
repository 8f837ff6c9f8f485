"""A bound for servers: HTTP, decoding and engine in one process: `python -m … PORT PACKAGE ENGINE`.

No queue to another process, no limits, no metrics, no errors in place: what any of those cost shows
against it.
"""

import asyncio
import functools
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request

from dogbreed import images, package
from dogbreed.engine import open_engine
from dogbreed.memory import keep_freed_memory

app = FastAPI()
waiting: queue.SimpleQueue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = queue.SimpleQueue()
pool = ThreadPoolExecutor(4)
source = package.read(sys.argv[2])
keep_freed_memory()
engine = open_engine(source, sys.argv[3])
size, crop = source.model["preprocessing"]["size"], source.model["preprocessing"]["crop"]


def work() -> None:
    """Answer what is there, batch after batch."""
    while True:
        batch = [waiting.get()]
        while len(batch) < 16 and not waiting.empty():
            batch.append(waiting.get())
        rows = engine.answer(np.stack([picture for picture, _ in batch])).probabilities
        for row, (_, answer) in zip(rows, batch, strict=True):
            answer.get_loop().call_soon_threadsafe(answer.set_result, row)


@app.get("/ready")
def ready() -> str:
    """Whether it is there."""
    return "ready"


@app.post("/predict")
async def predict(request: Request) -> list[dict[str, Any]]:
    """Answer a form."""
    loop = asyncio.get_running_loop()
    entries = []
    async with request.form() as form:
        for file in form.getlist("imagefiles"):
            assert not isinstance(file, str)
            data = await file.read()
            box = functools.partial(images.centre_box, crop=crop)
            picture = await loop.run_in_executor(pool, images.picture, data, size, box)
            answer: asyncio.Future[np.ndarray] = loop.create_future()
            waiting.put((picture, answer))
            row = await answer
            best = int(row.argmax())
            entries.append({"breed": source.class_names[best], "probability": float(row[best])})
    return entries


if __name__ == "__main__":
    threading.Thread(target=work, daemon=True).start()
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
