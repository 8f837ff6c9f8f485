"""Module and engines side by side: as a table on the terminal, as JSON and as a picture."""

import io
from typing import Any

from matplotlib.figure import Figure

from dogbreed.export.speed import BATCHES


def lines(rows: list[dict[str, Any]]) -> str:
    """The table as text.

    Args:
        rows: `name`, `bytes`, `images_per_s` (batch size -> rate), `p50_ms`, `top1`, and
            `top1_drop` (`value`, `low`, `high`; none for the module itself).
    """
    head = ["engine", "MB", *(f"img/s at {size}" for size in BATCHES), "p50 ms", "top-1", "drop"]
    body = [
        [
            row["name"],
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{row['images_per_s'][str(size)]:.0f}" for size in BATCHES),
            f"{row['p50_ms']:.1f}",
            f"{row['top1']:.4f}",
            _drop(row),
        ]
        for row in rows
    ]
    widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k in {0, len(head) - 1} else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    )


def _drop(row: dict[str, Any]) -> str:
    drop = row["top1_drop"]
    if drop is None:
        return "-"
    return f"{drop['value']:+.4f} ({drop['low']:+.4f} to {drop['high']:+.4f})"


def picture(rows: list[dict[str, Any]], title: str) -> bytes:
    """Accuracy against speed at batch 8: a PNG. The module is a square; size follows the file."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots()
    for row in rows:
        speed, top1, drop = row["images_per_s"]["8"], row["top1"], row["top1_drop"]
        points = axes.scatter(
            speed,
            top1,
            s=30 + 10 * row["bytes"] / 1e6,
            marker="s" if drop is None else "o",
            alpha=0.7,
            label=f"{row['name']}, {row['bytes'] / 1e6:.1f} MB",
        )
        if drop is not None:  # the interval is that of the difference to the module
            low, high = drop["high"] - drop["value"], drop["value"] - drop["low"]
            colour = points.get_facecolor()[0]
            axes.errorbar(speed, top1, [[max(0, low)], [max(0, high)]], color=colour, capsize=3)
    axes.set(xlabel="images a second, batches of 8", ylabel="validation top-1", xlim=(0, None))
    axes.margins(x=0.1, y=0.3)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
