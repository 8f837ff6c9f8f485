"""Predictions as a server would hand them over."""

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.monitor.rows import Prediction, unit16
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
