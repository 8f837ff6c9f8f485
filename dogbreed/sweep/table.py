"""A sweep's trials as a table: the best first, then the pruned, then the failed."""

import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dogbreed.sweep.space import Space, brief
from dogbreed.sweep.study import run_of

SHOWN = 10  # lines of the table on the terminal; the page has all


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that came to an end: the best first, then the pruned, then the failed."""
    trials = study.get_trials()
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    complete.sort(key=lambda t: sign * (t.value or 0.0))
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    pruned.sort(key=lambda t: -(t.last_step or 0))
    failed = [t for t in trials if t.state == TrialState.FAIL and "error" in t.user_attrs]
    return complete + pruned + failed


def row(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """What a table says of a trial: text by column; `score` is none if it has not ended well."""
    seconds = trial.duration or datetime.timedelta()
    epochs = str(trial.last_step or "")
    state = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")
    values = {of.name: brief(trial.params.get(of.name, "")) for of in space.parameters}
    return {
        "run": run_of(trial),
        "score": trial.value if trial.state == TrialState.COMPLETE else None,
        "state": state,
        "epochs": epochs,
        "seconds": f"{seconds.total_seconds():.0f}",
        **values,
    }


def table(space: Space, trials: list[FrozenTrial]) -> str:
    """The first trials for a terminal, columns aligned."""
    rows = [row(space, trial) for trial in trials[:SHOWN]]
    heads = ["run", space.metric, "state", "epochs", "s"]
    heads += [of.name for of in space.parameters]
    lines = [heads] + [
        ["" if v is None else f"{v:.4f}" if isinstance(v, float) else v for v in of.values()]
        for of in rows
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    more = len(trials) - len(rows)
    return "\n".join([*(line.rstrip() for line in text), *([f"and {more} more"] if more else [])])
