"""The embedded sample: the same pictures every time, and no way to tell the breeds by colour."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dogbreed.data import sample

PER_CLASS = 100
EVERY = [(breed, k) for k in range(PER_CLASS) for breed in range(len(sample.BREEDS))]


Features = NDArray[np.float64]


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [sample.draw(breed, k) for breed, k in EVERY]


def test_same_arguments_give_the_same_bytes_in_any_order() -> None:
    some = [(0, 3), (7, 0), (0, 2), (9, 5)]
    forwards = {key: sample.jpeg(*key) for key in some}
    backwards = {key: sample.jpeg(*key) for key in reversed(some)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(some)


def test_pictures_is_every_breed_in_turn_and_agrees_with_jpeg() -> None:
    got = dict(sample.pictures(per_class=2, seed=5))
    assert list(got) == [f"{name}/{name}_{k:04d}.jpg" for name in sample.BREEDS for k in range(2)]
    assert list(got.values()) == [
        sample.jpeg(breed, k, seed=5) for breed in range(len(sample.BREEDS)) for k in range(2)
    ]


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    few, more = dict(sample.pictures(1)), dict(sample.pictures(3))
    assert few.items() <= more.items()


def test_default_number_of_pictures() -> None:
    first_breed = itertools.takewhile(
        lambda file: file[0].startswith(sample.BREEDS[0]), sample.pictures()
    )
    assert sum(1 for _ in first_breed) == sample.PER_CLASS


def test_another_seed_gives_other_pictures() -> None:
    assert sample.jpeg(4, 0, seed=0) != sample.jpeg(4, 0, seed=1)


def test_names_say_that_the_breeds_are_made_up() -> None:
    assert len(set(sample.BREEDS)) == len(sample.BREEDS) >= 8
    assert all(name.startswith("synthetic_") and name == name.lower() for name in sample.BREEDS)
    assert all(name.isidentifier() for name in sample.BREEDS)


def test_files_are_jpegs_of_the_stated_sizes() -> None:
    sizes = set()
    for _, data in sample.pictures(per_class=8):
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            sizes.add(picture.size)
    assert {side for size in sizes for side in size} <= set(range(96, 129))
    assert len({width > height for width, height in sizes}) == 2, "the aspect ratio must vary"


def colour_histogram(picture: Image.Image) -> Features:
    """Eight bins a channel."""
    channels = np.moveaxis(np.asarray(picture), -1, 0)
    return np.concatenate([np.histogram(c, 8, (0, 256))[0] / c.size for c in channels])


def pixels(picture: Image.Image) -> Features:
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX)).ravel() / 255


def edges(picture: Image.Image) -> Features:
    """How strong the edges of nine directions are in each of 36 cells, whatever the colours."""
    down, across = np.gradient(np.asarray(picture.convert("L").resize((72, 72)), float))
    strength, direction = np.hypot(down, across), np.arctan2(down, across) % np.pi / np.pi * 9
    cells = [
        np.where(direction.astype(int) % 9 == d, strength, 0).reshape(6, 12, 6, 12).sum((1, 3))
        for d in range(9)
    ]
    return np.sqrt(cells / (np.sum(cells, 0) + 50)).ravel()


def accuracy_of_a_linear_classifier(
    drawn: list[Image.Image], features: Callable[[Image.Image], Features]
) -> float:
    x, y = np.array([features(picture) for picture in drawn]), np.array(EVERY)[:, 0]
    first = len(y) * 4 // 5
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=500))
    return float(model.fit(x[:first], y[:first]).score(x[first:], y[first:]))


def test_colours_do_not_tell_the_breed(drawn: list[Image.Image]) -> None:
    assert accuracy_of_a_linear_classifier(drawn, colour_histogram) <= 0.3


def test_a_template_of_pixels_does_not_tell_the_breed(drawn: list[Image.Image]) -> None:
    assert accuracy_of_a_linear_classifier(drawn, pixels) <= 0.45


def test_shapes_tell_the_breed(drawn: list[Image.Image]) -> None:
    assert accuracy_of_a_linear_classifier(drawn, edges) >= 0.65


@pytest.mark.parametrize(("breed", "k", "seed"), [(-1, 0, 0), (99, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_arguments_out_of_range_are_an_error(breed: int, k: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"numbered from 0|neither can be"):
        sample.draw(breed, k, seed)
