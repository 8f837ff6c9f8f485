"""Gates: what lets an engine pass, and what does not."""

import numpy as np
import pytest

from dogbreed.errors import BadInput
from dogbreed.export.gates import Compared, loses_too_much, paired_drop, parity


def compared(n: int = 2000, shift: float = 0.0, changed: int = 0) -> Compared:
    """Answers that are all right; the engine's differ by `shift`, and `changed` are wrong."""
    labels = np.arange(n) % 3
    module = np.full((n, 3), 0.1, np.float32)
    module[np.arange(n), labels] = 0.8
    engine = module + np.float32(shift)
    engine[:changed] = np.roll(engine[:changed], 1, axis=1)
    return Compared(labels, module, engine)


def test_parity_passes_probabilities_that_differ_by_rounding() -> None:
    parity(compared(shift=5e-5))


@pytest.mark.parametrize("wrong", [compared(shift=2e-4), compared(changed=1)])
def test_parity_refuses_other_probabilities(wrong: Compared) -> None:
    with pytest.raises(BadInput, match="does not answer as the module does"):
        parity(wrong)


def test_the_accuracy_gate_judges_the_upper_end_of_the_interval() -> None:
    few = compared(changed=20)
    value, low, high = few.drop()
    assert value == pytest.approx(0.01)
    assert low < 0.01 < high
    assert loses_too_much(few, high) is None
    assert "top-1 drops by 1.00%" in str(loses_too_much(few, 0.01))


def test_pictures_won_make_up_for_pictures_lost() -> None:
    before = np.array([True] * 50 + [False] * 50)
    value, low, high = paired_drop(before, ~before)
    assert value == 0
    assert low < 0 < high


def test_equal_answers_have_no_drop_at_all() -> None:
    right = np.array([True, False, True])
    assert paired_drop(right, right) == (0, 0, 0)
