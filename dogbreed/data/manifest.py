"""The manifest: one row a picture, wherever its bytes lie.

A data set is a folder or bucket prefix that holds `dataset.json`, `manifest.parquet` and, as a
rule, the pictures. In a process the manifest is an Arrow file on this machine's disk, mapped into
memory, so that workers share its pages and a million rows cost each of them next to nothing.
"""

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dogbreed import storage
from dogbreed.data.parquet import to_parquet
from dogbreed.errors import BadInput
from dogbreed.ranges import Range

SCHEMA_VERSION = 2  # 1 had no perceptual hashes
SPLITS = ("train", "val", "test", "unlabelled")
DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"
NEXT_FILE = "manifest.next.parquet"  # for the moment in which a data set is replaced

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),  # relative to the data set's folder, or absolute
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int32()),  # index into dataset.json's classes; -1 without a label
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("digest", pa.string()),  # SHA-256 of the bytes, hex
        ("group", pa.string()),  # duplicates share a group; its key is the digest of one of them
        ("phash", pa.binary()),  # see duplicates.perceptual_hash
    ]
)
PLACE = ("uri", "offset", "size", "digest")  # the columns that say where the bytes are
_CHUNK = 131_072  # rows converted at once


def version_of(table: pa.Table, classes: Sequence[str]) -> str:
    """The version of the data: SHA-256 in hex over ids, contents, labels and splits.

    Where the bytes lie (loose, packed, in which bucket) does not change it.

    Args:
        table: of `SCHEMA`, sorted by id.
        classes: the class names that the labels point to.
    """
    digest = hashlib.sha256("\n".join(classes).encode())
    columns = table.select(["id", "digest", "label", "split"]).combine_chunks()
    for batch in columns.to_batches(_CHUNK):
        for column in batch.columns:
            digest.update("\n".join(map(str, column.to_pylist())).encode())
    return digest.hexdigest()


def save(
    root: str, rows: pa.Table, *, classes: Sequence[dict[str, Any]], **about: Any
) -> dict[str, Any]:
    """Write `manifest.parquet`, then `dataset.json`, into `root`.

    Two files cannot be replaced at once. So that one who opens the data set at any moment, or after
    a kill, finds the old one or the new one, the new manifest lies beside the old one meanwhile.

    Args:
        root: the data set's URL.
        rows: of `SCHEMA`, in any order; they are sorted by id.
        classes: for each class at least its `name`.
        about: what else `dataset.json` says (name, source, ...).

    Returns:
        What `dataset.json` holds.
    """
    table = rows.sort_by("id")
    data = to_parquet(table)
    names = [entry["name"] for entry in classes]
    dataset = {
        "schema": SCHEMA_VERSION,
        "name": about.pop("name"),
        "version": version_of(table, names),
        **about,
        "manifest": {"sha256": storage.digest_of(data), "rows": len(table)},
        "counts": _counts(table, names),
        "classes": list(classes),
    }
    url, following = (storage.join(root, file) for file in (MANIFEST_FILE, NEXT_FILE))
    replaces = storage.exists(storage.join(root, DATASET_FILE))
    if storage.exists(following):  # a kill may have left the present manifest there alone
        present = storage.read_json(storage.join(root, DATASET_FILE))["manifest"]["sha256"]
        waiting = storage.read(following)
        if storage.digest_of(waiting) == present:
            storage.write(url, waiting)
    storage.write(following if replaces else url, data)
    storage.write_json(storage.join(root, DATASET_FILE), dataset)
    if replaces:
        storage.write(url, data)
        storage.remove([following])
    return dataset


def _counts(table: pa.Table, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Split -> breed (empty for none) -> pictures."""
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    grouped = table.group_by(["split", "label"]).aggregate([([], "count_all")]).sort_by("label")
    for row in grouped.to_pylist():
        breed = names[row["label"]] if row["label"] >= 0 else ""
        counts[row["split"]][breed] = row["count_all"]
    return {split: of_split for split, of_split in counts.items() if of_split}


def cache_home() -> Path:
    """The project's folder for what can be made or fetched again: `$XDG_CACHE_HOME/dogbreed`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogbreed"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """An opened data set. Small to pickle: the rows stay in the mapped file."""

    root: str
    dataset: dict[str, Any]
    path: Path

    @classmethod
    def open(cls, root: str) -> "Manifest":
        """Read `dataset.json`, and bring the manifest to this machine unless it is there already.

        Raises:
            BadInput: no data set there, one from a newer version, or a damaged manifest.
        """
        root = storage.normal(root)
        for last in (False, True):  # another process may replace the data set meanwhile
            dataset = _about(root)
            digest = storage.checked_digest(dataset["manifest"]["sha256"])
            path = cache_home() / "manifests" / f"{digest}.v{SCHEMA_VERSION}.arrow"
            try:
                if not path.exists():
                    _bring(root, digest, path)
                break
            except BadInput:
                if last:
                    raise
        return cls(root, dataset, path)

    @functools.cached_property
    def table(self) -> pa.Table:
        """The rows, mapped; columns of `SCHEMA`, `split` as an index into `SPLITS`."""
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()

    @functools.cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return self.table.to_batches()  # type: ignore[no-any-return]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The row at which each of `_batches` begins."""
        return np.cumsum([0, *(len(batch) for batch in self._batches[:-1])])

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "dataset": self.dataset, "path": self.path}

    def __len__(self) -> int:
        return int(self.dataset["manifest"]["rows"])

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.dataset["name"])

    @property
    def version(self) -> str:
        """The version of the data, see `version_of`."""
        return str(self.dataset["version"])

    @property
    def classes(self) -> list[str]:
        """Class names; a row's label is an index into them."""
        return [entry["name"] for entry in self.dataset["classes"]]

    def column(self, name: str) -> np.ndarray:
        """A column of numbers: (n,), in the manifest's order."""
        values: np.ndarray = self.table.column(name).to_numpy()
        return values

    def rows_of(self, split: str) -> np.ndarray:
        """Rows of a split: int64, (k,), ascending, which is the order of the ids.

        Raises:
            BadInput: the data set has no such split.
        """
        rows = np.flatnonzero(self.column("split") == SPLITS.index(split))
        if len(rows) == 0:
            there = ", ".join(self.dataset["counts"])
            raise BadInput(f"{self.root}: no pictures in split {split!r}; there are: {there}")
        return rows

    def files_of(self, rows: np.ndarray) -> np.ndarray:
        """For each row a number that says in which file its bytes lie: int64, (k,)."""
        uris = self.table.column("uri").take(pa.array(rows)).combine_chunks()
        return np.asarray(uris.dictionary_encode().indices, dtype=np.int64)

    def take(
        self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] = SCHEMA.names
    ) -> list[dict[str, Any]]:
        """Rows as dictionaries, in the order asked for."""
        wanted = np.asarray(rows, dtype=np.int64)
        chunk = np.searchsorted(self._starts, wanted, side="right") - 1
        taken: list[dict[str, Any]] = [{}] * len(wanted)
        for number in np.unique(chunk):  # Table.take would first join all chunks of a text column
            at = np.flatnonzero(chunk == number)
            inside = pa.array(wanted[at] - self._starts[number])
            here = self._batches[number].select(columns).take(inside)
            for place, row in zip(at, here.to_pylist(), strict=True):
                taken[place] = row
        return taken

    def ranges(self, rows: Sequence[dict[str, Any]]) -> list[Range]:
        """Where the bytes of these rows lie.

        Raises:
            BadInput: a row of a data set in a bucket points to this machine's disk, or out of
                the data set.
        """
        urls = {uri: self._url(uri) for uri in {row["uri"] for row in rows}}
        return [Range(urls[r["uri"]], r["offset"], r["size"], r["digest"]) for r in rows]

    def _url(self, uri: str) -> str:
        url = storage.join(self.root, uri)
        chained = "::" in uri and "://" in uri  # of fsspec's file systems, the last may be the disk
        elsewhere = storage.is_local(url) > storage.is_local(self.root)
        if ".." in uri.split("/") or chained or elsewhere:
            raise BadInput(f"{self.root}: a row of the manifest points out of it, to {uri!r}")
        return url


def _about(root: str) -> dict[str, Any]:
    """What `dataset.json` says. Raises BadInput: see `Manifest.open`."""
    try:
        dataset: dict[str, Any] = storage.read_json(storage.join(root, DATASET_FILE))
    except storage.StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            hint = "make one with: dogbreed prepare --source folder --path PICTURES --out URL"
            raise BadInput(
                f"{root}: no data set here ({DATASET_FILE} is missing); {hint}"
            ) from error
        raise
    if not isinstance(dataset, dict) or not {"schema", "manifest", "classes"} <= set(dataset):
        raise BadInput(f"{root}: {DATASET_FILE} is not one that dogbreed prepare wrote")
    if dataset["schema"] > SCHEMA_VERSION:
        raise BadInput(
            f"{root}: the manifest has schema {dataset['schema']}, this dogbreed reads up to"
            f" {SCHEMA_VERSION}; upgrade dogbreed"
        )
    return dataset


def _bring(root: str, digest: str, path: Path) -> None:
    """Fetch a manifest, check it, and write it as an Arrow file, atomically."""
    url, following = (storage.join(root, name) for name in (MANIFEST_FILE, NEXT_FILE))
    data = storage.read(url)
    if storage.digest_of(data) != digest and storage.exists(following):
        data = storage.read(following)
    if storage.digest_of(data) != digest:
        raise BadInput(
            f"{url}: its content differs from what {DATASET_FILE} says; prepare it again"
        )
    schema = SCHEMA.set(SCHEMA.get_field_index("split"), pa.field("split", pa.int8()))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            parquet = pq.ParquetFile(pa.BufferReader(data))
            for batch in parquet.iter_batches(_CHUNK, use_threads=False):  # see parquet.py
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                columns["split"] = pc.index_in(columns["split"], pa.array(SPLITS)).cast("int8")
                columns.setdefault("phash", pa.nulls(len(batch), pa.binary()))  # schema 1
                writer.write_batch(
                    pa.record_batch([columns[name] for name in schema.names], schema)
                )
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
