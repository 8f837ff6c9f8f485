"""How fast a fit goes, and what holds it up: the bucket, decoding, or the model itself."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed.data.dataset import Batch

WINDOW = 50  # batches that the progress bar's figures are taken over
IDLE = 0.1  # share of time waiting for data from which on data, not the model, is the limit


class Spent(NamedTuple):
    """What batches took."""

    images: int = 0
    waited: float = 0.0  # seconds for data
    worked: float = 0.0  # seconds in the step
    bytes: int = 0  # fetched by the workers
    hits: int = 0  # pictures out of the cache
    misses: int = 0
    fetching: float = 0.0  # seconds of all workers
    decoding: float = 0.0

    @classmethod
    def of(cls, some: "Iterable[Spent]") -> "Spent":
        """The sum."""
        return cls(*map(sum, zip(*some, strict=True)))

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.images / max(self.waited + self.worked, 1e-9)

    @property
    def waiting(self) -> float:
        """Share of the time that went by waiting for data."""
        return self.waited / max(self.waited + self.worked, 1e-9)

    @property
    def cache_hits(self) -> float:
        """Share of the pictures that came out of the cache."""
        return self.hits / max(self.hits + self.misses, 1)

    @property
    def limit(self) -> str:
        """What to speed up to go faster: `model`, `bucket` or `decoding`."""
        if self.waiting < IDLE or self.fetching == self.decoding == 0:  # of kept features
            return "model"
        return "bucket" if self.fetching > self.decoding else "decoding"


class Throughput(Callback):
    """Shows images a second and the share of time spent waiting, in the bar and in the loggers."""

    def __init__(self) -> None:
        self.epoch = Spent()
        self._recent: deque[Spent] = deque(maxlen=WINDOW)
        self._since = self._waited = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.epoch, self._since = Spent(), time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start it again: nobody waited for training data meanwhile."""
        self._since = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The batch is there."""
        now = time.monotonic()
        self._waited, self._since = now - self._since, now

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """The step is done."""
        now, cost = time.monotonic(), batch["cost"]
        spent = Spent(
            images=len(batch["label"]),
            waited=self._waited,
            worked=now - self._since,
            bytes=cost["bytes"],
            hits=cost["hits"],
            misses=cost["misses"],
            fetching=cost["fetch_seconds"],
            decoding=cost["decode_seconds"],
        )
        self._since = now
        self._recent.append(spent)
        self.epoch = Spent.of((self.epoch, spent))
        recent = Spent.of(self._recent)
        pl_module.log("images/s", recent.images_per_s, prog_bar=True)
        pl_module.log("waiting", recent.waiting, prog_bar=True)
        seconds = max(recent.waited + recent.worked, 1e-9)
        pl_module.log_dict(
            {"cache_hits": recent.cache_hits, "fetched_mb_per_s": recent.bytes / seconds / 1e6}
        )
