"""Heat laid over a picture: where it speaks for its breed. Needs no torch."""

import io

import numpy as np
from PIL import Image

from dogbreed import storage

_STRONGEST = 0.75  # how much of the colour covers the hottest place
# Nine colours of matplotlib's inferno, which a server does without.
_INFERNO = np.array(
    [
        *((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85)),
        *((227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ]
)
_PLACES = np.linspace(0, 1, len(_INFERNO))


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture in grey, under colours that glow where the heat is.

    The heat is spread between its median and its greatest value, so pictures can't be compared with
    one another, and what is below the median does not glow; colours go from dark violet to yellow,
    and grow lighter all the way, so that they can be read without telling red from green.

    Args:
        picture: uint8, (H, W, 3), as the network saw it.
        heat: float, (h, w), of `Answers` or `grad_cam`.

    Returns:
        uint8, (H, W, 3).
    """
    height, width, _ = picture.shape
    spread = (heat.astype(np.float32) - np.median(heat)).clip(0)
    small = Image.fromarray(spread / max(float(spread.max()), 1e-12))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    colours = np.stack([np.interp(smooth, _PLACES, level) for level in _INFERNO.T], axis=-1)
    share = _STRONGEST * smooth[..., None]
    return np.asarray((1 - share) * grey[..., None] + share * colours + 0.5, np.uint8)


def save(folder: str, name: str, picture: np.ndarray) -> None:
    """Write a picture, uint8, (H, W, 3), as a JPEG into `folder`, a path or a URL.

    Args:
        folder: where.
        name: the original's path or URL; its folders are kept below `folder`, whatever they are.
        picture: what to write.
    """
    parts = [part for part in name.replace(":", "/").split("/") if part not in {"", ".", ".."}]
    if not name.lower().endswith((".jpg", ".jpeg")):
        parts[-1] += ".jpg"
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    storage.write(storage.join(folder, *parts), file.getvalue())
