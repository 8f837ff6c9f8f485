"""What stands beside the scores so that nobody takes them for more than they are."""

import pytest

from dogbreed.breeds import SYNSETS
from dogbreed.evaluate.caveats import caveats

DOGS = list(SYNSETS)


def said(
    weights: str = "imagenet: timm/x",
    name: str = "dogs",
    breeds: list[str] = DOGS,
    splits: tuple[str, ...] = ("val", "test"),
    sides: tuple[int, int] | None = None,
) -> str:
    return " ".join(caveats(weights, name, breeds, splits, sides))


def test_breeds_of_imagenet_behind_pretrained_weights_have_been_seen() -> None:
    assert "120 of the 120 breeds are classes of ImageNet-1k" in said()
    assert "have seen them" in said(weights="file: x.safetensors")
    assert "ImageNet" not in said(weights="none (random)")
    assert "have seen" not in said(breeds=["rex", "fifi", "beagle"])


def test_the_sample_is_told_for_what_it_is() -> None:
    text = said(name="synthetic-breeds", breeds=["a", "b"], weights="none (random)", sides=(96, 96))
    assert "drawings of made-up breeds" in text
    assert "96 x 96" not in text


@pytest.mark.parametrize(
    ("splits", "words"),
    [(("val",), "no test score yet"), (("val", "test"), "quote the test scores")],
)
def test_validation_is_no_test(splits: tuple[str, ...], words: str) -> None:
    assert words in said(splits=splits)


def test_pictures_of_one_size_were_cut_before() -> None:
    assert "224 x 224 pixels: they were cut or scaled before" in said(sides=(224, 224))
    assert "cut" not in said()
