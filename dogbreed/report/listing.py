"""A table of runs: its columns, filtered, sorted, and as text."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from dogbreed.errors import BadInput, nearest
from dogbreed.evaluate.figures import TITLES, lower_is_better
from dogbreed.report.records import Record

COLUMNS = ("name", "when", "data", "weights", "epochs", "top1", "log_loss", "state", "size")
_BEST_FIRST = {"top1", "log_loss"} | {f"{s}/{name}" for s in ("val", "test") for name in TITLES}
_LARGEST_FIRST = {"when", "created", "epochs", "size"}

Line = dict[str, Any]
"""A run's values by column; None where a run has none. Text, or numbers: size in bytes."""


def line(record: Record) -> Line:
    """What the table says of a run; one whose files are damaged says so in its state.

    Beside `COLUMNS` it holds what can be filtered and sorted by: `data_name`, `version`,
    `backbone`, `notes`, `tags`, and each score as `val/top1`.
    """
    try:
        about, scores = record.about, record.scores
        rows = record.rows
    except BadInput:
        unreadable = {"name": record.url.rsplit("/", 1)[-1], "state": "unreadable"}
        return dict.fromkeys(COLUMNS) | unreadable | {"size": record.size}
    # A run that is under way, or was ended, has rows before it has metrics.json.
    reached = {name: rows[-1].get(f"val/{name}") for name in TITLES} if rows else {}
    points = {f"{s}/{k}": v["value"] for s, of in scores.items() for k, v in of.items() if k != "n"}
    points = {f"val/{k}": v for k, v in reached.items() if v is not None} | points
    return {
        "name": record.name,
        "when": record.created[:16].replace("T", " "),
        "data": f"{record.data_name} {record.data_version[:12]}",
        "weights": record.weights,
        "epochs": record.epochs,
        "top1": points.get("val/top1"),
        "log_loss": points.get("val/log_loss"),
        "state": record.state or "unknown",
        "size": record.size,
        "created": record.created,
        "data_name": record.data_name,
        "version": record.data_version,
        "backbone": record.backbone,
        "notes": str(about.get("notes") or ""),
        "tags": " ".join(map(str, about.get("tags") or [])),
        **points,
    }


_CONDITION = re.compile(r"\s*([\w/]+)\s*(!=|<=|>=|=|~|<|>)\s*(.*?)\s*")
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def kept(lines: Sequence[tuple[Record, Line]], filter: str) -> list[tuple[Record, Line]]:
    """Those for which all conditions hold.

    Args:
        lines: runs and what the table says of them.
        filter: conditions with commas between, each COLUMN, one of `= != < > <= >= ~` and a value;
            `~` is *contains*, whatever the case.

    Raises:
        BadInput: no such condition or column.
    """
    known = _known(lines)
    for condition in filter.split(","):
        found = _CONDITION.fullmatch(condition)
        if not found:
            raise BadInput(
                f"--filter {condition.strip()!r}: say COLUMN=VALUE (or != < > <= >=, or ~ for"
                " contains)"
            )
        column, sign, wanted = found.groups()
        _check("--filter", column, known)
        lines = [pair for pair in lines if _holds(pair[1].get(column), sign, wanted)]
    return list(lines)


def _holds(value: Any, sign: str, wanted: str) -> bool:
    if sign == "~":
        return wanted.lower() in str(value or "").lower()
    if value is None:
        return sign == "!="
    if isinstance(value, int | float):
        try:
            return _TESTS[sign](value, float(wanted))
        except ValueError:
            raise BadInput(f"--filter …{sign}{wanted}: {wanted!r} is no number") from None
    return _TESTS[sign](value.lower(), wanted.lower())


def in_order(lines: Sequence[tuple[Record, Line]], column: str) -> list[tuple[Record, Line]]:
    """Sorted: scores best first, times and sizes largest first, text from A to Z, then the rest.

    Raises:
        BadInput: no such column.
    """
    _check("--sort", column, _known(lines))
    there = [pair for pair in lines if pair[1].get(column) is not None]
    largest = column in _LARGEST_FIRST or (column in _BEST_FIRST and not lower_is_better(column))
    there = sorted(there, key=lambda pair: pair[1][column], reverse=largest)
    return there + [pair for pair in lines if pair[1].get(column) is None]


def best(lines: Sequence[tuple[Record, Line]], score: str) -> Record:
    """The run with the best `split/score`.

    Raises:
        BadInput: no such score, or no run has it.
    """
    known = [f"{split}/{name}" for split in ("val", "test") for name in TITLES]
    _check("--best", score, known)
    ordered = in_order(lines, score) if lines else []
    if not ordered or ordered[0][1].get(score) is None:
        raise BadInput(f"--best {score}: none of the runs has it")
    return ordered[0][0]


def _known(lines: Sequence[tuple[Record, Line]]) -> list[str]:
    scores = [f"{split}/{name}" for split in ("val", "test") for name in TITLES]
    return list(dict.fromkeys([*COLUMNS, *(k for _, of in lines for k in of), *scores]))


def _check(option: str, column: str, known: Sequence[str]) -> None:
    if column not in known:
        raise BadInput(
            f"{option} {column}: no such column{nearest(column, known)}; there are"
            f" {', '.join(known)}"
        )


def columns(lines: Sequence[Line]) -> tuple[str, ...]:
    """Those of the table: `COLUMNS`, and tags where a run has any."""
    return COLUMNS + (("tags",) if any(about.get("tags") for about in lines) else ())


def cells(about: Line, columns: Sequence[str] = COLUMNS) -> dict[str, str]:
    """A line's values as text, by column."""
    return {
        column: "" if about.get(column) is None else _FORMATS.get(column, str)(about[column])
        for column in columns
    }


def size_text(size: int) -> str:
    """Bytes as a person reads them: ``6.2 MB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def weights_text(weights: str) -> str:
    """First weights without folders and digest: ``file: tf_efficientnet_lite0, head new``."""
    return re.sub(r" \(SHA-256 \w+\)|\S*/(?=\S)|\.safetensors\b", "", weights)


_FORMATS: dict[str, Callable[[Any], str]] = {
    "top1": "{:.3f}".format,
    "log_loss": "{:.3f}".format,
    "size": size_text,
    "weights": weights_text,
}
_NUMBERS = {"epochs", "top1", "log_loss", "size"}
_WIDEST = {"tags": 40, "name": 40, "data": 34, "weights": 34}


def as_text(lines: Sequence[Line]) -> str:
    """The table for a terminal: columns aligned, long texts cut in the middle."""
    shown = columns(lines)
    heads = {column: TITLES.get(column, column) for column in shown}
    rows = [heads] + [
        {
            column: _cut(text, _WIDEST.get(column, 99))
            for column, text in cells(about, shown).items()
        }
        for about in lines
    ]
    widths = {column: max(len(row[column]) for row in rows) for column in shown}
    return "\n".join(
        "  ".join(
            row[column].rjust(width) if column in _NUMBERS else row[column].ljust(width)
            for column, width in widths.items()
        ).rstrip()
        for row in rows
    )


def _cut(text: str, length: int) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"
