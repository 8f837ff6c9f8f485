"""From the bytes of a photograph to uint8 pixels. Needs Pillow and numpy, no torch.

Training and serving go through the same `picture`, so that they cannot disagree about EXIF
orientation, colour modes or resampling.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# "JPEG" also opens MPO, a JPEG with further pictures behind it, which many phones write.
FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_000_000  # just below where Pillow itself suspects a decompression bomb
MIN_SIDE = 16
CUT_QUALITY = 95  # of a JPEG made from a part of a picture
_JPEG_SIDE = 65_500  # the longest that libjpeg writes

# Pillow's own advice: a suspected bomb is an error, not a line in the log.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# What Pillow lets pass when a file is damaged.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)

# EXIF's orientations; not ImageOps.exif_transpose, which writes the EXIF block anew and fails on
# those that are damaged elsewhere.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright picture."""


class BadImage(ValueError):
    """A file that is no picture, is broken, or is outside the limits; the message says which."""


def too_large(size: int) -> BadImage:
    """What is wrong with a file of that many bytes; it need not be fetched to say so."""
    return BadImage(f"file of {size:,} bytes, at most {MAX_BYTES:,} are read")


def open_image(data: bytes) -> Image.Image:
    """Open without decoding the pixels.

    Raises:
        BadImage: no known format, or over `MAX_BYTES` or `MAX_PIXELS`, or a side below `MIN_SIDE`.
    """
    if len(data) > MAX_BYTES:
        raise too_large(len(data))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage("not a JPEG, PNG or WebP picture") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(f"broken header: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width}x{image.height}: more than {MAX_PIXELS:,} pixels")
    if min(image.size) < MIN_SIDE:
        raise BadImage(f"{image.width}x{image.height}: a side is below {MIN_SIDE} pixels")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels once the EXIF orientation is applied."""
    sideways = _orientation(image) in range(5, 9)
    return (image.height, image.width) if sideways else (image.width, image.height)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN as error:  # of a PNG, Pillow decodes the pixels to look behind them
        raise BadImage(f"broken picture: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Decode, turn upright, and bring any colour mode to RGB; transparency lies on white."""
    try:
        turn = _TURNS.get(_orientation(image))  # type: ignore[call-overload]
        image = image if turn is None else image.transpose(turn)
        if image.mode.startswith("I"):  # 16-bit grey: convert() would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.paste(layer, mask=layer.getchannel("A"))
        return image.convert("RGB")
    except _BROKEN as error:
        raise BadImage(f"broken picture: {error}") from None


def is_picture_name(name: str) -> bool:
    """Whether a file's name ends like that of a picture."""
    return "." + name.rsplit(".", 1)[-1].lower() in SUFFIXES


def decode(data: bytes) -> Image.Image:
    """All pixels, upright, in RGB.

    Raises:
        BadImage: as `open_image`, or the pixels cannot be decoded.
    """
    return _rgb(open_image(data))


def check(data: bytes) -> tuple[int, int]:
    """Decode every pixel once; the upright (width, height) in pixels. Raises BadImage."""
    return decode(data).size


def cut(data: bytes, box: tuple[int, int, int, int]) -> bytes:
    """A part of a picture as a JPEG of its own.

    Args:
        data: the file's bytes.
        box: left, top, right, bottom in the pixels as they are stored, before any EXIF turn, as
            annotation tools see them; what lies outside of the picture is left out.

    Raises:
        BadImage: the picture cannot be decoded, less than `MIN_SIDE` of it lies in the box, or
            more than a JPEG can hold.
    """
    image = open_image(data)
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[2], image.width), min(box[3], image.height)
    sides = right - left, bottom - top
    if min(sides) < MIN_SIDE or max(sides) > _JPEG_SIDE:
        limits = f"a side is below {MIN_SIDE} or above {_JPEG_SIDE:,}"
        raise BadImage(f"box {box} of {image.width}x{image.height}: {limits}")
    try:
        part = image.crop((left, top, right, bottom))
    except _BROKEN as error:
        raise BadImage(f"broken picture: {error}") from None
    file = io.BytesIO()
    _rgb(part).save(file, "JPEG", quality=CUT_QUALITY)
    return file.getvalue()


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A square RGB picture of `side` pixels, cut from the centre. Raises BadImage."""
    return Image.fromarray(picture(data, side, centre_box))


def centre_box(width: int, height: int, crop: float = 1.0) -> Box:
    """The centred square whose side is `crop` times the shorter side.

    Resizing this box to S equals timm's evaluation: resize the shorter side to S / crop, then
    take the S x S in the middle.
    """
    side = min(width, height) * crop
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def picture(data: bytes, size: int, box_of: Callable[[int, int], Box]) -> np.ndarray:
    """Decode, cut a box and resize it (bicubic, antialiased).

    Args:
        data: the file's bytes.
        size: side of the result in pixels.
        box_of: gives the box to cut, from the upright width and height.

    Returns:
        uint8, (size, size, 3), RGB.

    Raises:
        BadImage: the picture cannot be used; the message says why.
    """
    image = open_image(data)
    width, height = upright_size(image)
    box = box_of(width, height)
    # libjpeg decodes at 1/2, 1/4 or 1/8 for far less work; never below the pixels asked for.
    shrink = min(box[2] - box[0], box[3] - box[1]) / size
    if shrink >= 2:
        image.draft("RGB", (int(image.width / shrink), int(image.height / shrink)))
    image = _rgb(image)
    x, y = image.width / width, image.height / height
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=scaled))
