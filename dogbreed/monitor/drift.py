"""`dogbreed drift`: whether what a served model is asked still is what it was validated on."""

import datetime
import json as json_format
import math
import time
from typing import Any

from dogbreed import breeds, package, storage
from dogbreed.errors import BadInput
from dogbreed.monitor import compare, rows
from dogbreed.monitor.read import fill, moment
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.tally import Tally

STATUS = {"ok": 0, "warning": 3, "alert": 4}


def drift(
    log: str,
    model: str,
    since: str = "7d",
    until: str | None = None,
    out: str = "drift.html",
    json: str | None = None,
    label: str | None = None,
    label_count: int = 100,
) -> int:
    """Compare the predictions of a served model with its validation pictures.

    The log is the one that `dogbreed serve --log` writes. The exit status is 0 if nothing has
    changed that matters, 3 for a warning, 4 for an alert. The report shows what has changed, by
    how much, since when, and what the accuracy may be now, as far as it can be told without
    labels.

    Args:
        log: the prediction log's folder or URL.
        model: the model package that answered, or its run.
        since: from when: 7d, 24h, or a date or time such as 2026-11-24.
        until: until when; by default now.
        out: where the report, one HTML file, goes: a path or a URL.
        json: where the findings go as JSON: a path, a URL, or - for standard output.
        label: a folder or URL for those of the kept pictures that would teach the model most, with
            a table to write breeds into; `dogbreed prepare --source labelled` takes it.
        label_count: how many of them.
    """
    now = time.time()
    begin, end = moment(since, now), now if until is None else moment(until, now)
    source = package.read(package.locate(storage.normal(model)))
    name, log = rows.model_of(source), storage.normal(log)
    reference = Reference.read(source)
    tally = Tally(reference, source.class_names)
    fill(tally, log, name, begin, end)
    if not tally.n:
        raise BadInput(_nothing(log, name, since, until, tally))
    findings = compare.compare(tally, reference)
    said = _summary(tally, reference, findings, name, begin, end)
    if json is not None:
        text = json_format.dumps(said, indent=2) + "\n"
        if json == "-":
            print(text, end="")
        else:
            storage.write(storage.normal(json), text.encode())
    from dogbreed.monitor.page import page

    storage.write(storage.normal(out), page(said, tally, reference, findings, log))
    if json != "-":
        _tell(said, findings)
        print(f"{out}: open it in a browser")
    if label is not None:
        from dogbreed.monitor.label import write_labels

        written = write_labels(storage.normal(label), log, tally, label_count)
        if json != "-":
            print(f"{written} pictures to label: {label}/labels.csv")
    return STATUS[said["severity"]]


def _nothing(log: str, name: str, since: str, until: str | None, tally: Tally) -> str:
    """What is wrong when there is no row."""
    if tally.newer:
        return f"{log}: {tally.newer:,} rows are of a later dogbreed than this; upgrade it"
    there = {url.rsplit("/", 1)[-1] for day in storage.folders(log) for url in storage.folders(day)}
    models = sorted(of.removeprefix("model=") for of in there if of.startswith("model="))
    others = f"; it has rows of {', '.join(models[:5])}" if models else ""
    span = f"since {since}" + (f" until {until}" if until else "")
    return f"{log}: no predictions of {name} {span}{others}"


def _summary(
    tally: Tally,
    reference: Reference,
    findings: list[compare.Finding],
    model: str,
    begin: float,
    end: float,
) -> dict[str, Any]:
    """What the JSON says."""

    def text(of: float) -> str:
        return datetime.datetime.fromtimestamp(of, datetime.UTC).isoformat(timespec="seconds")

    return {
        "schema": 1,
        "severity": compare.severity_of(findings),
        "model": model,
        "since": text(begin),
        "until": text(end),
        "first": text(tally.first),
        "last": text(tally.last),
        "predictions": tally.n,
        "enough": tally.n >= compare.LEAST,
        "reference": {"of": "validation", "n": len(reference.right)},
        "alpha": compare.ALPHA,
        "accuracy": compare.estimate(tally, reference),
        "rejected": tally.rejected / tally.judged if tally.judged else None,
        "findings": [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(of).items()}
            for of in findings
        ],
        "files": tally.files,
        "not_read": {
            "rows_of_a_later_schema": tally.newer,
            "damaged_rows": tally.damaged,
            "damaged_files": tally.damaged_files,
        },
    }


def _tell(said: dict[str, Any], findings: list[compare.Finding]) -> None:
    """A few lines for the terminal."""
    print(
        f"{said['severity']}: {said['predictions']:,} predictions of {said['model']} from"
        f" {said['first']} to {said['last']}, against {said['reference']['n']:,} validation"
        " pictures"
    )
    if not said["enough"]:
        print(f"fewer than {compare.LEAST} predictions are too few to say anything")
    for of in findings:
        if of.severity != "ok":
            print(f"  {of.severity:<8}{breeds.title(of.name)}: {sentence(of)}")
    accuracy = said["accuracy"]
    print(
        f"top-1 without labels: about {accuracy['thresholded']:.3f} ({accuracy['low']:.3f} to"
        f" {accuracy['high']:.3f}); {accuracy['reference']:.3f} on validation"
    )
    lost = {what.replace("_", " "): n for what, n in said["not_read"].items() if n}
    if lost:
        print("not read: " + ", ".join(f"{n:,} {what}" for what, n in lost.items()))


def sentence(of: compare.Finding) -> str:
    """A finding in words."""
    change = {
        "breeds": "",
        "embedding": "",
        "rejected": f", {of.reference:.1%} then, {of.log:.1%} now",
    }.get(of.name, f", mean {of.reference:.4g} then, {of.log:.4g} now")
    if of.kind == "accuracy":
        change = f", {of.reference:.3f} then, {of.log:.3f} now"
    chance = "p < 1e-6" if of.adjusted < 1e-6 else f"p = {of.adjusted:.2g}"
    return f"{compare.MEANING[of.name]}; {of.unit} {of.effect:.2f}, {chance}{change}"
