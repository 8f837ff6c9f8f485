"""The LightningDataModule: from a data set's URL to batches on the device."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from dogbreed.cores import cores
from dogbreed.data.cache import Cache
from dogbreed.data.dataset import Batch, PictureDataset, bad_picture
from dogbreed.data.device import DeviceDecoder, check_available
from dogbreed.data.epochs import Epochs, Order
from dogbreed.data.extraction import Extractor, Features
from dogbreed.data.feature_loader import FeatureLoader
from dogbreed.data.features import FeatureCache, View
from dogbreed.data.loader import EpochLoader, fork_server
from dogbreed.data.manifest import Manifest, cache_home
from dogbreed.data.order import Request
from dogbreed.data.prepare import embedded_sample
from dogbreed.data.transforms import Augment, relight
from dogbreed.errors import BadInput, nearest
from dogbreed.storage import is_local

SAMPLE_SIZE = 96  # pixels: the embedded sample is drawn that small, and more would be blur


class DogDataModule(LightningDataModule):
    """Streams the pictures of a prepared data set.

    Args:
        root: folder or URL that `dogbreed prepare` wrote; none: the embedded synthetic sample.
        classes: the model's class names, in its order; none: those of the data set. A run's saved
            config holds them, so that `test --data.root OTHER` scores over the run's classes.
        batch_size: pictures in a batch of one process.
        image_size: side of the squares that the network sees, in pixels; none: as the weights
            were trained, or the native size of the embedded sample.
        eval_size: that of validation, test and the finished model; none: `image_size`. Random
            crops show dogs larger than whole pictures do, which a larger size makes up for.
        crop: side of the centred square that evaluation cuts, over the picture's shorter side;
            none: as the weights were evaluated.
        augment: random changes of training pictures.
        balance: for breeds with unequal numbers of training pictures. `weights`: the training loss
            weighs each picture by the inverse of its breed's number. `sampler`: an epoch draws
            from each breed equally often, pictures of rare breeds several times. `none`: neither.
        decode: `gpu` lets workers only fetch, and decodes, cuts and flips JPEGs in batches on the
            CUDA device (nvImageCodec); what that cannot read the CPU decodes, and it is counted.
        workers: processes that fetch and decode; none: one for two cores, at most 8.
        prefetch: batches that each worker has ready.
        window: how many shards the shuffling mixes; loose files are always mixed evenly.
        cache_dir: folder on this disk for pictures fetched from a bucket; none: the user's cache.
        cache_size_gb: bound of that folder in gigabytes; 0 turns the cache off.
        on_bad_image: `error` ends the run at a picture that can't be read, `skip` counts it.
        features: where the features of a frozen backbone are kept, so that a picture passes it
            once, in this run or in another; training's too if `augment` leaves the pictures whole
            and in their light. `auto`: the user's cache, a folder, a URL, or `none`: nowhere.
        features_gb: bound of that place in gigabytes; on a disk what was used longest ago goes.
        features_precision: in which they are computed: that of the `run`, `bf16`, or `auto`: bf16
            on a processor that computes in it, else that of the run.
        max_skipped: how many pictures of an epoch a process may skip before it is an error.
        seed: of order and augmentation; none: that of --seed_everything.

    Raises:
        BadInput: no data set at `root`, or its breeds are not among `classes`.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: list[str] | None = None,
        batch_size: int = 64,
        image_size: int | None = None,
        eval_size: int | None = None,
        crop: float | None = None,
        augment: Augment = Augment(),  # noqa: B008 - frozen
        balance: Literal["none", "weights", "sampler"] = "none",
        decode: Literal["cpu", "gpu"] = "cpu",
        workers: int | None = None,
        prefetch: int = 2,
        window: int = 8,
        cache_dir: str | None = None,
        cache_size_gb: float = 20.0,
        features: str = "auto",
        features_gb: float = 10.0,
        features_precision: Literal["run", "bf16", "auto"] = "run",
        on_bad_image: Literal["error", "skip"] = "error",
        max_skipped: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("image_size", image_size, 1),
            ("eval_size", eval_size, 1),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
            ("window", window, 1),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise BadInput(f"--data.{name} {value}: must be at least {least}")
        if crop is not None and not 0 < crop <= 1:
            raise BadInput(f"--data.crop {crop}: must lie above 0 and not above 1")
        if decode == "gpu":
            check_available()
        self.workers = min(8, max(1, cores() // 2)) if workers is None else workers
        self.features = (
            None if features == "none" else FeatureCache(features, int(features_gb * 1e9))
        )
        self.features_precision = features_precision
        if self.workers and not (self.features and augment.few_views):
            fork_server()  # imports while the manifest is opened and the network built
        self.manifest = Manifest.open(root if root is not None else embedded_sample())
        self.class_names = classes or self.manifest.classes
        self.labels = _match(self.manifest, self.class_names)
        self.batch_size, self.image_size, self.crop = batch_size, image_size or 224, crop or 1.0
        self.eval_size = eval_size or self.image_size
        self.augment, self.balance = augment, balance
        self.seed, self.window = seed or 0, window
        self.prefetch = prefetch
        self.decode = decode
        self.decoder: DeviceDecoder | None = None
        self.skip_bad, self.max_skipped = on_bad_image == "skip", max_skipped
        self.cache: Cache | None = None
        if cache_size_gb > 0 and not is_local(self.manifest.root):
            folder = cache_dir or cache_home() / "pictures"
            self.cache = Cache(folder, int(cache_size_gb * 1e9))
        self._loaders: dict[str, Epochs] = {}

    def _loader(self, split: str, *, train: bool, samples_seen: Callable[[], int]) -> Epochs:
        """The loader of a split; kept, so that its workers live as long as the run."""
        if split in self._loaders:
            return self._loaders[split]
        trainer, rows = self.trainer, self.manifest.rows_of(split)
        size = self.image_size if train else self.eval_size
        assert trainer is not None
        balanced = train and self.balance == "sampler"
        order: Order = {
            "batch_size": self.batch_size,
            "shuffle": train,
            "seed": self.seed,
            "window": self.window,
            "balance": self.manifest.column("label")[rows] if balanced else None,
            "samples_seen": samples_seen,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }
        module: Any = trainer.lightning_module
        view: View | None = module.frozen_view()
        loader: Epochs
        if self.features is not None and view and (self.augment.few_views or not train):
            view = dataclasses.replace(view, size=size)
            plain, mirrored = self.features_of(split, view), None
            if self.augment.flip > 0 if train else module.network.flip:
                mirrored = self.features_of(split, dataclasses.replace(view, mirrored=True))
            flip = self.augment.flip if train else None
            loader = FeatureLoader(self.manifest, self.labels, plain, mirrored, flip=flip, **order)
        else:
            augment = self.augment if train else None
            dataset = self._pictures(size, self.crop, augment=augment, encoded=self.decode == "gpu")
            loader = EpochLoader(
                dataset, rows, workers=self.workers, prefetch=self.prefetch, pin=True, **order
            )
        self._loaders[split] = loader
        return loader

    def _pictures(
        self, size: int, crop: float, *, augment: Augment | None = None, encoded: bool = False
    ) -> PictureDataset:
        return PictureDataset(
            self.manifest,
            self.labels,
            size=size,
            crop=crop,
            augment=augment,
            seed=self.seed,
            cache=self.cache,
            skip_bad=self.skip_bad,
            encoded=encoded,
        )

    def look(self, rows: np.ndarray) -> Batch:
        """Pictures in these rows of the manifest, int64, (n,), as evaluation sees them.

        Raises:
            BadInput: one cannot be read, and none may be skipped.
        """
        n = len(rows)
        request = Request(0, rows, np.ones(n, bool), 0, np.zeros(n, np.int64))
        return self._pictures(self.eval_size, self.crop).__getitems__(request)

    def features_of(self, split: str, view: View) -> Features:
        """What a frozen network says of a split's pictures, kept or computed now.

        All processes must take part.

        Raises:
            BadInput: a picture cannot be read, and none may be skipped.
        """
        trainer = self.trainer
        assert trainer is not None

        def end_if_asked() -> None:
            if trainer.received_sigterm:
                raise SIGTERMException

        extractor = Extractor(
            self.features or FeatureCache("auto", 0),
            lambda view: self._pictures(view.size, view.crop),
            workers=self.workers,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            barrier=trainer.strategy.barrier,
            check=end_if_asked,
        )
        return extractor.features(split, view)

    def setup(self, stage: str) -> None:
        """See that the splits are there, before anything is written. Raises BadInput."""
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]:
            self.manifest.rows_of(split)

    def teardown(self, stage: str) -> None:
        """End the workers."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()

    @property
    def train_size(self) -> int:
        """Pictures in an epoch."""
        return len(self.manifest.rows_of("train"))

    @property
    def class_weights(self) -> Tensor:
        """What each of the model's classes weighs in the training loss: float32, (classes,).

        With `balance: weights`, n / (k * the class's pictures) over the n labelled training
        pictures of k classes, which is 1 in the mean over these pictures, and 0 for classes that
        have none. Ones otherwise.
        """
        if self.balance != "weights":
            return torch.ones(len(self.class_names))
        labels = self.manifest.column("label")[self.manifest.rows_of("train")]
        counts = np.bincount(self.labels[labels[labels >= 0]], minlength=len(self.class_names))
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(np.where(counts > 0, weights, 0)).float()

    def train_dataloader(self) -> Epochs:
        """Batches of split `train`, from where the run stands."""
        return self._loader("train", train=True, samples_seen=self._samples_seen)

    def val_dataloader(self) -> Epochs:
        """Batches of split `val`, in the manifest's order."""
        return self._loader("val", train=False, samples_seen=lambda: 0)

    def test_dataloader(self) -> Epochs:
        """Batches of split `test`, in the manifest's order."""
        return self._loader("test", train=False, samples_seen=lambda: 0)

    def _samples_seen(self) -> int:
        assert self.trainer is not None
        seen: int = self.trainer.lightning_module.samples_seen  # type: ignore[assignment]
        return seen

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Decode what is still a JPEG, and change the light of training pictures, on the device."""
        if batch["jpegs"]:
            self._decode(batch)
        if self.trainer is not None and self.trainer.training and "image" in batch:
            image: Tensor = relight(batch["image"], batch["light"])
            batch["image"] = image
        return batch

    def _decode(self, batch: Batch) -> None:
        if self.decoder is None:
            self.decoder = DeviceDecoder(batch["image"].device)
        batch["image"], bad = self.decoder(batch["jpegs"], batch["image"])
        for place, error in bad.items():
            (row,) = self.manifest.take([int(batch["row"][place])])
            if not self.skip_bad:
                raise bad_picture(self.manifest.root, row["id"], error) from None
            batch["valid"][place] = False
            batch["skipped"].append(f"{row['id']}: {error}")

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of the pictures in these rows of the manifest: int64, (n,)."""
        return [row["id"] for row in self.manifest.take(rows)]

    def seen(self) -> dict[str, object]:
        """What an evaluation says of its pictures."""
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "root": self.manifest.root,
            "image_size": self.eval_size,
            "crop": self.crop,
        }

    def about(self) -> dict[str, object]:
        """What a run says of its data."""
        return {
            **self.seen(),
            "image_size": self.image_size,
            "eval_size": self.eval_size,
            "augment": dataclasses.asdict(self.augment),
            "balance": self.balance,
            "decode": self.decode,
        }


def data_of(trainer: Trainer) -> DogDataModule:
    """The datamodule that a trainer is at work on."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, DogDataModule)
    return data


def _match(data: Manifest, names: list[str]) -> np.ndarray:
    """For each class of the data its index among `names`: int64, (k,).

    Raises:
        BadInput: a breed of the data that is not among `names`.
    """
    index = {name: number for number, name in enumerate(names)}
    unknown = [name for name in data.classes if name not in index]
    if unknown:
        first = f"{unknown[0]!r}{nearest(unknown[0], names)}"
        raise BadInput(
            f"{data.root}: {len(unknown)} of its breeds are unknown to the model: {first};"
            " classes are matched by name"
        )
    return np.array([index[name] for name in data.classes], dtype=np.int64)
