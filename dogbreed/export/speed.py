"""How fast engines are beside one another: in turns, so that a busy machine is unfair to none."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dogbreed.engine import Engine

BATCHES = (1, 8, 32)
ROUNDS = 7
PICTURES = 32  # that each engine answers in a round


def measure(
    engines: dict[str, Engine], pictures: np.ndarray, rounds: int = ROUNDS
) -> dict[str, dict[str, Any]]:
    """Images a second at each batch size, and the median of a batch of one in milliseconds.

    Args:
        engines: by name.
        pictures: uint8, (n, S, S, 3), n at least 1.
        rounds: in which each engine has a turn at each batch size; medians are given.

    Returns:
        Name -> `images_per_s` (batch size -> rate) and `p50_ms`.
    """
    pictures = np.resize(pictures, (max(BATCHES), *pictures.shape[1:]))
    turns = [(name, size) for size in BATCHES for name in engines]
    rates: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    singles: dict[str, list[float]] = {name: [] for name in engines}
    for name, size in turns:
        engines[name].answer(pictures[:size])  # compiles, and allocates memory
    for _ in range(rounds):
        for name, size in turns:
            batch, repeats = pictures[:size], max(1, PICTURES // size)
            times = [_seconds(lambda: engines[name].answer(batch)) for _ in range(repeats)]  # noqa: B023
            rates[name, size].append(size * repeats / sum(times))
            if size == 1:
                singles[name] += times
    return {
        name: {
            "images_per_s": {str(b): round(float(np.median(rates[name, b])), 1) for b in BATCHES},
            "p50_ms": round(1000 * float(np.median(singles[name])), 2),
        }
        for name in engines
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
