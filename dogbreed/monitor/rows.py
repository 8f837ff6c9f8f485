"""A row of the prediction log: what it holds, where it lies, and how older and newer ones are read.

LOG/day=2026-11-24/model=RUN@WEIGHTS/TIME-SERVER-NUMBER.jsonl.gz   rows, a line of JSON each
LOG/images/day=…/model=…/SERVER-NUMBER.jpg                         pictures, only if asked for

The folders are named as Hive names partitions, and no list holds lists, so that tables can be made
of them. A field may be added at any time: readers pass over what they don't know, and do without
what they don't find. `SCHEMA_VERSION` is raised when a field changes its meaning; rows of a later
version are counted, and not read.
"""

import base64
import binascii
import dataclasses
import datetime
import json
import math
import re
from typing import Any

import numpy as np

from dogbreed import __version__, storage
from dogbreed.monitor.statistics import FEATURES, statistics
from dogbreed.package import Package

SCHEMA_VERSION = 1
SUFFIX = ".jsonl.gz"
IMAGES = "images"
LONGEST_ROW = 2**20  # characters that are read of one


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """An answered picture, as the server hands it to the log.

    Args:
        time: when it was answered, in seconds since 1970.
        request_id: of the request.
        number: the picture's place in it, from 0.
        entry: what the client was told.
        reject_score: higher is less like the breeds.
        embedding: float16, (D,), of length 1.
        pixels: uint8, (S, S, 3), RGB: what the network saw.
        size: width and height of the file's picture, upright, in pixels.
        nbytes: size of the file.
        data: the file, if the picture is to be kept.
        seconds: that it spent in each stage.
    """

    time: float
    request_id: str
    number: int
    entry: dict[str, Any]
    reject_score: float
    embedding: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]
    nbytes: int
    data: bytes | None
    seconds: dict[str, float]

    @property
    def day(self) -> str:
        """Of its time, in UTC."""
        return day_of(self.time)

    @property
    def held(self) -> int:
        """Bytes of memory that it takes while it waits."""
        return self.pixels.nbytes + len(self.data or b"")

    def row(self, engine: str, image: str | None) -> dict[str, Any]:
        """What the log says of it; `image` is the place of its picture, if that is kept."""
        seen = statistics(self.pixels, *self.size, self.nbytes).tolist()
        moment = datetime.datetime.fromtimestamp(self.time, datetime.UTC)
        return {
            "schema": SCHEMA_VERSION,
            "time": moment.isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "number": self.number,
            "breed": self.entry["breed"],
            "probability": _short(self.entry["probability"]),
            "top5": [of | {"probability": _short(of["probability"])} for of in self.entry["top5"]],
            "reject_score": _short(self.reject_score),
            "is_dog": self.entry["is_dog"],
            "picture": {name: _short(x) for name, x in zip(FEATURES, seen, strict=True)},
            "embedding": base64.b64encode(self.embedding.astype("<f2").tobytes()).decode(),
            "ms": {stage: round(1000 * s, 2) for stage, s in self.seconds.items()},
            "model": self.entry["model"],
            "engine": engine,
            "dogbreed": __version__,
            "image": image,
        }


def _short(value: float) -> float:
    """With five digits; what a few bytes more would say is noise."""
    return float(f"{value:.5g}")


def day_of(time: float) -> str:
    """The day, in UTC, of a time in seconds since 1970: ``2026-11-24``."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d")


def model_of(source: Package) -> str:
    """The name of a model in answers and in the log: the run's, and which weights."""
    return f"{source.model['run']}@{source.model['weights_sha256'][:8]}"


def folder(day: str, model: str) -> str:
    """Where the rows of a day and a model lie in the log."""
    return f"day={day}/model={re.sub(r'[^A-Za-z0-9_.@-]+', '-', model)}"


class BadRow(ValueError):
    """A line that is no row."""


class NewerRow(ValueError):
    """A row whose schema is later than what is known here."""


def parse(line: bytes | str) -> dict[str, Any]:
    """A row; what it does not say is missing.

    Returns:
        `time` in seconds since 1970, `breed`, `probability`, and, where known, the rest as it
        stands in the row.

    Raises:
        BadRow: it is none.
        NewerRow: its schema is not known.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row["schema"], int):
            raise BadRow("no schema")
        if row["schema"] > SCHEMA_VERSION:
            raise NewerRow(str(row["schema"]))
        moment = datetime.datetime.fromisoformat(row["time"])
        row["time"] = moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
        if not (isinstance(row["breed"], str) and 0 <= row["probability"] <= 1):
            raise BadRow("breed or probability")
    except NewerRow:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRow(str(error)[:80]) from None
    return row


def number(value: Any) -> float:
    """A finite number, or nan for whatever else stands there."""
    try:
        known = type(value) in {int, float} and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
    return float(value) if known else math.nan


def embedding(row: dict[str, Any]) -> np.ndarray | None:
    """A row's embedding: float16, (D,); None if it has none."""
    try:
        data = base64.b64decode(row["embedding"], validate=True)
        vector = np.frombuffer(data, "<f2")
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    return vector if np.isfinite(vector).all() else None


def image_url(log: str, row: dict[str, Any]) -> str | None:
    """Where a row's picture lies; None if it was not kept, or its name leads out of the log."""
    name = row.get("image")
    if not isinstance(name, str) or not re.fullmatch(rf"{IMAGES}/[\w=@./-]+\.jpg", name):
        return None
    return None if ".." in name.split("/") else storage.join(log, name)


def unit16(embedding: np.ndarray) -> np.ndarray:
    """Embeddings, float, (n, D), divided by their lengths: float16."""
    long = embedding.astype(np.float32)
    lengths = np.linalg.norm(long, axis=-1, keepdims=True)
    return np.asarray(long / np.maximum(lengths, 1e-12), np.float16)
