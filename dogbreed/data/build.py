"""Putting a data set together: units of work, their parts, manifest, reports.

Everything is written in an order that a kill may interrupt: a plan of what there will be, then
pictures, then the part that lists them, at the end the manifest, and `dataset.json` last. What is
there already is not done again.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from dogbreed import breeds, storage
from dogbreed.cores import cores
from dogbreed.data import assemble, engines, manifest
from dogbreed.data.contact_sheet import contact_sheet
from dogbreed.data.duplicates_sheet import duplicates_csv, duplicates_sheet
from dogbreed.data.manifest import Manifest
from dogbreed.data.parts import FOLDER, clean, finish_units
from dogbreed.data.sources import Source
from dogbreed.data.work import Recipe, Shares
from dogbreed.errors import BadInput, named
from dogbreed.submission import FORM_FILE

REJECTS_FILE = "rejects.csv"
SHEET_FILE = "contact_sheet.png"
DUPLICATES_FILE = "duplicates.csv"
DUPLICATES_SHEET = "duplicates.png"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a data set is written; see `prepare`."""

    splits: Shares = (0.8, 0.1, 0.1)
    seed: int = 0
    crop: Literal["none", "box"] = "none"
    shard_size: int = 0
    pictures: str | None = None
    conflicts: Literal["error", "reject"] = "error"
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None


def build(source: Source, out: str, *, name: str, kind: str, options: Options) -> Manifest:
    """Check, copy and list the pictures; write the data set or extend it; return it opened.

    Args:
        source: the pictures.
        out: URL of the data set.
        name: the data set's name; one that is there keeps its own.
        kind: what `dataset.json` says of where the pictures came from.
        options: how the data set is written.

    Raises:
        BadInput: nothing to prepare, a breed with too few pictures, equal files under different
            breeds, or `out` holds a data set that cannot be extended with these.
    """
    out = storage.normal(out)
    shares = _hashed_shares(source, options)
    there = _there(out, options)
    before = assemble.rows_before(there) if there else None
    listed = _new(source.table, there, before, options)
    assemble.enough(*(t.column("breed") for t in (before, listed) if t is not None))
    away = _away(out, options.pictures)
    # Parts say what lies in one place, so each place has its own.
    place = storage.digest_of(away.encode())[:16] if away else "here"
    recipe = Recipe(
        pictures=away or out,
        parts=storage.join(out, FOLDER, place),
        shard_size=options.shard_size,
        shared=bool(away),
        shares=shares,
        seed=options.seed,
    )
    engine = engines.on_ray if options.engine == "ray" else engines.local
    workers = options.workers or cores()
    parts = finish_units(listed, recipe, engine, workers, name=f"prepare {name}")
    new = assemble.rows_of(parts, listed, away)
    new = new._replace(rejects=source.rejects | new.rejects)
    del parts, listed
    try:
        new = assemble.without_conflicts(before, new, reject=options.conflicts == "reject")
        table = assemble.joined(before, new.table, shares, options.seed)
        if not len(table):
            raise BadInput(
                f"no readable picture found; what was wrong stands in {out}/{REJECTS_FILE}"
            )
        names = assemble.enough(table.column("breed"), readable="readable ")
    except BadInput:
        if there is None:  # a data set that is there stays as it is
            _write_rejects(out, before, new)
        raise
    rejected = _write_rejects(out, before, new)
    if leaks := assemble.leaks(table):
        print(
            f"duplicates in several splits, scores will flatter: {named(leaks)};"
            f" see {DUPLICATES_FILE} and {DUPLICATES_SHEET}"
        )
    was = there.dataset.get("source", {}) if there else {}
    now = {"kind": kind, "crop": options.crop} if len(new.table) else {}
    about = {
        "kind": _both(was, now, "kind"),
        "seed": options.seed,
        "splits": list(options.splits),
        "crop": _both(was, now, "crop"),
        "rejected": rejected,
        "in_several_splits": len(leaks),
    }
    manifest.save(
        out,
        assemble.labelled(table, names),
        classes=[
            {"name": n, "title": breeds.title(n), "synset": breeds.synset_of(n)} for n in names
        ],
        name=there.name if there else name,
        source=about,
    )
    del before, new, table  # what follows needs room of its own
    data = Manifest.open(out)
    _write_reports(data, source)
    clean(data)
    return data


def _away(out: str, pictures: str | None) -> str:
    """The folder or URL for the pictures, as the manifest names it; empty: the data set's own.

    Raises:
        BadInput: it is on this machine's disk, and the data set is not.
    """
    if not pictures:
        return ""
    away = storage.normal(pictures)
    if not storage.is_local(away):
        return away
    if not storage.is_local(out):
        raise BadInput(f"--pictures {pictures}: who reads {out} elsewhere has no such folder")
    return os.path.abspath(away)


def _both(was: dict[str, str], now: dict[str, str], key: str) -> str:
    """What `dataset.json` says of all runs that brought pictures."""
    words = {word for said in (was, now) for word in said.get(key, "").split(", ")}
    return ", ".join(sorted(words - {""}))


def _there(out: str, options: Options) -> Manifest | None:
    """The data set at `out`, if there is one.

    Raises:
        BadInput: it was prepared with other options.
    """
    if not storage.exists(storage.join(out, manifest.DATASET_FILE)):
        return None
    data = Manifest.open(out)
    was = data.dataset.get("source", {})
    for key, now in (("seed", options.seed), ("splits", list(options.splits))):
        if was.get(key, now) != now:
            raise BadInput(
                f"{out}: there is a data set with --{key} {was[key]} already;"
                " extend it with the same, or choose another --out"
            )
    return data


def _new(
    listed: pa.Table, there: Manifest | None, before: pa.Table | None, options: Options
) -> pa.Table:
    """The lines of the listing that are not in the data set yet.

    Raises:
        BadInput: an id is there with another size or breed, or none is new to an empty data set.
    """
    if there is None or before is None:
        return listed
    at = pc.index_in(listed.column("id"), before.column("id").combine_chunks())
    known = listed.filter(pc.is_valid(at))
    old = before.take(pc.drop_null(at))
    was = there.dataset.get("source", {}).get("crop", options.crop)
    if len(known) and options.crop not in was.split(", "):
        raise BadInput(
            f"{there.root}: {len(known):,} of the pictures are there with --crop {was}; extend it"
            " with the same, or choose another --out"
        )
    for what in ("breed",) if options.crop == "box" else ("breed", "size"):
        one, other = known.column(what), old.column(what)
        differs = pc.not_equal(one.cast(other.type), other)
        if what == "size":  # 0: not known before the picture is made
            differs = pc.and_(differs, pc.greater(one, 0))
        if changed := known.filter(differs).column("id").to_pylist():
            raise BadInput(
                f"{there.root}: {len(changed):,} pictures are there with another {what}:"
                f" {named(changed)}; give them other names, or choose another --out"
            )
    if gone := len(before) - len(known):
        print(f"{gone:,} pictures of the data set are not in the source; they stay")
    return listed.filter(pc.is_null(at))


def _hashed_shares(source: Source, options: Options) -> Shares:
    """The shares among which pictures are drawn that the source leaves open."""
    train, val, test = options.splits
    if not source.has_test:
        return train, val, test
    if train + val == 0:
        raise BadInput("--splits: the source has its own test pictures, say how to share the rest")
    return train / (train + val), val / (train + val), 0.0


def _write_rejects(out: str, before: pa.Table | None, new: assemble.Rows) -> int:
    """Write what could not be used, by this run and by earlier ones; how many that are."""
    url = storage.join(out, REJECTS_FILE)
    rejects = dict(new.rejects)
    if before is not None and storage.exists(url):
        rows = list(csv.reader(io.StringIO(storage.read(url).decode())))[1:]
        there = {i for t in (before, new.table) for i in t.column("id").to_pylist() if rows}
        rejects |= {name: reason for name, reason in rows if name not in there | rejects.keys()}
    storage.write(url, _csv([("id", "reason"), *sorted(rejects.items())]))
    if new.rejects:
        of = f"{len(new.rejects):,} of {len(new.rejects) + len(new.table):,}"
        print(f"{of} files rejected, see {url}")
    return len(rejects)


def _write_reports(data: Manifest, source: Source) -> None:
    """What people look at, and the columns that a competition wants."""
    files = {SHEET_FILE: contact_sheet(data), DUPLICATES_FILE: duplicates_csv(data)}
    sheet = duplicates_sheet(data)
    if sheet is not None:
        files[DUPLICATES_SHEET] = sheet
    storage.write_many({storage.join(data.root, name): file for name, file in files.items()})
    if source.submission is not None:
        storage.write_json(storage.join(data.root, FORM_FILE), source.submission)


def _csv(rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
