"""What a model bears: its top-1 on pictures that were made worse on purpose."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from dogbreed import images, package
from dogbreed.engine import Engine
from dogbreed.evaluate.corruptions import CORRUPTIONS, UNITS
from dogbreed.ranges import Range, read_pictures

FILE = "corruptions.json"
PICTURES = 1000  # of each, 41 answers: seven minutes at a hundred a second
_BATCH = 64


def robustness(
    source: package.Package,
    engine: Engine,
    places: Sequence[Range],
    labels: np.ndarray,
    pictures: int = PICTURES,
    seed: int = 0,
) -> dict[str, Any]:
    """Top-1 per corruption and severity.

    Args:
        source: the package that answers.
        engine: of it.
        places: of the pictures.
        labels: int64, (n,), in the order of the package's classes.
        pictures: how many of them, at most, drawn at random.
        seed: of the draw.

    Returns:
        `n`, `clean` (top-1 of the same pictures as they are), and for each of `corruptions` its
        `unit`, `strength` and `top1`, five of each.

    Raises:
        BadImage: one of the pictures cannot be read.
        StorageError: likewise.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(places))[:pictures])
    right: dict[tuple[str, int], int] = {}
    seen = source.model["preprocessing"]
    box = functools.partial(images.centre_box, crop=seen["crop"])

    def look(data: Any) -> np.ndarray:
        if not isinstance(data, bytes):
            raise data
        return images.picture(data, seen["size"], box)

    def count(key: tuple[str, int], pictures: Sequence[np.ndarray], truth: np.ndarray) -> None:
        answers = engine.answer(np.stack(pictures)).probabilities.argmax(1)
        right[key] = right.get(key, 0) + int((answers == truth).sum())

    cells = [(name, k) for name in CORRUPTIONS for k in range(5)]
    total = len(rows) * (len(cells) + 1)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=total, unit=" pictures", desc="corruptions", disable=None) as bar,
    ):
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            plain = list(pool.map(look, read_pictures([places[k] for k in part])))
            count(("", 0), plain, labels[part])
            bar.update(len(part))
            for name, k in cells:
                change, strengths = CORRUPTIONS[name]
                worse = list(pool.map(change, plain, [strengths[k]] * len(plain)))
                count((name, k), worse, labels[part])
                bar.update(len(part))
    n = len(rows)
    return {
        "n": n,
        "clean": right["", 0] / n,
        "corruptions": {
            name: {
                "unit": UNITS[name],
                "strength": list(strengths),
                "top1": [right[name, k] / n for k in range(5)],
            }
            for name, (_, strengths) in CORRUPTIONS.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [f"{'top-1':<12}{'severity 1':>12}{2:>8}{3:>8}{4:>8}{5:>8}"]
    for name, of in found["corruptions"].items():
        cells = "".join(f"{value:>8.3f}" for value in of["top1"][1:])
        lines.append(f"{name.replace('_', ' '):<12}{of['top1'][0]:>12.3f}{cells}")
    mean = np.mean([of["top1"] for of in found["corruptions"].values()])
    spread = 1.96 * (0.25 / found["n"]) ** 0.5
    lines.append(
        f"as they are {found['clean']:.3f}, mean of the above {mean:.3f}; n = {found['n']:,}, each"
        f" within {spread:.3f} at 95 %"
    )
    return "\n".join(lines)
