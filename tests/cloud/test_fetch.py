"""What a build puts into the image that serves."""

from pathlib import Path

import pytest

from dogbreed import package
from dogbreed.cloud import fetch
from tests.test_package import MODEL, WEIGHTS


@pytest.fixture
def url(bucket: str) -> str:
    """Give a package in a bucket, without an engine."""
    package.write(f"{bucket}/model", MODEL, WEIGHTS)
    return f"{bucket}/model"


def test_a_package_with_an_engine_is_copied_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "best_name", lambda _: "onnx-fp32")
    assert fetch.main([url, str(tmp_path)]) == 0
    assert package.read(str(tmp_path)).weights() == WEIGHTS
    assert capsys.readouterr().out == f"{url}: brave-beagle, onnx-fp32\n"


def test_a_package_that_needs_torch_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main([url, str(tmp_path / "model")]) == 2
    assert "no engine in it that works here" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_place_without_a_package_is_named(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main([f"{bucket}/model", str(tmp_path)]) == 2
    assert f"fetch: error: {bucket}/model" in capsys.readouterr().err
