"""Charts as SVG: lines, bars, reliability. Colours and strokes are the style sheet's."""

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 260  # of a chart in its own units; a phone shows it a quarter smaller
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40  # margins
FEW = 5  # pictures of a bin, below which its share of right answers is a throw of the dice

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        name: for the legend and what is shown at a point.
        points: x and y; where y is no number the line has a gap.
        colour: index into the style sheet's colours.
        dashed: how it is drawn.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Axes:
    """From values to places in the drawing, linear.

    Args:
        x: least and largest value.
        y: likewise.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        """The place of an x."""
        low, high = self.x
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        """The place of a y."""
        low, high = self.y
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def grid(self, x_label: str, y_label: str = "") -> Markup:
        """Lines at round numbers, these, and what they count."""
        parts = []
        heights = ticks(*self.y)
        for tick, text in zip(heights, apart(heights), strict=True):
            y = self.up(tick)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
                f"{text}</text>"
            )
        bottom = HEIGHT - BOTTOM
        for tick in ticks(*self.x):
            x = self.across(tick)
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{short(tick)}</text>"
            )
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
            f'<text class="axis" x="{(WIDTH + LEFT - RIGHT) / 2}" y="{HEIGHT - 6}"'
            f' text-anchor="middle">{escape(x_label)}</text>'
        )
        if y_label:
            parts.append(
                f'<text class="axis" transform="translate(11 {(bottom + TOP) / 2}) rotate(-90)"'
                f' text-anchor="middle">{escape(y_label)}</text>'
            )
        return Markup("".join(parts))


def svg(label: str, *parts: str) -> Markup:
    """A drawing with a text for those who don't see it."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    from_zero: bool = False,
    kept: float | None = None,
    named: bool = True,
) -> Markup | None:
    """Lines over a common x.

    Args:
        series: those without a number are left out.
        x_label: what x counts.
        y_label: what y is; for those who do not see the drawing, others read it above.
        from_zero: whether y begins at 0.
        kept: x of the checkpoint that was kept.
        named: whether a legend stands below.

    Returns:
        SVG; None if there is nothing to draw.
    """
    series = [s for s in series if any(_finite(p) for p in s.points)]
    if not series:
        return None
    places = [p for s in series for p in s.points if _finite(p)]
    axes = Axes(
        _span([x for x, _ in places] + [0.0]),
        _span([y for _, y in places] + ([0.0] if from_zero else []), margin=not from_zero),
    )
    parts: list[str] = [axes.grid(x_label)]
    if kept is not None:
        x = axes.across(kept)
        parts.append(
            f'<line class="kept" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    for one in series:
        dashed = " dashed" if one.dashed else ""
        for stretch in _stretches(one.points):
            path = " ".join(f"{axes.across(x):.1f},{axes.up(y):.1f}" for x, y in stretch)
            parts.append(f'<polyline class="line c{one.colour % 10}{dashed}" points="{path}"/>')
            parts += [
                f'<circle class="dot c{one.colour % 10}" cx="{axes.across(x):.1f}"'
                f' cy="{axes.up(y):.1f}" r="2.6" data-tip="'
                f'{escape(one.name)}: {number(y)} at {x:,.6g} {escape(x_label)}"/>'
                for x, y in stretch
            ]
    names = legend([(s.name, s.colour, s.dashed) for s in series]) if named else Markup()
    return svg(f"{y_label} against {x_label}", *parts) + names


def legend(entries: Sequence[tuple[str, int, bool]]) -> Markup:
    """Names beside their colours."""
    keys = "".join(
        f'<span class="key c{colour % 10}{" dashed" if dashed else ""}">{escape(name)}</span>'
        for name, colour, dashed in entries
    )
    return Markup(f'<p class="legend">{keys}</p>')


def bars(
    groups: Sequence[tuple[str, Sequence[int]]],
    edges: Sequence[float],
    x_label: str,
    threshold: float | None = None,
) -> Markup:
    """Histograms over the same bins, each as shares of its own total, one before the other.

    Args:
        groups: name and count of each bin.
        edges: one more than bins, ascending.
        x_label: what is counted.
        threshold: a line to draw there.
    """
    shares = [(name, [n / max(sum(counts), 1) for n in counts]) for name, counts in groups]
    most = max((max(of, default=0) for _, of in shares), default=0) or 1.0
    ends = [edges[0], edges[-1]] + ([threshold] if threshold is not None else [])
    axes = Axes(_span(ends, margin=False), (0, most * 1.05))
    parts: list[str] = [axes.grid(x_label, "share of pictures")]
    for colour, (name, of) in enumerate(shares):
        for share, low, high in zip(of, edges, edges[1:], strict=False):
            if share:
                x, y = axes.across(low), axes.up(share)
                parts.append(
                    f'<rect class="bar c{colour}" x="{x:.1f}" y="{y:.1f}"'
                    f' width="{max(axes.across(high) - x - 0.6, 0.6):.1f}"'
                    f' height="{axes.up(0) - y:.1f}" data-tip="{escape(name)}: {share:.1%}'
                    f' from {number(low)} to {number(high)}"/>'
                )
    if threshold is not None:
        x = axes.across(threshold)
        parts.append(
            f'<line class="kept" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    return svg(f"Histogram of {x_label}", *parts) + legend(
        [(f"{name} ({sum(counts):,})", k, False) for k, (name, counts) in enumerate(groups)]
    )


def reliability(curves: Sequence[tuple[str, Sequence[dict[str, float]]]]) -> Markup:
    """Share of right answers against the probability shown, with the diagonal that is right.

    Args:
        curves: name, and bins with `confidence`, `accuracy` and `n`; empty bins are passed over,
            and the line leaves out those of fewer than `FEW` pictures, which say next to nothing.
    """
    axes = Axes((0, 1), (0, 1))
    parts: list[str] = [
        axes.grid("probability shown", "share of right answers"),
        f'<line class="ideal" x1="{axes.across(0)}" y1="{axes.up(0)}"'
        f' x2="{axes.across(1)}" y2="{axes.up(1)}"/>',
    ]
    for colour, (name, bins) in enumerate(curves):
        full = [b for b in bins if b["n"]]
        total = sum(b["n"] for b in full) or 1
        points = " ".join(
            f"{axes.across(b['confidence']):.1f},{axes.up(b['accuracy']):.1f}"
            for b in full
            if b["n"] >= FEW
        )
        parts.append(f'<polyline class="line c{colour}" points="{points}"/>')
        parts += [
            f'<circle class="dot c{colour}" cx="{axes.across(b["confidence"]):.1f}"'
            f' cy="{axes.up(b["accuracy"]):.1f}" r="{2 + 9 * math.sqrt(b["n"] / total):.1f}"'
            f' data-tip="{escape(name)}: {b["n"]:,.0f} pictures, shown {b["confidence"]:.1%},'
            f' right {b["accuracy"]:.1%}"/>'
            for b in full
        ]
    names = [(name, k, False) for k, (name, _) in enumerate(curves)]
    return svg("Reliability diagram", *parts) + legend(names)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from `low` to `high`."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def apart(values: Sequence[float]) -> list[str]:
    """Ticks' numbers with as many figures as it takes to tell them apart."""
    for figures in range(4, 16):
        texts = [short(value, figures) for value in values]
        if len(set(texts)) == len(texts):
            break
    return texts


def short(value: float, figures: int = 4) -> str:
    """A tick's number: ``25k``, ``0.4``, ``1e-4``."""
    for power, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.{figures}g}{letter}"
    if abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e-3:
        return f"{value:.{figures}g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")


def number(value: float) -> str:
    """A value with four figures."""
    return f"{value:.4g}"


def _finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _span(values: Sequence[float], margin: bool = False) -> tuple[float, float]:
    """From the least to the largest, with some room if asked for; never empty."""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    room = (high - low) * 0.05 if margin else 0.0
    return low - room, high + room


def _stretches(points: Sequence[Point]) -> list[list[Point]]:
    """The points between gaps."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if _finite(point):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]
