"""Predictions as a server would hand them over."""

import base64
import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.monitor import rows
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.rows import Prediction, unit16
from dogbreed.monitor.statistics import FEATURES
from tests.conftest import picture_file, smooth_picture

NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC).timestamp()
MODEL = "exp1@12345678"
BREEDS = ["pug", "whippet", "basset", "border_terrier"]
DIM = 16


def prediction(seed: int = 0, time: float = NOON, *, keep: bool = False) -> Prediction:
    """Make one that follows from `seed`."""
    rng = np.random.default_rng(seed)
    probability = float(rng.uniform(0.3, 1))
    order = rng.permutation(BREEDS).tolist()
    shares = [probability, *[(1 - probability) / 3] * 3]
    return Prediction(
        time=time,
        request_id=f"request-{seed}",
        number=0,
        entry={
            "filename": "secret.jpg",
            "breed": order[0],
            "probability": probability,
            "top5": [{"breed": b, "probability": p} for b, p in zip(order, shares, strict=True)],
            "is_dog": bool(rng.random() > 0.05),
            "model": MODEL,
        },
        reject_score=float(rng.normal()),
        embedding=unit16(rng.normal(size=DIM)),
        pixels=np.asarray(smooth_picture(32, 32, seed)),
        size=(400, 300),
        nbytes=20_000,
        data=picture_file(800, 600, seed) if keep else None,
        seconds={"decode": 0.002, "queue": 0.0, "forward": 0.01},
    )


def rows_below(folder: Path) -> list[dict[str, Any]]:
    """All rows of a log on this disk; each of its files must be whole."""
    return [
        json.loads(line)
        for path in sorted(folder.rglob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]


def reference(n: int = 400, seed: int = 0, classes: int = 4) -> Reference:
    """Statistics of made-up validation pictures."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(4, 2, n).astype(np.float32)
    vectors = rng.normal(size=(n, DIM)) + 1
    score = rng.normal(size=n).astype(np.float32)
    return Reference(
        rng.lognormal(size=(n, len(FEATURES))).astype(np.float32),
        probability,
        score,
        rng.integers(0, classes, n),
        rng.random(n) < probability,
        score > 1.6,
        unit16(vectors),
    )


def logged(like: Reference, names: list[str], n: int, seed: int, **changes: Any) -> list[Any]:
    """Rows drawn from a reference; `changes` are functions of a row, or fields to set."""
    rng, made = np.random.default_rng(seed), []
    for k in rng.integers(0, len(like.right), n):
        row = {
            "schema": 1,
            "time": datetime.datetime.fromtimestamp(
                NOON + 60 * len(made), datetime.UTC
            ).isoformat(),
            "request_id": f"r{len(made)}",
            "breed": names[like.predicted[k]],
            "probability": float(like.probability[k]),
            "reject_score": float(like.reject_score[k]),
            "is_dog": not like.rejected[k],
            "picture": dict(zip(FEATURES, like.statistics[k].tolist(), strict=True)),
            "embedding": base64.b64encode(like.embedding[k].tobytes()).decode(),
        }
        for name, change in changes.items():
            row[name] = change(row) if callable(change) else change
        made.append(row)
    return made


def write_log(folder: Path, model: str, made: list[Any], name: str = "one") -> Path:
    """Write rows as a server does, all into the folder of `NOON`'s day."""
    path = folder / rows.folder(rows.day_of(NOON), model) / f"{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in made)))
    return path
