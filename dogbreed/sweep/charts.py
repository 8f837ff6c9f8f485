"""Charts of a sweep as SVG: history, importance, parallel coordinates."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from dogbreed.report.charts import HEIGHT, TOP, Axes, apart, legend, number, short, svg
from dogbreed.sweep.space import Parameter, brief

_WIDTH, _TALL = 840, 320  # of parallel coordinates, in units of their own
_SIDE, _UP, _DOWN = 56, 30, 34  # margins
_LETTER = 6.5  # width of one, about


def history(scores: Sequence[float], names: Sequence[str], metric: str, *, least: bool) -> Markup:
    """Scores in the order in which trials ended, and the best so far.

    Args:
        scores: one or more.
        names: of their runs.
        metric: what they are.
        least: whether the least is best.
    """
    low, high = _range(scores, least=least)
    room = (high - low) * 0.06 or 0.01
    axes = Axes((0.5, len(scores) + 0.5), (low - room, high + room))
    best = min if least else max
    so_far = [best(scores[: k + 1]) for k in range(len(scores))]
    steps = [(k + d, so_far[k]) for k in range(len(scores)) for d in (1, 2)][:-1]  # a staircase
    path = " ".join(f"{axes.across(x):.1f},{axes.up(y):.1f}" for x, y in steps)
    dots = [
        f'<circle class="dot c0" cx="{axes.across(k + 1):.1f}"'
        f' cy="{axes.up(min(max(y, low - room), high + room)):.1f}" r="3.2"'
        f' data-tip="{escape(name)}: {number(y)}"/>'
        for k, (y, name) in enumerate(zip(scores, names, strict=True))
    ]
    line = f'<polyline class="line c1" points="{path}"/>'
    drawing = svg(f"{metric} of each trial", axes.grid("trials that ended"), line, *dots)
    return drawing + legend([("a trial", 0, False), ("the best so far", 1, False)])


def importance(shares: dict[str, float]) -> Markup:
    """A bar for each parameter, the largest first, as shares of their sum."""
    height = (HEIGHT - TOP) / max(len(shares), 4)
    parts = []
    for k, (name, share) in enumerate(shares.items()):
        y = TOP + k * height
        parts.append(
            f'<text class="tick" x="0" y="{y + height * 0.38:.1f}">{escape(name)}</text>'
            f'<text class="tick" x="420" y="{y + height * 0.38:.1f}" text-anchor="end">'
            f"{share:.0%}</text>"
            f'<rect class="bar c0" x="0" y="{y + height * 0.5:.1f}" width="{420 * share:.1f}"'
            f' height="{height * 0.28:.1f}" data-tip="{escape(name)}: {share:.1%}"/>'
        )
    return svg("Importance of each parameter", *parts)


def parallel(
    parameters: Sequence[Parameter],
    trials: Sequence[dict[str, Any]],
    scores: Sequence[float],
    metric: str,
    *,
    least: bool,
) -> Markup:
    """A line for each trial over an axis for each parameter, the last axis being the score.

    The best fifth stands out.

    Args:
        parameters: the axes.
        trials: values by parameter, one or more trials.
        scores: of the trials.
        metric: what they are.
        least: whether the least is best.
    """
    names = [of.name for of in parameters] + [metric]
    xs = [_SIDE + k * (_WIDTH - 2 * _SIDE) / max(len(names) - 1, 1) for k in range(len(names))]
    columns = [_places(of, [t[of.name] for t in trials]) for of in parameters]
    low, high = _range(scores, least=least)
    span = (high - low) or 1.0
    # The best is at the top, whichever way the score goes.
    ups = [max(0.0, (high - s) / span if least else (s - low) / span) for s in scores]
    ends = (high, low) if least else (low, high)
    columns.append((ups, list(zip((0.0, 1.0), apart(ends), strict=True))))
    order = sorted(range(len(scores)), key=lambda k: ups[k])
    shown_off = set(order[-max(1, len(order) // 5) :])
    parts = []
    for k in order:
        points = " ".join(
            f"{x:.1f},{_height(column[0][k]):.1f}" for x, column in zip(xs, columns, strict=True)
        )
        values = ", ".join(f"{of.name} {brief(trials[k][of.name])}" for of in parameters)
        parts.append(
            f'<polyline class="line thin {"c1 best" if k in shown_off else "c0"}" points="{points}"'
            f' data-tip="{metric} {number(scores[k])}: {escape(values)}"/>'
        )
    for at, (x, name, (_, ticks)) in enumerate(zip(xs, names, columns, strict=True)):
        title = name.rpartition(".")[2] if at < len(names) - 1 else name
        edge, anchor = x, "middle"
        if len(title) * _LETTER / 2 > _SIDE:  # it would not fit above the first or last axis
            edge, anchor = {0: (0, "start"), len(names) - 1: (_WIDTH, "end")}.get(at, (x, anchor))
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_UP}" y2="{_TALL - _DOWN}"/>'
            f'<text class="axis" x="{edge:.1f}" y="{_UP - 14}" text-anchor="{anchor}">'
            f"{escape(title)}</text>"
        )
        for place, text in ticks:
            side = (x + 6, "start") if at < len(names) - 1 else (x - 6, "end")
            parts.append(
                f'<text class="tick over" x="{side[0]:.1f}" y="{_height(place) + 3.5:.1f}"'
                f' text-anchor="{side[1]}">{escape(text)}</text>'
            )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_TALL}" role="img"'
        f' aria-label="Parallel coordinates">{"".join(parts)}</svg>'
    ) + legend([("the best fifth", 1, False), ("the others", 0, False)])


def _range(scores: Sequence[float], *, least: bool) -> tuple[float, float]:
    """From the best to the worst but for a tenth, which is drawn at the edge: it would hide all."""
    ordered = sorted(scores, reverse=not least)
    worst = ordered[math.ceil(0.9 * len(ordered)) - 1]
    return min(ordered[0], worst), max(ordered[0], worst)


def _height(share: float) -> float:
    return _TALL - _DOWN - share * (_TALL - _UP - _DOWN)


def _places(of: Parameter, values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values lie on their axis, from 0 to 1, and the ticks there."""
    if of.values:
        n = max(len(of.values) - 1, 1)
        at = {brief(value): k / n for k, value in enumerate(of.values)}
        return [at[brief(v)] for v in values], [(place, text) for text, place in at.items()]
    scale = math.log if of.log else float
    low, high = scale(of.low), scale(of.high)
    middle = math.exp((low + high) / 2) if of.log else (low + high) / 2
    ticks = [(0.0, short(of.low)), (0.5, short(float(f"{middle:.2g}"))), (1.0, short(of.high))]
    return [(scale(v) - low) / (high - low) for v in values], ticks
