"""`dogbreed report`: runs as a page to read, side by side, or as a table."""

from collections.abc import Sequence
from typing import Literal

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.report import listing
from dogbreed.report.records import Record, read, runs_in

DEFAULT_OUT = "report.html"


def report(
    runs: Sequence[str] = ("runs",),
    out: str | None = None,
    split: Literal["val", "test"] | None = None,
    sort: str = "when",
    filter: str | None = None,
    best: str | None = None,
) -> None:
    """Show runs: one as a page with all that is known of it, several side by side, many as a table.

    A page is one HTML file that opens from the disk and needs no network.

    Args:
        runs: a run's directory, or several to compare, the first being what the others are
            compared with; or a folder or bucket prefix in which runs lie, for a table.
        out: where the HTML goes, a path or a URL; by default report.html, and for a table nowhere.
        split: which pictures a run's page looks at closely; by default test, or val without it.
        sort: column of the table: name, when, data, weights, epochs, top1, log_loss, state, size,
            or a score such as test/top1; scores are sorted best first.
        filter: only runs for which this holds, such as "state=done,top1>0.7,name~exp"; the signs
            are = != < > <= >= and ~ for contains.
        best: print only the place of the run with the best of this score, such as val/log_loss.
    """
    found = [record for place in runs for record in runs_in(place)]
    records = list({record.url: record for record in found}.values())
    roots = {storage.normal(place) for place in runs} - {record.url for record in records}
    if roots or best or filter:
        _table(", ".join(runs), records, out, sort, filter, best)
        return
    from dogbreed.report import several, single

    out = storage.normal(out or DEFAULT_OUT)
    records = read(records, whole=True)
    html, missing = single.page(records[0], split) if len(records) == 1 else several.page(records)
    storage.write(out, html)
    for line in missing:
        print(line)
    print(f"{out}: {listing.size_text(len(html))}, open it in a browser")


def _table(
    place: str,
    records: list[Record],
    out: str | None,
    sort: str,
    filter: str | None,
    best: str | None,
) -> None:
    lines = [(record, listing.line(record)) for record in read(records, whole=False)]
    if filter:
        lines = listing.kept(lines, filter)
    if not lines:
        raise BadInput(f"{place}: none of the {len(records)} runs is left by --filter {filter}")
    if best:
        print(listing.best(lines, best).url)
        return
    lines = listing.in_order(lines, sort)
    print(listing.as_text([about for _, about in lines]))
    if out:
        from dogbreed.report.several import root_page

        html = root_page(place, lines)
        storage.write(storage.normal(out), html)
        print(f"{out}: {listing.size_text(len(html))}, open it in a browser")
