"""First weights: where they come from, what of them is used, and what is refused."""

import hashlib
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load, save
from torch import Tensor

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.errors import BadInput
from dogbreed.model.backbone import Network
from dogbreed.model.weights import hub_reachable, load_weights
from dogbreed.runs import Run
from tests.test_training import fit_words

BACKBONE = "test_efficientnet"
BREEDS = ["akita", "beagle", "pug"]


def network(seed: int, classes: int = 3, backbone: str = BACKBONE) -> Network:
    """Make a network of which no tensor is as it is by default, BatchNorm's included."""
    torch.manual_seed(seed)
    made = Network(backbone, classes)
    for value in made.body.state_dict().values():
        value.copy_(torch.rand_like(value) if value.is_floating_point() else value + seed)
    return made


def state(of: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in of.body.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert set(a) == set(b)
    return {
        name for name in a if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])
    }


HEAD = {"classifier.weight", "classifier.bias"}


def run_package(url: str, source: Network, names: list[str], **changed: object) -> None:
    """Write what a finished run leaves for others."""
    model = {
        "run": "old",
        "backbone": BACKBONE,
        "classes": [{"name": name} for name in names],
        "preprocessing": {"size": 32, "crop": 1.0},
        "data": {"name": "dogs", "version": "0" * 64},
        "pretraining": "none (random)",
        "metrics": {"val": {"top1": 0.5}},
    } | changed
    package.write(storage.join(url, "model"), model, save(state(source)))


def test_none_leaves_the_network_as_it_is() -> None:
    target = network(1)
    before = state(target)
    assert load_weights(target, BACKBONE, "none", BREEDS) == "none (random)"
    assert differing(before, state(target)) == set()


def test_random_weights_know_no_class_and_that_is_said() -> None:
    assert load_weights(network(1), BACKBONE, "none", BREEDS, head="auto") == "none (random)"
    with pytest.raises(BadInput, match="random weights know no class"):
        load_weights(network(1), BACKBONE, "none", BREEDS, head="known")


class TestFile:
    @pytest.fixture(params=["disk", "bucket"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")

    def test_all_but_the_head_is_loaded(self, place: str) -> None:
        source, target = network(1, classes=9), network(2)
        data = save(state(source))
        storage.write(f"{place}/x.safetensors", data)
        before = state(target)
        said = load_weights(target, BACKBONE, f"{place}/x.safetensors", BREEDS)
        assert said == (
            f"file: {place}/x.safetensors (SHA-256 {hashlib.sha256(data).hexdigest()[:12]}),"
            " head new"
        )
        assert differing(state(source), state(target)) == HEAD
        assert differing(before, state(target)) == set(before) - HEAD

    def test_the_head_is_new_even_if_it_would_fit(self, place: str) -> None:
        source, target = network(1), network(2)
        storage.write(f"{place}/x.safetensors", save(state(source)))
        before = state(target)
        load_weights(target, BACKBONE, f"{place}/x.safetensors", BREEDS)
        assert differing(before, state(target)) == set(before) - HEAD

    def test_a_missing_file_is_an_error_that_names_it(self, place: str) -> None:
        with pytest.raises(BadInput, match=r"/none.safetensors: no such file or bucket"):
            load_weights(network(1), BACKBONE, f"{place}/none.safetensors", BREEDS)

    @pytest.mark.parametrize("data", [b"", b"not weights", b"\x08\0\0\0\0\0\0\0notjson!"])
    def test_another_kind_of_file_is_an_error(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(data)
        target = network(1)
        before = state(target)
        with pytest.raises(BadInput, match=r"x.safetensors: not a safetensors file") as caught:
            load_weights(target, BACKBONE, f"{tmp_path}/x.safetensors", BREEDS)
        assert "\n" not in str(caught.value)
        assert differing(before, state(target)) == set()

    @pytest.mark.parametrize("wrong", ["other names", "one missing", "one more", "other shape"])
    def test_weights_of_another_model_are_an_error_that_names_a_tensor(
        self, wrong: str, tmp_path: Path
    ) -> None:
        source = state(network(1))
        name = sorted(set(source) - HEAD)[0]
        if wrong == "other names":
            source = state(network(1, backbone="test_resnet"))
        elif wrong == "one missing":
            del source[name]
        elif wrong == "one more":
            source["extra"] = torch.zeros(1)
        else:
            source[name] = torch.zeros(*source[name].shape, 2)
        (tmp_path / "x.safetensors").write_bytes(save(source))
        target = network(2)
        before = state(target)
        with pytest.raises(BadInput, match="weights of another model") as caught:
            load_weights(target, BACKBONE, f"{tmp_path}/x.safetensors", BREEDS)
        if wrong != "other names":
            assert repr("extra" if wrong == "one more" else name) in str(caught.value)
        assert differing(before, state(target)) == set()


class TestRun:
    def test_its_head_is_kept_if_the_classes_are_the_same(self, tmp_path: Path) -> None:
        source, target = network(1), network(2)
        run_package(str(tmp_path), source, BREEDS)
        said = load_weights(target, BACKBONE, str(tmp_path), BREEDS)
        assert said == f"run: {tmp_path} (none (random)), head kept"
        assert differing(state(source), state(target)) == set()

    @pytest.mark.parametrize(
        "names", [["beagle", "akita", "pug"], ["akita", "beagle", "borzoi"], ["akita", "beagle"]]
    )
    def test_its_head_is_left_if_the_classes_or_their_order_differ(
        self, names: list[str], tmp_path: Path
    ) -> None:
        source, target = network(1, classes=len(names)), network(2)
        run_package(str(tmp_path), source, names)
        before = state(target)
        said = load_weights(target, BACKBONE, str(tmp_path), BREEDS)
        assert said == f"run: {tmp_path} (none (random)), head new"
        assert differing(before, state(target)) == set(before) - HEAD
        assert differing(state(source), state(target)) == HEAD

    def test_of_another_backbone_it_is_an_error_that_names_both(self, tmp_path: Path) -> None:
        run_package(str(tmp_path), network(1), BREEDS, backbone="test_resnet")
        with pytest.raises(BadInput, match="model is test_resnet, not test_efficientnet"):
            load_weights(network(2), BACKBONE, str(tmp_path), BREEDS)

    def test_without_a_model_it_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no model package here"):
            load_weights(network(1), BACKBONE, str(tmp_path / "none"), BREEDS)

    def test_from_run_to_run_through_a_bucket(
        self, tiny_dataset: str, bucket: str, tmp_path: Path
    ) -> None:
        assert main(fit_words(tiny_dataset, bucket, "first")) == 0
        words = fit_words(tiny_dataset, str(tmp_path), "second")
        words += ["--model.weights", f"{bucket}/first", "--model.lr", "0"]
        assert main(words) == 0
        about = Run(f"{tmp_path}/second").read()
        assert about["weights"] == f"run: {bucket}/first (none (random)), head kept"
        old = load(package.read(f"{bucket}/first/model").weights())
        new = load(package.read(f"{tmp_path}/second/model").weights())
        moved = differing(old, new)
        assert all("running" in name or "tracked" in name for name in moved)


class TestWithoutTheHub:
    @pytest.fixture(autouse=True)
    def no_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def test_it_cannot_be_reached(self) -> None:
        assert not hub_reachable()

    def test_on_the_sample_auto_is_random_and_says_so(self) -> None:
        target = network(1)
        before = state(target)
        said = load_weights(target, BACKBONE, "auto", BREEDS, random_allowed=True)
        assert said == "none (random): the Hugging Face Hub cannot be reached"
        assert differing(before, state(target)) == set()

    @pytest.mark.parametrize(("weights", "allowed"), [("auto", False), ("imagenet", True)])
    def test_otherwise_it_is_an_error_that_says_what_to_do(
        self, weights: str, allowed: bool
    ) -> None:
        with pytest.raises(BadInput, match=f"{weights}: the Hugging Face Hub.*--model.weights non"):
            load_weights(network(1), BACKBONE, weights, BREEDS, random_allowed=allowed)

    def test_a_backbone_without_weights_is_random_by_auto(self) -> None:
        backbone = "mobilenetv3_large_075"
        said = load_weights(network(1, backbone=backbone), backbone, "auto", BREEDS)
        assert said == "none (random): timm has no pretrained weights of this backbone"

    def test_a_fit_on_the_sample_starts_from_random_weights_and_one_on_data_does_not(
        self,
        tiny_dataset: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("dogbreed.data.sample.PER_CLASS", 12)  # the real one takes seconds
        words = fit_words(tiny_dataset, str(tmp_path), "data", "--model.weights", "auto")
        assert main(words) == 2
        assert "the Hugging Face Hub cannot be reached" in capsys.readouterr().err
        words = fit_words(tiny_dataset, str(tmp_path), "sample", "--model.weights", "auto")
        at = words.index("--data.root")
        del words[at : at + 2]
        assert main([*words, "--trainer.max_epochs", "1"]) == 0
        about = Run(f"{tmp_path}/sample").read()
        assert about["weights"] == "none (random): the Hugging Face Hub cannot be reached"
        assert about["data"]["name"] == "synthetic-breeds"


class TestWithAHub:
    """A server on this machine answers what timm and huggingface_hub ask for one model."""

    @pytest.fixture
    def asked(self) -> Counter[str]:
        return Counter()

    @pytest.fixture
    def served(self) -> dict[str, bytes]:
        """Files of the repository, by name."""
        torch.manual_seed(5)
        model = timm.create_model(BACKBONE, num_classes=1000)
        return {"model.safetensors": save(model.state_dict())}

    @pytest.fixture(autouse=True)
    def hub(
        self,
        asked: Counter[str],
        served: dict[str, bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        start = f"/{timm.get_pretrained_cfg(BACKBONE).hf_hub_id}/resolve/main/"

        class Hub(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.wfile.write(self.answer())

            def answer(self) -> bytes:
                name = self.path.removeprefix(start)
                asked[f"{self.command} {name}"] += 1
                data = served.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header("X-Repo-Commit", "c" * 40)
                if data is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                else:
                    self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                return data or b""

            def log_message(self, *_: object) -> None:
                """Quiet."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
            url = f"http://127.0.0.1:{server.server_port}"
            monkeypatch.setenv("HF_ENDPOINT", url)
            monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
            # These follow from the environment, but were read when the package was imported.
            constants = huggingface_hub.constants
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
            monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize("weights", ["auto", "imagenet"])
    def test_all_but_the_head_comes_from_there(
        self, weights: str, asked: Counter[str], served: dict[str, bytes]
    ) -> None:
        target = network(2)
        before = state(target)
        said = load_weights(target, BACKBONE, weights, BREEDS)
        assert said == f"imagenet: {timm.get_pretrained_cfg(BACKBONE).hf_hub_id}, head new"
        assert asked["GET model.safetensors"] == 1
        assert differing(load(served["model.safetensors"]), state(target)) == HEAD
        assert differing(before, state(target)) == set(before) - HEAD

    def test_files_that_are_not_there_are_an_error_that_says_what_to_do(
        self, served: dict[str, bytes]
    ) -> None:
        served.clear()
        with pytest.raises(BadInput, match=r"--model\.weights imagenet"):
            load_weights(network(2), BACKBONE, "imagenet", BREEDS)

    def test_imagenet_weights_that_timm_does_not_have_are_an_error(self) -> None:
        backbone = "mobilenetv3_large_075"
        with pytest.raises(BadInput, match=r"--model\.weights imagenet"):
            load_weights(network(2, backbone=backbone), backbone, "imagenet", BREEDS)
