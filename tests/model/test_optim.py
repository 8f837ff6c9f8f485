"""Which rate and decay each parameter gets."""

import pytest
import torch

from dogbreed.model.backbone import Network
from dogbreed.model.optim import count, parameter_groups, parts


def grouped(network: Network, **changed: float) -> dict[str, dict[str, object]]:
    options = {"lr": 1.0, "backbone_lr": 0.1, "weight_decay": 0.05} | changed
    return {group["name"]: group for group in parameter_groups(network, **options)}


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_convnext"])
class TestGroups:
    def test_every_trained_parameter_is_in_exactly_one(self, backbone: str) -> None:
        network = Network(backbone, 5)
        inside = [p for group in grouped(network).values() for p in group["params"]]  # type: ignore[attr-defined]
        assert len({id(p) for p in inside}) == len(inside)
        assert {id(p) for p in inside} == {id(p) for p in network.parameters()}

    def test_rate_and_decay_follow_from_part_and_dimensions(self, backbone: str) -> None:
        network = Network(backbone, 5)
        groups = grouped(network)
        assert set(groups) == {"backbone", "backbone_no_decay", "head", "head_no_decay"}
        of = {id(p): name for name, group in groups.items() for p in group["params"]}  # type: ignore[attr-defined]
        for name, parameter in network.body.named_parameters():
            part = "head" if name.startswith(f"{network.head_name}.") else "backbone"
            suffix = "" if parameter.ndim > 1 else "_no_decay"
            assert of[id(parameter)] == part + suffix, name
        for name, group in groups.items():
            assert group["lr"] == (1.0 if name.startswith("head") else 0.1)
            assert group["weight_decay"] == (0.0 if name.endswith("no_decay") else 0.05)

    def test_frozen_parameters_are_in_none(self, backbone: str) -> None:
        groups = grouped(Network(backbone, 5, frozen=True))
        assert set(groups) == {"head", "head_no_decay"}

    def test_the_optimiser_takes_them(self, backbone: str) -> None:
        optimizer = torch.optim.AdamW(list(grouped(Network(backbone, 5)).values()))
        assert [group["name"] for group in optimizer.param_groups]


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_convnext"])
class TestParts:
    def test_they_are_all_below_the_head_from_the_top_down(self, backbone: str) -> None:
        network = Network(backbone, 5)
        below = parts(network)
        names = [name for part in below for name in part]
        head = {n for n, _ in network.body.named_parameters() if n.startswith(network.head_name)}
        assert len(set(names)) == len(names)
        assert set(names) | head == {name for name, _ in network.body.named_parameters()}
        assert any("stem" in name or "patch_embed" in name for name in below[-1])

    def test_each_learns_slower_than_the_one_above_it(self, backbone: str) -> None:
        network = Network(backbone, 5)
        groups = grouped(network, layer_decay=0.5)
        of = {name.removesuffix("_no_decay"): group["lr"] for name, group in groups.items()}
        rates = [of[f"part{k + 1}"] for k in range(len(parts(network)))]
        assert rates == pytest.approx([0.1 * 0.5**k for k in range(len(rates))])
        assert of["head"] == 1.0
        assert sum(len(group["params"]) for group in groups.values()) == len(
            list(network.parameters())
        )

    def test_those_below_the_last_one_named_are_in_no_group(self, backbone: str) -> None:
        network = Network(backbone, 5)
        named = {
            group["name"]: group
            for group in parameter_groups(
                network, lr=1, backbone_lr=0.1, weight_decay=0, unfreeze=[0.0, 0.5]
            )
        }
        assert {name.removesuffix("_no_decay") for name in named} == {"head", "part1", "part2"}
        assert {group["begins"] for name, group in named.items() if "part2" in name} == {0.5}


def test_count_tells_all_parameters_from_those_that_are_trained() -> None:
    free, frozen = Network("test_efficientnet", 5), Network("test_efficientnet", 5, frozen=True)
    head = sum(p.numel() for p in free.head.parameters())
    assert count(free) == count(free, trained=True) == count(frozen)
    assert count(frozen, trained=True) == head
