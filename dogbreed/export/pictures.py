"""The pictures that engines are calibrated with and judged by: those of the run's own data."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dogbreed import images
from dogbreed.data.manifest import Manifest
from dogbreed.engine import Engine
from dogbreed.errors import BadInput
from dogbreed.package import Package
from dogbreed.ranges import read_all

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of a data set, as the network sees them.

    Args:
        manifest: of the data set.
        rows: int64, (n,).
        labels: int64, (n,), in the order of the package's classes.
        size: side in pixels.
        crop: share of the shorter side.
    """

    manifest: Manifest
    rows: np.ndarray
    labels: np.ndarray
    size: int
    crop: float

    @classmethod
    def of(cls, package: Package, manifest: Manifest, split: str, limit: int = 0) -> "Pictures":
        """Those of a split.

        Args:
            package: says size, crop and classes.
            manifest: the data set that the package was trained on.
            split: its name.
            limit: no more than these, drawn without a preference for any breed; 0: all.

        Raises:
            BadInput: the split is empty, or the data set is not the one of the package.
        """
        if manifest.version != package.model["data"]["version"]:
            raise BadInput(
                f"{manifest.root}: version {manifest.version[:12]} of the data, but the model was"
                f" trained on {package.model['data']['version'][:12]}; say where that lies: --data"
            )
        rows = manifest.rows_of(split)
        if 0 < limit < len(rows):
            rows = np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))
        index = {name: k for k, name in enumerate(package.class_names)}
        own = np.array([index.get(name, -1) for name in manifest.classes])
        expects = package.model["preprocessing"]
        labels = own[manifest.column("label")[rows]]
        return cls(manifest, rows, labels, expects["size"], expects["crop"])

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, what: str) -> Iterator[np.ndarray]:
        """uint8, (k, S, S, 3), in the order of the rows; `what` is the progress bar's word."""

        def look(data: bytes) -> np.ndarray:
            box = images.centre_box
            return images.picture(data, self.size, lambda w, h: box(w, h, self.crop))

        with (
            tqdm(total=len(self), unit=" pictures", desc=what, disable=None) as bar,
            ThreadPoolExecutor() as pool,
        ):
            for start in range(0, len(self), BATCH):
                taken = self.manifest.take(self.rows[start : start + BATCH])
                data = read_all(self.manifest.ranges(taken))
                yield np.stack(list(pool.map(look, data)))
                bar.update(len(taken))

    def probabilities(self, engine: Engine, name: str) -> np.ndarray:
        """What an engine of that name says of all pictures: float32, (n, classes)."""
        return np.concatenate([engine.answer(b).probabilities for b in self.batches(name)])
