"""The map-style data set: one call fetches, decodes and crops a whole batch.

This file and what it imports know nothing of Lightning, so that workers start quickly.
"""

import time
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dogbreed import images, storage
from dogbreed.data.cache import Cache
from dogbreed.data.device import Encoded
from dogbreed.data.manifest import PLACE, Manifest
from dogbreed.data.order import Request
from dogbreed.data.reader import Cost, Found, Reader
from dogbreed.data.transforms import Augment, Draws, key_of, light, random_box
from dogbreed.errors import BadInput


class Batch(TypedDict):
    """What a step gets."""

    image: NotRequired[Tensor]
    """uint8, (B, 3, S, S), channels last; without those that are still JPEGs."""
    embedding: NotRequired[Tensor]
    """float32, (B, D): features of the pictures, in their place; see `extraction.py`."""
    jpegs: list[Encoded]
    """Pictures that the device decodes; none, unless it was asked to."""
    label: Tensor
    """int64, (B,)."""
    valid: Tensor
    """bool, (B,): False for padding and for pictures that could not be read."""
    row: Tensor
    """int64, (B,): rows of the manifest."""
    light: NotRequired[Tensor]
    """float32, (B, 3): factors for `transforms.relight`; ones without augmentation."""
    samples_seen: int
    """Of all ranks since the start of the run, this batch included."""
    skipped: list[str]
    """`id: reason` of the pictures that could not be read."""
    cost: Cost
    """What the batch has cost its worker."""


class PictureDataset(Dataset[Batch]):
    """Pictures of a manifest by `Request`.

    Args:
        manifest: the opened data set.
        labels: for each class of the manifest its index among the model's classes, int64.
        size: side of the squares handed out, in pixels.
        crop: side of the centred square that evaluation cuts, over the shorter side.
        augment: random crop, flip and light for training; None for evaluation.
        seed: of the augmentation.
        cache: keeps what was fetched; None fetches anew.
        skip_bad: hand out an unreadable picture as invalid, rather than raise.
        encoded: leave JPEGs to the device, see `device.DeviceDecoder`.
    """

    def __init__(
        self,
        manifest: Manifest,
        labels: np.ndarray,
        *,
        size: int,
        crop: float,
        augment: Augment | None = None,
        seed: int = 0,
        cache: Cache | None = None,
        skip_bad: bool = False,
        encoded: bool = False,
    ) -> None:
        self.manifest, self.labels, self.size, self.crop = manifest, labels, size, crop
        self.augment, self.seed, self.skip_bad = augment, seed, skip_bad
        self.encoded = encoded
        self.reader = Reader(cache)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Batch:
        """A batch of one."""
        return self.__getitems__(Request(0, np.array([row]), np.array([True]), 1, np.array([0])))

    def __getitems__(self, request: Request) -> Batch:
        """A batch in memory of its own."""
        return self.read(request, np.empty((len(request.rows), self.size, self.size, 3), np.uint8))

    def read(self, request: Request, image: np.ndarray) -> Batch:
        """Fetch, decode and crop the rows of `request`.

        Args:
            request: which rows, and how they are augmented.
            image: uint8, (B, S, S, 3): where the pictures go; the batch shares this memory.

        Raises:
            BadInput: a picture cannot be had or read and `skip_bad` is off; names its id.
        """
        rows = self.manifest.take(request.rows, ("id", "label", *PLACE))
        begun = time.monotonic()
        pictures = self._fetch(rows)
        fetched = time.monotonic()
        factors = np.ones((len(rows), 3), np.float32)
        valid = request.valid.copy()
        skipped, jpegs = [], list[Encoded]()
        # All of them first: a decoder that is not interrupted finds its own things in the caches.
        keys = (key_of(row["id"], k) for row, k in zip(rows, request.times, strict=True))
        views = [self._view(request.epoch, key) for key in keys]
        for k, (row, data) in enumerate(zip(rows, pictures, strict=True)):
            here = image[k - len(jpegs)]
            if not valid[k]:
                here[:] = 0
                continue
            try:
                if not isinstance(data, bytes):
                    raise data
                box_of, flip, factors[k] = views[k]
                if self.encoded and (box := images.jpeg_box(data, box_of)):
                    jpegs.append(Encoded(k, data, box, flip))
                    continue
                images.picture(data, self.size, box_of, flip=flip, out=here)
            except (images.BadImage, storage.StorageError) as error:
                if not self.skip_bad:
                    raise bad_picture(self.manifest.root, row["id"], error) from None
                valid[k], here[:] = False, 0
                skipped.append(f"{row['id']}: {error}")
        labels = np.array([row["label"] for row in rows])
        return {
            "image": torch.from_numpy(image[: len(rows) - len(jpegs)]).permute(0, 3, 1, 2),
            "jpegs": jpegs,
            "label": torch.from_numpy(np.where(labels < 0, 0, self.labels[labels])),
            "valid": torch.from_numpy(valid & (labels >= 0)),
            "row": torch.from_numpy(request.rows),
            "light": torch.from_numpy(factors),
            "samples_seen": request.samples_seen,
            "skipped": skipped,
            "cost": self.reader.cost(fetched - begun, time.monotonic() - fetched),
        }

    def _centre(self, width: int, height: int) -> images.Box:
        return images.centre_box(width, height, self.crop)

    def _view(self, epoch: int, key: str) -> tuple[images.BoxOf, bool, tuple[float, float, float]]:
        """How a picture is looked at: box, flip, and factors of light."""
        if self.augment is None:
            return self._centre, False, (1.0, 1.0, 1.0)
        augment, rng = self.augment, Draws(self.seed, epoch, key)
        flip, factors = rng.random() < augment.flip, light(rng, augment)
        if augment.whole:
            return self._centre, flip, factors
        return lambda w, h: random_box(rng, w, h, augment), flip, factors

    def _fetch(self, rows: list[dict[str, Any]]) -> list[Found]:
        return self.reader.read(self.manifest.ranges(rows))


def bad_picture(root: str, name: str, error: Exception) -> BadInput:
    """What to raise for a picture that cannot be had or read."""
    return BadInput(
        f"{root}: picture {name}: {error}; prepare the data again, or pass --data.on_bad_image skip"
    )
