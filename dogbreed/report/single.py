"""The report of one run: what it holds, and what is missing and how to get it."""

import dataclasses
from typing import Any

import numpy as np

from dogbreed import breeds, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.caveats import INTERVALS, caveats
from dogbreed.evaluate.evaluation import FOLDER
from dogbreed.report import confusion, curves
from dogbreed.report.album import Album
from dogbreed.report.charts import bars, reliability
from dogbreed.report.gallery import Gallery
from dogbreed.report.page import render
from dogbreed.report.predictions import Predictions
from dogbreed.report.records import Record

MATRIX_CLASSES = 300  # above, a cell of the matrix is smaller than a pixel
_BINS = 40


@dataclasses.dataclass(frozen=True)
class Scored:
    """The split of a run that its report is about.

    Args:
        split: its name.
        summary: what evaluation/{split}.json says.
        answers: to each picture.
    """

    split: str
    summary: dict[str, Any]
    answers: Predictions

    @property
    def names(self) -> list[str]:
        """The classes in the order of the answers' numbers."""
        return [breed["name"] for breed in self.summary["per_breed"]]


def page(record: Record, split: str | None = None) -> tuple[bytes, list[str]]:
    """The report as HTML, and what could not be shown in it.

    Args:
        record: read as a whole.
        split: which to look at closely; none: test, or val if there are no test scores.

    Raises:
        BadInput: the run's files are damaged, or it has no scores of `split`.
    """
    missing: list[str] = []
    scored = _scored(record, split, missing)
    about = record.about
    album = _album(record, scored, missing)
    names = scored.names if scored else [c["name"] for c in record.model.get("classes", [])]
    if not record.rows:
        missing.append("No curves: the run ended before its first validation.")
    if record.state != "done":
        reason = f": {about['reason']}" if about.get("reason") else ""
        missing.append(f"The run is not done but {record.state or 'of unknown state'}{reason}.")
    said = caveats(
        record.weights,
        record.data_name,
        names,
        record.scores,
        album.cut_beforehand() if album else None,
    )
    html = render(
        "run.html",
        record=record,
        scores=record.scores,
        scored=scored,
        others=record.others,
        caveats=[*said, INTERVALS] if record.summaries else said,
        curves=curves.of_run(record),
        calibration=_calibration(scored),
        confusion=_confusion(scored, missing),
        rejection=_rejection(scored),
        gallery=Gallery.of(record, scored, album, missing) if scored else None,
        sheet=_sheet(album),
        config=record.files.get("config.yaml", b"").decode(errors="replace"),
        environment=_flat({k: v for k, v in about.items() if k not in {"name", "weights"}}),
        missing=missing,
    )
    return html, missing


def _scored(record: Record, split: str | None, missing: list[str]) -> Scored | None:
    """The split to look at; what keeps it from being looked at goes to `missing`."""
    there = record.summaries
    if split and split not in there:
        verb = {"val": "validate"}.get(split, split)
        raise BadInput(
            f"{record.url}: no evaluation of split {split}; make it with: dogbreed {verb} --run"
            f" {record.url}"
        )
    if "test" not in there:
        missing.append(
            f"No evaluation of the test split. It comes with: dogbreed test --run {record.url}"
        )
    if "val" not in there:
        missing.append(
            "No evaluation of the validation split. It comes with: dogbreed validate --run"
            f" {record.url}"
        )
    chosen = split or ("test" if "test" in there else "val")
    if chosen not in there:
        return None
    url = storage.join(record.url, FOLDER, f"{chosen}.parquet")
    try:
        return Scored(chosen, there[chosen], Predictions.parse(storage.read(url), url))
    except BadInput as error:
        missing.append(f"No answers to single pictures: {error}.")
        return None


def _album(record: Record, scored: Scored | None, missing: list[str]) -> Album | None:
    data = scored.summary["data"] if scored else record.data
    try:
        return Album.open(str(data["root"]), str(data.get("version", "")))
    except (BadInput, KeyError) as error:
        missing.append(f"No pictures: the data cannot be looked at ({error}).")
        return None


def _calibration(scored: Scored | None) -> dict[str, Any] | None:
    if scored is None:
        return None
    summary = scored.summary
    after = [("with temperature", summary["reliability"])]
    before = summary.get("reliability_uncalibrated")
    return {
        "diagram": reliability(after + ([("without", before)] if before else [])),
        "temperature": summary["temperature"],
        "ece": summary["scores"].get("ece"),
        "ece_before": summary["scores"].get("ece_uncalibrated"),
        "loss": summary["scores"].get("log_loss"),
        "loss_before": summary["scores"].get("log_loss_uncalibrated"),
        "confidence": _histogram(
            scored.answers, scored.answers.probability, "probability of the answer"
        ),
    }


def _histogram(
    answers: Predictions, values: np.ndarray, label: str, threshold: float | None = None
) -> Any:
    """Of right and of wrong answers."""
    low, high = float(values.min(initial=0)), float(values.max(initial=1))
    if label.startswith("probability"):
        low, high = 0.0, 1.0
    elif len(values):
        low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, max(high, low + 1e-9), (_BINS if threshold is not None else 20) + 1)
    groups = [
        (name, np.histogram(values[chosen], edges)[0].tolist())
        for name, chosen in (("right answers", answers.right), ("wrong answers", ~answers.right))
    ]
    return bars(groups, edges.tolist(), label, threshold)


def _rejection(scored: Scored | None) -> dict[str, Any] | None:
    rejection = scored.summary.get("rejection") if scored else None
    if scored is None or not rejection:
        return None
    answers = scored.answers
    wrong = answers.rejected & ~answers.right
    return {
        "score": str(rejection["score"]).replace("_", " "),
        "threshold": rejection["threshold"],
        "keeps": rejection.get("keeps"),
        "rejected": int(answers.rejected.sum()),
        "wrong": int(wrong.sum()),
        "n": len(answers.ids),
        "histogram": _histogram(
            answers, answers.reject_score, "rejection score", rejection["threshold"]
        ),
    }


def _confusion(scored: Scored | None, missing: list[str]) -> dict[str, Any] | None:
    if scored is None:
        return None
    answers, names = scored.answers, scored.names
    if len(names) > MATRIX_CLASSES:
        missing.append(f"No confusion matrix: {len(names)} classes are too many to see.")
        return None
    counts = confusion.counted(answers.label, answers.predicted, len(names))
    mass = confusion.softened(answers.label, answers.best, answers.best_probability, len(names))
    order, tree = confusion.clustered(mass)
    titles = [breeds.title(name) for name in names]
    return {
        "drawing": confusion.drawing(counts, titles, order, tree),
        "large": len(names) > 25,
        "cells": {
            "names": [titles[k] for k in order],
            "rows": [[int(counts[t, p]) for p in order] for t in order],
        },
    }


def _sheet(album: Album | None) -> str | None:
    try:
        return album.sheet() if album else None
    except BadInput:
        return None


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as lines: `data.root` -> `gs://…`."""
    found: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, dict):
            found |= _flat(entry, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = "" if entry is None else str(entry)
    return found
