"""Mixup and CutMix on batches with padding."""

import numpy as np
import pytest
import torch

from dogbreed.errors import BadInput
from dogbreed.model.mixing import Mixing


def batch(valid: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight pictures, each of one value all over, of which so many count."""
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None] * 30
    return images.expand(8, 3, 16, 16).clone(), torch.arange(8) < valid


@pytest.mark.parametrize("place", [(0, k, 0) for k in range(20)])
class TestMix:
    def test_mixup_is_the_weighted_mean_with_the_partner(self, place: tuple[int, ...]) -> None:
        images, valid = batch()
        mixed, partner, own = Mixing(mixup=1.0, cutmix=0)(images, valid, place)
        expected = own * images.float() + (1 - own) * images[partner].float()
        assert mixed.dtype == torch.uint8
        assert (mixed.float() - expected).abs().max() <= 0.51

    def test_cutmix_pastes_a_box_of_the_stated_share(self, place: tuple[int, ...]) -> None:
        images, valid = batch()
        mixed, partner, own = Mixing(mixup=0, cutmix=1.0)(images, valid, place)
        for k in range(6):
            pasted = mixed[k, 0] != images[k, 0]
            if partner[k] != k:
                assert pasted.float().mean().item() == pytest.approx(1 - own)
                assert set(mixed[k][:, pasted].flatten().tolist()) <= {30 * int(partner[k])}
            rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
            assert int(pasted.sum()) == len(rows) * len(columns)

    def test_padding_neither_gives_nor_takes(self, place: tuple[int, ...]) -> None:
        images, valid = batch(valid=5)
        for mixing in (Mixing(0.4, 0), Mixing(0, 1.0), Mixing(0.4, 1.0)):
            mixed, partner, _ = mixing(images, valid, place)
            assert sorted(partner.tolist()) == list(range(8))
            assert all(int(partner[k]) != k for k in range(5))
            assert partner[5:].tolist() == [5, 6, 7]
            assert torch.equal(mixed[5:], images[5:])


def test_it_follows_from_the_place_in_the_run_alone() -> None:
    images, valid = batch()
    mixing = Mixing(1.0, 1.0)
    first, again, other = (mixing(images, valid, place) for place in ((0, 8), (0, 8), (0, 16)))
    assert torch.equal(first[0], again[0])
    assert first[2] == again[2] != other[2]


def test_a_batch_of_nothing_is_left_alone() -> None:
    images, valid = batch(valid=0)
    assert torch.equal(Mixing(1.0, 0)(images, valid, (0,))[0], images)


def test_a_negative_strength_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"--model.cutmix -1"):
        Mixing(0, -1)
