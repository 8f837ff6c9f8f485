"""Decoding: every kind of photograph gives the same upright RGB pixels, anything else an error."""

import contextlib
import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from dogbreed import images
from dogbreed.images import BadImage, centre_box
from tests.conftest import picture_file, smooth_picture

ORIENTATION = 0x0112
# How the stored pixels come from the upright ones, for the EXIF orientations 1 to 8.
STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda upright: upright,
    2: lambda upright: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda upright: upright.transpose(Image.Transpose.ROTATE_180),
    4: lambda upright: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda upright: upright.transpose(Image.Transpose.TRANSPOSE),
    6: lambda upright: upright.transpose(Image.Transpose.ROTATE_90),
    7: lambda upright: upright.transpose(Image.Transpose.TRANSVERSE),
    8: lambda upright: upright.transpose(Image.Transpose.ROTATE_270),
}
Pixels = NDArray[np.uint8]
ROUNDING = 0.1  # grey levels by which Pillow's resampling and torch's differ, in the mean


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def whole(width: int, height: int) -> images.Box:
    return 0, 0, width, height


def native(data: bytes, side: int) -> Pixels:
    """The pixels of a square picture, neither cut nor resized."""
    return images.picture(data, side, whole)


def difference(a: object, b: object) -> float:
    """Mean over pixels and channels, in grey levels of 255."""
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def exif(orientation: object) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


class TestFormats:
    @pytest.mark.parametrize(
        ("format", "options", "tolerance"),
        [
            ("PNG", {}, 0),
            ("WEBP", {"lossless": True}, 0),
            ("WEBP", {"quality": 95}, 3),
            ("JPEG", {"quality": 95}, 2),
            ("JPEG", {"quality": 95, "progressive": True}, 2),
        ],
    )
    def test_a_format_gives_the_pixels_that_were_saved(
        self, format: str, options: dict[str, object], tolerance: float
    ) -> None:
        got = native(encoded(smooth_picture(64, 64), format, **options), 64)
        assert (got.shape, got.dtype) == ((64, 64, 3), np.uint8)
        assert difference(got, smooth_picture(64, 64)) <= tolerance

    def test_of_a_phones_mpo_the_first_picture_counts(self) -> None:
        first, second = smooth_picture(64, 64), smooth_picture(64, 64, seed=1)
        data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
        assert difference(native(data, 64), first) <= 2

    @pytest.mark.parametrize(("format", "tolerance"), [("PNG", 0), ("JPEG", 1)])
    def test_grey_becomes_three_equal_channels(self, format: str, tolerance: float) -> None:
        grey = smooth_picture(64, 64).convert("L")
        got = native(encoded(grey, format), 64)
        assert np.ptp(got, axis=2).max() == 0
        assert difference(got[..., 0], grey) <= tolerance

    def test_cmyk_is_shown_in_its_colours(self) -> None:
        colours = smooth_picture(64, 64)
        got = native(encoded(colours.convert("CMYK"), "JPEG", quality=95), 64)
        assert difference(got, colours) <= 5

    def test_sixteen_bit_grey_keeps_its_range(self) -> None:
        ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
        got = native(encoded(Image.fromarray(ramp), "PNG"), 64)
        assert np.ptp(got, axis=2).max() == 0
        np.testing.assert_allclose(got[..., 0], ramp / 257, atol=1)

    @pytest.mark.parametrize("bits", [1, 4])
    def test_few_bits_of_grey_keep_black_and_white(self, bits: int) -> None:
        halves = Image.fromarray(np.repeat([[0, 255]], 32, 1).repeat(64, 0).astype(np.uint8))
        stored = halves.convert("1") if bits == 1 else halves.quantize(2)
        got = native(encoded(stored, "PNG", bits=bits), 64)
        assert (got[:, :32].max(), got[:, 32:].min()) == (0, 255)

    @pytest.mark.parametrize("format", ["PNG", "WEBP"])
    def test_transparency_lies_on_white(self, format: str) -> None:
        layer = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
        layer.paste((0, 0, 0, 0), (0, 0, 32, 64))  # black where nothing shows
        layer.paste((0, 0, 0, 128), (32, 32, 64, 64))
        options = {"lossless": True} if format == "WEBP" else {}
        got = native(encoded(layer, format, **options), 64)
        assert (got[:, :32] == 255).all()
        assert (got[:32, 32:] == (200, 0, 0)).all()
        assert np.abs(got[32:, 32:].astype(int) - 127).max() <= 1

    def test_transparency_of_a_palette_lies_on_white(self) -> None:
        stored = Image.new("P", (64, 64), 0)
        stored.putpalette([10, 20, 30, 200, 0, 0])
        stored.paste(1, (32, 0, 64, 64))
        got = native(encoded(stored, "PNG", transparency=0), 64)
        assert (got[:, :32] == 255).all()
        assert (got[:, 32:] == (200, 0, 0)).all()

    def test_transparency_of_grey_lies_on_white(self) -> None:
        layer = Image.new("LA", (64, 64), (0, 0))
        layer.paste((90, 255), (32, 0, 64, 64))
        got = native(encoded(layer, "PNG"), 64)
        assert (got[:, :32] == 255).all()
        assert (got[:, 32:] == 90).all()

    def test_suffixes_of_pictures_are_known_in_any_case(self) -> None:
        names = ["a.jpg", "a.JPG", "b/a.jpeg", "a.b.png", "a.WebP"]
        assert all(map(images.is_picture_name, names))
        assert not any(map(images.is_picture_name, ["a.gif", "a.jpg.txt", "a", "a.", ""]))


class TestOrientation:
    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_every_orientation_gives_the_same_upright_picture(
        self, orientation: int, format: str
    ) -> None:
        upright = smooth_picture(80, 48)
        options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
        data = encoded(STORED[orientation](upright), format, exif=exif(orientation), **options)
        assert images.decode(data).size == (80, 48)
        seen: list[tuple[int, int]] = []

        def left_half(width: int, height: int) -> images.Box:
            seen.append((width, height))
            return 0, 0, width / 2, height

        got = images.picture(data, 40, left_half)
        wanted = upright.crop((0, 0, 40, 48)).resize((40, 40), Image.Resampling.BICUBIC)
        assert seen == [(80, 48)]
        assert difference(got, wanted) <= (2 if format == "JPEG" else ROUNDING)

    @pytest.mark.parametrize("orientation", [6, 8])
    def test_a_large_turned_picture_is_decoded_small_and_upright(self, orientation: int) -> None:
        upright = smooth_picture(1600, 1000)
        data = encoded(STORED[orientation](upright), "JPEG", quality=95, exif=exif(orientation))
        got = images.picture(data, 100, lambda w, h: (w / 2, 0, w, h))
        wanted = upright.resize((100, 100), Image.Resampling.BICUBIC, box=(800, 0, 1600, 1000))
        assert difference(got, wanted) <= 2

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_ignored(self, orientation: int) -> None:
        data = encoded(smooth_picture(80, 48), "PNG", exif=exif(orientation))
        assert images.decode(data).size == (80, 48)
        got = images.picture(data, 48, centre_box)
        wanted = smooth_picture(80, 48).crop((16, 0, 64, 48))
        assert difference(got, wanted) == 0

    @pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0garbage, no TIFF at all", b"Exif"])
    @pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
    def test_a_damaged_exif_block_leaves_the_picture_as_it_is_stored(self, block: bytes) -> None:
        data = encoded(smooth_picture(80, 48), "JPEG", quality=95, exif=block)
        assert images.decode(data).size == (80, 48)
        assert difference(native(data, 48), smooth_picture(80, 48).resize((48, 48))) <= 3

    def test_an_orientation_that_is_no_number_is_ignored(self) -> None:
        tiff = (
            b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", ORIENTATION, 2, 4, b"top\0") + bytes(4)
        )
        data = encoded(smooth_picture(80, 48), "JPEG", quality=95, exif=b"Exif\0\0" + tiff)
        assert images.decode(data).size == (80, 48)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its data hold."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BAD = {
    "empty": (b"", "not a JPEG, PNG or WebP"),
    "text": (b"just some words\n" * 100, "not a JPEG, PNG or WebP"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not a JPEG, PNG or WebP"),
    "noise": (random.Random(0).randbytes(5000), "not a JPEG, PNG or WebP"),
    "gif": (encoded(smooth_picture(), "GIF"), "not a JPEG, PNG or WebP"),
    "tiff": (encoded(smooth_picture(), "TIFF"), "not a JPEG, PNG or WebP"),
    "half a JPEG": (half(picture_file(300, 200)), "broken picture"),
    "half a PNG": (half(picture_file(300, 200, format="PNG")), "broken picture"),
    "half a WebP": (half(picture_file(300, 200, format="WEBP")), "broken|not a JPEG"),
    "a JPEG's header": (picture_file()[:100], "broken|not a JPEG"),
    "a PNG's header": (picture_file(format="PNG")[:20], "broken|not a JPEG"),
    "bomb": (png_of_size(10_000, 9_000), "more than 89,000,000 pixels"),
    "larger bomb": (png_of_size(60_000, 60_000), "more than 89,000,000 pixels"),
    "lying header": (png_of_size(500, 500), "broken picture"),
    "narrow": (picture_file(15, 400), "15x400: a side is below 16 pixels"),
    "flat": (picture_file(400, 15), "400x15: a side is below 16 pixels"),
    "one pixel": (picture_file(1, 1, format="PNG"), "1x1: a side is below 16 pixels"),
}


class TestBadFiles:
    @pytest.mark.parametrize("name", list(BAD))
    def test_what_is_no_usable_picture_is_refused_with_the_reason(self, name: str) -> None:
        data, reason = BAD[name]
        for action in (images.decode, lambda data: images.picture(data, 32, centre_box)):
            with pytest.raises(BadImage, match=reason) as caught:
                action(data)
            assert "\n" not in str(caught.value)

    def test_the_limits_themselves_are_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert images.decode(picture_file(16, 16)).size == (16, 16)
        monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48)
        monkeypatch.setattr(images, "MAX_BYTES", len(picture_file()))
        assert images.decode(picture_file()).size == (64, 48)
        with pytest.raises(BadImage, match="65x48: more than 3,072 pixels"):
            images.decode(picture_file(65, 48, quality=20))

    def test_a_huge_file_is_refused_by_its_size(self) -> None:
        data = picture_file() + bytes(images.MAX_BYTES)
        with pytest.raises(BadImage, match="file of 67,"):
            images.decode(data)

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "palette PNG"])
    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own words about such files
    def test_a_damaged_file_is_a_picture_or_refused_and_nothing_else(self, name: str) -> None:
        image, options = smooth_picture(40, 30), {}
        if "palette" in name:
            image, options = image.quantize(16), {"transparency": 3}
        else:
            options = {"exif": exif(6)}
        data = encoded(image, name.removeprefix("palette "), **options)
        rng = random.Random(0)
        outcomes = {"picture": 0, "refused": 0}
        for _ in range(400):
            damaged = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.2:
                del damaged[rng.randrange(len(data)) :]
            try:
                assert images.picture(bytes(damaged), 16, centre_box).shape == (16, 16, 3)
                outcomes["picture"] += 1
            except BadImage:
                outcomes["refused"] += 1
        assert min(outcomes.values()) > 0


class TestPicture:
    @pytest.mark.parametrize("size", [(200, 300), (300, 200), (129, 97), (104, 104)])
    @pytest.mark.parametrize("crop", [1.0, 0.875])
    def test_it_equals_timms_resize_then_centre_crop(
        self, size: tuple[int, int], crop: float
    ) -> None:
        upright = smooth_picture(*size)
        got = images.picture(encoded(upright, "PNG"), 112, lambda w, h: centre_box(w, h, crop))
        scale = 112 / crop / min(size)
        resized = upright.resize(
            (round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC
        )
        left, top = round((resized.width - 112) / 2), round((resized.height - 112) / 2)
        wanted = resized.crop((left, top, left + 112, top + 112))
        assert difference(got, wanted) <= 1.5

    @pytest.mark.parametrize("side", [32, 64, 224, 300])
    def test_a_large_jpeg_is_decoded_small_without_a_visible_difference(self, side: int) -> None:
        upright = smooth_picture(2400, 1800)
        data = encoded(upright, "JPEG", quality=95)
        got = images.picture(data, side, centre_box)
        with Image.open(io.BytesIO(data)) as full:
            wanted = full.resize(
                (side, side), Image.Resampling.BICUBIC, box=centre_box(*upright.size)
            )
        assert difference(got, wanted) <= 1
        assert np.abs(got.astype(int) - np.asarray(wanted, int)).max() <= 12

    @pytest.mark.parametrize(
        ("side", "decoded"), [(100, 225), (250, 450), (900, 900), (1000, 1800)]
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_no_more_pixels_of_a_large_jpeg_are_decoded_than_needed(
        self, side: int, decoded: int, mode: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes = []
        pixels_of = images._pixels

        def noted(*arguments: Any) -> Pixels:
            pixels: Pixels = pixels_of(*arguments)
            shapes.append(pixels.shape)
            return pixels

        data = encoded(smooth_picture(2400, 1800).convert(mode), "JPEG")
        monkeypatch.setattr(images, "_pixels", noted)
        images.picture(data, side, centre_box)
        assert shapes == [(decoded, decoded * 4 // 3, 3)]

    def test_a_small_box_of_a_large_jpeg_keeps_its_pixels(self) -> None:
        sharp = noise(800, 600)
        got = images.picture(jpeg_of(sharp), 100, lambda w, h: (300, 200, 400, 300))
        assert difference(got, decoded_by_pillow(jpeg_of(sharp)).crop((300, 200, 400, 300))) == 0

    def test_a_box_is_cut_before_resizing(self) -> None:
        upright = smooth_picture(100, 80)
        got = images.picture(encoded(upright, "PNG"), 20, lambda w, h: (30, 40, 50, 60))
        assert difference(got, upright.crop((30, 40, 50, 60))) == 0

    def test_a_long_strip_is_read(self) -> None:
        got = images.picture(picture_file(3000, 16), 64, centre_box)
        assert got.shape == (64, 64, 3)

    def test_a_thumbnail_is_a_square_from_the_centre(self) -> None:
        thumb = images.thumbnail(encoded(smooth_picture(100, 60), "PNG"), 60)
        assert (thumb.mode, thumb.size) == ("RGB", (60, 60))
        assert difference(thumb, smooth_picture(100, 60).crop((20, 0, 80, 60))) == 0


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Black and white at random: nothing is harder to decode or to resize alike."""
    bits = np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8)
    return Image.fromarray(bits * 255)


def edges(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), (250, 20, 10))
    image.paste((0, 90, 255), (width // 3, 0, width // 2, height))
    image.paste((255, 255, 255), (0, height // 3, width, height // 2))
    return image


def jpeg_of(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "JPEG", **{"quality": 90} | options)


def decoded_by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def without_torch(patch: pytest.MonkeyPatch, pixels: Pixels, side: int) -> Pixels:
    with patch.context() as inner:
        inner.delitem(sys.modules, "torch", raising=False)
        resized: Pixels = images._resized(pixels, side)
        assert "torch" not in sys.modules
    return resized


class TestLikePillow:
    @pytest.mark.parametrize("size", [(64, 64), (61, 43), (17, 250), (333, 250)])
    @pytest.mark.parametrize("drawn", [smooth_picture, edges, noise])
    @pytest.mark.parametrize(
        "options",
        [
            {"subsampling": 0},
            {"subsampling": 1},
            {"subsampling": 2},
            {"subsampling": 2, "quality": 30},
            {"progressive": True, "quality": 60},
            {"restart_marker_blocks": 3},
            {"keep_rgb": True},
        ],
        ids=str,
    )
    def test_a_jpeg_has_pillows_pixels(
        self,
        size: tuple[int, int],
        drawn: Callable[[int, int], Image.Image],
        options: dict[str, object],
    ) -> None:
        data = jpeg_of(drawn(*size), **options)
        wanted = np.asarray(decoded_by_pillow(data), int)
        got = images._pixels(data, images.open_image(data), 1)
        assert (got.shape, got.dtype) == (wanted.shape, np.uint8)
        # Equal with the same libjpeg-turbo on both sides; a level or two are for other versions.
        assert np.abs(got - wanted).max() <= 2

    @pytest.mark.parametrize("part", [2, 4, 8])
    @pytest.mark.parametrize("size", [(640, 480), (601, 403)])
    def test_a_jpeg_decoded_small_has_the_means_of_its_pixels(
        self, part: int, size: tuple[int, int]
    ) -> None:
        data = jpeg_of(smooth_picture(*size))
        got = images._pixels(data, images.open_image(data), part + 0.5)
        whole = decoded_by_pillow(data)
        assert got.shape == (-(-size[1] // part), -(-size[0] // part), 3)
        off = np.abs(got - np.asarray(whole.reduce(part), int))
        assert off.mean() <= 1
        assert np.quantile(off, 0.999) <= 8

    @pytest.mark.parametrize("size", [(320, 320), (427, 320), (131, 300), (40, 700), (16, 16)])
    @pytest.mark.parametrize("side", [32, 112, 224])
    @pytest.mark.parametrize("drawn", [smooth_picture, edges, noise])
    def test_it_is_resized_as_by_pillow_with_torch_and_without(
        self,
        size: tuple[int, int],
        side: int,
        drawn: Callable[[int, int], Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        drawing = drawn(*size)
        lines = drawing.resize((side, drawing.height), Image.Resampling.BICUBIC)
        wanted = np.asarray(lines.resize((side, side), Image.Resampling.BICUBIC))
        alone = without_torch(monkeypatch, np.asarray(drawing), side)
        np.testing.assert_array_equal(alone, wanted)
        import torch  # noqa: F401

        got = images._resized(np.array(drawing), side)
        assert (got.shape, got.dtype) == ((side, side, 3), np.uint8)
        assert np.abs(got.astype(int) - wanted).max() <= 2
        assert difference(got, wanted) <= ROUNDING

    @pytest.mark.parametrize("torch_too", [True, False])
    def test_the_mirror_image_of_a_box_goes_where_it_is_told(
        self, torch_too: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not torch_too:
            monkeypatch.delitem(sys.modules, "torch", raising=False)
        data, room = jpeg_of(edges(150, 90)), np.zeros((3, 32, 32, 3), np.uint8)

        def box(width: int, height: int) -> images.Box:
            return 7, 5, width - 20, height

        as_it_is = images.picture(data, 32, box)
        got = images.picture(data, 32, box, flip=True, out=room[1])
        assert np.shares_memory(got, room)
        np.testing.assert_array_equal(room[1], as_it_is[:, ::-1])
        assert not room[[0, 2]].any()
        assert ("torch" in sys.modules) == torch_too

    def test_it_does_without_torch(self) -> None:
        program = (
            "import sys; from dogbreed import images; from pathlib import Path;"
            "images.picture(sys.stdin.buffer.read(), 32, images.centre_box);"
            "sys.exit('torch' in sys.modules)"
        )
        command = [sys.executable, "-c", program]
        subprocess.run(command, input=picture_file(100, 80), check=True)

    @pytest.mark.parametrize(
        ("side", "pixels"),
        [
            ((0.0, 10.0), (0, 10)),
            ((2.5, 7.5), (2, 8)),  # centred stays centred
            ((2.4, 7.6), (2, 8)),
            ((2.6, 7.4), (3, 7)),
            ((9.8, 10.0), (9, 10)),
            ((4.6, 4.9), (5, 6)),
            ((0.0, 0.1), (0, 1)),
        ],
    )
    def test_a_box_is_rounded_to_the_nearest_whole_pixels(
        self, side: tuple[float, float], pixels: tuple[int, int]
    ) -> None:
        assert images._whole(*side, 1, 10) == slice(*pixels)
        assert images._whole(side[0] * 4, side[1] * 4, 0.25, 10) == slice(*pixels)

    def test_what_pillow_forgives_is_forgiven(self) -> None:
        data = jpeg_of(smooth_picture(64, 64), restart_marker_blocks=2)
        at = data.index(b"\xff\xd1")
        odd = data[:at] + bytes(3) + data[at:]
        with pytest.raises(ValueError, match="extraneous"):
            simplejpeg.decode_jpeg(odd)
        np.testing.assert_array_equal(native(odd, 64), decoded_by_pillow(data))

    def test_a_second_header_hides_no_bomb(self) -> None:
        data = picture_file(64, 48)
        at = data.index(b"\xff\xc0")
        header = bytearray(data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])])
        header[5:9] = struct.pack(">HH", 60_000, 60_000)
        with pytest.raises(BadImage, match="broken picture"):
            images.picture(data[:at] + header + data[at:], 32, centre_box)


class TestCentreBox:
    @pytest.mark.parametrize(
        ("size", "crop", "box"),
        [
            ((100, 100), 1.0, (0, 0, 100, 100)),
            ((200, 100), 1.0, (50, 0, 150, 100)),
            ((100, 200), 1.0, (0, 50, 100, 150)),
            ((200, 100), 0.5, (75, 25, 125, 75)),
            ((101, 100), 1.0, (0.5, 0, 100.5, 100)),
        ],
    )
    def test_it_is_the_middle_square(
        self, size: tuple[int, int], crop: float, box: images.Box
    ) -> None:
        assert centre_box(*size, crop) == pytest.approx(box)


def test_a_damaged_exif_block_never_escapes_as_another_error() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = bytearray(picture_file(40, 30, exif=exif))
    start = data.index(b"Exif")
    rng = np.random.default_rng(0)
    for _ in range(3000):
        mutant = bytearray(data)
        for place in rng.integers(start + 6, start + 60, 4):
            mutant[place] = rng.integers(256)
        with warnings.catch_warnings(), contextlib.suppress(images.BadImage):
            warnings.simplefilter("ignore", UserWarning)  # Pillow's own remarks on the damage
            images.decode(bytes(mutant))


Box = tuple[int, int, int, int]


def cut(data: bytes, box: Box) -> Image.Image:
    """The part as it is decoded again."""
    part = images.cut(data, box)
    with Image.open(io.BytesIO(part)) as stored:
        assert (stored.format, stored.mode) == ("JPEG", "RGB")
        assert stored.getexif().get(ORIENTATION) is None
    return images.decode(part)


class TestCut:
    @pytest.mark.parametrize("box", [(0, 0, 64, 48), (8, 5, 40, 37), (47, 31, 64, 48)])
    def test_the_part_has_exactly_the_pixels_of_the_box(self, box: Box) -> None:
        part = cut(encoded(smooth_picture(), "PNG"), box)
        wanted = smooth_picture().crop(box)
        assert part.size == wanted.size
        assert difference(part, wanted) < 3  # of a JPEG

    def test_the_box_is_placed_to_the_pixel(self) -> None:
        marked = Image.new("RGB", (100, 80), (0, 0, 250))
        marked.paste((250, 0, 0), (20, 10, 60, 50))
        colours = np.asarray(cut(encoded(marked, "PNG"), (20, 10, 60, 50)), int)
        assert colours.shape == (40, 40, 3)
        assert np.abs(colours - (250, 0, 0)).max() < 6
        for moved in ((19, 10, 60, 50), (20, 9, 60, 50), (20, 10, 61, 50), (20, 10, 60, 51)):
            colours = np.asarray(cut(encoded(marked, "PNG"), moved), int)
            assert np.abs(colours - (250, 0, 0)).max() > 60

    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_the_box_is_in_stored_pixels_and_the_part_upright(
        self, format: str, orientation: int
    ) -> None:
        box = (4, 7, 30, 27)
        stored = smooth_picture()
        options = {} if format == "PNG" else {"quality": 95}
        data = encoded(stored, format, exif=exif(orientation), **options)
        back = STORED[orientation](cut(data, box))
        assert back.size == (26, 20)
        assert difference(back, stored.crop(box)) < 4

    @pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "1", "CMYK", "I;16"])
    def test_any_mode_is_cut_as_the_whole_is_decoded(self, mode: str) -> None:
        if mode == "I;16":
            ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
            whole = Image.fromarray(ramp)
        else:
            dither, palette = Image.Dither.NONE, Image.Palette.ADAPTIVE
            whole = smooth_picture().convert(mode, dither=dither, palette=palette)
        if mode in {"LA", "RGBA"}:
            whole.putalpha(Image.linear_gradient("L").resize((64, 48)))
        data = encoded(whole, "JPEG" if mode == "CMYK" else "PNG")
        box = (10, 6, 50, 40)
        wanted = images.decode(data).crop(box)
        assert difference(cut(data, box), wanted) < 8

    def test_a_transparent_colour_lies_on_white_in_the_part_too(self) -> None:
        palette = Image.new("P", (64, 48), 1)
        palette.putpalette([250, 0, 0, 0, 0, 250])
        palette.paste(0, (0, 0, 32, 48))
        data = encoded(palette, "PNG", transparency=0)
        colours = np.asarray(cut(data, (0, 0, 16, 16)), int)
        assert colours.min() > 250

    @pytest.mark.parametrize(
        ("box", "wanted"),
        [
            ((-9, -9, 30, 30), (0, 0, 30, 30)),
            ((30, 20, 500, 400), (30, 20, 64, 48)),
            ((-(2**31), 0, 2**31 - 1, 48), (0, 0, 64, 48)),
        ],
    )
    def test_what_lies_outside_of_the_picture_is_left_out(self, box: Box, wanted: Box) -> None:
        data = encoded(smooth_picture(), "PNG")
        assert images.cut(data, box) == images.cut(data, wanted)

    @pytest.mark.parametrize(
        "box",
        [
            (64, 0, 90, 48),
            (-50, 0, 0, 48),
            (0, 100, 64, 200),
            (10, 10, 10, 40),
            (40, 40, 10, 10),
            (0, 0, 64, 15),
            (49, 0, 90, 48),
        ],
    )
    def test_a_box_with_too_little_of_the_picture_is_refused(self, box: Box) -> None:
        with pytest.raises(BadImage, match=r"^box \(.*\) of 64x48: a side is below 16"):
            images.cut(encoded(smooth_picture(), "PNG"), box)

    def test_a_part_of_sixteen_pixels_is_cut(self) -> None:
        assert cut(encoded(smooth_picture(), "PNG"), (48, 32, 64, 48)).size == (16, 16)

    def test_a_part_longer_than_a_jpeg_can_be_is_refused(self) -> None:
        data = encoded(Image.new("L", (66_000, 20)), "PNG")
        with pytest.raises(BadImage, match="above 65,500"):
            images.cut(data, (0, 0, 66_000, 20))
        assert cut(data, (400, 0, 65_900, 20)).size == (65_500, 20)

    def test_a_damaged_picture_is_refused_in_its_words(self) -> None:
        with pytest.raises(BadImage, match=r"^broken picture: (?!broken)"):
            images.cut(picture_file(300, 200)[:2000], (0, 0, 100, 100))
        with pytest.raises(BadImage, match="not a JPEG, PNG or WebP picture"):
            images.cut(b"<html>", (0, 0, 100, 100))
