"""What a process of a sweep does: one trial after the other, each a fit in this very process."""

import contextlib
import dataclasses
import gc
import io
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState

from dogbreed import storage
from dogbreed.callbacks.pruning import Pruning
from dogbreed.errors import BadInput, Pruned
from dogbreed.runs import Run
from dogbreed.sweep.space import Space, brief, word
from dogbreed.sweep.study import give_back, next_trial, open_study, owned, run_of
from dogbreed.training import fit

QUIET = 60.0  # seconds from which on a trial tells each validation
HOPELESS = 3  # trials that fail, and none that does not, end a sweep


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a process must know.

    Args:
        folder: where the trials' runs go.
        storage: the study's file, or URL of its database.
        name: the study's within its storage.
        space: what is varied.
        words: options of fit.
        trials: how many there shall be in all.
        seed: of the choice of values.
        prune: whether to end trials early.
    """

    folder: str
    storage: str
    name: str
    space: Space
    words: list[str]
    trials: int
    seed: int
    prune: bool

    def study(self, worker: int = 0) -> optuna.Study:
        """The study, opened by one of several processes. Raises BadInput."""
        return open_study(
            self.storage, self.name, self.space, seed=self.seed + worker, prune=self.prune
        )


def work(plan: Plan, worker: int = 0, ready: Callable[[], object] = lambda: None) -> int:
    """Run trials until there are as many as wanted.

    Args:
        plan: what to do.
        worker: number of this process.
        ready: called after validations: what trials share is there.

    Returns:
        Exit status: 0, or 143 after a SIGTERM.

    Raises:
        BadInput: of a trial, while none has ended well: then it is the same for all.
        KeyboardInterrupt: Ctrl-C; the trial can be gone on with.
    """
    study = plan.study(worker)
    while trial := next_trial(study, plan.trials):
        values = {of.name: of.suggest(trial) for of in plan.space.parameters}
        begun = time.monotonic()
        watch = Pruning(trial, plan.space.metric, _teller(plan, run_of(trial), ready))
        try:
            with owned(trial), contextlib.redirect_stdout(io.StringIO()):
                status = fit(_words(plan, trial, values), [watch])
            if status:
                give_back(study, trial)
                return status
            study.tell(trial, _score(plan, run_of(trial)))
        except Pruned:
            study.tell(trial, state=TrialState.PRUNED)
        except KeyboardInterrupt:
            give_back(study, trial)
            raise
        except Exception as error:
            if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                continue  # another process has taken it over
            _failed(study, trial, error)
        ready()
        _say(plan, study, trial.number, values, time.monotonic() - begun)
        gc.collect()  # networks and trainers refer to themselves
    return 0


def _teller(plan: Plan, run: str, ready: Callable[[], object]) -> Callable[[int, float], object]:
    """What a trial does after a validation: a line of one that takes long."""
    begun, out = time.monotonic(), sys.stdout

    def tell(epoch: int, score: float) -> None:
        ready()
        if (seconds := time.monotonic() - begun) > QUIET:
            line = f"{run}: {plan.space.metric} {score:.4f} after epoch {epoch}, {seconds:.0f} s"
            print(line, file=out, flush=True)

    return tell


def _words(plan: Plan, trial: optuna.Trial, values: dict[str, Any]) -> list[str]:
    """Words of the fit; where it was begun before, it goes on."""
    words = [*plan.words, *(f"--{name}={word(value)}" for name, value in values.items())]
    words += ["--run_root", plan.folder, "--name", run_of(trial), "--resume", "auto"]
    return [*words, *plan.space.monitored()]


def _score(plan: Plan, run: str) -> float:
    """What the run's kept checkpoint scored, calibrated."""
    scores = Run(storage.join(plan.folder, run)).metrics().get("val")
    if scores is None:
        raise BadInput(
            f"{run}: no validation, so nothing to compare; see --trainer.check_val_every_n_epoch"
        )
    score = float(scores[plan.space.metric.partition("/")[2]])
    if not math.isfinite(score):
        raise ValueError(f"{plan.space.metric} is {score}")
    return score


def _failed(study: optuna.Study, trial: optuna.Trial, error: Exception) -> None:
    """Note why; raise what is in the way of all trials."""
    line = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    trial.set_user_attr("error", line)
    study.tell(trial, state=TrialState.FAIL)
    trials = [t for t in study.get_trials(deepcopy=False) if t.number <= trial.number]
    well = any(t.state in {TrialState.COMPLETE, TrialState.PRUNED} for t in trials)
    errors = sum("error" in t.user_attrs for t in trials)  # those given back have none
    if not well and (isinstance(error, BadInput) or errors >= HOPELESS):
        raise error


def _say(
    plan: Plan, study: optuna.Study, number: int, values: dict[str, Any], seconds: float
) -> None:
    """A line of how a trial went."""
    trials = study.get_trials(deepcopy=False)
    trial = trials[number]
    ended = sum(t.state in {TrialState.COMPLETE, TrialState.PRUNED} for t in trials)
    result = {
        TrialState.COMPLETE: f"{plan.space.metric} {trial.value or 0:.4f}",
        TrialState.PRUNED: f"pruned after epoch {trial.last_step}",
    }.get(trial.state, f"failed: {trial.user_attrs.get('error')}")
    settings = " ".join(f"{name}={brief(value)}" for name, value in values.items())
    best = ""
    if any(t.state == TrialState.COMPLETE for t in trials):
        best = f", best {study.best_value:.4f} of {run_of(study.best_trial)}"
    print(
        f"{ended}/{plan.trials}  {run_of(trial)}: {result}{best}, {seconds:.1f} s  {settings}",
        flush=True,
    )
