"""What is found in a log, how severe it is, and that chance is seldom taken for more."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from dogbreed.monitor import compare, tally
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.tally import Column, Tally
from tests.monitor.made import BREEDS, logged, reference

REFERENCE = reference()


def findings(n: int, seed: int, like: Reference = REFERENCE, **changes: Any) -> Any:
    made = Tally(REFERENCE, BREEDS)
    rows = logged(like, BREEDS, n, seed, **changes)
    for row in rows:
        row["time"] = 0.0
    made.add(rows)
    found = compare.compare(made, REFERENCE)
    return {one.name: one for one in found}, compare.severity_of(found)


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_that_of_kolmogorov_and_smirnov_however_the_rows_come(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, seen = rng.normal(size=90).round(1), rng.normal(0.2, 1.2, 700).round(1)
    column = Column(known)
    for part in np.array_split(seen, 7):
        column.add(np.concatenate([part, [np.nan]]))
    expected = stats.ks_2samp(known, seen, method="asymp")
    assert column.distance() == pytest.approx(expected.statistic)
    assert compare._column("brightness", column).p == pytest.approx(expected.pvalue)
    at = float(known[3])
    assert column.share_above(at) == pytest.approx((seen >= at).mean())
    assert column.bins.sum() == len(seen)


def test_a_log_like_the_validation_pictures_is_seldom_more_than_ok() -> None:
    # Drawn from where the reference was drawn from, and not from the reference itself.
    said = [findings(300, seed, reference(2000, seed + 1))[1] for seed in range(12)]
    assert sum(severity != "ok" for severity in said) <= 1


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"picture": lambda row: row["picture"] | {"brightness": row["picture"]["width"] / 2}},
            {"brightness"},
        ),
        ({"probability": lambda row: row["probability"] ** 2}, {"probability", "accuracy"}),
        ({"reject_score": lambda row: row["reject_score"] + 0.5}, {"reject_score"}),
        ({"is_dog": False}, {"rejected"}),
        ({"breed": BREEDS[0]}, {"breeds"}),
        ({"breed": "a breed of another model"}, {"breeds"}),
    ],
    ids=["brightness", "confidence", "score", "rejected", "mix", "unknown breed"],
)
def test_what_has_changed_is_found_and_named(changes: dict[str, Any], found: set[str]) -> None:
    by_name, severity = findings(500, 3, **changes)
    assert severity != "ok"
    assert {name for name, of in by_name.items() if of.severity != "ok"} == found


def test_embeddings_from_elsewhere_are_found() -> None:
    rng = np.random.default_rng(1)
    known, seen = (rng.normal(size=(200, 16)).astype(np.float16) for _ in range(2))
    assert compare._embedding(known, seen, rng).p > 0.01
    moved = compare._embedding(known, (seen + 0.5).astype(np.float16), rng)
    assert moved.p < 1e-4
    assert moved.effect > 0.25
    far = compare._embedding(known, (seen + 50).astype(np.float16), rng)
    assert moved.effect < far.effect <= 1.001


def test_the_discrepancy_is_the_unbiased_one() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.random((9, 9)).astype(np.float32)
    kernel = (kernel + kernel.T) / 2
    m, n = 4, 5
    pairs = [kernel[i, j] for i in range(m) for j in range(m) if i != j]
    others = [kernel[i, j] for i in range(m, 9) for j in range(m, 9) if i != j]
    expected = np.mean(pairs) + np.mean(others) - 2 * kernel[:m, m:].mean()
    found, drawn = compare.permuted(kernel, m, rng, 300)
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(drawn.mean()) < 4 * drawn.std() / 300**0.5 + 1e-6
    assert n == 9 - m


def test_of_a_huge_log_small_differences_are_certain_and_yet_no_warning() -> None:
    column = Column(REFERENCE.probability)
    column.add(np.clip(np.random.default_rng(0).beta(4.1, 2, 2_000_000), 0, 1))
    found = compare._column("probability", column)
    compare._judge([found])
    assert found.severity == "ok"


@pytest.mark.parametrize("odd", [None, "0.5", True, [], 10**400, float("nan")])
def test_values_that_are_no_numbers_do_not_count_and_harm_none(odd: Any) -> None:
    made = Tally(REFERENCE, BREEDS)
    rows = logged(REFERENCE, BREEDS, 40, 0)
    for row in rows:
        row["time"] = 0.0
    rows[3]["picture"]["brightness"] = rows[5]["reject_score"] = odd
    rows[7]["picture"] = odd
    made.add(rows)
    assert made.columns["brightness"].n == 38
    assert made.columns["width"].n == 39
    assert made.columns["probability"].n == made.n == 40


def test_few_predictions_say_nothing() -> None:
    by_name, severity = findings(compare.LEAST - 1, 0, is_dog=False, breed=BREEDS[0])
    assert severity == "ok"
    assert all(one.adjusted == 1 for one in by_name.values())


def test_many_tests_are_corrected_after_holm() -> None:
    ps = [0.004, 0.0004, 0.02, 0.5]
    found = [compare.Finding(str(p), "picture", 1.0, "", p, 0, 0) for p in ps]
    compare._judge(found)
    assert [of.adjusted for of in found] == pytest.approx([0.012, 0.0016, 0.04, 0.5])
    assert [of.severity for of in found] == ["ok", "alert", "ok", "ok"]


def test_accuracy_without_labels_follows_confidence() -> None:
    made = Tally(REFERENCE, BREEDS)
    made.columns["probability"].add(REFERENCE.probability)
    said = compare.estimate(made, REFERENCE)
    assert said["thresholded"] == pytest.approx(REFERENCE.right.mean(), abs=0.003)
    assert said["low"] < said["thresholded"] < said["high"]
    assert said["mean_probability"] == pytest.approx(REFERENCE.probability.mean(), rel=1e-4)
    made.columns["probability"].add(np.full(400, 0.1))
    assert compare.estimate(made, REFERENCE)["thresholded"] < said["thresholded"] * 0.6


def test_a_tally_holds_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "EMBEDDINGS", 50)
    monkeypatch.setattr(tally, "SHOWN", 10)
    made = Tally(REFERENCE, BREEDS)
    rows = logged(REFERENCE, BREEDS, 600, 0)
    for k, row in enumerate(rows):
        row["time"] = 1e9 + k
        row["image"] = f"images/{k}.jpg" if k % 2 else None
    for start in range(0, 600, 100):
        made.add(rows[start : start + 100])
    assert made.embeddings().shape == (50, 16)
    assert made.n == 600
    unsure = made.examples("unsure")
    assert len(unsure) == 10
    assert all(row["image"] and "embedding" not in row for row in unsure)
    shown = [row["probability"] for row in unsure]
    assert shown == sorted(shown)
    dogs = [row["probability"] for row in rows if row["image"] and row["is_dog"]]
    assert shown == sorted(dogs)[:10]
