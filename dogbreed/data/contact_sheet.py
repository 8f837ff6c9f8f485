"""One picture of a data set: a few photographs of each breed, and how many there are."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dogbreed import breeds, images, storage
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.ranges import read_ranges

SIDE = 72  # pixels of a thumbnail
EACH = 6  # thumbnails a breed
LABEL = 18
BAR = 8
MARGIN = 12
_COLOURS = {"train": "#3b6ea5", "val": "#e0a030", "test": "#7a9f4b", "unlabelled": "#999999"}


def contact_sheet(data: Manifest) -> bytes:
    """A PNG: for each breed its name, up to `EACH` pictures and a bar of its counts by split.

    Raises:
        StorageError: a picture that the manifest lists cannot be fetched.
    """
    labels, split = data.column("label"), data.column("split")
    classes = data.classes
    columns = 1 if len(classes) <= 12 else 2 if len(classes) <= 40 else 3
    lines = -(-len(classes) // columns)
    width, height = EACH * SIDE + MARGIN, LABEL + SIDE + BAR + MARGIN
    title = 3 * LABEL
    sheet = Image.new("RGB", (columns * width + MARGIN, lines * height + title), "white")
    draw = ImageDraw.Draw(sheet)
    font, large = ImageFont.load_default(12), ImageFont.load_default(16)
    draw.text((MARGIN, 8), f"{data.name}: {len(data):,} pictures", "black", large)
    x = float(MARGIN)
    for name in data.dataset["counts"]:
        draw.rectangle((x, 34, x + 10, 44), _COLOURS[name])
        text = f"{name} {sum(data.dataset['counts'][name].values()):,}"
        draw.text((x + 14, 32), text, "black", font)
        x += 24 + draw.textlength(text, font)

    counts = np.zeros((len(classes), len(SPLITS)), np.int64)
    np.add.at(counts, (labels[labels >= 0], split[labels >= 0]), 1)
    most = counts.sum(1).max()
    for number, name in enumerate(classes):
        column, line = divmod(number, lines)
        left, top = MARGIN + column * width, title + line * height
        shown = np.flatnonzero(labels == number)
        shown = shown[np.linspace(0, len(shown) - 1, min(EACH, len(shown))).astype(int)]
        draw.text((left, top), f"{breeds.title(name)} ({counts[number].sum():,})", "black", font)
        fetched = read_ranges(data.ranges(data.take(shown)))
        for place, picture in enumerate(fetched):
            if isinstance(picture, storage.StorageError):
                raise picture
            thumb = images.thumbnail(picture, SIDE - 2)
            sheet.paste(thumb, (left + place * SIDE, top + LABEL))
        x = float(left)
        for code, of_split in enumerate(counts[number]):
            wide = (EACH * SIDE - 2) * of_split / most
            if of_split:
                box = (x, top + LABEL + SIDE, x + max(1.0, wide - 1), top + LABEL + SIDE + BAR - 3)
                draw.rectangle(box, _COLOURS[SPLITS[code]])
            x += wide
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()
