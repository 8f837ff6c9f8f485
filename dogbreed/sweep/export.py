"""The same space for those who run the trials elsewhere: W&B's agents, Vertex AI's tuning."""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.sweep.space import Parameter, Space, word
from dogbreed.tracking import PROJECT


def wandb_sweep(space: Space, words: Sequence[str], trials: int, name: str) -> str:
    """What `wandb sweep FILE` takes, as YAML; `wandb agent` then runs the trials.

    Args:
        space: what is varied.
        words: options of fit.
        trials: how many.
        name: of the sweep.
    """
    logger = (
        [] if any("WandbLogger" in word for word in words) else ["--trainer.logger=WandbLogger"]
    )
    body = {
        "name": name,
        "project": PROJECT,  # where a run goes that is not an agent's
        "method": "bayes",
        "metric": {"name": f"best/{space.metric}", "goal": space.goal},
        "run_cap": trials,
        "parameters": {of.name: _of_wandb(of) for of in space.parameters},
        # One word each; ${args} are the options --name=value.
        "command": ["dogbreed", "fit", *words, *space.monitored(), *logger, "${args}"],
    }
    return "# wandb sweep THIS_FILE; then, on each machine, the `wandb agent` that it prints\n" + (
        yaml.safe_dump(body, sort_keys=False)
    )


def _of_wandb(of: Parameter) -> dict[str, Any]:
    if of.values:
        # An agent would write None and True as Python does.
        return {"values": [x if type(x) in {int, float} else word(x) for x in of.values]}
    bounds = {"min": of.low, "max": of.high}
    if of.whole:
        return {"distribution": "q_log_uniform_values", "q": 1, **bounds} if of.log else bounds
    return {"distribution": "log_uniform_values" if of.log else "uniform", **bounds}


def vertex_tuning(space: Space, trials: int, parallel: int, name: str, job: str | None) -> str:
    """A HyperparameterTuningJob, as YAML for `gcloud ai hp-tuning-jobs create --config`.

    Args:
        space: what is varied.
        trials: how many.
        parallel: how many at once.
        name: shown in the console.
        job: file or URL with the job of a trial: what `dogbreed submit --dry_run` prints.

    Raises:
        BadInput: there is no such job.
    """
    if job is None:
        raise BadInput(
            "--export vertex: name a trial's job with --job FILE; `dogbreed submit --dry_run … --"
            " fit …` prints one"
        )
    text = storage.read(storage.normal(job)).decode()
    spec = yaml.safe_load(text)
    try:
        for pool in spec["workerPoolSpecs"]:
            pool["containerSpec"]["args"] += space.monitored()
    except (TypeError, KeyError):
        raise BadInput(
            f"--job {job}: no job that `dogbreed submit --dry_run` has printed"
        ) from None
    body = {
        "studySpec": {
            "metrics": [{"metricId": space.metric.replace("/", "_"), "goal": space.goal.upper()}],
            "parameters": [_of_vertex(of) for of in space.parameters],
            "medianAutomatedStoppingSpec": {},
        },
        "trialJobSpec": spec,
    }
    lines = [
        line for line in text.splitlines() if line.startswith("#") and "--print_config" in line
    ]
    lines += [
        f"# gcloud ai hp-tuning-jobs create --region REGION --display-name {shlex.quote(name)}"
        f" --max-trial-count {trials} --parallel-trial-count {parallel} --config THIS_FILE"
    ]
    return "\n".join([*lines, yaml.safe_dump(body, sort_keys=False)])


def _of_vertex(of: Parameter) -> dict[str, Any]:
    """Names may hold no dot: fit takes `model__lr` for `model.lr` there."""
    told: dict[str, Any] = {"parameterId": of.name.replace(".", "__")}
    scale = {"scaleType": "UNIT_LOG_SCALE" if of.log else "UNIT_LINEAR_SCALE"}
    if not of.values:
        kind = "integerValueSpec" if of.whole else "doubleValueSpec"
        return told | {kind: {"minValue": of.low, "maxValue": of.high}} | scale
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in of.values):
        return told | {"discreteValueSpec": {"values": sorted(float(x) for x in of.values)}} | scale
    return told | {"categoricalValueSpec": {"values": [word(x) for x in of.values]}}
