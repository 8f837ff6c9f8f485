"""How fast do photographs become squares, and how far are they from Pillow's?

    taskset -c 3 env OMP_NUM_THREADS=1 nox -s bench -- decode --photos DIR...

Prints tables in markdown; under two minutes. `pillow` decodes and resizes with Pillow alone, as
`images.picture` did before; the others replace one part each. The photographs of the first folder
come also enlarged to 12 megapixels. Times are CPU seconds, so that busy cores matter less.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dogbreed import images
from dogbreed.data.transforms import Augment, Draws, random_box

SIZE = 224
AUGMENT = Augment()
BoxOf = Callable[[int, int], images.Box]
Way = Callable[[bytes, BoxOf], np.ndarray]


def pillow(data: bytes, box_of: BoxOf) -> np.ndarray:
    """Decode, at 1/2, 1/4 or 1/8 where that is enough, and resize the box, fractions and all."""
    image = images.open_image(data)
    width, height = images.upright_size(image)
    box = box_of(width, height)
    shrink = min(box[2] - box[0], box[3] - box[1]) / SIZE
    if shrink >= 2:
        image.draft("RGB", (int(image.width / shrink), int(image.height / shrink)))
    image = images._rgb(image)
    x, y = image.width / width, image.height / height
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=scaled))


def part_by_pillow(data: bytes, box_of: BoxOf) -> np.ndarray:
    """The box in whole pixels, decoded by Pillow."""
    image = images.open_image(data)
    left, top, right, bottom = box_of(*images.upright_size(image))
    part = next((n for n in (8, 4, 2) if n <= min(right - left, bottom - top) / SIZE), 1)
    if part > 1:
        image.draft(None, (image.width // part, image.height // part))
    width, height = images.upright_size(images.open_image(data))
    image = images._rgb(image)
    columns = images._whole(left, right, image.width / width, image.width)
    rows = images._whole(top, bottom, image.height / height, image.height)
    return np.array(image.crop((columns.start, rows.start, columns.stop, rows.stop)))


def pillow_torch(data: bytes, box_of: BoxOf) -> np.ndarray:
    return images._resized(part_by_pillow(data, box_of), SIZE)


def simplejpeg_pillow(data: bytes, box_of: BoxOf) -> np.ndarray:
    there = sys.modules.pop("torch")
    try:
        return images.picture(data, SIZE, box_of)
    finally:
        sys.modules["torch"] = there


def whole_pixels(data: bytes, box_of: BoxOf) -> np.ndarray:
    """Pillow alone, on a box of whole pixels."""
    resized = Image.fromarray(part_by_pillow(data, box_of)).resize((SIZE, SIZE), 3)
    return np.asarray(resized)


WAYS: dict[str, Way] = {
    "pillow": pillow,
    "simplejpeg, Pillow's resize": simplejpeg_pillow,
    "Pillow, torch's resize": pillow_torch,
    "`images.picture`": lambda data, box_of: images.picture(data, SIZE, box_of),
}


def centre(width: int, height: int) -> images.Box:
    return images.centre_box(width, height, 0.875)


def random_of(data: bytes) -> BoxOf:
    return lambda width, height: random_box(Draws(0, 0, str(len(data))), width, height, AUGMENT)


def large(data: bytes) -> bytes:
    image = images.decode(data)
    by = 4032 / max(image.size)
    file = io.BytesIO()
    size = (round(image.width * by), round(image.height * by))
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def rates(pictures: list[bytes], training: bool, rounds: int) -> dict[str, float]:
    """Pictures per CPU second of each way, the ways in turns."""
    boxes = [random_of(data) if training else centre for data in pictures]
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            start = time.process_time()
            for data, box_of in zip(pictures, boxes, strict=True):
                way(data, box_of)
            times[name].append(time.process_time() - start)
    return {name: len(pictures) / statistics.median(times[name]) for name in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", required=True, nargs="+", help="folders of photographs")
    parser.add_argument("--number", type=int, default=200, help="photographs from each folder")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets: dict[str, list[bytes]] = {}
    for folder in map(Path, args.photos):
        found = sorted(path for path in folder.rglob("*") if images.is_picture_name(path.name))
        step = max(1, len(found) // args.number)
        sets[folder.name] = [path.read_bytes() for path in found[::step][: args.number]]
    sets["12 megapixels"] = [large(data) for data in next(iter(sets.values()))[::40]]
    kinds = [(name, training) for name in sets for training in (False, True)]
    heads = [f"{name}, {'random box' if training else 'centre'}" for name, training in kinds]
    print("| images per CPU second | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    columns = [rates(sets[name], training, args.rounds) for name, training in kinds]
    for way in WAYS:
        print(f"| {way} | " + " | ".join(f"{column[way]:,.0f}" for column in columns) + " |")
    print("\n| `images.picture` against | photographs | mean | 99.9 % within | most |")
    print("|---|---|---|---|---|")
    for against, way in {"the whole pixels by Pillow": whole_pixels, "pillow": pillow}.items():
        for (name, training), head in zip(kinds, heads, strict=True):
            off = []
            for data in sets[name]:
                box_of = random_of(data) if training else centre
                got = images.picture(data, SIZE, box_of).astype(int)
                off.append(np.abs(got - way(data, box_of)).astype(np.uint8))
            levels = np.stack(off)
            print(
                f"| {against} | {head} | {levels.mean():.2f} |"
                f" {np.quantile(levels, 0.999):.0f} | {levels.max()} |"
            )


if __name__ == "__main__":
    main()
