"""The report of several runs: side by side, or all that lie below a root."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.caveats import INTERVALS, caveats
from dogbreed.evaluate.evaluation import FOLDER
from dogbreed.evaluate.figures import TITLES, lower_is_better
from dogbreed.report import curves
from dogbreed.report.charts import legend
from dogbreed.report.listing import Line, cells, columns
from dogbreed.report.page import render
from dogbreed.report.predictions import Predictions
from dogbreed.report.records import Record, read_many
from dogbreed.runs import flat

DRAWN = 30  # runs with a curve, the first in the table's order
_APART = (
    "The runs were scored on different data (see the versions below): their scores do not compare."
)
_TELL_NOTHING = {"run_root", "name", "resume", "data.classes"}  # settings


def root_page(place: str, lines: Sequence[tuple[Record, Line]]) -> bytes:
    """The runs below `place` as a table that can be sorted and searched, with their curves.

    Args:
        place: as asked for.
        lines: runs and what the table says of them, in their order.
    """
    drawn = [record for record, _ in lines if record.rows][:DRAWN]
    shown = columns([about for _, about in lines])
    colours = {record.url: k for k, record in enumerate(drawn)}
    return render(
        "root.html",
        place=place,
        columns=[(column, TITLES.get(column, column)) for column in shown],
        lines=[
            {
                "cells": cells(about, shown),
                "about": about,
                "url": record.url,
                "colour": colours[record.url] % 10 if record.url in colours else None,
            }
            for record, about in lines
        ],
        curves=curves.of_runs(drawn),
        drawn=len(drawn),
    )


def page(records: Sequence[Record]) -> tuple[bytes, list[str]]:
    """Runs side by side, as HTML, and what could not be shown.

    Args:
        records: read as a whole; differences are against the first.

    Raises:
        BadInput: a run's files are damaged.
    """
    missing = [f"{r.name}: no curves, it has no validation yet." for r in records if not r.rows]
    versions = {r.data_version for r in records}
    notes = [] if len(versions) == 1 else [_APART]
    for record in records:
        breeds = [entry["name"] for entry in record.model.get("classes", [])]
        notes += caveats(record.weights, record.data_name, breeds, record.scores)
    tables = [
        {"split": split, "rows": _compared(records, split, missing, len(versions) == 1)}
        for split in ("test", "val")
        if any(split in record.scores for record in records)
    ]
    if not tables:
        missing.append("No scores: none of the runs was validated or tested.")
    html = render(
        "several.html",
        records=records,
        tables=tables,
        notes=list(dict.fromkeys([*notes, INTERVALS])),
        missing=missing,
        curves=curves.of_runs(records),
        legend=legend([(r.name, k % 10, k >= 10) for k, r in enumerate(records)]),
        settings=_different([_settings(record) for record in records]),
    )
    return html, missing


def _compared(
    records: Sequence[Record], split: str, missing: list[str], same_data: bool
) -> list[dict[str, Any]]:
    """For each run its scores, and how far they are from the first one's."""
    answers = _answers(records, split)
    first = records[0]
    rows = []
    for k, record in enumerate(records):
        scores = record.scores.get(split, {})
        if not scores:
            verb = {"val": "validate"}.get(split, split)
            missing.append(
                f"{record.name}: no scores of {split}. They come with: dogbreed {verb} --run"
                f" {record.url}"
            )
        differences = {}
        if k and same_data:
            against = first.scores.get(split, {})
            for name in TITLES:
                if name in scores and name in against:
                    differences[name] = _difference(
                        name, scores, against, answers.get(record.url), answers.get(first.url)
                    )
        rows.append(
            {"record": record, "n": scores.get("n"), "scores": scores, "differences": differences}
        )
    return rows


def _difference(
    name: str,
    scores: dict[str, Any],
    against: dict[str, Any],
    ours: Predictions | None,
    theirs: Predictions | None,
) -> dict[str, Any]:
    """`value`, its 95 % interval where it can be had, and whether that is `better` or `worse`."""
    value = scores[name]["value"] - against[name]["value"]
    found: dict[str, Any] = {"value": value, "low": None, "high": None, "verdict": ""}
    if ours and theirs and name in {"top1", "log_loss"} and sorted(ours.ids) == sorted(theirs.ids):
        low, high = paired(_each(name, ours), _each(name, theirs))
        found |= {"low": low, "high": high}
        if low > 0 or high < 0:
            found["verdict"] = "worse" if (value > 0) == lower_is_better(name) else "better"
    return found


def _each(name: str, answers: Predictions) -> np.ndarray:
    """A score's share of each picture, in the order of their ids: float64, (n,)."""
    order = np.argsort(answers.ids)
    if name == "top1":
        return answers.right[order].astype(np.float64)
    loss: np.ndarray = -np.log(np.maximum(answers.true_probability[order], 1e-12))
    return loss


def paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean difference of two models on the same pictures.

    Paired, for a hard picture is hard for both; by the normal approximation.

    Args:
        ours: float, (n,), n above 0.
        theirs: likewise, the same pictures in the same order.
    """
    apart = ours - theirs
    half = 1.96 * float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
    return float(apart.mean()) - half, float(apart.mean()) + half


def _answers(records: Sequence[Record], split: str) -> dict[str, Predictions]:
    """By the run's URL, those that there are."""
    path = f"{FOLDER}/{split}.parquet"
    urls = {storage.join(r.url, path): r.url for r in records if path in r.sizes}
    found = {}
    for url, data in read_many(list(urls)).items():
        try:
            found[urls[url]] = Predictions.parse(data, url)
        except BadInput:
            continue  # differences are then shown without intervals
    return found


def _settings(record: Record) -> dict[str, str]:
    """What may tell a run from another: its config, data, first weights, hardware and versions."""
    about = record.about
    told = {
        "data version": record.data_version[:12],
        "first weights": record.weights,
        "device": str(about.get("device", "")),
        "dogbreed": str(about.get("dogbreed", "")),
        "code": str(about.get("git_commit", ""))[:13],
    }
    for name, version in about.get("packages", {}).items():
        told[f"package {name}"] = str(version)
    config = flat(record.config)
    return {name: value for name, value in config.items() if name not in _TELL_NOTHING} | told


def _different(settings: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Settings whose values are not the same in all runs."""
    names = dict.fromkeys(name for of in settings for name in of)
    rows = [(name, [of.get(name, "") for of in settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
