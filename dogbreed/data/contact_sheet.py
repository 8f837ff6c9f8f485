"""One picture of a data set: how many photographs of each breed there are, and a few of each."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dogbreed import breeds, images
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.ranges import read_all

SIDE = 72  # pixels of a thumbnail
EACH = 6  # thumbnails a breed
LABEL = 18
BAR = 8
MARGIN = 12
LEGEND = 3 * LABEL
PLOT = 96  # pixels: the longest bar of the histogram
WIDEST = 32  # pixels of a bar with its gap
NARROWEST = 10  # likewise, if names are to stand below
NAME = 130  # pixels of the longest name there
UNEVEN = 1.5  # largest over smallest breed: from there on balancing is worth a thought
COLOURS = {"train": "#3b6ea5", "val": "#e0a030", "test": "#7a9f4b", "unlabelled": "#999999"}


def contact_sheet(data: Manifest) -> bytes:
    """A PNG: a histogram of pictures by breed and split, then the breeds by themselves.

    Of each breed its name, up to `EACH` pictures and a bar of its counts by split.

    Raises:
        StorageError: a picture that the manifest lists cannot be fetched.
    """
    labels, split = data.column("label"), data.column("split")
    classes = data.classes
    counts = np.zeros((len(classes), len(SPLITS)), np.int64)
    np.add.at(counts, (labels[labels >= 0], split[labels >= 0]), 1)
    columns = 1 if len(classes) <= 12 else 2 if len(classes) <= 40 else 3
    lines = -(-len(classes) // columns)
    width, height = EACH * SIDE + MARGIN, LABEL + SIDE + BAR + MARGIN
    bars = histogram(counts, classes, columns * width - MARGIN)
    title = LEGEND + bars.height + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, lines * height + title), "white")
    sheet.paste(bars, (MARGIN, LEGEND))
    draw = ImageDraw.Draw(sheet)
    font, large = ImageFont.load_default(12), ImageFont.load_default(16)
    draw.text((MARGIN, 8), f"{data.name}: {len(data):,} pictures", "black", large)
    x = float(MARGIN)
    for name in data.dataset["counts"]:
        draw.rectangle((x, 34, x + 10, 44), COLOURS[name])
        text = f"{name} {sum(data.dataset['counts'][name].values()):,}"
        draw.text((x + 14, 32), text, "black", font)
        x += 24 + draw.textlength(text, font)

    most = counts.sum(1).max(initial=1)
    for number, name in enumerate(classes):
        column, line = divmod(number, lines)
        left, top = MARGIN + column * width, title + line * height
        shown = np.flatnonzero(labels == number)
        shown = shown[np.linspace(0, len(shown) - 1, min(EACH, len(shown))).astype(int)]
        draw.text((left, top), f"{breeds.title(name)} ({counts[number].sum():,})", "black", font)
        fetched = read_all(data.ranges(data.take(shown)))
        for place, picture in enumerate(fetched):
            thumb = images.thumbnail(picture, SIDE - 2)
            sheet.paste(thumb, (left + place * SIDE, top + LABEL))
        x = float(left)
        for code, of_split in enumerate(counts[number]):
            wide = (EACH * SIDE - 2) * of_split / most
            if of_split:
                box = (x, top + LABEL + SIDE, x + max(1.0, wide - 1), top + LABEL + SIDE + BAR - 3)
                draw.rectangle(box, COLOURS[SPLITS[code]])
            x += wide
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


def spread(counts: np.ndarray) -> str:
    """How unequal the breeds are, in a line.

    Args:
        counts: pictures of each breed, int64, (k,), with k above 0.
    """
    least, most = counts.min(), counts.max()
    text = ("" if least == most else f"{least:,} to ") + f"{most:,} pictures a breed"
    if most <= UNEVEN * least:
        return text
    times = f", {most / least:.1f} times" if least else ""
    return f"{text}{times}; see --data.balance"


def histogram(counts: np.ndarray, classes: list[str], width: int) -> Image.Image:
    """A bar for each breed, stacked by split, the breed with the most pictures first.

    Args:
        counts: int64, (breeds, splits).
        classes: the breeds' names; they stand below the bars where there is room.
        width: of the image, in pixels.

    Returns:
        RGB; a line of white if there are no pictures.
    """
    totals = counts.sum(1)
    if not totals.any():
        return Image.new("RGB", (width, 1), "white")
    font, small = ImageFont.load_default(12), ImageFont.load_default(10)
    ticks = _ticks(int(totals.max()))
    left = int(small.getlength(f"{ticks[-1]:,}")) + 6
    step = min(WIDEST, (width - left) / len(counts))
    named = step >= NARROWEST
    names = [_upright(breeds.title(name), small) for name in classes] if named else []
    top = LABEL + MARGIN
    bottom = top + PLOT
    below = max((name.height for name in names), default=0) + 4
    image = Image.new("RGB", (width, bottom + below), "white")
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), spread(totals), "black", font)
    scale = PLOT / totals.max()
    right = left + step * len(counts)
    for tick in ticks:
        y = bottom - tick * scale
        draw.line((left, y, right, y), "#dddddd")
        draw.text((left - 4, y), f"{tick:,}", "#666666", small, anchor="rm")
    gap = 2 if step >= 6 else 1 if step >= 3 else 0
    for place, breed in enumerate(np.argsort(-totals, kind="stable")):
        begin, end = round(left + place * step), round(left + (place + 1) * step) - 1 - gap
        y = bottom
        for code, until in enumerate(np.cumsum(counts[breed])):
            upper = bottom - round(until * scale)
            if upper < y:
                draw.rectangle((begin, upper, max(begin, end), y - 1), COLOURS[SPLITS[code]])
            y = upper
        if named:
            middle = (begin + end - names[breed].width) // 2
            image.paste("black", (middle + 1, bottom + 4), names[breed])
    return image


def _ticks(most: int) -> list[int]:
    """Two to five round numbers from 0 up to at most `most`, which is at least 1."""
    step = next(s for e in range(19) for s in (10**e, 2 * 10**e, 5 * 10**e) if most < 5 * s)
    return list(range(0, most + 1, step))


def _upright(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """Text that reads from below to above, as a mask; its end is cut off if it is long."""
    while len(text) > 1 and font.getlength(text) > NAME:
        text = text.rstrip("…")[:-1].rstrip() + "…"
    box = font.getbbox(text)
    mask = Image.new("L", (math.ceil(box[2]) + 2, math.ceil(box[3]) + 1))
    ImageDraw.Draw(mask).text((1, 0), text, 255, font)
    return mask.transpose(Image.Transpose.ROTATE_90)
