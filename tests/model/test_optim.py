"""The learning rate over a run's samples, and which rate and decay each parameter gets."""

import itertools

import pytest
import torch

from dogbreed.model.backbone import Network
from dogbreed.model.optim import count, learning_rate_scale, parameter_groups

TOTAL = 10_000


def scales(warmup: float, total: int = TOTAL) -> list[float]:
    return [learning_rate_scale(n, warmup=warmup, total=total) for n in range(total + 1)]


class TestScale:
    @pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
    def test_it_rises_to_one_and_falls_to_zero(self, warmup: float) -> None:
        values = scales(warmup)
        top = int(warmup * TOTAL)
        assert values[top] == 1
        assert all(a <= b for a, b in itertools.pairwise(values[: top + 1]))
        assert all(a > b for a, b in itertools.pairwise(values[top:]))
        assert values[-1] == pytest.approx(0, abs=1e-12)
        assert min(values) >= 0

    def test_warm_up_is_a_line_in_samples(self) -> None:
        values = scales(0.2)
        assert values[500] == pytest.approx(0.25)
        assert values[1500] == pytest.approx(0.75)

    def test_the_fall_is_half_a_cosine(self) -> None:
        values = scales(0.2)
        assert values[2000 + 2000] == pytest.approx(0.5 + 0.5 * 2**-0.5)
        assert values[2000 + 4000] == pytest.approx(0.5)
        assert values[2000 + 6000] == pytest.approx(0.5 - 0.5 * 2**-0.5)

    def test_the_first_step_moves_a_little(self) -> None:
        assert 0 < learning_rate_scale(0, warmup=0.1, total=TOTAL) <= 0.01

    def test_past_the_end_it_stays_at_zero(self) -> None:
        assert learning_rate_scale(TOTAL * 2, warmup=0.1, total=TOTAL) == pytest.approx(0)

    def test_warm_up_throughout_never_falls(self) -> None:
        values = scales(1.0, 100)
        assert all(a <= b for a, b in itertools.pairwise(values))
        assert values[-1] == 1


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


def test_count_tells_all_parameters_from_those_that_are_trained() -> None:
    free, frozen = Network("test_efficientnet", 5), Network("test_efficientnet", 5, frozen=True)
    head = sum(p.numel() for p in free.head.parameters())
    assert count(free) == count(free, trained=True) == count(frozen)
    assert count(frozen, trained=True) == head
