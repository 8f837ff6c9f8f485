"""From the parts that the units of work left to the rows of a manifest: labels, groups, splits."""

import collections
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dogbreed import storage
from dogbreed.data import manifest
from dogbreed.data.duplicates import HASH_BYTES, groups_of
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.data.work import Shares, split_of
from dogbreed.errors import BadInput, named

MIN_PER_CLASS = 3


class Rows(NamedTuple):
    """A data set's rows while it is being put together: of `manifest.SCHEMA` but with breeds."""

    table: pa.Table
    """With a text column `breed` in place of `label`; `split` is empty where it is not settled."""
    rejects: dict[str, str]
    """Id -> why the picture is left out."""


def rows_before(data: Manifest) -> pa.Table:
    """The rows of a data set that is to be extended, with breeds.

    Raises:
        BadInput: it comes from a dogbreed that kept no perceptual hashes.
    """
    if data.dataset["schema"] == 1:
        raise BadInput(
            f"{data.root}: an earlier dogbreed prepared this data set, it cannot be extended;"
            " prepare all pictures into another --out"
        )
    table = data.table  # its bytes are those that dataset.json promises
    split = table.schema.get_field_index("split")
    table = table.set_column(split, "split", pc.take(pa.array(SPLITS), table.column("split")))
    names = pa.array([*data.classes, ""])
    labels = table.column("label").to_numpy()
    breeds = names.take(pa.array(np.where(labels < 0, len(names) - 1, labels)))
    return table.drop_columns("label").append_column("breed", breeds)


def rows_of(parts: Iterable[pa.Table], listed: pa.Table, pictures: str) -> Rows:
    """What was written, with the breeds and splits that the source knows.

    Args:
        parts: of `work.PART`, for each line of the listing one row.
        listed: of `listing.SCHEMA`.
        pictures: what the uris are relative to: a URL, or empty for the data set's own folder.
    """
    table = pa.concat_tables(parts).sort_by("id")
    listed = listed.select(["id", "breed", "split"]).sort_by("id")
    assert table.column("id").equals(listed.column("id")), "a picture was lost or doubled"
    for name in ("breed", "split"):
        table = table.append_column(name, listed.column(name).cast(pa.string()))
    bad = pc.not_equal(table.column("reason"), "")
    rejects = table.filter(bad).select(["id", "reason"]).to_pylist()
    table = table.filter(pc.invert(bad)).drop_columns("reason")
    if pictures:
        uris = pc.binary_join_element_wise(storage.join(pictures, ""), table.column("uri"), "")
        table = table.set_column(table.column_names.index("uri"), "uri", uris)
    table = table.append_column("group", pa.nulls(len(table), pa.string()))
    return Rows(table, {row["id"]: row["reason"] for row in rejects})


def without_conflicts(before: pa.Table | None, new: Rows, *, reject: bool) -> Rows:
    """See that equal files have equal breeds.

    Args:
        before: rows that are in the data set already; they stay.
        new: rows to add.
        reject: leave such pictures out, rather than raise.

    Raises:
        BadInput: equal files with different breeds; names them.
    """
    tables = [t.select(["id", "digest", "breed"]) for t in (before, new.table) if t is not None]
    every = pa.concat_tables(tables)
    labelled = every.filter(pc.not_equal(every.column("breed"), ""))
    kinds = labelled.group_by("digest").aggregate([("breed", "count_distinct")])
    twofold = kinds.filter(pc.greater(kinds.column("breed_count_distinct"), 1)).column("digest")
    if not len(twofold):
        return new
    clashing = labelled.filter(pc.is_in(labelled.column("digest"), twofold.combine_chunks()))
    lines = _same(clashing, "digest", "breed")
    if not reject:
        old = before is not None and pc.any(pc.is_in(clashing["id"], before["id"].combine_chunks()))
        hint = "correct their labels"
        if old and old.as_py():
            hint = "what is in the data set keeps its breed, for another one choose another --out"
        raise BadInput(
            f"{len(lines):,} files are there under different breeds:"
            f" {named(sorted(lines.values()))}; {hint}, or leave them out with --conflicts reject"
        )
    clash = pc.and_(
        pc.is_in(new.table.column("digest"), twofold.combine_chunks()),
        pc.not_equal(new.table.column("breed"), ""),
    )
    reasons = {
        row["id"]: f"equal files of different breeds: {lines[row['digest']]}"
        for row in new.table.filter(clash).to_pylist()
    }
    return Rows(new.table.filter(pc.invert(clash)), new.rejects | reasons)


def joined(before: pa.Table | None, new: pa.Table, shares: Shares, seed: int) -> pa.Table:
    """All rows, each with its duplicate group and its split.

    Rows that were there keep both. A new row takes the split that its source knows, else that of
    its group's older rows, else one by hash of (seed, group).
    """
    table = new
    if before is not None:
        table = pa.concat_tables([before, new.select(before.column_names)])
    groups = groups_of(table.column("digest"), _hashes(table), table.column("group"))
    splits = table.column("split").to_pylist()
    old = 0 if before is None else len(before)
    known: dict[str, str] = {}
    for row, group in enumerate(groups.to_pylist()):
        if row < old:
            if splits[row] != "unlabelled":
                known[group] = min(splits[row], known.get(group, splits[row]), key=SPLITS.index)
        elif not splits[row]:
            if group not in known:
                known[group] = split_of(group, shares, seed)
            splits[row] = known[group]
    columns = {name: table.column(name) for name in table.column_names}
    return pa.table(columns | {"group": groups, "split": pa.array(splits)})


def _hashes(table: pa.Table) -> np.ndarray:
    """The perceptual hashes: uint8, (n, HASH_BYTES)."""
    data = b"".join(table.column("phash").to_pylist())
    return np.frombuffer(data, np.uint8).reshape(len(table), HASH_BYTES)


def labelled(table: pa.Table, classes: list[str]) -> pa.Table:
    """With labels instead of breeds: a table of `manifest.SCHEMA`."""
    labels = pc.fill_null(pc.index_in(table.column("breed"), pa.array(classes)), -1)
    return table.append_column("label", labels).select(manifest.SCHEMA.names).cast(manifest.SCHEMA)


def leaks(table: pa.Table) -> list[str]:
    """Duplicate groups in more than one split of train, val and test: `id (split) = id (split)`.

    Only a source's own splits can do that.
    """
    table = table.filter(pc.not_equal(table.column("split"), "unlabelled"))
    kinds = table.group_by("group").aggregate([("split", "count_distinct")])
    several = kinds.filter(pc.greater(kinds.column("split_count_distinct"), 1)).column("group")
    leaking = table.filter(pc.is_in(table.column("group"), several.combine_chunks()))
    return sorted(_same(leaking, "group", "split").values())


def _same(table: pa.Table, key: str, what: str) -> dict[str, str]:
    """For each key the rows that share it: `id (what) = id (what)`."""
    lines: dict[str, list[str]] = collections.defaultdict(list)
    for row in table.select(["id", key, what]).sort_by("id").to_pylist():
        lines[row[key]].append(f"{row['id']} ({row[what]})")
    return {key: " = ".join(rows) for key, rows in lines.items()}


def enough(*columns: pa.ChunkedArray, readable: str = "") -> list[str]:
    """The breeds' names, sorted, if there are at least two, each with `MIN_PER_CLASS` pictures.

    Args:
        columns: breeds, one entry a picture; empty for one without a label.
        readable: a word for the message, followed by a space.

    Raises:
        BadInput: there are not; names the breeds.
    """
    counts: collections.Counter[str] = collections.Counter()
    for breeds in columns:
        counts.update({row["values"]: row["counts"] for row in pc.value_counts(breeds).to_pylist()})
    counts.pop("", None)
    few = [f"{breed} ({n})" for breed, n in sorted(counts.items()) if n < MIN_PER_CLASS]
    if few:
        raise BadInput(
            f"fewer than {MIN_PER_CLASS} {readable}pictures: {named(few, 20)};"
            " add pictures or remove the breed"
        )
    if len(counts) == 1:
        raise BadInput(f"only one breed, {next(iter(counts))}: there is nothing to tell apart")
    return sorted(counts)
