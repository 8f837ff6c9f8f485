"""Credentials are fsspec's own: a service account, requester pays, tokens that expire."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from dogbreed import storage
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest
from dogbreed.data.prepare import prepare
from tests.conftest import forget_gcsfs
from tests.doubles.gcs import FakeGCS
from tests.doubles.tokens import LIFE, Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """Issue tokens on loopback."""
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def account(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a service account's file and let it be found as the application's default."""
    path = tmp_path / "account.json"
    issuer.account(path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "google_default"})
    forget_gcsfs()
    return path


def test_a_service_account_is_found_and_its_token_sent(
    bucket: str, gcs: FakeGCS, issuer: Issuer, account: Path
) -> None:
    gcs.faults.tokens = issuer.accepted
    storage.write(f"{bucket}/a.txt", b"dogs")
    assert storage.read(f"{bucket}/a.txt") == b"dogs"
    assert issuer.issued > 0
    assert gcs.counts["401"] == 0


def test_tokens_that_expire_in_an_epoch_are_renewed(
    tiny_folder: Path, bucket: str, gcs: FakeGCS, issuer: Issuer, account: Path
) -> None:
    prepare("folder", f"{bucket}/data", str(tiny_folder), splits="1,0,0")
    gcs.faults.tokens = issuer.accepted
    before = issuer.issued
    data = Manifest.open(f"{bucket}/data")
    pictures = PictureDataset(data, np.arange(4), size=16, crop=1.0)
    batches = list(EpochLoader(pictures, data.rows_of("train"), batch_size=4))
    assert all(batch["valid"].all() for batch in batches)
    assert issuer.issued - before > LIFE
    assert "token-1" not in issuer.accepted


def test_no_valid_token_is_an_error_that_says_so(
    bucket: str, gcs: FakeGCS, issuer: Issuer, account: Path
) -> None:
    gcs.faults.tokens = ()
    with pytest.raises(storage.StorageError, match=r"a\.txt: access denied .*Invalid Credentials"):
        storage.read(f"{bucket}/a.txt")


def test_a_project_pays_for_buckets_that_want_it(
    bucket: str, gcs: FakeGCS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "requester_pays": "my-project"})
    forget_gcsfs()
    gcs.reset()
    storage.write(f"{bucket}/a.txt", b"dogs")
    assert storage.read(f"{bucket}/a.txt") == b"dogs"
    assert gcs.counts["paid by my-project"] >= 2
    assert gcs.counts["paid by None"] == 0
