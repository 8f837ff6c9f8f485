"""`fit --reproduce RUN`: train again what a run's directory describes, and compare."""

import csv
import dataclasses
import io
from typing import Any

import yaml

from dogbreed import package, storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.evaluation import FOLDER
from dogbreed.runs import CONFIG_FILE, HISTORY_FILE, Run, flat

_MEASURED = ("train/", "val/")
_DECIDE = ("top1", "top5", "log_loss", "macro_f1")
_OWN = {"run_root", "name", "data.root", "data.classes", "trainer.logger", "data.cache_dir"}
"""Settings that may differ without a word: they say where things lie."""


@dataclasses.dataclass(frozen=True)
class Original:
    """A run that is to be reproduced.

    Args:
        run: its directory.
        about: its run.json.
    """

    run: Run
    about: dict[str, Any]

    @classmethod
    def open(cls, place: str) -> "Original":
        """The run at a path or URL.

        Raises:
            BadInput: there is none, or it did not come to its end.
        """
        run = Run(storage.normal(place))
        about = run.read()
        if "val" not in run.metrics():
            raise BadInput(
                f"--reproduce {place}: the run has no scores to compare with, it is"
                f" {about.get('state', 'unfinished')}"
            )
        return cls(run, about)

    @property
    def name(self) -> str:
        """The run's own, by which the second one is named."""
        return self.run.url.rsplit("/", 1)[-1]

    def check(self, data_version: str, root: str, seed: object) -> None:
        """See that data and seed are those of then.

        Args:
            data_version: what is there now.
            root: where.
            seed: of --seed_everything.

        Raises:
            BadInput: they are others.
        """
        then = self.about["data"]["version"]
        if data_version != then:
            raise BadInput(
                f"--reproduce {self.run.url}: it was trained on version {then[:12]} of the data,"
                f" and {root} holds {data_version[:12]}; --data.root names another place"
            )
        if seed != (began := self._config()["seed_everything"]) or began is False:
            had = "no seed" if began is False else f"seed {began}"
            raise BadInput(f"--reproduce {self.run.url}: it had {had}, and this is {seed}")

    def differences(self, again: Run) -> list[str]:
        """What is not as it was, a line each: versions, hardware, first weights, settings."""
        names = ("dogbreed", "git_commit", "python", "platform", "device", "cpus", "threads")
        now = again.read()
        pairs = {name: (self.about.get(name), now.get(name)) for name in (*names, "precision")}
        pairs["first weights"] = (self.about.get("weights"), now.get("weights"))
        packages = self.about.get("packages", {})
        pairs |= {name: (old, now["packages"].get(name)) for name, old in packages.items()}
        then, given = flat(self._config()), flat(_config_of(again))
        pairs |= {n: (then.get(n), given.get(n)) for n in then | given if n not in _OWN}
        lines = [
            f"{name}: {old} then, {new} now" for name, (old, new) in pairs.items() if old != new
        ]
        times = len(self.about.get("resumed", []))
        return lines + ([f"it was resumed {times} times on its way"] if times else [])

    def compare(self, again: Run) -> tuple[bool, list[str]]:
        """Whether it came out, and in which way, in lines.

        It did, if all that was measured is equal to the bit, or if the scores lie within the
        intervals of then; the calibration error is not asked.

        Args:
            again: the second run, done.
        """
        before, after = _measured(self.run), _measured(again)
        same_weights = _weights(self.run) == _weights(again)
        scores, others = self.run.metrics()["val"], again.metrics()["val"]
        if before == after and scores == others:
            weights = "and the weights are" if same_weights else "but the weights are not"
            return True, [f"reproduced: {len(before)} validations are equal to the bit, {weights}"]
        lines, inside = [], True
        for name, (low, high) in self._intervals().items():
            if name not in scores or name not in others:
                continue
            there = low <= others[name] <= high
            inside &= there
            lines.append(
                f"{name} {scores[name]:.4f} then, {others[name]:.4f} now"
                f" ({others[name] - scores[name]:+.4f}), {'within' if there else 'outside'}"
                f" {low:.4f} to {high:.4f}"
            )
        verdict = (
            "not equal to the bit, but the scores lie within the intervals of then"
            if inside
            else "not reproduced"
        )
        return inside, [verdict, *lines]

    def _intervals(self) -> dict[str, tuple[float, float]]:
        # A calibration error's interval is of the true one, and may end at what was measured.
        scores = storage.read_json(self.run.path(FOLDER, "val.json"))["scores"]
        return {name: (scores[name]["low"], scores[name]["high"]) for name in _DECIDE}

    def _config(self) -> dict[str, Any]:
        return _config_of(self.run)


def _config_of(run: Run) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(storage.read(run.path(CONFIG_FILE)))
    return config


def _measured(run: Run) -> list[dict[str, str]]:
    """The rows of metrics.csv, without what the clock fills."""
    rows = csv.DictReader(io.StringIO(storage.read(run.path(HISTORY_FILE)).decode()))
    return [{k: v for k, v in row.items() if k.startswith(_MEASURED)} for row in rows]


def _weights(run: Run) -> Any:
    """Digest of the package's weights."""
    return storage.read_json(run.path(package.FOLDER, package.MODEL_FILE)).get("weights_sha256")
