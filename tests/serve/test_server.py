"""The application without its workers, and how `dogbreed serve` is started."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dogbreed import package
from dogbreed.cli import main
from dogbreed.errors import BadInput
from dogbreed.serve.auth import Keys
from dogbreed.serve.command import _package
from dogbreed.serve.limits import Limits
from dogbreed.serve.server import Options, Server

FIRST, SECOND = "first-key-of-many-signs", "second-key-of-many-signs"


def client(model: str, keys: Keys | None = None, options: Options | None = None) -> TestClient:
    """A client of a server whose workers were never started."""
    made = Server(package.read(model), options or Options(), Limits(), keys or Keys([]))
    return TestClient(made.app)


def test_until_the_model_is_loaded_the_server_lives_and_asks_for_patience(
    tiny_package: str,
) -> None:
    web = client(tiny_package)
    assert web.get("/health").status_code == 200
    for answer in (web.get("/ready"), web.post("/predict", content=b"x")):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("route", ["/predict", "/info", "/metrics"])
def test_each_of_several_keys_opens_and_others_do_not(route: str, tiny_package: str) -> None:
    web = client(tiny_package, Keys([FIRST, SECOND]))
    method = "POST" if route == "/predict" else "GET"
    for key in ("", "wrong", FIRST[:-1], FIRST + SECOND, "é"):
        answer = web.request(method, route, headers={"X-API-Key": key.encode()})
        assert answer.status_code == 401
        assert "X-API-Key" in answer.json()["detail"]
    for key in (FIRST, SECOND):
        answer = web.request(method, route, headers={"X-API-Key": key})
        assert answer.status_code == (503 if route == "/predict" else 200)


def test_probes_and_pages_need_no_key(tiny_package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litserve.server.LIT_SERVER_API_KEY", "locked")  # its own lock, for all
    web = client(tiny_package, Keys([FIRST]), Options(health_route="/alive"))
    for path, status in {"/health": 200, "/ready": 503, "/alive": 503, "/": 200}.items():
        assert web.get(path).status_code == status
    for path in ("/docs", "/openapi.json", "/page.js", "/page.css", "/icon.svg"):
        assert web.get(path).status_code == 200
    described = web.get("/openapi.json").json()
    assert described["paths"]["/predict"]["post"]["security"] == [{"key": []}]
    assert "401" in described["paths"]["/predict"]["post"]["responses"]


def test_keys_come_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text(f"# rotated in May\n{FIRST}\n\n")
    monkeypatch.setenv("DOGBREED_API_KEYS", f" {SECOND} ,")
    keys = Keys.find(str(tmp_path / "keys"))
    assert keys.opens(FIRST)
    assert keys.opens(SECOND)
    assert not keys.opens("# rotated in May")
    assert FIRST not in repr(vars(keys))


@pytest.mark.parametrize(
    ("text", "problem"), [(None, "No such file"), ("# none\n", "no key"), ("short\n", "16")]
)
def test_a_file_without_good_keys_is_refused(
    text: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOGBREED_API_KEYS", raising=False)
    if text is not None:
        (tmp_path / "keys").write_text(text)
    with pytest.raises(BadInput, match=problem):
        Keys.find(str(tmp_path / "keys"))


def test_vertex_ais_routes_answer_like_ours(tiny_package: str) -> None:
    routes = Options(predict_route="/v1/models/m:predict", health_route="/v1/ready")
    web = client(tiny_package, options=routes)
    assert web.post("/v1/models/m:predict").json() == web.post("/predict").json()
    assert web.get("/v1/ready").text == web.get("/ready").text
    paths = web.get("/openapi.json").json()["paths"]
    assert {"/v1/models/m:predict", "/v1/ready"} < set(paths)


def test_an_unforeseen_error_is_json_and_a_line_in_the_log(
    tiny_package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(package.read(tiny_package), Options(), Limits(), Keys([]))
    monkeypatch.setattr(server, "_about", lambda: 1 / 0)
    answer = TestClient(server.app).get("/info")
    assert answer.status_code == 500
    assert "mistake" in answer.json()["detail"]
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["severity"], line["status"]) == ("ERROR", 500)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert "ZeroDivisionError" in line["error"]


def test_a_package_is_found_by_run_by_url_by_environment_or_as_the_newest(
    tiny_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = str(Path(tiny_package).parent)
    assert _package(above, "runs", None) == tiny_package
    assert _package(None, "runs", tiny_package) == tiny_package
    assert _package(None, "runs", above) == tiny_package
    monkeypatch.setenv("AIP_STORAGE_URI", tiny_package)
    assert _package(None, "runs", None) == tiny_package
    monkeypatch.setenv("AIP_STORAGE_URI", "")  # as Vertex AI has it without a model
    (Path(above) / "run.json").write_text('{"created": "2026-01-01"}')
    assert _package(None, str(Path(above).parent), None) == tiny_package


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--workers", "0"], "--workers"),
        (["--batch_wait", "-1"], "--batch_wait"),
        (["--pictures", "64", "--queue", "8"], "--queue 8"),
        (["--body", "0"], "--body 0"),
        (["--buckets", "[gs://b]"], "--buckets"),
        (["--api_keys_file", "/none"], "--api_keys_file /none"),
        (["--model", "/none"], "no model package here"),
        (["--run", "/none", "--model", "/none"], "say one"),
        (["--keys", "x"], "unknown option"),
    ],
)
def test_options_that_cannot_work_are_refused(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert problem in said.err


def test_a_damaged_package_is_refused(
    tiny_package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((Path(tiny_package) / name).read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    assert main(["serve", "--model", str(tmp_path)]) == 2
    assert "not the weights that model.json describes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"classes": None},
        {"classes": []},
        {"classes": [{"name": 3}]},
        {"preprocessing": {"size": 0, "crop": 1.0}},
        {"preprocessing": {"size": 64}},
        {"weights_sha256": "../../etc"},
        {"schema": 99},
        {"schema": "x"},
    ],
)
def test_a_foreign_package_is_refused(
    change: dict[str, Any], tiny_package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = json.loads((Path(tiny_package) / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(said | change))
    assert main(["serve", "--model", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(tmp_path) in line
