"""The network: what goes in, what comes out, and what a frozen body keeps."""

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dogbreed.cli import main
from dogbreed.errors import BadInput
from dogbreed.model.backbone import Network, preprocessing
from dogbreed.runs import Run
from tests.test_training import fit_words

# timm's name, the name of its classifier, and a side in pixels that it takes.
FAMILIES = {
    "test_efficientnet": ("classifier", 64),
    "test_resnet": ("fc", 64),
    "test_vit": ("head", 160),
    "test_convnext": ("head.fc", 64),
    "test_byobnet": ("head.fc", 64),
    "mobilenetv3_small_050": ("classifier", 64),
    "tf_mobilenetv3_small_minimal_100": ("classifier", 64),
    "mobilenetv4_conv_small_035": ("classifier", 64),
}
# Means and standard deviations of the two kinds that timm's weights were trained with.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def pictures(side: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def normalised(images: Tensor, name: str) -> Tensor:
    """Pixels as timm's own transforms hand them to this model."""
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    normalise = transform.transforms[-1]
    return torch.stack([normalise(image.float() / 255) for image in images])


@pytest.mark.parametrize("name", FAMILIES)
class TestEveryFamily:
    def test_logits_are_those_of_timms_own_model(self, name: str) -> None:
        _, side = FAMILIES[name]
        torch.manual_seed(0)
        network = Network(name, 7).eval()
        nn.init.normal_(network.head.weight, std=0.05)  # a fresh one is zero
        own = timm.create_model(name, num_classes=7).eval()
        own.load_state_dict(network.body.state_dict())
        images = pictures(side)
        with torch.inference_mode():
            logits = network(images)
            torch.testing.assert_close(logits, own(normalised(images, name)))
        assert logits.shape == (2, 7)
        assert not torch.equal(logits[0], logits[1])

    def test_the_head_is_the_classifier_and_reads_the_embedding(self, name: str) -> None:
        head, side = FAMILIES[name]
        network = Network(name, 7).eval()
        assert network.head_name == head
        assert network.head is network.body.get_submodule(head)
        assert isinstance(network.head, nn.Linear)
        with torch.inference_mode():
            embedding = network.embed(pictures(side))
            assert embedding.shape == (2, network.head.in_features)
            torch.testing.assert_close(network.head(embedding), network(pictures(side)))

    def test_the_state_is_timms_and_no_more(self, name: str) -> None:
        network = Network(name, 7)
        own = timm.create_model(name, num_classes=7).state_dict()
        assert set(network.state_dict()) == {f"body.{key}" for key in own}


class TestPreprocessing:
    @pytest.mark.parametrize(
        ("name", "constants", "size", "crop"),
        [
            ("mobilenetv3_large_100", IMAGENET, 224, 0.875),
            ("test_resnet", HALVES, 160, 0.95),
            ("tf_mobilenetv3_small_minimal_100", HALVES, 224, 0.875),
            ("vit_base_patch16_224.augreg_in21k_ft_in1k", HALVES, 224, 0.9),
            ("inception_v3.tv_in1k", HALVES, 299, 0.875),
        ],
    )
    def test_it_is_what_the_weights_were_trained_with(
        self,
        name: str,
        constants: tuple[tuple[float, ...], tuple[float, ...]],
        size: int,
        crop: float,
    ) -> None:
        expects = preprocessing(name)
        assert (tuple(expects.mean), tuple(expects.std)) == constants
        assert (expects.size, expects.crop) == (size, crop)

    @pytest.mark.parametrize("make", [preprocessing, lambda name: Network(name, 3)])
    def test_an_unknown_backbone_is_an_error_that_names_the_nearest(self, make) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(BadInput, match=r"'mobilenetv3_larg_100'.*'mobilenetv3_large_1"):
            make("mobilenetv3_larg_100")

    def test_a_name_like_no_other_is_an_error_without_a_guess(self) -> None:
        with pytest.raises(BadInput, match=r"no model 'qqq'$"):
            preprocessing("qqq")


def test_dropout_lies_before_the_classifier_and_in_training_only() -> None:
    torch.manual_seed(0)
    network = Network("test_vit", 7, drop_rate=0.5)
    nn.init.normal_(network.head.weight)  # a fresh one is zero
    images = pictures(160)
    with torch.no_grad():
        assert not torch.equal(network(images), network(images))
        torch.testing.assert_close(network.embed(images), network.embed(images))
        network.eval()
        assert torch.equal(network(images), network(images))


class TestFrozen:
    def test_only_the_head_has_gradients(self) -> None:
        network = Network("test_efficientnet", 7, frozen=True)
        network(pictures(64)).sum().backward()
        moved = {name for name, value in network.body.named_parameters() if value.grad is not None}
        assert moved == {"classifier.weight", "classifier.bias"}

    @pytest.mark.parametrize("frozen", [True, False])
    def test_the_body_is_in_evaluation_from_the_start(self, frozen: bool) -> None:
        network = Network("test_efficientnet", 7, frozen=frozen)
        norms = [m for m in network.body.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        for mode in (None, True, False, True):
            if mode is not None:
                network.train(mode)
            assert {m.training for m in norms} == {not frozen and mode is not False}
            assert network.drop.training == (mode is not False)

    @pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
    def test_a_fit_leaves_every_tensor_of_the_body_as_it_was_and_moves_the_head(
        self, backbone: str, tiny_dataset: str, tmp_path: Path
    ) -> None:
        more = ["--model.backbone", backbone]
        if backbone == "test_vit":
            more += ["--data.image_size", "160", "--data.batch_size", "8"]
        assert main(fit_words(tiny_dataset, str(tmp_path), "start", *more)) == 0
        start = load_file(tmp_path / "start/model/weights.safetensors")
        more += ["--model.freeze", "backbone", "--model.weights", f"{tmp_path}/start"]
        assert main(fit_words(tiny_dataset, str(tmp_path), "frozen", *more)) == 0

        path = Run(f"{tmp_path}/frozen").checkpoint("last")
        state = torch.load(path, weights_only=True)["state_dict"]
        end = {
            name.removeprefix("network.body."): value
            for name, value in state.items()
            if name.startswith("network.body.")
        }
        assert set(start) == set(end)
        head = Network(backbone, 2).head_name
        changed = {name for name in start if not torch.equal(start[name], end[name])}
        assert changed == {f"{head}.weight", f"{head}.bias"}
        if backbone == "test_efficientnet":
            assert any(name.endswith("running_mean") for name in start)
            assert all(v > 0 for name, v in start.items() if name.endswith("num_batches_tracked"))

    def test_a_fit_without_it_moves_the_body(self, tiny_dataset: str, tmp_path: Path) -> None:
        assert main(fit_words(tiny_dataset, str(tmp_path), "start")) == 0
        start = load_file(tmp_path / "start/model/weights.safetensors")
        more = ["--model.batch_norm", "train", "--model.weights", f"{tmp_path}/start"]
        assert main(fit_words(tiny_dataset, str(tmp_path), "free", *more)) == 0
        end = load_file(tmp_path / "free/model/weights.safetensors")
        assert not any(torch.equal(start[name], end[name]) for name in start)


@pytest.mark.parametrize("classes", [2, 5, 120])
def test_a_fresh_network_is_as_sure_as_chance(classes: int) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    logits = Network("test_efficientnet", classes).eval()(images)
    loss = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(classes), abs=1e-4)
