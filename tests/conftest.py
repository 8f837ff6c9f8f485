"""Fixtures for all tests."""

import os

# gcsfs reads this when it is imported. Without it, it probes every bucket over TLS gRPC, which a
# double of the storage does not speak: each read or write would then take about a minute.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# fsspec reads this when it is imported: tests never look for credentials, nor use the real ones.
os.environ["FSSPEC_GS_TOKEN"] = "anon"
# pytorch-lightning#21900: 2.6 calls jsonargparse by names that this one is about to drop.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

import asyncio
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec.asyn
import gcsfs
import hypothesis
import numpy as np
import pytest
from lightning.pytorch import Callback
from PIL import Image

from dogbreed import hedging, retries
from dogbreed.data import prepare, sample
from tests.doubles.gcs import FakeGCS

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# What a shell runs in the background ignores Ctrl-C, and processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


RUN_FILES = {
    "run.json",
    "config.yaml",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "metrics.csv",
    "metrics.json",
    "curves.png",
    "evaluation/val.json",
    "evaluation/val.parquet",
    "model/model.json",
    "model/weights.safetensors",
    "model/rejection.safetensors",
    "model/reference.safetensors",
    "model/README.md",
}
"""What a finished fit leaves in its run directory."""

TIMES = {"seconds", "train_images_per_s", "waiting", "cache_hits", "fetched_mb"}
"""Columns of metrics.csv that no two runs have in common."""


class FailAt(Callback):
    """Ends a run by an error once it has seen that many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if pl_module.samples_seen >= self.samples:
            raise RuntimeError("the fault")


def forget_gcsfs() -> None:
    """Close the sessions of all instances of gcsfs, and drop these with their listings."""
    for fs in list(gcsfs.GCSFileSystem._cache.values()):
        if not fs.asynchronous and fs.session:
            fsspec.asyn.sync(fs.loop, fs.session.close)
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(scope="session", autouse=True)
def gcs_double() -> Iterator[FakeGCS]:
    """Run one double of Google Cloud Storage, which every process started here finds too.

    From the start: workers see the environment that their fork server began with.
    """
    with pytest.MonkeyPatch.context() as patch, FakeGCS() as double:
        for name, value in double.env.items():
            patch.setenv(name, value)
        yield double
        forget_gcsfs()


@pytest.fixture
def gcs(gcs_double: FakeGCS, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGCS]:
    """Give the double without faults and counts, and gcsfs without anything remembered.

    A read is asked for twice only after a minute, and anything again only after two, so that a
    busy machine makes no requests more.
    """
    monkeypatch.setattr(retries, "TIMEOUT", 120.0)
    monkeypatch.setattr(retries, "DEADLINE", 240.0)
    monkeypatch.setattr(hedging, "LEAST", 60.0)
    monkeypatch.setattr(hedging, "AT_FIRST", 60.0)
    gcs_double.reset()
    forget_gcsfs()
    yield gcs_double
    gcs_double.reset()
    forget_gcsfs()


@pytest.fixture
def bucket(gcs: FakeGCS) -> str:
    """Make a bucket of the test's own and give its URL."""
    return gcs.bucket()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gcsfs repeat a request without its pauses of 1 to 32 seconds."""
    pause = asyncio.sleep
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: pause(0)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the tests a cache folder of their own in place of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def picture_file(
    width: int = 64, height: int = 48, seed: int = 0, format: str = "JPEG", **options: Any
) -> bytes:
    """Encode smooth colours that follow from `seed`: a picture of which no two parts are equal."""
    file = io.BytesIO()
    smooth_picture(width, height, seed).save(file, format, **options)
    return file.getvalue()


def smooth_picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Draw what `picture_file` encodes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with 4 class folders of 12 drawn dogs; for reading only."""
    folder = tmp_path_factory.mktemp("tiny") / "dogs"
    for breed, name in enumerate(sample.BREEDS[:4]):
        (folder / name).mkdir(parents=True)
        for k in range(12):
            (folder / name / f"{k:02d}.jpg").write_bytes(sample.jpeg(breed, k))
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_folder: Path) -> str:
    """Prepare `tiny_folder` into a data set with all three splits; for reading only."""
    out = str(tiny_folder.parent / "prepared")
    prepare.prepare("folder", out, str(tiny_folder), name="tiny", splits="0.5,0.25,0.25")
    return out
