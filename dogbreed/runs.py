"""A run is a directory, on this disk or in a bucket.

run.json       who it is: name, when, state, versions, data, hardware, first weights
config.yaml    all of its settings, from the start of fit
checkpoints/   last.ckpt and best.ckpt, each replaced as a whole
metrics.csv    a row for each validation
metrics.json   scores of the best checkpoint
curves.png     the rows as a picture
model/         the model package
FAILED         of a job in the cloud: why it is not to be started again
"""

import dataclasses
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dogbreed import __version__, storage
from dogbreed.errors import BadInput

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
FAILED_FILE = "FAILED"
_PACKAGES = ("torch", "lightning", "timm", "torchmetrics", "numpy", "pillow", "gcsfs", "fsspec")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's directory.

    Args:
        url: the directory's path or URL.
    """

    url: str

    def path(self, *parts: str) -> str:
        """URL of something in the run."""
        return storage.join(self.url, *parts)

    def checkpoint(self, which: str) -> str:
        """URL of the `last` or `best` checkpoint."""
        return self.path("checkpoints", f"{which}.ckpt")

    @property
    def place(self) -> str:
        """The directory as it can be found from anywhere on this machine."""
        return os.path.abspath(self.url) if storage.is_local(self.url) else self.url

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return storage.exists(self.path(RUN_FILE))

    def read(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            BadInput: there is no run here.
        """
        try:
            about: dict[str, Any] = storage.read_json(self.path(RUN_FILE))
        except storage.StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise BadInput(f"{self.url}: no run here ({RUN_FILE} is missing)") from error
            raise
        return about

    def update(self, **fields: Any) -> None:
        """Change fields of run.json, or begin it; a field that becomes None is dropped."""
        about = (self.read() if self.exists else {}) | fields
        storage.write_json(
            self.path(RUN_FILE), {name: value for name, value in about.items() if value is not None}
        )

    def metrics(self) -> dict[str, Any]:
        """What metrics.json says, or nothing yet."""
        path = self.path(METRICS_FILE)
        found: dict[str, Any] = storage.read_json(path) if storage.exists(path) else {}
        return found

    def record(self, **scores: Any) -> dict[str, Any]:
        """Put scores into metrics.json; what it then holds."""
        scores = self.metrics() | scores
        storage.write_json(self.path(METRICS_FILE), scores)
        return scores


def newest(root: str, holding: str = RUN_FILE) -> Run:
    """The run below `root` that was begun last, as its run.json says.

    Args:
        root: folder or URL of runs.
        holding: a file in the run; runs without it do not count.

    Raises:
        BadInput: there is none.
    """
    begun = []
    for folder in storage.folders(storage.normal(root)):
        run = Run(folder)
        if run.exists:
            begun.append((run.read()["created"], folder))
    for _, folder in sorted(begun, reverse=True):
        if storage.exists(storage.join(folder, holding)):
            return Run(folder)
        print(f"{folder}: passed over, it has no {holding} yet", file=sys.stderr)
    raise BadInput(f"{root}: no runs here; begin one with `dogbreed fit`, or name one with --run")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as lines: ``data.root`` and its value, empty for none."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = "" if value is None else str(value)
    return found


def now() -> str:
    """The time in UTC, ISO 8601, to the microsecond: two runs are never begun at once."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def environment() -> dict[str, Any]:
    """Versions, code and hardware, for run.json."""
    return {
        "dogbreed": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _git_commit() -> str | None:
    """The commit of the code, if it runs from a checkout; `+` behind it: with changes."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
