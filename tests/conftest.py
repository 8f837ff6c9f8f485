"""Fixtures for all tests."""

import os

# gcsfs reads this when it is imported. Without it, it probes every bucket over TLS gRPC, which a
# double of the storage does not speak: each read or write would then take about a minute.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# fsspec reads this when it is imported: tests never look for credentials, nor use the real ones.
os.environ["FSSPEC_GS_TOKEN"] = "anon"

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import fsspec.asyn
import gcsfs
import pytest

from tests.doubles.gcs import FakeGCS


def forget_gcsfs() -> None:
    """Close the sessions of all instances of gcsfs, and drop these with their listings."""
    for fs in list(gcsfs.GCSFileSystem._cache.values()):
        if not fs.asynchronous and fs.session:
            fsspec.asyn.sync(fs.loop, fs.session.close)
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def gcs_double() -> Iterator[FakeGCS]:
    """Run one double of Google Cloud Storage, which every process started here finds too."""
    with pytest.MonkeyPatch.context() as patch, FakeGCS() as double:
        for name, value in double.env.items():
            patch.setenv(name, value)
        yield double
        forget_gcsfs()


@pytest.fixture
def gcs(gcs_double: FakeGCS) -> Iterator[FakeGCS]:
    """Give the double without faults and counts, and gcsfs without anything remembered."""
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
