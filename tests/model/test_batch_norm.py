"""BatchNorm with fixed statistics, folded into convolutions."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from dogbreed.cli import main
from dogbreed.model.batch_norm import batch_norms, fold, merge
from tests.test_training import fit_words


def uneven(name: str) -> torch.nn.Module:
    """A network whose BatchNorms have something to do."""
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=5)
    for norm in batch_norms(body):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
    return body.eval()


def gradients(body: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    body.zero_grad()
    body(images).logsumexp(1).sum().backward()
    return {name: p.grad.clone() for name, p in body.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["test_efficientnet", "tf_mobilenetv3_small_minimal_100"])
class TestFold:
    def test_answers_and_gradients_are_those_of_before(self, name: str) -> None:
        plain, images = uneven(name), torch.randn(2, 3, 64, 64)
        folded = copy.deepcopy(plain)
        assert fold(folded) > 10
        torch.testing.assert_close(folded(images), plain(images), rtol=1e-3, atol=1e-4)
        expected = gradients(plain, images)
        for key, value in gradients(folded, images).items():
            assert (value - expected[key]).norm() <= 1e-3 * expected[key].norm() + 1e-5, key

    def test_names_and_copies_stay_what_they_were(self, name: str) -> None:
        plain, images = uneven(name), torch.randn(1, 3, 64, 64)
        folded = copy.deepcopy(plain)
        fold(folded)
        assert list(folded.state_dict()) == list(plain.state_dict())
        copied = copy.deepcopy(folded)
        torch.nn.init.zeros_(folded.get_classifier().weight)
        for norm in batch_norms(folded):
            torch.nn.init.zeros_(norm.weight)
        torch.testing.assert_close(copied(images), plain(images), rtol=1e-3, atol=1e-4)

    def test_once_merged_it_answers_as_before_and_no_norm_works_any_more(self, name: str) -> None:
        plain, images = uneven(name), torch.randn(2, 3, 64, 64)
        merged = copy.deepcopy(plain)
        assert merge(merged, 64) == len(batch_norms(merged))
        for norm in batch_norms(merged):
            torch.nn.init.zeros_(norm.weight)
        torch.testing.assert_close(merged(images), plain(images), rtol=1e-3, atol=1e-4)

    def test_in_training_mode_batches_are_normalised_as_ever(self, name: str) -> None:
        plain, images = uneven(name), torch.randn(4, 3, 64, 64)
        folded = copy.deepcopy(plain)
        fold(folded)
        torch.manual_seed(1)
        expected = plain.train()(images)
        torch.manual_seed(1)
        torch.testing.assert_close(folded.train()(images), expected)
        for ours, theirs in zip(batch_norms(folded), batch_norms(plain), strict=True):
            torch.testing.assert_close(ours.running_mean, theirs.running_mean)


class Again(torch.nn.Module):
    """Uses its layers twice, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once: torch.Tensor = self.norm(self.conv(x))
        return self.norm(self.conv(once))  # type: ignore[no-any-return]


def test_layers_that_are_used_twice_are_merged_once() -> None:
    body, images = Again().eval(), torch.randn(1, 3, 8, 8)
    torch.nn.init.constant_(body.norm.weight, 2.0)
    before = body(images)
    merge(body, 8)
    torch.testing.assert_close(body(images), before)


class Twice(torch.nn.Module):
    """Uses what its convolution gives in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_a_network_that_it_would_change_is_left_alone() -> None:
    body, images = Twice().eval(), torch.randn(1, 3, 8, 8)
    before = body(images)
    assert fold(body) == merge(body, 8) == 0
    torch.testing.assert_close(body(images), before)


def statistics(run: Path) -> dict[str, torch.Tensor]:
    state = load_file(run / "model/weights.safetensors")
    return {name: value for name, value in state.items() if "running" in name}


def test_a_fit_from_weights_keeps_their_statistics_unless_told_otherwise(
    tiny_dataset: str, tmp_path: Path
) -> None:
    assert main(fit_words(tiny_dataset, str(tmp_path), "first")) == 0
    first = statistics(tmp_path / "first")
    assert any(value.ne(0).any() for name, value in first.items() if name.endswith("mean"))
    for mode, same in (("auto", True), ("eval", True), ("train", False)):
        words = fit_words(tiny_dataset, str(tmp_path), mode, "--model.batch_norm", mode)
        assert main([*words, "--model.weights", f"{tmp_path}/first"]) == 0
        for name, value in statistics(tmp_path / mode).items():
            assert torch.equal(value, first[name]) == same, (mode, name)
