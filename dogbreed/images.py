"""From the bytes of a photograph to uint8 pixels. Needs Pillow, simplejpeg and numpy, no torch.

Training and serving go through the same `picture`, so that they cannot disagree about EXIF
orientation, colour modes or resampling.
"""

import io
import math
import struct
import sys
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

# "JPEG" also opens MPO, a JPEG with further pictures behind it, which many phones write.
FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_000_000  # just below where Pillow itself suspects a decompression bomb
MIN_SIDE = 16
PIXELS_VERSION = 1  # to be raised when `picture` gives others: what was computed is void
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

BoxOf = Callable[[int, int], Box]
"""Gives the box to cut from the upright width and height."""


class BadImage(ValueError):
    """A file that is no picture, is broken, or is outside the limits; the message says which."""


def too_large(size: int) -> BadImage:
    """What is wrong with a file of that many bytes; it need not be fetched to say so."""
    return BadImage(f"file of {size:,} bytes, at most {MAX_BYTES:,} are read")


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open without decoding the pixels.

    Args:
        data: the file's bytes.
        max_pixels: where `MAX_PIXELS` is too many.

    Raises:
        BadImage: no known format, over `MAX_BYTES` or `max_pixels`, or a side below `MIN_SIDE`.
    """
    max_pixels = min(max_pixels, MAX_PIXELS)
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
    if image.width * image.height > max_pixels:
        raise BadImage(f"{image.width}x{image.height}: more than {max_pixels:,} pixels")
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


def picture(
    data: bytes,
    size: int,
    box_of: BoxOf,
    max_pixels: int = MAX_PIXELS,
    *,
    flip: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode, cut a box and resize it (bicubic, antialiased).

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the box still has `size` pixels then.
    The box is rounded to whole pixels of what is decoded, and none outside of it are looked at.

    Args:
        data: the file's bytes.
        size: side of the result in pixels.
        box_of: gives the box to cut, from the upright width and height.
        max_pixels: of the file; see `open_image`.
        flip: give the mirror image of what lies in the box.
        out: uint8, (size, size, 3), where the result goes; none: to memory of its own.

    Returns:
        uint8, (size, size, 3), RGB; `out`, if there is one.

    Raises:
        BadImage: the picture cannot be used; the message says why.
    """
    image = open_image(data, max_pixels)
    width, height = upright_size(image)
    left, top, right, bottom = box_of(width, height)
    pixels = _pixels(data, image, min(right - left, bottom - top) / size)
    high, wide = pixels.shape[:2]
    rows = _whole(top, bottom, high / height, high)
    columns = _whole(left, right, wide / width, wide)
    return _resized(pixels[rows, columns], size, flip=flip, out=out)


def jpeg_box(data: bytes, box_of: BoxOf) -> tuple[int, int, int, int] | None:
    """The box of a JPEG in whole pixels, or None for what not every decoder takes.

    Raises:
        BadImage: as `open_image`.
    """
    image = open_image(data)
    if not _plain_jpeg(image):
        return None
    width, height = upright_size(image)
    left, top, right, bottom = box_of(width, height)
    rows, columns = _whole(top, bottom, 1.0, height), _whole(left, right, 1.0, width)
    return columns.start, rows.start, columns.stop, rows.stop


def _plain_jpeg(image: Image.Image) -> bool:
    return image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"}


def _pixels(data: bytes, image: Image.Image, shrink: float) -> np.ndarray:
    """Upright RGB: uint8, (H, W, 3).

    libjpeg decodes at 1/2, 1/4 or 1/8 for far less work; done as far as `shrink` allows.
    """
    part = next((part for part in (8, 4, 2) if part <= shrink), 1)
    width, height = -(-image.width // part), -(-image.height // part)
    if _plain_jpeg(image):
        try:
            # Where Pillow and libjpeg disagree about the size, the limits were not checked.
            if simplejpeg.decode_jpeg_header(data)[:2] == (image.height, image.width):
                pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
                turn = _TURNS.get(_orientation(image))  # type: ignore[call-overload]
                return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))
        except ValueError:
            pass  # damaged; whether too much so is for Pillow to say, as in `decode`
    if part > 1:
        image.draft(None, (image.width // part, image.height // part))
    return np.array(_rgb(image))


def _whole(start: float, stop: float, scale: float, length: int) -> slice:
    """The whole pixels, one at least, of `length` that are nearest to a box's side."""
    # Halves go outwards on both sides, which leaves a centred box in the centre.
    first = min(math.ceil(start * scale - 0.5), length - 1)
    return slice(first, min(max(math.floor(stop * scale + 0.5), first + 1), length))


def _resized(
    pixels: np.ndarray, size: int, *, flip: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """To (size, size, 3), bicubic and antialiased, uint8; see `picture` for `flip` and `out`."""
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    # torch's kernel takes a fifth of Pillow's time for the same pixels, give or take a rounding;
    # but a process that does without torch is not made to load half a gigabyte for it.
    if "torch" in sys.modules:
        import torch

        batch, to = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (pixels, out))
        # The kernel copies pixels that don't lie side by side: turned round on the way, a flip
        # is all but free.
        batch = batch.flip(3) if flip else batch
        # What `interpolate` calls, which cannot write to memory that it is given.
        resize = torch.ops.aten._upsample_bicubic2d_aa.out
        resize(batch, (size, size), False, None, None, out=to)
        return out
    # Rows before columns, as torch does: both clip to 0..255 in between. Pillow alone would
    # take the order that is less work.
    image = Image.fromarray(pixels[:, ::-1] if flip else pixels)
    lines = image.resize((size, len(pixels)), Image.Resampling.BICUBIC)
    out[:] = lines.resize((size, size), Image.Resampling.BICUBIC)
    return out
