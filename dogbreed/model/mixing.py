"""Mixup and CutMix: each picture of a batch takes a part of another one of it."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from dogbreed.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Blends pictures (Zhang et al. 2017) or pastes boxes of others into them (Yun et al. 2019).

    Own code, for torchvision's and timm's mix padding in with the rest, and draw from a generator
    that does not follow from the place in the run.

    Args:
        mixup: a of the Beta(a, a) that the share of the own picture is drawn from; 0: no blending.
        cutmix: likewise for pasting. With both above 0 a coin decides for the whole batch.

    Raises:
        BadInput: one of them is negative.
    """

    mixup: float
    cutmix: float

    def __post_init__(self) -> None:
        """See that they make sense."""
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise BadInput(f"--model.{name} {value}: must be 0 (off) or more")

    @property
    def on(self) -> bool:
        """Whether there is anything to do."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, images: Tensor, valid: Tensor, place: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, float]:
        """Mix a batch.

        Args:
            images: uint8, (B, 3, H, W).
            valid: bool, (B,); the others neither give nor take.
            place: what is drawn follows from these numbers.

        Returns:
            The pictures, uint8; of each the row of its partner, int64, (B,); and the share of its
            own that a picture, and so its label, keeps, from 0 to 1.
        """
        partner = np.arange(len(images))
        rng = np.random.default_rng(place)
        order = rng.permutation(np.flatnonzero(valid.numpy(force=True)))
        partner[order] = np.roll(order, 1)
        others = torch.from_numpy(partner).to(images.device)
        blends = self.cutmix == 0 or (self.mixup > 0 and rng.random() < 0.5)
        strength = self.mixup if blends else self.cutmix
        share = float(rng.beta(strength, strength))
        if blends:
            mixed = images.float().lerp(images[others].float(), 1 - share)
            return mixed.round_().to(torch.uint8), others, share
        height, width = images.shape[2:]
        h, w = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
        top, left = rng.integers(height - h, endpoint=True), rng.integers(width - w, endpoint=True)
        box = (..., slice(top, top + h), slice(left, left + w))
        mixed = images.clone()
        mixed[box] = images[others][box]
        return mixed, others, 1 - h * w / (height * width)
