"""Credentials are fsspec's own: a service account, requester pays, tokens that expire."""

import json
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dogbreed import storage
from dogbreed.data.dataset import PictureDataset
from dogbreed.data.loader import EpochLoader
from dogbreed.data.manifest import Manifest
from dogbreed.data.prepare import prepare
from tests.conftest import forget_gcsfs
from tests.doubles.gcs import FakeGCS

LIFE = 20  # tokens issued after which one is refused


class Issuer:
    """Google's token endpoint: each token is said to be about to expire, so clients ask often."""

    def __init__(self) -> None:
        self.issued, self.accepted = 0, deque[str](maxlen=LIFE)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                issuer.issued += 1
                issuer.accepted.append(f"token-{issuer.issued}")
                about = {"access_token": issuer.accepted[-1], "expires_in": 1}
                body = json.dumps(about | {"token_type": "Bearer"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """Issue tokens on loopback."""
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def account(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a service account's file and let it be found as the application's default."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    about = {
        "type": "service_account",
        "project_id": "dogs",
        "private_key": pem.decode(),
        "client_email": "trainer@dogs.iam.gserviceaccount.com",
        "token_uri": issuer.url,
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(about))
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
