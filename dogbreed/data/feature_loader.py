"""Batches of features in place of pictures: nothing to fetch, to decode, or to wait for."""

from collections.abc import Iterator
from typing import Unpack

import numpy as np
import torch

from dogbreed.data.dataset import Batch
from dogbreed.data.epochs import Epochs, Order
from dogbreed.data.extraction import Features
from dogbreed.data.manifest import Manifest
from dogbreed.data.order import Request
from dogbreed.data.transforms import Draws, key_of


class FeatureLoader(Epochs):
    """Features of an epoch, or of what remains of it, in the order of an `EpochLoader`.

    Args:
        manifest: the opened data set.
        labels: for each class of the manifest its index among the model's classes, int64.
        plain: features of the pictures.
        mirrored: those of their mirror images, if they are used.
        flip: probability with which a mirror image is drawn, as `Augment.flip` is; none, for
            evaluation: the mean of both.
        order: see `Order`.
    """

    def __init__(
        self,
        manifest: Manifest,
        labels: np.ndarray,
        plain: Features,
        mirrored: Features | None = None,
        *,
        flip: float | None = None,
        **order: Unpack[Order],
    ) -> None:
        super().__init__(manifest, plain.rows, **order)
        self.plain, self.mirrored, self.flip = plain, mirrored, flip
        given = manifest.column("label")[plain.rows]
        self._labels = np.where(given < 0, -1, labels[given])
        self._problems = plain.problems | (mirrored.problems if mirrored else {})

    def __iter__(self) -> Iterator[Batch]:
        epoch, consumed = self.place()
        for request in self.requests(self.order(epoch), epoch, consumed):
            yield self._batch(request)

    def _batch(self, request: Request) -> Batch:
        rows = request.rows
        embedding = self.plain.take(rows)
        if self.mirrored is not None:
            if self.flip is None:
                embedding = (embedding + self.mirrored.take(rows)) / 2
            else:
                turned = self._turned(request)
                embedding[turned] = self.mirrored.take(rows[turned])
        labels = self._labels[np.searchsorted(self.rows, rows)]
        valid = request.valid & (labels >= 0)
        skipped = []
        if self._problems:
            for k in np.flatnonzero(request.valid):
                if problem := self._problems.get(int(rows[k])):
                    skipped.append(problem)
                    valid[k] = False
        return {
            "embedding": torch.from_numpy(embedding),
            "jpegs": [],
            "label": torch.from_numpy(np.maximum(labels, 0)),
            "valid": torch.from_numpy(valid),
            "row": torch.from_numpy(rows),
            "samples_seen": request.samples_seen,
            "skipped": skipped,
            "cost": {
                "bytes": 0,
                "requests": 0,
                "hits": len(rows),
                "misses": 0,
                "fetch_seconds": 0.0,
                "decode_seconds": 0.0,
            },
        }

    def _turned(self, request: Request) -> np.ndarray:
        """Which of the pictures are mirrored, drawn as `PictureDataset` does: bool, (B,)."""
        assert self.flip is not None
        rows = self.manifest.take(request.rows)
        keys = (key_of(row["id"], k) for row, k in zip(rows, request.times, strict=True))
        drawn = (Draws(self.seed, request.epoch, key).random() for key in keys)
        return np.fromiter(drawn, float, len(rows)) < self.flip
