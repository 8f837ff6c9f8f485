"""Augmentation: geometry at decode, light and colour on the device, each drawn per picture.

All draws come from (seed, epoch, id), so an epoch repeats exactly, whatever the number of workers
or the batch it is resumed with.
"""

import dataclasses
import hashlib
import math
import struct

import torch
from torch import Tensor

from dogbreed.errors import BadInput
from dogbreed.images import Box

_EIGHT = struct.Struct("<8Q")  # what a digest of 64 bytes has room for


@dataclasses.dataclass(frozen=True)
class Augment:
    """Strengths of the random changes of a training picture.

    Args:
        scale: smallest share of the picture's area that a random crop keeps; 1: no random crop
            but the centred square that evaluation cuts.
        ratio: widest aspect ratio of a crop before it is squeezed to a square.
        flip: probability of a horizontal flip.
        brightness: factors are drawn from 1 - x to 1 + x; 0 is off.
        contrast: likewise, around the picture's mean grey.
        saturation: likewise, around the picture's grey version.
    """

    scale: float = 0.35
    ratio: float = 4 / 3
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def __post_init__(self) -> None:
        """Refuse strengths that make no sense. Raises BadInput."""
        shares = (self.flip, self.brightness, self.contrast, self.saturation)
        if not (0 < self.scale <= 1 <= self.ratio and all(0 <= share <= 1 for share in shares)):
            raise BadInput(
                f"--data.augment: out of range (shares from 0 to 1, ratio from 1): {self}"
            )

    @property
    def whole(self) -> bool:
        """Whether nothing is cropped at random."""
        return self.scale == 1

    @property
    def few_views(self) -> bool:
        """Whether there are but two views of a picture, evaluation's and its mirror image."""
        return self.whole and self.brightness == self.contrast == self.saturation == 0


def key_of(sample_id: str, times: int) -> str:
    """Whose draws to take: a picture that comes again in an epoch looks different each time."""
    return f"{sample_id}\0{times}" if times else sample_id


class Draws:
    """The random numbers of one picture in one epoch: a digest of whose they are, in pieces.

    Python's own generator takes as long to seed as all else that is done for a box and a light.
    """

    def __init__(self, seed: int, epoch: int, sample_id: str) -> None:
        self._hash = hashlib.blake2b(f"{seed} {epoch} {sample_id}".encode())
        self._left: list[int] = []

    def random(self) -> float:
        """At least 0 and below 1."""
        if not self._left:
            self._left = list(_EIGHT.unpack(self._hash.digest()))
            self._hash.update(b"\0")
        return (self._left.pop() >> 11) * 2.0**-53  # all bits that a float of that size has

    def uniform(self, low: float, high: float) -> float:
        """Between the two."""
        return low + (high - low) * self.random()


def random_box(rng: Draws, width: int, height: int, augment: Augment) -> Box:
    """A crop of random area and aspect ratio inside the picture (Szegedy et al. 2014, section 6).

    Ten tries, as in torchvision; then the largest centred crop within the ratio's bounds.
    """
    bound = math.log(augment.ratio)
    for _ in range(10):
        area = width * height * rng.uniform(augment.scale, 1)
        ratio = math.exp(rng.uniform(-bound, bound))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * augment.ratio), min(height, width * augment.ratio)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def light(rng: Draws, augment: Augment) -> tuple[float, float, float]:
    """Factors of brightness, contrast and saturation."""
    return (
        1 + augment.brightness * rng.uniform(-1, 1),
        1 + augment.contrast * rng.uniform(-1, 1),
        1 + augment.saturation * rng.uniform(-1, 1),
    )


def relight(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, each picture by its own factors.

    torchvision's v2 transforms draw once for a batched tensor, which would give every picture of
    the batch the same light.

    Args:
        images: uint8, (B, 3, H, W).
        factors: float32, (B, 3), as drawn by `light`.

    Returns:
        uint8, (B, 3, H, W), in the memory format of `images`.
    """
    out = torch.empty_like(images)
    # On a CPU, what is in between stays in the processor's own cache.
    some = max(1, len(images)) if images.is_cuda else 8
    for start in range(0, len(images), some):
        part, by, to = (x[start : start + some] for x in (images, factors, out))
        brightness, contrast, saturation = by[:, :, None, None].unbind(1)
        # All three are affine: together r -> a r + b grey + c, of which few passes are enough.
        # Planes by themselves: with channels last, every third byte is not read as a vector.
        red, green, blue = (plane.float() for plane in part.unbind(1))
        grey = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)  # ITU-R BT.601
        shift = grey.mean((1, 2), keepdim=True) * brightness * (1 - contrast)
        scale = brightness * contrast
        grey.mul_(scale * (1 - saturation)).add_(shift)
        for plane, here in zip((red, green, blue), to.unbind(1), strict=True):
            here.copy_(plane.mul_(scale * saturation).add_(grey).round_().clamp_(0, 255))
    return out
