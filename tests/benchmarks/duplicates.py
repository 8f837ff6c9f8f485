"""Which altered copies of a photograph are found, and which photographs are taken for copies?

    nox -s bench -- duplicates --photos DIR [--each 10] [--sheet FILE]

Prints tables in markdown; under two minutes on one core for 13,000 pictures. `--photos` holds
photographs in folders of any depth. `--sheet` writes a picture of the pairs found, for only a
person can tell which of them are copies.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dogbreed import images
from dogbreed.data import sample
from dogbreed.data.duplicates import (
    HASH_BYTES,
    MAX_DISTANCE,
    groups_of,
    near_pairs,
    perceptual_hash,
)

THUMB = 120
ACROSS = 5  # pairs in a line of the sheet


def encoded(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image: Image.Image, by: float) -> Image.Image:
    size = (max(1, round(image.width * by)), max(1, round(image.height * by)))
    return encoded(image.resize(size, Image.Resampling.BICUBIC))


def toned(image: Image.Image, *tones: Callable[[float], float]) -> Image.Image:
    """Each channel through its own curve from 0..1 to 0..1, or all through the same."""
    curves = tones if len(tones) == 3 else tones * 3
    return image.point(
        [min(255, max(0, round(255 * f(v / 255)))) for f in curves for v in range(256)]
    )


def without_edges(image: Image.Image, part: float) -> Image.Image:
    """Cut a part of the width off the left and off the right, and likewise of the height."""
    x, y = round(image.width * part), round(image.height * part)
    return encoded(image.crop((x, y, image.width - x, image.height - y)))


def captioned(image: Image.Image) -> Image.Image:
    image = image.copy()
    font = ImageFont.load_default(max(10, image.height // 16))
    at = (image.width * 0.04, image.height * 0.9)
    ImageDraw.Draw(image).text(at, "my dog, 2019", "white", font)
    return image


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 95": lambda image: encoded(image, 95),
    "JPEG quality 75": lambda image: encoded(image, 75),
    "JPEG quality 50": lambda image: encoded(image, 50),
    "JPEG quality 30": lambda image: encoded(image, 30),
    "sides x 2": lambda image: scaled(image, 2),
    "sides x 0.5": lambda image: scaled(image, 0.5),
    "sides x 0.25": lambda image: scaled(image, 0.25),
    "brightness x 0.8": lambda image: toned(image, lambda v: v * 0.8),
    "brightness x 1.2": lambda image: toned(image, lambda v: v * 1.2),
    "contrast x 0.8": lambda image: toned(image, lambda v: 0.5 + (v - 0.5) * 0.8),
    "contrast x 1.2": lambda image: toned(image, lambda v: 0.5 + (v - 0.5) * 1.2),
    "gamma 0.8": lambda image: toned(image, lambda v: v**0.8),
    "gamma 1.2": lambda image: toned(image, lambda v: v**1.2),
    "red x 1.15, blue x 0.85": lambda image: toned(
        image, lambda v: v * 1.15, lambda v: v, lambda v: v * 0.85
    ),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "a caption": captioned,
    "1 % off each edge": lambda image: without_edges(image, 0.01),
    "2 % off each edge": lambda image: without_edges(image, 0.02),
    "5 % off each edge": lambda image: without_edges(image, 0.05),
}


def hashed(image: Image.Image) -> np.ndarray:
    """uint8, (HASH_BYTES,)."""
    return np.frombuffer(perceptual_hash(image), np.uint8)


def recall(paths: list[Path]) -> None:
    originals: list[np.ndarray] = []
    altered: dict[str, list[np.ndarray]] = {name: [] for name in ALTERATIONS}
    seconds = 0.0
    for path in paths:
        image = images.decode(path.read_bytes())
        begun = time.perf_counter()
        originals.append(hashed(image))
        seconds += time.perf_counter() - begun
        for name, alter in ALTERATIONS.items():
            altered[name].append(hashed(alter(image)))
    n = len(paths)
    names, new = pa.array([f"{k:09d}" for k in range(2 * n)]), pa.nulls(2 * n, pa.string())
    print(f"\n| altered copy (n = {n:,}) | in one group with the original |\n|---|---|")
    for name, copies in altered.items():
        groups = np.array(groups_of(names, np.stack(originals + copies), new))
        print(f"| {name} | {np.mean(groups[:n] == groups[n:]):.2%} |")
    print(f"\nhash of a decoded picture: {seconds / n * 1e3:.2f} ms", flush=True)


def alarms(what: str, hashes: np.ndarray) -> np.ndarray:
    begun = time.perf_counter()
    pairs = near_pairs(hashes)
    n, none = len(hashes), np.count_nonzero(~hashes.any(axis=1))
    print(
        f"| {what} | {n:,} | {n * (n - 1) // 2:,} | {none} | {len(pairs)} |"
        f" {time.perf_counter() - begun:.2f} |",
        flush=True,
    )
    return pairs


def draw(paths: list[Path], pairs: np.ndarray, file: str) -> None:
    width, height = 2 * THUMB + 12, THUMB + 20
    lines = -(-len(pairs) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * width, max(1, lines) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, pair in enumerate(pairs):
        line, column = divmod(number, ACROSS)
        for place, path in enumerate(paths[row] for row in pair):
            x, y = column * width + place * (THUMB + 2), line * height
            sheet.paste(images.decode(path.read_bytes()).resize((THUMB, THUMB)), (x, y + 14))
            pen.text((x, y), path.parent.name[:20], "black", font)
    sheet.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--each", type=int, default=10, help="alter every so manieth photograph")
    parser.add_argument("--sheet", help="where a picture of the pairs goes")
    options = parser.parse_args()
    paths = sorted(
        path for path in Path(options.photos).rglob("*") if images.is_picture_name(path.name)
    )
    if not paths:
        sys.exit(f"{options.photos}: no pictures here")
    print(f"at most {MAX_DISTANCE} of {8 * HASH_BYTES} signs differ in a pair")
    recall(paths[:: options.each])
    print("\n| pictures | n | pairs of them | with too little in them | found | s |")
    print("|---|---|---|---|---|---|")
    hashes = [hashed(images.decode(path.read_bytes())) for path in paths]
    pairs = alarms("photographs", np.stack(hashes))
    hashes = [hashed(images.decode(data)) for _, data in sample.pictures()]
    alarms("the sample", np.stack(hashes))
    rng = np.random.default_rng(0)
    for n in (120_000, 1_000_000):
        alarms("random bits", rng.integers(0, 256, (n, HASH_BYTES), np.uint8))
    if options.sheet:
        draw(paths, pairs, options.sheet)


if __name__ == "__main__":
    main()
