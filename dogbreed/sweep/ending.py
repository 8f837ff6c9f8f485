"""How a sweep ends: a table, the best settings as a config, and a page."""

import yaml
from optuna.trial import FrozenTrial, TrialState

from dogbreed import storage
from dogbreed.report.listing import size_text
from dogbreed.runs import CONFIG_FILE, Run
from dogbreed.sweep.page import page
from dogbreed.sweep.space import brief
from dogbreed.sweep.study import run_of
from dogbreed.sweep.table import ended, table
from dogbreed.sweep.work import Plan

BEST_FILE = "best.yaml"
PAGE_FILE = "sweep.html"


def finish(plan: Plan) -> None:
    """Print the table, and write best.yaml and sweep.html into the sweep's folder."""
    study = plan.study()
    trials = ended(study)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    print(table(plan.space, trials))
    if not complete:
        print("no trial came to its end: there is no best")
        return
    best = storage.join(plan.folder, BEST_FILE)
    storage.write(best, best_config(plan, trials[0]).encode())
    html, where = page(plan, study), storage.join(plan.folder, PAGE_FILE)
    storage.write(where, html)
    print(f"{where}: {size_text(len(html))}, open it in a browser")
    print(f"next: dogbreed fit --config {best}")


def best_config(plan: Plan, best: FrozenTrial) -> str:
    """All settings of the best trial as YAML for `fit --config`."""
    run = Run(storage.join(plan.folder, run_of(best)))
    config = yaml.safe_load(storage.read(run.path(CONFIG_FILE)))
    for own in ("run_root", "name"):
        config.pop(own, None)
    config["data"].pop("classes", None)
    found = ", ".join(f"{name} {brief(value)}" for name, value in best.params.items())
    head = f"# {plan.space.metric} {best.value:.4f} on validation, the best of a sweep: {found}\n"
    return head + f"# The run: {run.url}\n" + yaml.safe_dump(config, sort_keys=False)
