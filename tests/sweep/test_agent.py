"""The space as a W&B sweep, run by W&B's own agent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed.cli import main
from dogbreed.runs import Run
from tests.doubles.wandb import ENTITY, SWEEP, FakeWandb
from tests.test_training import fit_words

SPACE = """
metric: val/log_loss
parameters:
  model.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
  model.flip: {values: [true, false]}
  model.unfreeze: {values: [null, [0, 0.5]]}
"""


@pytest.mark.e2e
def test_an_agent_runs_trials_that_tell_the_score_which_the_sweep_asks_for(
    tiny_dataset: str, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "home").mkdir()
    out = f"{tmp_path}/sweep.yaml"
    words = ["sweep", "--space", f"{tmp_path}/space.yaml", "--export", "wandb", "--out", out, "--"]
    own = fit_words(tiny_dataset, f"{tmp_path}/runs", "trial", "--trainer.max_epochs", "1")
    assert main([*words, *own]) == 0
    wandb = Path(sys.executable).with_name("wandb")
    path = f"{wandb.parent}{os.pathsep}{os.environ['PATH']}"
    with FakeWandb() as server:
        environment = {**os.environ, **server.env, "HOME": f"{tmp_path}/home", "PATH": path}
        environment["PYTHONPATH"] = str(Path.cwd())
        subprocess.run(
            [wandb, "sweep", out], env=environment, cwd=tmp_path, check=True, capture_output=True
        )
        server.to_run = [{"model.lr": 0.01, "model.flip": "true", "model.unfreeze": "null"}]
        place = f"{ENTITY}/{server.sweep['projectName']}/{SWEEP}"
        done = subprocess.run(
            [wandb, "agent", place], env=environment, cwd=tmp_path, check=True, capture_output=True
        )
    ((name, run),) = server.runs.items()
    kept = Run(f"{tmp_path}/runs/trial")
    assert kept.exists, done.stderr[-2000:]
    assert name == kept.read()["wandb"]["id"] == "trial0"
    assert run.about["sweep"] == SWEEP
    assert run.config["model"]["lr"] == 0.01
    assert run.config["model"]["flip"] is True
    assert "name: best/val/log_loss" in server.sweep["config"]
    assert run.summary["best/val/log_loss"] == pytest.approx(kept.metrics()["val"]["log_loss"])
