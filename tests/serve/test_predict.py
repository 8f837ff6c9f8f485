"""POST /predict of a real server: forms, JSON, pictures as they are; errors in their place."""

import base64
import concurrent.futures
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from dogbreed import images, package, storage
from dogbreed.engine import open_engine
from tests.conftest import picture_file
from tests.doubles.gcs import FakeGCS
from tests.serve.conftest import BREEDS, SIDE, Served, serving

PHOTO = picture_file(320, 240, 1)
OTHER = picture_file(200, 300, 2)
BODY = 200_000


@pytest.fixture(scope="module")
def allowed(gcs_double: FakeGCS) -> str:
    """Make the bucket that the server may read."""
    return gcs_double.bucket()


@pytest.fixture(scope="module")
def served(
    tiny_package: str, allowed: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    cwd = tmp_path_factory.mktemp("cwd")
    limits = ["--body", str(BODY), "--pictures", "5", "--queue", "16", "--pixels", "1000000"]
    words = [*limits, "--buckets", f"[{allowed.removeprefix('gs://')}]", "--batch_size", "4"]
    with serving(tiny_package, cwd, *words) as made:
        yield made
        assert list(cwd.iterdir()) == []  # LitServe would have written a client.py


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_files_of_a_form_are_answered_in_the_order_sent(served: Served, tiny_package: str) -> None:
    first, second, third = served.predict(PHOTO, OTHER, PHOTO)
    assert [e["filename"] for e in (first, second, third)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert first["probability"] != second["probability"]
    source = package.read(tiny_package)
    pictures = [
        images.picture(data, SIDE, lambda w, h: images.centre_box(w, h, 0.9))
        for data in (PHOTO, OTHER)
    ]
    expected = open_engine(source, device="cpu").answer(np.stack(pictures)).probabilities
    for entry, shares in zip((first, second), expected, strict=True):
        best = int(shares.argmax())
        assert entry["breed_idx"] == best
        assert entry["breed"] == BREEDS[best]
        assert entry["probability"] == pytest.approx(shares[best], abs=1e-5)
        assert (entry["status"], entry["message"]) == ("success", "Cute puppy detected")
        assert entry["is_dog"] is True
        assert entry["model"].startswith("tiny@")
        five = [(row["breed"], row["probability"]) for row in entry["top5"]]
        assert sorted(name for name, _ in five) == sorted(BREEDS)
        assert five[0] == (entry["breed"], entry["probability"])
    assert third["probability"] == pytest.approx(first["probability"], abs=1e-5)


def test_each_way_of_sending_a_picture_gives_the_same_answer(served: Served) -> None:
    (form,) = served.predict(PHOTO)
    raw = served.post(data=PHOTO, headers={"Content-Type": "image/jpeg"}).json()
    said = served.post(json={"instances": [b64(PHOTO)]}).json()
    for entry in (raw[0], said["predictions"][0]):
        assert entry["top5"] == form["top5"]
        assert entry.keys() == form.keys()


def test_a_file_that_cannot_be_read_has_its_reason_beside_its_neighbours_answers(
    served: Served,
) -> None:
    good = served.predict(PHOTO)[0]
    answers = served.predict(PHOTO, PHOTO[:700], b"no picture", b"", PHOTO)
    assert [entry["status"] for entry in answers] == ["success", *["error"] * 3, "success"]
    for entry in (answers[0], answers[-1]):
        assert entry["probability"] == pytest.approx(good["probability"], abs=1e-5)
    for entry, reason in zip(
        answers[1:4],
        ["broken picture", "not a JPEG, PNG or WebP", "the file is empty"],
        strict=True,
    ):
        assert reason in entry["message"]
        assert (entry["probability"], entry["breed_idx"], entry["breed"]) == (-1, -1, "-")
        assert entry["top5"] == []


def test_formats_are_told_by_content_and_others_are_refused(served: Served) -> None:
    def file(kind: str) -> bytes:
        return picture_file(60, 60, 3, format=kind)

    answers = served.predict(file("PNG"), file("WEBP"), file("TIFF"), file("GIF"), file("BMP"))
    assert [entry["status"] for entry in answers] == ["success"] * 2 + ["error"] * 3


def bomb(side: int) -> bytes:
    """A PNG of which only the header is there: what decodes it fails otherwise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1001, 60_000])
def test_a_bomb_is_refused_from_its_header(side: int, served: Served) -> None:
    (entry,) = served.predict(bomb(side))
    assert entry["status"] == "error"
    assert re.search(r"more than [\d,]+ pixels", entry["message"])


def test_a_heat_map_comes_where_it_is_asked_for(served: Served) -> None:
    (plain,) = served.predict(PHOTO)
    (entry,) = served.predict(PHOTO, path="/predict?explain=true")
    assert "heat" not in plain
    with Image.open(io.BytesIO(base64.b64decode(entry["heat"]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (SIDE, SIDE))
        assert np.asarray(picture.convert("RGB")).std() > 1
    answer = served.post(json={"instances": [b64(PHOTO)], "parameters": {"explain": True}})
    assert answer.json()["predictions"][0]["heat"] == entry["heat"]


def test_topk_lists_as_many_breeds_as_asked_for(served: Served) -> None:
    (entry,) = served.predict(PHOTO, path="/predict?topk=2")
    assert entry["topk"] == entry["top5"][:2]
    answer = served.post(json={"instances": [b64(PHOTO)], "parameters": {"topk": 1}})
    assert answer.json()["predictions"][0]["topk"] == entry["top5"][:1]


def test_a_picture_comes_from_an_allowed_bucket_and_from_no_other(
    served: Served, allowed: str, gcs_double: FakeGCS
) -> None:
    other = gcs_double.bucket()
    for bucket in (allowed, other):
        storage.write(f"{bucket}/dogs/a b.jpg", PHOTO)
    storage.write(f"{allowed}/large.jpg", bytes(BODY + 1))
    urls = [f"{allowed}/dogs/a b.jpg", f"{other}/dogs/a b.jpg", f"{allowed}/none.jpg"]
    urls += [f"{allowed}/large.jpg", "/etc/passwd"]
    entries = served.post(json={"instances": [{"gcs": url} for url in urls]}).json()["predictions"]
    assert entries[0]["top5"] == served.predict(PHOTO)[0]["top5"]
    assert [entry["filename"] for entry in entries] == urls
    reasons = ["is not among those", "none.jpg", "a request takes", "no URL of the form"]
    for entry, reason in zip(entries[1:], reasons, strict=True):
        assert entry["status"] == "error"
        assert reason in entry["message"]


FORM = "multipart/form-data; boundary=b"


def part(name: str, data: str = "x") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'
    return f"{head}{data}\r\n".encode()


@pytest.mark.parametrize(
    ("kind", "body", "status", "detail"),
    [
        ("application/json", b"{", 400, "no JSON"),
        ("application/json", b"[" * 100_000, 400, "no JSON"),
        ("application/json", b"{}", 400, "instances"),
        ("application/json", b'{"instances": []}', 400, "one at least"),
        ("application/json", b'{"instances": [{}]}', 400, "instances[0]"),
        ("application/json", b'{"instances": [{"b64": 3}]}', 400, "must be text"),
        ("application/json", b'{"instances": [{"b64": "", "gcs": ""}]}', 400, "instances[0]"),
        (
            "application/json",
            b'{"instances": [{"b64": ""}], "parameters": {"topk": "2"}}',
            400,
            "topk",
        ),
        (
            "application/json",
            b'{"instances": [{"b64": ""}], "parameters": {"topk": 0}}',
            400,
            "topk",
        ),
        (
            "application/json",
            b'{"instances": [{"b64": ""}], "parameters": {"explain": 1}}',
            400,
            "explain",
        ),
        ("application/json", b'{"instances": [{"b64": ""}], "parameters": false}', 400, "object"),
        ("application/json", json.dumps({"instances": [{"b64": ""}] * 6}).encode(), 413, "than 5"),
        ("text/plain", b"hello", 415, "multipart/form-data"),
        ("", b"hello", 415, "multipart/form-data"),
        ("image/jpeg", b"", 400, "empty"),
        ("multipart/form-data", b"x", 400, "boundary"),
        (FORM, b"", 400, "cut short"),
        (FORM, b"nonsense", 400, "cannot be read"),
        (FORM, part("imagefiles"), 400, "cut short"),
        (FORM, part("imagefile") + b"--b--\r\n", 400, "but in 'imagefile'"),
        (FORM, part("imagefiles") * 6 + b"--b--\r\n", 413, "than 5 pictures"),
        (FORM, part("i" * 10_000) + b"--b--\r\n", 400, "header size"),
        ("image/jpeg", bytes(BODY + 1), 413, "bytes"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(
    kind: str, body: bytes, status: int, detail: str, served: Served
) -> None:
    answer = served.post(data=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


def test_a_body_without_a_length_is_cut_off_at_the_limit(served: Served) -> None:
    chunks = (bytes(10_000) for _ in range(BODY // 10_000 + 2))
    answer = served.post(data=chunks, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 413


@pytest.mark.parametrize("query", ["topk=0", "topk=x", "topk=-1", "topk=%C2%B2", "explain=perhaps"])
def test_a_malformed_query_is_told_what_is_wrong(query: str, served: Served) -> None:
    answer = served.post(f"/predict?{query}", files={"imagefiles": ("a.jpg", PHOTO)})
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["detail"]


def test_a_picture_is_one_item_in_the_counts_whatever_request_it_came_in(served: Served) -> None:
    names = [
        'dogbreed_pictures_total{outcome="success"}',
        'dogbreed_pictures_total{outcome="unreadable"}',
        "dogbreed_batch_pictures_sum",
        "dogbreed_confidence_count",
        'dogbreed_stage_seconds_count{stage="forward"}',
        'dogbreed_requests_total{route="/predict",status="200"}',
    ]
    before = [served.metric(name) for name in names]
    served.predict(PHOTO, OTHER, b"none", PHOTO)
    served.predict(OTHER)
    after = [served.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [4, 1, 4, 4, 4, 2]
    assert served.metric("dogbreed_inside_pictures") == 0
    assert served.metric('dogbreed_memory_bytes{process="workers"}') > 2**20


def log_of(served: Served, answer: requests.Response) -> dict[str, Any]:
    """The line that the log has of a request."""
    return served.log(answer.headers["X-Request-Id"])


def test_a_request_has_a_line_in_the_log_with_the_id_of_its_answer(served: Served) -> None:
    answer = served.post(data=PHOTO, headers={"Content-Type": "image/jpeg", "X-Request-Id": "a-1"})
    assert answer.headers["X-Request-Id"] == "a-1"
    line = log_of(served, answer)
    assert (line["status"], line["pictures"], line["unreadable"]) == (200, 1, 0)
    assert line["bytes"] == len(PHOTO)
    odd = served.post(data=b"", headers={"X-Request-Id": 'a"\tb'})
    assert re.fullmatch("[0-9a-f]{16}", odd.headers["X-Request-Id"])
    assert log_of(served, odd)["status"] == 415


def test_requests_at_once_are_answered_each_with_its_own(served: Served) -> None:

    alone = [served.predict(data)[0]["probability"] for data in (PHOTO, OTHER)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        many = list(
            pool.map(lambda k: served.predict((PHOTO, OTHER, b"none")[k % 3])[0], range(36))
        )
    for k, entry in enumerate(many):
        expected = -1 if k % 3 == 2 else alone[k % 3]
        assert entry["probability"] == pytest.approx(expected, abs=1e-5)


def test_the_description_names_every_route_there_is(served: Served) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/predict", "/health", "/ready", "/info", "/metrics", "/openapi.json", "/docs", "/")
    }
    for path, operations in paths.items():
        if "get" in operations:
            answer = served.get(path)
            assert answer.status_code == 200
            kind = next(iter(operations["get"]["responses"]["200"]["content"]))
            assert answer.headers["Content-Type"].startswith(kind)
    assert served.get("/nothing").status_code == 404
    assert served.get("/predict").status_code == 405


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_has_nothing_from_elsewhere_and_nothing_inline(path: str, served: Served) -> None:
    answer = served.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"):
        assert name in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", answer.text)
    sources = re.findall(r'(?:src|href)=["\']([^"\']+)', answer.text)
    assert sources
    for source in sources:
        assert source.startswith(("/", "#"))
        if source.startswith("/"):
            assert served.get(source).status_code == 200
