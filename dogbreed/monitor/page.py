"""The report on drift: verdict, findings, distributions, days, and rows to look at."""

from typing import Any

import numpy as np
from markupsafe import Markup

from dogbreed import breeds, images, storage
from dogbreed.monitor import compare, rows
from dogbreed.monitor.label import WHY
from dogbreed.monitor.reference import Reference
from dogbreed.monitor.tally import Tally
from dogbreed.report.album import uri
from dogbreed.report.charts import Series, bars, lines
from dogbreed.report.page import render

_SHOWN = 12  # examples of each kind
_BREEDS = 12  # rows of the table of breeds
_SIDE = 160  # pixels
_SECONDS = 86_400


def page(
    said: dict[str, Any],
    tally: Tally,
    reference: Reference,
    findings: list[compare.Finding],
    log: str,
) -> bytes:
    """The report as HTML.

    Args:
        said: what the JSON says.
        tally: of the log.
        reference: what it was compared with.
        findings: what came of it.
        log: the log's URL; kept pictures are read from there.
    """
    from dogbreed.monitor.drift import sentence

    return render(
        "drift.html",
        said=said,
        log=log,
        findings=findings,
        sentences={of.name: sentence(of) for of in findings},
        meanings=compare.MEANING,
        name_of=breeds.title,
        charts=[_histogram(tally, of) for of in findings if of.name in tally.columns],
        answers=_answers(tally, reference),
        days=_days(tally),
        examples=[_examples(why, tally, log) for why in WHY],
        least=compare.LEAST,
    )


def _histogram(tally: Tally, of: compare.Finding) -> dict[str, Any]:
    column = tally.columns[of.name]
    groups = [
        ("validation", column.reference_bins.tolist()),
        ("log", column.bins.tolist()),
    ]
    chart = bars(groups, column.edges.tolist(), breeds.title(of.name).lower())
    return {"finding": of, "title": breeds.title(of.name), "chart": chart}


def _answers(tally: Tally, reference: Reference) -> list[dict[str, Any]]:
    """The breeds whose share among the answers has changed most."""
    known = np.bincount(reference.predicted, minlength=len(tally.breeds))
    then, now = known / max(known.sum(), 1), tally.breeds / max(tally.breeds.sum(), 1)
    names = [breeds.title(name) for name in tally.class_names] + ["Others"]
    return [
        {"name": names[k], "then": float(then[k]), "now": float(now[k])}
        for k in np.argsort(-np.abs(now - then), kind="stable")[:_BREEDS]
        if then[k] or now[k]
    ]


def _days(tally: Tally) -> list[dict[str, Any]]:
    """Curves over the days of the log; none if there is but one."""
    days = sorted(tally.days)
    if len(days) < 2:
        return []
    numbers = [np.datetime64(day).astype(int) for day in days]
    ago = [float(number - numbers[-1]) for number in numbers]
    values = [tally.days[day] for day in days]

    def chart(title: str, points: list[float]) -> dict[str, Any]:
        line = Series(title, list(zip(ago, points, strict=True)))
        label = f"days before {days[-1]}"
        drawn = lines([line], label, title, from_zero=True, named=False)
        return {"title": title, "chart": drawn or Markup()}

    nan = float("nan")
    return [
        chart("Predictions a day", [of[0] for of in values]),
        chart("Mean probability of the answer", [of[1] / of[0] for of in values]),
        chart(
            "Share rejected as none of the breeds",
            [of[3] / of[2] if of[2] else nan for of in values],
        ),
    ]


def _examples(why: str, tally: Tally, log: str) -> dict[str, Any]:
    shown = []
    for row in tally.examples(why)[:_SHOWN]:
        score = rows.number(row.get("reject_score"))
        shown.append(
            {
                "picture": _picture(log, row),
                "breed": breeds.title(row["breed"]),
                "probability": row["probability"],
                "score": None if score != score else score,
                "rejected": row.get("is_dog") is False,
                "id": str(row.get("request_id", ""))[:80],
                "day": rows.day_of(row["time"]),
            }
        )
    return {"why": WHY[why][:1].upper() + WHY[why][1:], "rows": shown}


def _picture(log: str, row: dict[str, Any]) -> str | None:
    """As a URI; None if it was not kept, or is gone."""
    url = rows.image_url(log, row)
    if url is None:
        return None
    try:
        return uri(images.picture(storage.read(url), _SIDE, images.centre_box))
    except (storage.StorageError, images.BadImage):
        return None
