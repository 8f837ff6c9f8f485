"""The curves of one run, or of several over each other, on epochs and on samples seen."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dogbreed.report.charts import Series, lines
from dogbreed.report.records import Record

Row = dict[str, float]
_NONE = float("nan")
_X = {"samples": ("samples seen", "samples_seen"), "epochs": ("epochs", "epochs")}


def with_epochs(rows: Sequence[Row]) -> list[Row]:
    """The rows with `epochs`, a fraction where validation came within one."""
    if not rows:
        return []
    # An epoch's last row stands at its end; of the last epoch that is not known.
    ended = [before for before, after in pairwise(rows) if after["epoch"] > before["epoch"]]
    last = ended[-1] if ended else rows[-1]
    per_epoch = last["samples_seen"] / (last["epoch"] + 1)
    return [row | {"epochs": row["samples_seen"] / max(per_epoch, 1)} for row in rows]


def of_run(record: Record) -> list[dict[str, Any]]:
    """Loss, top-1, learning rates and speed of a run; what it has no rows for is left out.

    Returns:
        For each panel its `title` and `charts`, one for each choice of x.
    """
    rows = with_epochs(record.rows)
    if not rows:
        return []
    kept = _kept(record, rows)
    rates = sorted(name for name in rows[-1] if name.startswith("lr/"))
    loss = {"train/loss": "training", "val/loss": "validation", "val/log_loss": "val. log-loss"}
    groups = {
        "Loss": _distinct(rows, loss),
        "Top-1": {"train/top1": "training", "val/top1": "validation"},
        "Learning rate": _distinct(rows, {name: name.removeprefix("lr/") for name in rates}),
        "Images a second": {"train_images_per_s": "training"},
    }
    panels = []
    for title, names in groups.items():
        drawn = {}
        score = title in {"Loss", "Top-1"}
        for key, (label, x) in _X.items():
            series = [
                Series(text, [(row[x], row.get(name, _NONE)) for row in rows], k)
                for k, (name, text) in enumerate(names.items())
            ]
            at = kept[x] if kept and score else None
            drawn[key] = lines(series, label, title.lower(), from_zero=not score, kept=at)
        if all(drawn.values()):
            panels.append({"title": title, "charts": drawn})
    return panels


def of_runs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """As `of_run`: scores and loss of several runs, a colour each, without a legend."""
    rows = [with_epochs(record.rows) for record in records]
    groups = {
        "Validation top-1": "val/top1",
        "Validation log-loss": "val/log_loss",
        "Training loss": "train/loss",
    }
    panels = []
    for title, name in groups.items():
        drawn = {}
        for key, (label, x) in _X.items():
            series = [
                Series(record.name, [(row[x], row.get(name, _NONE)) for row in of], k, k >= 10)
                for k, (record, of) in enumerate(zip(records, rows, strict=True))
            ]
            drawn[key] = lines(series, label, title.lower(), named=False)
        if all(drawn.values()):
            panels.append({"title": title, "charts": drawn})
    return panels


def _distinct(rows: list[Row], names: dict[str, str]) -> dict[str, str]:
    """Without columns that repeat another's values, as validation's loss may its log-loss."""
    seen: list[list[float]] = []
    kept = {}
    for name, text in names.items():
        values = [row.get(name, _NONE) for row in rows]
        if not any(np.allclose(values, other, atol=1e-8, equal_nan=True) for other in seen):
            seen.append(values)
            kept[name] = text
    return kept


def _kept(record: Record, rows: list[Row]) -> Row | None:
    """The row of the checkpoint that the run kept, if one has its scores."""
    scores = record.scores.get("val", {}) | record.summaries.get("val", {}).get("scores", {})
    # The rows' log-loss knows of no calibration.
    loss = scores.get("log_loss_uncalibrated") or scores.get("log_loss")
    if not loss or "top1" not in scores:
        return None
    wanted = scores["top1"]["value"], loss["value"]
    for row in rows:
        there = row.get("val/top1", _NONE), row.get("val/log_loss", _NONE)
        if all(abs(a - b) < 1e-4 for a, b in zip(there, wanted, strict=True)):
            return row
    return None
