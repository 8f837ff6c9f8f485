"""The curves of one run, or of several over each other, on epochs and on samples seen."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from dogbreed.report.charts import Series, lines
from dogbreed.report.records import Record

Row = dict[str, float]
_NONE = float("nan")
_X: dict[str, tuple[str, Callable[[Row], float]]] = {
    "samples": ("samples seen", lambda row: row["samples_seen"]),
    "epochs": ("epochs", lambda row: row["epochs"]),
}


def with_epochs(rows: Sequence[Row]) -> list[Row]:
    """The rows with `epochs`, a fraction where validation came within one."""
    if not rows:
        return []
    # The last row of each epoch but the last stands at its end.
    ends = [
        row["samples_seen"]
        for row, after in zip(rows, rows[1:], strict=False)
        if after["epoch"] > row["epoch"]
    ]
    first = min((row["epoch"] for row in rows), default=0)
    per_epoch = (
        ends[0] / (first + 1) if ends else rows[-1]["samples_seen"] / (rows[-1]["epoch"] + 1)
    )
    return [row | {"epochs": row["samples_seen"] / max(per_epoch, 1)} for row in rows]


def panel(title: str, draw: Callable[[str, Callable[[Row], float]], Markup | None]) -> Any:
    """A chart for each choice of x; None if there is nothing to draw."""
    drawn = {key: draw(label, x) for key, (label, x) in _X.items()}
    return {"title": title, "charts": drawn} if all(drawn.values()) else None


def of_run(record: Record) -> list[dict[str, Any]]:
    """Loss, top-1, learning rates and speed of a run; what it has no rows for is left out."""
    rows = with_epochs(record.rows)
    if not rows:
        return []
    kept = _kept(record, rows)
    rates = sorted(name for name in rows[-1] if name.startswith("lr/"))
    groups = {
        "Loss": [
            ("train/loss", "training"),
            ("val/loss", "validation"),
            ("val/log_loss", "validation log-loss"),
        ],
        "Top-1": [("train/top1", "training"), ("val/top1", "validation")],
        "Learning rate": [(name, name.removeprefix("lr/")) for name in rates],
        "Training speed": [("train_images_per_s", "images a second")],
    }
    panels = []
    for title, names in groups.items():
        names = _distinct(rows, names)

        def draw(
            label: str, x: Callable[[Row], float], names: Any = names, title: str = title
        ) -> Any:
            series = [
                Series(text, [(x(row), row.get(name, _NONE)) for row in rows], k)
                for k, (name, text) in enumerate(names)
            ]
            zero = title in {"Learning rate", "Training speed"}
            at = None if kept is None or zero else x(kept)
            return lines(series, label, title.lower(), from_zero=zero, kept=at)

        panels.append(panel(title, draw))
    return [p for p in panels if p]


def _distinct(rows: list[Row], names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without columns that repeat another's values: validation's loss is mostly its log-loss."""
    seen: list[list[float]] = []
    kept = []
    for name, text in names:
        values = [row.get(name, _NONE) for row in rows]
        if not any(all(abs(a - b) < 1e-4 for a, b in zip(values, o, strict=True)) for o in seen):
            seen.append(values)
            kept.append((name, text))
    return kept


def _kept(record: Record, rows: list[Row]) -> Row | None:
    """The row of the checkpoint that the run kept, if one has its scores."""
    scores = record.scores.get("val", {}) | record.summaries.get("val", {}).get("scores", {})
    # The rows' log-loss knows of no temperature.
    loss = scores.get("log_loss_uncalibrated") or scores.get("log_loss")
    if not loss or "top1" not in scores:
        return None
    wanted = scores["top1"]["value"], loss["value"]
    for row in rows:
        there = row.get("val/top1", _NONE), row.get("val/log_loss", _NONE)
        if all(abs(a - b) < 1e-4 for a, b in zip(there, wanted, strict=True)):
            return row
    return None


def of_runs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Validation scores and training loss of several runs, a colour each; without a legend."""
    rows = [with_epochs(record.rows) for record in records]
    groups = {
        "Validation top-1": "val/top1",
        "Validation log-loss": "val/log_loss",
        "Training loss": "train/loss",
    }
    panels = []
    for title, name in groups.items():

        def draw(
            label: str, x: Callable[[Row], float], name: str = name, title: str = title
        ) -> Any:
            series = [
                Series(record.name, [(x(row), row.get(name, _NONE)) for row in of], k, k >= 10)
                for k, (record, of) in enumerate(zip(records, rows, strict=True))
            ]
            return lines(series, label, title.lower(), named=False)

        panels.append(panel(title, draw))
    return [p for p in panels if p]
