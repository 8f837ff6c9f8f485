"""Augmentation: the same draws for the same picture, and each picture by itself."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.data.transforms import Augment, Draws, light, random_box, relight

sides = st.integers(16, 5000)


def pictures(count: int = 4, height: int = 24, width: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


class TestDraws:
    def test_they_follow_from_seed_epoch_and_id_alone(self) -> None:
        first = Draws(3, 5, "beagle/1.jpg")
        random.seed(0)
        Draws(3, 5, "another").random()
        again = Draws(3, 5, "beagle/1.jpg")
        assert [again.random() for _ in range(4)] == [first.random() for _ in range(4)]

    def test_another_seed_epoch_or_id_gives_others(self) -> None:
        keys = [(3, 5, "a"), (4, 5, "a"), (3, 6, "a"), (5, 3, "a"), (3, 5, "b"), (3, 5, "ä")]
        assert len({Draws(*key).random() for key in keys}) == len(keys)

    def test_they_are_the_same_on_every_machine(self) -> None:
        rng = Draws(1, 2, "beagle/1.jpg")
        assert [int(1000 * rng.random()) for _ in range(4)] == [780, 535, 253, 394]

    def test_they_are_even_and_have_nothing_to_do_with_each_other(self) -> None:
        pictures = [Draws(0, 0, f"{k}.jpg") for k in range(4000)]
        drawn = np.array([[rng.random() for _ in range(20)] for rng in pictures])
        assert drawn.min() >= 0
        assert drawn.max() < 1
        tenths = np.stack(
            [np.bincount(column, minlength=10) for column in (drawn.T * 10).astype(int)]
        )
        assert np.abs(tenths - 400).max() < 5 * 400**0.5
        assert np.abs(np.corrcoef(drawn.T) - np.eye(20)).max() < 5 / 4000**0.5


class TestRandomBox:
    @given(
        sides,
        sides,
        st.floats(0.01, 1),
        st.floats(1, 4),
        st.integers(0, 1000),
    )
    def test_it_is_inside_the_picture_and_within_the_ratios(
        self, width: int, height: int, scale: float, ratio: float, seed: int
    ) -> None:
        augment = Augment(scale=scale, ratio=ratio)
        left, top, right, bottom = random_box(Draws(seed, 0, "a"), width, height, augment)
        assert 0 <= left < right <= width * (1 + 1e-12)
        assert 0 <= top < bottom <= height * (1 + 1e-12)
        assert 1 / ratio - 1e-9 <= (right - left) / (bottom - top) <= ratio + 1e-9

    @given(st.integers(16, 500), st.integers(0, 1000))
    def test_of_a_square_it_keeps_at_least_the_share_asked_for(self, side: int, seed: int) -> None:
        left, top, right, bottom = random_box(Draws(seed, 0, "a"), side, side, Augment(scale=0.35))
        assert (right - left) * (bottom - top) >= 0.35 * side * side * (1 - 1e-9)

    def test_a_strip_is_cut_in_its_middle_as_wide_as_the_ratio_allows(self) -> None:
        box = random_box(Draws(0, 0, "a"), 1200, 30, Augment(scale=0.9, ratio=4 / 3))
        assert box == pytest.approx((580, 0, 620, 30))

    def test_boxes_of_different_draws_differ_in_place_and_size(self) -> None:
        boxes = [random_box(Draws(0, e, "a"), 100, 80, Augment()) for e in range(50)]
        assert len(set(boxes)) == 50
        areas = [(r - left) * (b - t) / 8000 for left, t, r, b in boxes]
        assert min(areas) < 0.5 < 0.8 < max(areas)


class TestLight:
    def test_factors_lie_within_their_strengths(self) -> None:
        augment = Augment(brightness=0.1, contrast=0.2, saturation=0.0)
        drawn = np.array([light(Draws(0, epoch, "a"), augment) for epoch in range(200)])
        assert (np.abs(drawn - 1) <= [0.1, 0.2, 0]).all()
        assert (np.ptp(drawn, axis=0) > [0.15, 0.3, -1]).all()

    def test_strengths_of_zero_change_nothing(self) -> None:
        off = Augment(brightness=0, contrast=0, saturation=0)
        assert light(Draws(0, 0, "a"), off) == (1, 1, 1)


def one(factors: tuple[float, float, float], count: int = 4) -> torch.Tensor:
    return torch.tensor([factors] * count, dtype=torch.float32)


class TestRelight:
    def test_factors_of_one_change_nothing(self) -> None:
        every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).reshape(1, 3, 16, 16)
        for images in (pictures(), every):
            assert torch.equal(relight(images, one((1, 1, 1), len(images))), images)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_bytes_come_out_in_the_shape_and_layout_that_went_in(
        self, layout: torch.memory_format
    ) -> None:
        images = pictures().contiguous(memory_format=layout)
        before = images.clone()
        got = relight(images, one((1.3, 0.7, 1.2)))
        assert (got.dtype, got.shape) == (torch.uint8, images.shape)
        assert got.is_contiguous(memory_format=layout)
        assert torch.equal(images, before)

    def test_each_picture_is_changed_as_if_it_were_alone(self) -> None:
        images = pictures(16)
        factors = torch.empty(16, 3).uniform_(0.6, 1.4, generator=torch.Generator().manual_seed(1))
        together = relight(images, factors)
        alone = [relight(images[k : k + 1], factors[k : k + 1]) for k in range(16)]
        assert torch.equal(together, torch.cat(alone))

    def test_each_picture_has_its_own_light(self) -> None:
        same = pictures(1).expand(3, -1, -1, -1)
        factors = torch.tensor([[0.8, 1, 1], [1, 0.8, 1], [1, 1, 0.8]])
        got = relight(same, factors)
        assert not torch.equal(got[0], got[1])
        assert not torch.equal(got[1], got[2])

    def test_brightness_multiplies_and_saturates(self) -> None:
        images = pictures()
        wanted = (images.float() * 1.3).round().clamp(0, 255)
        assert (relight(images, one((1.3, 1, 1))).float() - wanted).abs().max() <= 1
        assert relight(images, one((0, 1, 1))).max() == 0

    def test_no_contrast_is_the_mean_grey_everywhere(self) -> None:
        got = relight(pictures(), one((1, 0, 1)))
        assert all(len(picture.unique()) == 1 for picture in got)
        grey = (pictures()[0].float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        assert abs(got[0, 0, 0, 0].item() - grey.mean().item()) <= 1

    def test_no_saturation_is_grey_of_the_same_lightness(self) -> None:
        images = pictures()
        got = relight(images, one((1, 1, 0)))
        grey = (images.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
        assert torch.equal(got[:, 0], got[:, 1])
        assert torch.equal(got[:, 1], got[:, 2])
        assert (got[:, 0].float() - grey).abs().max() <= 1

    def test_it_agrees_with_torchvision_one_change_at_a_time(self) -> None:
        from torchvision.transforms.v2 import functional as F

        images = pictures()
        for k, change in enumerate((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)):
            for factor in (0.7, 1.3):
                factors = torch.ones(4, 3)
                factors[:, k] = factor
                wanted = torch.stack([change(image, factor) for image in images])
                got = relight(images, factors)
                assert (got.int() - wanted.int()).abs().max() <= 2


def test_augmentation_is_frozen_and_goes_into_a_config() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augment().flip = 0.1  # type: ignore[misc]
    assert Augment(**dataclasses.asdict(Augment(scale=0.5))) == Augment(scale=0.5)
