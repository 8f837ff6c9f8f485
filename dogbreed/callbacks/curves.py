"""The rows of metrics.csv as one picture."""

import io
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator


def curves(rows: list[dict[str, Any]], title: str) -> bytes:
    """Loss and accuracy of training and validation against samples seen: a PNG.

    Samples, so that runs with different batch sizes compare; epochs stand above.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    samples = [int(row["samples_seen"]) for row in rows]
    panels = {"loss": ("train/loss", "val/loss"), "top-1": ("train/top1", "val/top1")}
    per_epoch = samples[-1] / (int(rows[-1]["epoch"]) + 1)
    for axes, (name, series) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for key, colour in zip(series, ("#3b6ea5", "#e0a030"), strict=True):
            values = [float(row[key]) for row in rows]
            axes.plot(samples, values, color=colour, marker=".", label=key.split("/")[0])
        axes.set(xlabel="samples seen", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        above = axes.secondary_xaxis(
            "top", functions=(lambda x: x / per_epoch, lambda x: x * per_epoch)
        )
        above.set_xlabel("epochs")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
