"""The learning rate over a run's samples."""

import itertools

import pytest

from dogbreed.model.schedule import learning_rate_scale

TOTAL = 10_000


def scales(warmup: float, total: int = TOTAL) -> list[float]:
    return [learning_rate_scale(n, warmup=warmup, total=total) for n in range(total + 1)]


class TestScale:
    @pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
    def test_it_rises_to_one_and_falls_to_zero(self, warmup: float) -> None:
        values = scales(warmup)
        top = int(warmup * TOTAL)
        assert values[top] == 1
        assert all(a <= b for a, b in itertools.pairwise(values[: top + 1]))
        assert all(a > b for a, b in itertools.pairwise(values[top:]))
        assert values[-1] == pytest.approx(0, abs=1e-12)
        assert min(values) >= 0

    def test_warm_up_is_a_line_in_samples(self) -> None:
        values = scales(0.2)
        assert values[500] == pytest.approx(0.25)
        assert values[1500] == pytest.approx(0.75)

    def test_the_fall_is_half_a_cosine(self) -> None:
        values = scales(0.2)
        assert values[2000 + 2000] == pytest.approx(0.5 + 0.5 * 2**-0.5)
        assert values[2000 + 4000] == pytest.approx(0.5)
        assert values[2000 + 6000] == pytest.approx(0.5 - 0.5 * 2**-0.5)

    def test_the_first_step_moves_a_little(self) -> None:
        assert 0 < learning_rate_scale(0, warmup=0.1, total=TOTAL) <= 0.01

    def test_past_the_end_it_stays_at_zero(self) -> None:
        assert learning_rate_scale(TOTAL * 2, warmup=0.1, total=TOTAL) == pytest.approx(0)

    def test_warm_up_throughout_never_falls(self) -> None:
        values = scales(1.0, 100)
        assert all(a <= b for a, b in itertools.pairwise(values))
        assert values[-1] == 1


class TestBeginning:
    def test_before_it_nothing_moves_and_then_its_own_warm_up_begins(self) -> None:
        values = [learning_rate_scale(n, warmup=0.1, total=TOTAL, begins=0.4) for n in range(TOTAL)]
        whole = scales(0.1)
        assert set(values[:4000]) == {0.0}
        assert 0 < values[4000] < 0.01
        assert values[4500] == pytest.approx(0.5 * whole[4500])
        assert values[5000:] == whole[5000:-1]
