"""A temperature makes probabilities honest, and the calibration error says how honest they are."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from dogbreed.evaluate.bootstrap import Judged, debiased_ece, ece_floor, scores
from dogbreed.evaluate.calibration import fit_calibration, fit_temperature, reliability
from dogbreed.evaluate.confidence import Calibration


def drawn(n: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels as often as the probabilities at that temperature say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, 10)).astype(np.float32)
    cumulated = softmax(logits / temperature, axis=1).cumsum(1)
    return logits, (rng.random((n, 1)) > cumulated).sum(1).clip(max=9)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(6000, temperature, 0)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_lowers_the_log_loss_and_the_calibration_error_of_other_pictures(
    temperature: float,
) -> None:
    fitted = fit_temperature(*drawn(1000, temperature, 0))
    logits, labels = drawn(2000, temperature, 1)
    before, after = (scores(Judged.of(logits / t, labels)) for t in (1.0, fitted))
    assert after["log_loss"] < before["log_loss"] - 0.02
    assert after["ece"] < before["ece"] / 2
    assert after["top1"] == before["top1"]


def relabelled(calibration: Calibration, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels as often as calibrated probabilities say."""
    logits, _ = drawn(n, 1.0, seed)
    cumulated = softmax(calibration(logits), axis=1).cumsum(1)
    return logits, (np.random.default_rng(seed).random((n, 1)) > cumulated).sum(1).clip(max=9)


@pytest.mark.parametrize("truth", [Calibration(1.0, 0.7, 0.5), Calibration(1.4, 1.3, -0.4)])
def test_answers_too_sure_or_not_sure_enough_are_mended_where_a_temperature_is_not_enough(
    truth: Calibration,
) -> None:
    fitted = fit_calibration(*relabelled(truth, 3000, 0))
    logits, labels = relabelled(truth, 20_000, 1)
    alone, both = (
        scores(Judged.of(made(logits), labels))
        for made in (Calibration(fitted.temperature), fitted)
    )
    assert both["ece"] < 0.5 * alone["ece"]
    assert both["log_loss"] < alone["log_loss"]
    assert both["top1"] == alone["top1"]


def test_a_few_pictures_change_little_beside_the_temperature() -> None:
    truth = Calibration(1.0, 0.5, 1.0)
    few, many = (fit_calibration(*relabelled(truth, n, 0)) for n in (12, 5000))
    assert abs(few.slope - 1) < abs(many.slope - 1) / 2
    assert abs(few.offset) < abs(many.offset) / 2


def test_one_class_alone_is_certain() -> None:
    fitted = fit_calibration(np.ones((5, 1), np.float32), np.zeros(5, int))
    assert (fitted.slope, fitted.offset) == (1, 0)


def test_logits_that_are_always_right_or_say_nothing_have_a_finite_temperature() -> None:
    labels = np.arange(20) % 4
    for logits in (np.eye(4, dtype=np.float32)[labels], np.zeros((20, 4), np.float32)):
        assert 0.04 < fit_temperature(logits, labels) < 21
        fitted = fit_calibration(logits, labels)
        assert np.isfinite(fitted(logits)).all()
        assert 0.2 <= fitted.slope <= 5


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    """Two pictures at 0.62, one of them right; one at 0.90, wrong; two at 0.98, both right."""
    confidence = np.array([0.62, 0.62, 0.90, 0.98, 0.98])
    correct = np.array([True, False, False, True, True])
    labels = np.where(correct, 0, 1)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    expected = (2 * 0.12 + 1 * 0.90 + 2 * 0.02) / 5
    assert scores(Judged.of(logits, labels))["ece"] == pytest.approx(expected, abs=1e-6)
    table = reliability(confidence, correct)
    assert [(row["n"], row["accuracy"]) for row in table] == [(2, 0.5), (1, 0.0), (2, 1.0)]
    assert [row["confidence"] for row in table] == pytest.approx([0.62, 0.90, 0.98])
    assert all(row["low"] <= row["confidence"] < row["high"] for row in table)


def test_full_confidence_is_in_the_last_bin() -> None:
    (row,) = reliability(np.array([1.0]), np.array([True]))
    assert (row["high"], row["n"]) == (1.0, 1)


def test_a_log_loss_of_certainty_is_finite() -> None:
    logits = np.array([[1e4, 0.0]], np.float32)
    assert np.isfinite(log_softmax(logits, axis=1)).all()
    assert Judged.of(logits, np.array([1])).loss[0] == pytest.approx(1e4)


def test_the_error_of_perfect_calibration_is_its_floor_and_shrinks_with_more_pictures() -> None:
    floors = {}
    for n in (500, 5000):
        judged = Judged.of(*drawn(n, 1.0, 3))
        floors[n] = ece_floor(judged)
        assert scores(judged)["ece"] == pytest.approx(floors[n], rel=0.8)
    assert floors[5000] < floors[500] / 2
    assert scores(Judged.of(*drawn(5000, 2.0, 3)))["ece"] > 4 * floors[5000]


def test_without_chance_perfect_calibration_has_no_error_and_another_temperature_its_own() -> None:
    honest = [Judged.of(*drawn(800, 1.0, seed)) for seed in range(20)]
    assert (
        np.mean([debiased_ece(it) for it in honest]) < np.mean([ece_floor(it) for it in honest]) / 2
    )
    wrong = [debiased_ece(Judged.of(*drawn(800, 2.0, seed))) for seed in range(20)]
    all_of_it = scores(Judged.of(*drawn(40_000, 2.0, 0)))["ece"]
    assert all_of_it - 0.01 < np.mean(wrong) < 1.3 * all_of_it
