"""The page of a sweep: history, importance, parallel coordinates, curves, and a table of all."""

import shlex
import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

from dogbreed.report.charts import Series, lines
from dogbreed.report.page import render
from dogbreed.sweep import charts
from dogbreed.sweep.space import brief
from dogbreed.sweep.study import run_of
from dogbreed.sweep.table import ended, row
from dogbreed.sweep.work import Plan

ENOUGH = 8  # trials from which on importance is more than chance


def page(plan: Plan, study: optuna.Study) -> bytes:
    """The page, as HTML in UTF-8.

    Args:
        plan: of the sweep.
        study: what came of it; at least one trial ended well.
    """
    trials = ended(study)
    least, metric = plan.space.mode == "min", plan.space.metric
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    in_time = sorted(complete, key=lambda t: t.number)
    scores = [float(t.value or 0) for t in in_time]
    shares = importance(study)
    best = complete[0]
    return render(
        "sweep.html",
        folder=plan.folder,
        command=shlex.join(["dogbreed", "fit", *plan.words]),
        metric=metric,
        least=least,
        best={
            "run": run_of(best),
            "score": best.value,
            "params": {k: brief(v) for k, v in best.params.items()},
        },
        counts={
            "done": len(complete),
            "pruned": sum(t.state == TrialState.PRUNED for t in trials),
            "failed": sum(t.state == TrialState.FAIL for t in trials),
        },
        history=charts.history(scores, [run_of(t) for t in in_time], metric, least=least),
        importance=charts.importance(shares) if shares else None,
        enough=ENOUGH,
        parallel=charts.parallel(
            plan.space.parameters, [t.params for t in in_time], scores, metric, least=least
        ),
        curves=_curves(plan, trials),
        parameters=[of.name for of in plan.space.parameters],
        rows=[row(plan.space, trial) for trial in trials],
    )


def importance(study: optuna.Study) -> dict[str, float]:
    """How much each parameter decides, as shares, the largest first; empty for too few trials.

    PED-ANOVA (Watanabe et al. 2023): how far the better trials' values are from all trials' ones.
    """
    complete = study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False)
    if len(complete) < ENOUGH:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _curves(plan: Plan, trials: list[FrozenTrial]) -> str | None:
    """The score after each epoch of each trial; only the best one's colour differs."""
    told = [
        Series(
            run_of(trial),
            [(float(epoch), value) for epoch, value in sorted(trial.intermediate_values.items())],
            colour=1 if k == 0 else 0 if trial.state == TrialState.COMPLETE else 8,
            dashed=trial.state != TrialState.COMPLETE,
        )
        for k, trial in enumerate(trials)
    ]
    several = [one for one in told if one.points]
    return lines(several[::-1], "epochs", plan.space.metric, named=False)
