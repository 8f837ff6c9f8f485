"""Rejection: more is less like the breeds, and the threshold keeps what it says."""

import math
from typing import Any

import numpy as np
import pytest

from dogbreed.errors import BadInput
from dogbreed.evaluate.rejection import Rejection

CLASSES, SIZE = 12, 40
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def dogs(n: int, seed: int) -> Drawn:
    """Draw embeddings around a direction of each class: logits, embeddings and labels."""
    centres = np.random.default_rng(0).normal(0, 1, (CLASSES, SIZE))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    embedding = rng.uniform(1, 5, (n, 1)) * (centres[labels] + rng.normal(0, 0.6, (n, SIZE)))
    return embedding @ centres.T / 4, embedding.astype(np.float32), labels


def others(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw embeddings that belong to no class: logits and embeddings."""
    embedding = np.random.default_rng(9).normal(0, 3, (n, SIZE)).astype(np.float32)
    return embedding[:, :CLASSES] / 4, embedding


@pytest.fixture(scope="module")
def fitted() -> Rejection:
    return Rejection.fitted(*dogs(600, 1), 1.0)


def test_the_threshold_keeps_what_it_says_of_other_pictures(fitted: Rejection) -> None:
    assert fitted.keeps == 0.95
    logits, embedding, labels = dogs(600, 1)
    own = fitted.scores(logits, embedding, 1.0, labels)
    assert fitted.rejects(own).mean() == pytest.approx(0.05, abs=0.002)
    logits, embedding, _ = dogs(4000, 2)
    # Both the 600 and the 4,000 are samples: four standard deviations of the two.
    share = fitted.rejects(fitted.scores(logits, embedding, 1.0)).mean()
    assert share == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 * (1 / 600 + 1 / 4000)))


def test_what_is_like_no_class_is_rejected(fitted: Rejection) -> None:
    assert fitted.rejects(fitted.scores(*others(300), 1.0)).mean() > 0.95


def test_a_picture_of_the_means_is_compared_with_the_others_of_its_breed(
    fitted: Rejection,
) -> None:
    logits, embedding, labels = dogs(600, 1)
    held_out = fitted.scores(logits, embedding, 1.0, labels)
    naive = fitted.scores(logits, embedding, 1.0)
    assert held_out.mean() > naive.mean()
    without = Rejection.fitted(logits[1:], embedding[1:], labels[1:], 1.0)
    expected = without.scores(logits[:1], embedding[:1], 1.0)
    np.testing.assert_allclose(held_out[:1], expected, atol=1e-6)


def test_the_cosine_does_not_depend_on_the_length_of_the_embedding(fitted: Rejection) -> None:
    logits, embedding, _ = dogs(20, 3)
    scores = fitted.scores(logits, embedding, 1.0)
    np.testing.assert_allclose(fitted.scores(logits, 7 * embedding, 1.0), scores, atol=1e-5)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 2)).all()


def test_a_breed_without_pictures_attracts_nothing() -> None:
    logits, embedding, labels = dogs(300, 1)
    few = labels < 3
    made = Rejection.fitted(logits[few], embedding[few], labels[few], 1.0)
    assert made.scores(logits[~few], embedding[~few], 1.0).mean() > made.threshold
    nothing = made.scores(logits[:1], 0 * embedding[:1], 1.0)
    np.testing.assert_allclose(nothing, 1)


def test_with_one_picture_a_breed_it_is_the_energy() -> None:
    logits, embedding, _ = dogs(CLASSES, 1)
    made = Rejection.fitted(logits, embedding, np.arange(CLASSES), 2.0)
    assert made.score == "energy"
    assert made.tensors() == {}


def test_energy_and_probability_by_hand() -> None:
    logits, embedding = np.array([[1.0, 3.0]]), np.ones((1, 2))
    energy = Rejection("energy").scores(logits, embedding, 2.0)
    assert energy[0] == pytest.approx(-2 * math.log(math.exp(0.5) + math.exp(1.5)))
    share = Rejection("max_probability").scores(logits, embedding, 2.0)
    assert share[0] == pytest.approx(-1 / (1 + math.exp(-1)))


def test_what_a_package_says_of_it_is_taken_up_again(fitted: Rejection) -> None:
    again = Rejection.of(fitted.about(), fitted.tensors())
    logits, embedding, _ = dogs(50, 4)
    before, after = (made.scores(logits, embedding, 1.0) for made in (fitted, again))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(again.rejects(after), fitted.rejects(before))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"score": "odin", "threshold": 0.5}, "'odin' is unknown; upgrade"),
        ({"score": "energy", "threshold": math.nan}, "threshold nan: must be a finite number"),
        ({"score": "energy", "threshold": "0.5"}, "threshold '0.5': must be"),
        ({"score": "energy", "threshold": 0.5, "keeps": math.inf}, "keeps inf: must be"),
        ({"score": "cosine", "threshold": 0.5}, "needs the breeds' means"),
    ],
)
def test_fields_that_make_no_sense_are_errors(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Rejection.of(fields, {})
