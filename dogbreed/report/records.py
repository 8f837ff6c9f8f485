"""What runs' directories hold, read from a disk or a bucket, many files at once. Needs no torch."""

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.evaluation import FOLDER as EVALUATION
from dogbreed.evaluate.figures import scores_of
from dogbreed.evaluate.robustness import FILE as CORRUPTIONS
from dogbreed.exported import PICTURE_FILE, TABLE_FILE
from dogbreed.retries import IN_FLIGHT
from dogbreed.runs import CONFIG_FILE, HISTORY_FILE, METRICS_FILE, RUN_FILE

MODEL = storage.join(package.FOLDER, package.MODEL_FILE)


@dataclasses.dataclass(frozen=True)
class Record:
    """A run as its directory shows it; parts that are not there are empty.

    Args:
        url: the directory.
        sizes: its files, by their path in it, in bytes.
        files: the bytes of the small ones among them.
        within: its path below the root that was asked for, if any.
    """

    url: str
    sizes: dict[str, int]
    files: dict[str, bytes]
    within: str = ""

    def json(self, name: str) -> dict[str, Any]:
        """What a file of it says; nothing where it is not there. Raises BadInput."""
        try:
            value = json.loads(self.files.get(name, b"{}"))
        except ValueError as error:
            raise BadInput(f"{storage.join(self.url, name)}: not valid JSON ({error})") from None
        return value if isinstance(value, dict) else {}

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What run.json says. Raises BadInput."""
        return self.json(RUN_FILE)

    @property
    def name(self) -> str:
        """The run's name, by default its folder's; `sweep/0003` of one deeper in a root."""
        if "/" in self.within:
            return self.within
        return str(self.about.get("name") or self.url.rsplit("/", 1)[-1])

    @property
    def state(self) -> str:
        """`running`, `done`, `failed` or `preempted`."""
        return str(self.about.get("state") or "")

    @property
    def created(self) -> str:
        """When it was begun, ISO 8601."""
        return str(self.about.get("created") or "")

    @property
    def data(self) -> dict[str, Any]:
        """What run.json says of the data."""
        found = self.about.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def data_name(self) -> str:
        """The data set's name."""
        return str(self.data.get("name") or "")

    @property
    def data_version(self) -> str:
        """The version of the data, in hex."""
        return str(self.data.get("version") or "")

    @property
    def weights(self) -> str:
        """Where the first weights came from."""
        return str(self.about.get("weights") or "unknown")

    @property
    def backbone(self) -> str:
        """The network's name in timm."""
        of_config = self.config.get("model") or {}
        return str(self.model.get("backbone") or of_config.get("backbone") or "")

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json says. Raises BadInput."""
        return self.json(METRICS_FILE)

    @functools.cached_property
    def model(self) -> dict[str, Any]:
        """What the package's model.json says. Raises BadInput."""
        return self.json(MODEL)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What config.yaml says; empty if it cannot be read."""
        try:
            value = yaml.safe_load(self.files.get(CONFIG_FILE, b""))
        except yaml.YAMLError:
            return {}
        return value if isinstance(value, dict) else {}

    @functools.cached_property
    def rows(self) -> list[dict[str, float]]:
        """The numbers of metrics.csv; what is no number is left out."""
        text = self.files.get(HISTORY_FILE, b"").decode(errors="replace")
        rows = [_numbers(row) for row in csv.DictReader(io.StringIO(text))]
        return [row for row in rows if {"samples_seen", "epoch"} <= row.keys()]

    @functools.cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """Split -> what evaluation/{split}.json says. Raises BadInput."""
        found = {split: self.json(f"{EVALUATION}/{split}.json") for split in ("val", "test")}
        return {split: summary for split, summary in found.items() if summary}

    @functools.cached_property
    def corruptions(self) -> dict[str, Any]:
        """What `test --corruptions` wrote; empty if it did not. Raises BadInput."""
        return self.json(f"{EVALUATION}/{CORRUPTIONS}")

    @functools.cached_property
    def others(self) -> dict[str, dict[str, Any]]:
        """`name@version split` -> what an evaluation on other data says. Raises BadInput."""
        folder = f"{EVALUATION}/others/"
        found = {}
        for path in sorted(p for p in self.files if p.startswith(folder) and p.endswith(".json")):
            where, _, split = path.removeprefix(folder).removesuffix(".json").rpartition("/")
            found[f"{where} {split}".strip()] = self.json(path)
        return found

    @functools.cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """See `figures.scores_of`. Raises BadInput."""
        return scores_of(self.metrics, self.summaries)

    @property
    def size(self) -> int:
        """Of the whole directory, in bytes."""
        return sum(self.sizes.values())

    @property
    def epochs(self) -> int:
        """Epochs that have a row, at least in part."""
        return int(self.rows[-1]["epoch"]) + 1 if self.rows else 0


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in row.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def runs_in(place: str) -> list[Record]:
    """The run at `place`, or those below it, sorted by their URLs; nothing is read yet.

    Raises:
        BadInput: there is none.
    """
    url = storage.normal(place)
    try:
        sizes = dict(storage.find(url))
    except storage.StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise BadInput(f"{place}: no such folder of a run, or of runs") from error
        raise
    if RUN_FILE in sizes:
        return [Record(url, sizes, {})]
    folders = sorted(p.removesuffix(f"/{RUN_FILE}") for p in sizes if p.endswith(f"/{RUN_FILE}"))
    if not folders:
        raise BadInput(f"{place}: no run here, nor below ({RUN_FILE} is missing)")
    inside: dict[str, dict[str, int]] = {folder: {} for folder in folders}
    for path, size in sizes.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in inside:
                inside[folder]["/".join(parts[depth:])] = size
    return [Record(storage.join(url, folder), of, {}, folder) for folder, of in inside.items()]


def read(records: Iterable[Record], *, whole: bool) -> list[Record]:
    """Read the runs' small files, all at once; one that is gone meanwhile is passed over.

    Args:
        records: from `runs_in`.
        whole: with model and evaluations; else what a line of a table needs.

    Raises:
        StorageError: a file cannot be read.
    """
    records = list(records)
    wanted = [
        storage.join(record.url, path)
        for record in records
        for path in record.sizes
        if _is_small(path, whole)
    ]
    found = read_many(wanted)
    return [
        dataclasses.replace(
            record,
            files={
                path: found[url]
                for path in record.sizes
                if (url := storage.join(record.url, path)) in found
            },
        )
        for record in records
    ]


def _is_small(path: str, whole: bool) -> bool:
    if path in {RUN_FILE, CONFIG_FILE, METRICS_FILE, HISTORY_FILE}:
        return True
    evaluation = path.startswith(f"{EVALUATION}/") and path.endswith(".json")
    return whole and (path in {MODEL, TABLE_FILE, PICTURE_FILE} or evaluation)


def read_many(urls: Sequence[str]) -> dict[str, bytes]:
    """Whole files, all at once; those that are not there are left out. Raises StorageError."""

    def one(url: str) -> tuple[str, bytes | None]:
        try:
            return url, storage.read(url)
        except storage.StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return url, None
            raise

    if not urls:
        return {}
    with ThreadPoolExecutor(min(IN_FLIGHT, len(urls))) as pool:
        return {url: data for url, data in pool.map(one, urls) if data is not None}
