"""Pictures made worse on purpose, in five severities, to see what a model bears.

The set is after Hendrycks & Dietterich 2019 (ImageNet-C), with what phones and uploads do to
photographs of dogs. A number says how strong each is; what is drawn at random follows from the
picture, so that everybody gets the same.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Corruption = Callable[[np.ndarray, float], np.ndarray]


def blur(picture: np.ndarray, pixels: float) -> np.ndarray:
    """Gaussian blur with a standard deviation in pixels of the network's input."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(pixels)))


def noise(picture: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian noise, each colour and pixel by itself; the deviation is a share of full scale."""
    rng = np.random.default_rng(zlib.crc32(picture.tobytes()))
    return _clipped(picture + rng.normal(0, 255 * deviation, picture.shape))


def darkness(picture: np.ndarray, factor: float) -> np.ndarray:
    """All values times a factor below 1."""
    return _clipped(picture * factor)


def contrast(picture: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the picture's mean times a factor below 1."""
    mean = picture.mean()
    return _clipped((picture - mean) * factor + mean)


def colour_cast(picture: np.ndarray, strength: float) -> np.ndarray:
    """As under a lamp: red times 1 + strength, blue times 1 - strength."""
    return _clipped(picture * np.array([1 + strength, 1.0, 1 - strength]))


def jpeg(picture: np.ndarray, quality: float) -> np.ndarray:
    """Written as a JPEG of that quality, and read again."""
    with Image.open(io.BytesIO(as_jpeg(picture, quality))) as image:
        return np.asarray(image.convert("RGB"))


def as_jpeg(picture: np.ndarray, quality: float) -> bytes:
    """The picture as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=round(quality))
    return file.getvalue()


def rotation(picture: np.ndarray, degrees: float) -> np.ndarray:
    """Turned about its centre, to the left; beyond its border lies its mirror image."""
    side = len(picture)
    border = side // 2
    wide = np.pad(picture, ((border, border), (border, border), (0, 0)), mode="symmetric")
    turned = Image.fromarray(wide).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned)[border : border + side, border : border + side]


def pixelate(picture: np.ndarray, factor: float) -> np.ndarray:
    """Made smaller by a factor, and larger again without smoothing."""
    side = len(picture)
    small = Image.fromarray(picture).resize((round(side / factor),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.NEAREST))


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "blur": (blur, (0.5, 1, 2, 3, 4)),
    "noise": (noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "darkness": (darkness, (0.8, 0.6, 0.4, 0.25, 0.15)),
    "contrast": (contrast, (0.75, 0.5, 0.35, 0.2, 0.1)),
    "colour_cast": (colour_cast, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "jpeg": (jpeg, (60, 30, 18, 10, 6)),
    "rotation": (rotation, (5, 15, 30, 60, 90)),
    "pixelate": (pixelate, (1.5, 2, 3, 4, 6)),
}
"""Name -> what it does to uint8, (S, S, 3), RGB, and its five severities."""

UNITS = {
    "blur": "deviation in pixels",
    "noise": "deviation as a share of full scale",
    "darkness": "factor",
    "contrast": "factor",
    "colour_cast": "strength",
    "jpeg": "quality",
    "rotation": "degrees",
    "pixelate": "factor",
}


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
