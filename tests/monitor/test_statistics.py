"""Ten numbers of a picture that change when the pictures do."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dogbreed.monitor.statistics import FEATURES, statistics
from tests.conftest import smooth_picture


def of(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, statistics(pixels, 400, 300, 30_000).tolist(), strict=True))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, 12, (96, 96, 3))
    return np.clip(np.asarray(smooth_picture(96, 96)) + grain, 0, 255).astype(np.uint8)


def test_size_and_compression_are_those_of_the_file(picture: np.ndarray) -> None:
    seen = of(picture)
    assert (seen["width"], seen["height"]) == (400, 300)
    assert seen["aspect"] == pytest.approx(4 / 3)
    assert seen["bits"] == pytest.approx(2.0)


def test_light_and_colour_are_those_of_the_pixels() -> None:
    orange = np.full((32, 32, 3), (255, 127, 0), np.uint8)
    seen = of(orange)
    assert seen["brightness"] == pytest.approx((0.299 * 255 + 0.587 * 127) / 255, abs=1e-5)
    assert seen["contrast"] == pytest.approx(0, abs=1e-5)
    assert seen["sharpness"] == 0
    assert seen["saturation"] == pytest.approx(1)
    assert (seen["red"], seen["blue"]) == pytest.approx((128 / 255, -127 / 255))


@pytest.mark.parametrize(
    ("change", "falls", "stay"),
    [
        (lambda x: (x * 0.6).astype(np.uint8), "brightness", ["width", "bits"]),
        (
            lambda x: np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(2))),
            "sharpness",
            ["brightness", "saturation"],
        ),
        (lambda x: x // 2 + 64, "contrast", ["width"]),
        (lambda x: np.asarray(Image.fromarray(x).convert("L").convert("RGB")), "saturation", []),
    ],
    ids=["darkness", "blur", "haze", "grey"],
)
def test_what_a_change_should_move_moves_and_the_rest_stays(
    change, falls: str, stay: list[str], picture: np.ndarray
) -> None:
    before, after = of(picture), of(change(picture))
    assert after[falls] < 0.75 * before[falls]
    for name in stay:
        assert after[name] == pytest.approx(before[name], rel=0.15)


@pytest.mark.parametrize("side", [16, 17, 31, 224])
def test_any_side_that_a_network_has_will_do(side: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    seen = of(noise)
    assert np.isfinite(list(seen.values())).all()
    # Of white noise the Laplacian has sqrt(20) times the deviation of a pixel.
    assert seen["sharpness"] == pytest.approx(20**0.5 * 74 / 255, rel=0.25)


def test_a_server_needs_neither_torch_nor_scipy_for_them() -> None:
    code = (
        "import sys, dogbreed.monitor.statistics;"
        " assert not {'torch', 'scipy', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
