"""Scores against scikit-learn's, and their intervals."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

from dogbreed.evaluate.bootstrap import Judged, intervals, scores

ORDER = ["top1", "top5", "log_loss", "macro_f1", "ece", "n"]


def answers(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits that are right more often than by chance, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(0, 2, (n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1.5
    return logits, labels


def by_sklearn(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    classes = logits.shape[1]
    shares, names = softmax(logits.astype(np.float64), axis=1), np.arange(classes)
    top5 = 1.0 if classes <= 5 else top_k_accuracy_score(labels, shares, k=5, labels=names)
    return {
        "top1": float((shares.argmax(1) == labels).mean()),
        "top5": float(top5),
        "log_loss": float(log_loss(labels, shares, labels=names)),
        "macro_f1": float(f1_score(labels, shares.argmax(1), average="macro")),
        "n": len(labels),
    }


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 120])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    logits, labels = answers(300, classes)
    got = scores(Judged.of(logits, labels))
    assert list(got) == ORDER
    assert got == pytest.approx(by_sklearn(logits, labels) | {"ece": got["ece"]}, rel=1e-5)
    assert 0.01 < got["top1"] < 0.99


def test_macro_f1_is_over_the_breeds_that_occur() -> None:
    logits, labels = answers(40, 10)
    labels %= 4
    logits[:, 6:] = -100  # neither labelled nor answered
    got = scores(Judged.of(logits, labels))
    assert got["macro_f1"] == pytest.approx(by_sklearn(logits, labels)["macro_f1"], rel=1e-5)


def test_an_interval_is_around_its_value_and_narrower_with_more_pictures() -> None:
    widths = []
    for n in (100, 1600):
        judged = Judged.of(*answers(n, 12))
        values, bounds = scores(judged), intervals(judged)
        assert set(bounds) == set(ORDER) - {"n"}
        for name, (low, high) in bounds.items():
            assert low <= values[name] <= high
            assert low < high
        widths.append({name: high - low for name, (low, high) in bounds.items()})
    for name in ("top1", "top5", "log_loss", "macro_f1"):
        assert widths[1][name] < widths[0][name] / 2.5


def test_19_of_20_intervals_hold_what_is_true_of_all_pictures() -> None:
    everything = answers(40_000, 6)
    truth = scores(Judged.of(*everything))
    rng, held = np.random.default_rng(1), dict.fromkeys(("top1", "top5", "log_loss", "macro_f1"), 0)
    for _ in range(100):
        drawn = rng.integers(0, 40_000, 300)
        bounds = intervals(Judged.of(everything[0][drawn], everything[1][drawn]), resamples=200)
        for name in held:
            low, high = bounds[name]
            held[name] += low <= truth[name] <= high
    assert all(88 <= times <= 100 for times in held.values())  # binomial, 4 standard deviations


def test_many_pictures_are_resampled_in_parts_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = Judged.of(*answers(200, 6))
    whole = intervals(judged, resamples=50)
    monkeypatch.setattr("dogbreed.evaluate.bootstrap.AT_ONCE", 200 * 7)
    for name, bounds in intervals(judged, resamples=50).items():
        assert bounds == pytest.approx(whole[name])
