"""What a sweep looks through: options of fit, and the values that each may have."""

import dataclasses
import json
import re
from typing import Any, Protocol

import yaml

from dogbreed import storage
from dogbreed.errors import BadInput, nearest
from dogbreed.evaluate.figures import lower_is_better

METRICS = ("val/top1", "val/top5", "val/log_loss", "val/macro_f1")
_KEYS = {"low", "high", "log", "values"}


class Suggests(Protocol):
    """As far as a trial of Optuna is needed here."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number."""
        ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of some values."""
        ...


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An option of fit that is varied: between two bounds, or over some values.

    Args:
        name: the option, such as `model.lr`.
        low: least value; whole if both bounds are: then so are all values.
        high: largest value.
        log: whether equal factors, not equal steps, are equally likely.
        values: in place of bounds.
    """

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    values: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is a count."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Suggests) -> Any:
        """A value for a trial."""
        if self.values:
            return trial.suggest_categorical(self.name, list(self.values))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclasses.dataclass(frozen=True)
class Space:
    """What is varied, and by which score trials are compared.

    Args:
        metric: the score, of validation.
        parameters: what is varied.
    """

    metric: str
    parameters: tuple[Parameter, ...]

    @property
    def mode(self) -> str:
        """Whether `min` or `max` of the metric is best."""
        return "min" if lower_is_better(self.metric) else "max"

    @property
    def goal(self) -> str:
        """The same, as Optuna and W&B say it."""
        return f"{self.mode}imize"

    def monitored(self) -> list[str]:
        """Options by which a fit keeps the checkpoint that is best by the metric."""
        return [f"--checkpoints.monitor={self.metric}", f"--checkpoints.mode={self.mode}"]

    @classmethod
    def read(cls, url: str) -> "Space":
        """Read a YAML file with `metric` and `parameters`.

        Raises:
            BadInput: it is not of that form.
        """
        try:
            told = yaml.safe_load(storage.read(storage.normal(url)))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadInput(
                f"--space {url}: no YAML ({' '.join(str(error).split())[:120]})"
            ) from None
        told = told if isinstance(told, dict) else {}
        if unknown := told.keys() - {"metric", "parameters"}:
            raise BadInput(f"--space {url}: {min(unknown)!r} is none of metric, parameters")
        metric = told.get("metric", "val/log_loss")
        if metric not in METRICS:
            guess = nearest(str(metric), METRICS)
            raise BadInput(
                f"--space {url}: metric {metric!r}: no such score{guess}; it is one of"
                f" {', '.join(METRICS)}"
            )
        given = told.get("parameters")
        if not isinstance(given, dict) or not given:
            raise BadInput(f"--space {url}: there are no parameters in it")
        return cls(
            metric, tuple(_parameter(str(k), of, f"--space {url}: {k}") for k, of in given.items())
        )


def _parameter(name: str, told: Any, where: str) -> Parameter:
    if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name):
        raise BadInput(f"{where}: no option of fit is named so")
    if not isinstance(told, dict) or not (told.keys() >= {"low", "high"} or "values" in told):
        raise BadInput(
            f"{where}: say {{low: …, high: …}}, with log: true if need be, or values: […]"
        )
    if unknown := told.keys() - _KEYS:
        raise BadInput(f"{where}: {min(unknown)!r} is none of low, high, log, values")
    if "values" in told:
        values = told["values"]
        if len(told) > 1 or not isinstance(values, list) or not values:
            raise BadInput(f"{where}: values are a list, and stand alone")
        return Parameter(name, values=tuple(values))
    low, high, log = (
        _number(told.get(key, False), f"{where}: {key}") for key in ("low", "high", "log")
    )
    if not low < high:
        raise BadInput(f"{where}: low {low} must lie below high {high}")
    if log and low <= 0:
        raise BadInput(f"{where}: with log low must lie above 0")
    return Parameter(name, low, high, bool(log))


def _number(value: Any, where: str) -> Any:
    try:
        return value if isinstance(value, int | float) else float(value)  # YAML takes 1e-3 for text
    except (TypeError, ValueError):
        raise BadInput(f"{where} {value!r}: must be a number") from None


def word(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def brief(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
