"""What can be said of a picture in ten numbers; the same in serving and of validation pictures.

Needs numpy alone. All but the first four are of the pixels that the network sees.
"""

import math

import numpy as np

FEATURES = {
    "width": "width of the file's picture, in pixels",
    "height": "height of the file's picture, in pixels",
    "aspect": "width over height",
    "bits": "size of the file in bits over its pixels: falls when compressed harder",
    "brightness": "mean luma, from 0 to 1",
    "contrast": "standard deviation of luma, from 0 to 0.5",
    "sharpness": "standard deviation of the Laplacian of green, from 0 to 4: falls with blur",
    "saturation": "mean of max - min over the colours, from 0 to 1",
    "red": "mean of red less that of green, from -1 to 1",
    "blue": "mean of blue less that of green, from -1 to 1",
}
_STEP = 4  # light and colour are taken of each fourth pixel of each fourth row: a tenth of the time
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG has it


def statistics(pixels: np.ndarray, width: int, height: int, nbytes: int) -> np.ndarray:
    """The statistics of a picture.

    Args:
        pixels: uint8, (S, S, 3), RGB: as the network sees it.
        width: of the file's picture, upright, in pixels.
        height: likewise.
        nbytes: size of the file.

    Returns:
        float32, (10,), in the order of `FEATURES`.
    """
    # (3, n): numpy reduces short axes slowly when they come last.
    planes = pixels[::_STEP, ::_STEP].transpose(2, 0, 1).reshape(3, -1).astype(np.float32) / 255
    luma = _LUMA @ planes
    red, green, blue = planes.mean(1).tolist()
    spread = planes.max(0) - planes.min(0)
    return np.array(
        [
            width,
            height,
            width / height,
            8 * nbytes / (width * height),
            luma.mean(),
            luma.std(),
            _sharpness(pixels[:, :, 1]),
            spread.mean(),
            red - green,
            blue - green,
        ],
        np.float32,
    )


def _sharpness(plane: np.ndarray) -> float:
    """Standard deviation of the Laplacian of a uint8 plane whose values stand for 0 to 1."""
    x = plane[: len(plane) // 2 * 2, : len(plane) // 2 * 2].astype(np.int16)
    # At each second pixel of each second row.
    around = x[:-2:2, 1:-1:2] + x[2::2, 1:-1:2] + x[1:-1:2, :-2:2] + x[1:-1:2, 2::2]
    laplacian = (around - 4 * x[1:-1:2, 1:-1:2]).ravel().astype(np.float32)
    mean = float(laplacian.mean())
    return math.sqrt(max(float(laplacian @ laplacian) / laplacian.size - mean**2, 0.0)) / 255
