"""Charts: round numbers on the axes, gaps where nothing was measured, text that stays text."""

import math
import re
from xml.etree import ElementTree

import pytest

from dogbreed.report.charts import FEW, Series, apart, bars, lines, reliability, short, ticks

EVIL = '<script>alert("1")</script>'


def parsed(text: object) -> ElementTree.Element:
    """Parse a drawing and its legend; markup that is not well-formed fails here."""
    return ElementTree.fromstring(f"<div>{text}</div>")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.612, 0.731), (0, 8419), (1e-5, 3e-3), (-12.5, -4), (0, 1e7)]
)
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in {1, 2, 2.5, 5}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (2000, "2k"), (2.5e6, "2.5M"), (7.5e-4, "7.5e-4"), (1e-5, "1e-5")],
)
def test_a_tick_is_short(value: float, text: str) -> None:
    assert short(value) == text


def test_ticks_that_lie_close_have_as_many_figures_as_tell_them_apart() -> None:
    assert apart([0.4, 0.5]) == ["0.4", "0.5"]
    assert apart([1.0, 1.00005, 1.0001]) == ["1", "1.00005", "1.0001"]
    assert apart([120_000, 120_002]) == ["120k", "120.002k"]


def test_a_line_stops_where_nothing_was_measured() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0)]
    drawn = parsed(lines([Series("loss", points)], "epochs", "loss"))
    assert [len(line.get("points", "").split()) for line in drawn.iter("polyline")] == [2, 1]
    assert len(list(drawn.iter("circle"))) == 3


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    drawn = parsed(lines([Series("loss", [(1.0, 5.0), (2.0, 7.0)])], "epochs", "loss"))
    first, second = drawn.iter("circle")
    assert float(second.get("cx", "")) > float(first.get("cx", ""))
    assert float(second.get("cy", "")) < float(first.get("cy", ""))
    assert first.get("data-tip") == "loss: 5 at 1 epochs"


def test_nothing_to_draw_is_no_chart() -> None:
    assert lines([Series("loss", [(1.0, math.nan)]), Series("x", [])], "epochs", "loss") is None


def test_names_are_text_whatever_they_hold() -> None:
    drawn = parsed(lines([Series(EVIL, [(1.0, 2.0)])], EVIL, EVIL))
    assert list(drawn.iter("script")) == []
    assert any(EVIL in (key.text or "") for key in drawn.iter("span"))


def test_bars_are_shares_of_their_own_group() -> None:
    drawn = parsed(bars([("right", [30, 10]), ("wrong", [0, 4])], [0, 0.5, 1], "probability", 0.4))
    tips = [bar.get("data-tip", "") for bar in drawn.iter("rect")]
    assert [tip.split(" from")[0] for tip in tips] == [
        "right: 75.0%", "right: 25.0%", "wrong: 100.0%"]  # fmt: skip
    assert any(line.get("class") == "kept" for line in drawn.iter("line"))


def test_reliability_shows_each_bin_that_has_pictures() -> None:
    bins = [
        {"low": 0.0, "high": 0.5, "n": 3, "confidence": 0.4, "accuracy": 0.5},
        {"low": 0.5, "high": 1.0, "n": 0, "confidence": 0.0, "accuracy": 0.0},
    ]
    drawn = parsed(reliability([("with temperature", bins)]))
    (point,) = drawn.iter("circle")
    assert re.search(r"3 pictures, shown 40.0%, right 50.0%", point.get("data-tip", ""))


def test_the_line_of_a_reliability_diagram_leaves_out_bins_of_a_few_pictures() -> None:
    bins = [
        {"low": k / 4, "high": (k + 1) / 4, "n": n, "confidence": k / 4, "accuracy": k / 4}
        for k, n in enumerate((1, FEW, 40))
    ]
    drawn = parsed(reliability([("with temperature", bins)]))
    (line,) = drawn.iter("polyline")
    assert len(line.get("points", "").split()) == 2
    assert len(list(drawn.iter("circle"))) == 3
