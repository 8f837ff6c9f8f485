"""The report of one run: what it holds, and what is missing and how to get it."""

from typing import Any

import numpy as np
from markupsafe import Markup

from dogbreed import breeds, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.caveats import INTERVALS, caveats
from dogbreed.evaluate.confidence import UNCALIBRATED, in_words
from dogbreed.evaluate.evaluation import FOLDER
from dogbreed.report import confusion, curves, engines
from dogbreed.report.album import Album
from dogbreed.report.charts import Series, bars, lines, reliability
from dogbreed.report.gallery import Gallery
from dogbreed.report.page import render
from dogbreed.report.predictions import Predictions, Scored
from dogbreed.report.records import Record
from dogbreed.runs import flat

MATRIX_CLASSES = 300  # above, a cell of the matrix is smaller than a pixel
BINS = 30  # of a histogram


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
        robustness=_robustness(record),
        gallery=Gallery.of(record, scored, album, missing) if scored else None,
        engines=engines.of_run(record, missing),
        sheet=_sheet(album),
        config=record.files.get("config.yaml", b"").decode(errors="replace"),
        environment=flat({k: v for k, v in about.items() if k not in {"name", "weights"}}),
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
    """Diagrams, and what the calibration changed."""
    if scored is None:
        return None
    summary, scores = scored.summary, scored.summary["scores"]
    curves = [("calibrated", summary["reliability"])]
    if before := summary.get("reliability_uncalibrated"):
        curves.append(("without", before))
    sure = _histogram(
        scored.answers, scored.answers.probability, (0.0, 1.0), "probability of the answer"
    )
    return {
        "diagram": reliability(curves),
        "temperature": summary["temperature"],
        "platt": in_words(summary.get("platt", UNCALIBRATED.platt)),
        "ece": scores.get("ece"),
        "ece_before": scores.get("ece_uncalibrated"),
        "loss": scores.get("log_loss"),
        "loss_before": scores.get("log_loss_uncalibrated"),
        "confidence": sure,
    }


def _rejection(scored: Scored | None) -> dict[str, Any] | None:
    """Who would have been rejected; None where nobody is."""
    rejection = scored.summary.get("rejection") if scored else None
    if scored is None or not rejection:
        return None
    answers = scored.answers
    scores, threshold = answers.reject_score, float(rejection["threshold"])
    span = (
        min(scores.min(initial=threshold), threshold),
        max(scores.max(initial=threshold), threshold),
    )
    return {
        "score": str(rejection["score"]).replace("_", " "),
        "threshold": threshold,
        "keeps": rejection.get("keeps"),
        "rejected": int(answers.rejected.sum()),
        "wrong": int((answers.rejected & ~answers.right).sum()),
        "n": len(answers.ids),
        "histogram": _histogram(answers, scores, span, "rejection score", threshold),
    }


def _robustness(record: Record) -> dict[str, Any] | None:
    """Top-1 against severity, of pictures made worse; None if that was not measured."""
    found = record.corruptions
    if not found:
        return None
    series = [
        Series(name.replace("_", " "), list(enumerate([found["clean"], *of["top1"]])), colour)
        for colour, (name, of) in enumerate(found["corruptions"].items())
    ]
    chart = lines(series, "severity", "top-1", from_zero=True)
    return {"found": found, "chart": chart}


def _histogram(
    answers: Predictions,
    values: np.ndarray,
    span: tuple[float, float],
    label: str,
    threshold: float | None = None,
) -> Markup:
    """Of right and of wrong answers."""
    edges = np.linspace(span[0], max(span[1], span[0] + 1e-9), BINS + 1)
    groups = [
        (name, np.histogram(values[chosen], edges)[0].tolist())
        for name, chosen in (("right answers", answers.right), ("wrong answers", ~answers.right))
    ]
    return bars(groups, edges.tolist(), label, threshold)


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
