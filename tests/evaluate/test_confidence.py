"""A temperature for all logits, a slope and an offset for the log-odds of the answer."""

import numpy as np
import pytest
from scipy.special import logit, softmax

from dogbreed.errors import BadInput
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration, in_words

LOGITS = np.random.default_rng(0).normal(0, 3, (200, 7)).astype(np.float32)


def test_without_a_calibration_logits_are_what_they_were() -> None:
    np.testing.assert_array_equal(UNCALIBRATED(LOGITS), LOGITS)


def test_the_answers_log_odds_are_moved_and_the_others_keep_their_proportions() -> None:
    before = softmax(LOGITS.astype(float) / 1.5, axis=1)
    after = softmax(Calibration(1.5, 0.8, 0.4)(LOGITS.astype(float)), axis=1)
    n, answer = np.arange(len(LOGITS)), LOGITS.argmax(1)
    np.testing.assert_allclose(logit(after[n, answer]), 0.8 * logit(before[n, answer]) + 0.4)
    after[n, answer] = before[n, answer] = 0
    np.testing.assert_allclose(
        after / after.sum(1, keepdims=True), before / before.sum(1, keepdims=True)
    )


@pytest.mark.parametrize("made", [Calibration(0.5, 0.2, -5), Calibration(3, 4.0, -2.0)])
def test_the_answer_stays_the_answer(made: Calibration) -> None:
    got = made(LOGITS)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.argmax(1), LOGITS.argmax(1))
    assert (got != LOGITS / np.float32(made.temperature)).any(1).all()


def test_it_leaves_the_logits_that_it_is_given_alone() -> None:
    given = LOGITS.copy()
    Calibration(1.0, 0.5, 0.5)(given)
    np.testing.assert_array_equal(given, LOGITS)


@pytest.mark.parametrize("fields", [(0.0, 1, 0), (1, -1.0, 0), (1, 1, np.inf), (np.nan, 1, 0)])
def test_what_makes_no_sense_is_refused(fields: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput, match="must be finite"):
        Calibration(*fields)


def test_it_can_be_read() -> None:
    assert in_words({"slope": 0.843, "offset": -0.3}) == "times 0.84 minus 0.30"
