"""Differences of two models: their interval is that of the same pictures answered by both."""

import numpy as np
import pytest

from dogbreed.report.several import paired


def test_pictures_that_are_hard_for_both_do_not_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 4000)
    theirs, ours = hard, hard + 0.5 + rng.normal(0, 0.1, 4000)
    low, high = paired(ours, theirs)
    assert low < 0.5 < high
    assert high - low < 0.01


def test_the_interval_covers_the_true_difference_about_19_times_in_20() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        ours, theirs = rng.random(300) < 0.8, rng.random(300) < 0.7
        low, high = paired(ours.astype(float), theirs.astype(float))
        covered += low <= 0.1 <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_one_picture_says_nothing_of_a_difference() -> None:
    assert paired(np.ones(1), np.zeros(1)) == (-np.inf, np.inf)
