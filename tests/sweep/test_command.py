"""`dogbreed sweep` from end to end, on networks that train in a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from dogbreed.callbacks.pruning import Pruning
from dogbreed.cli import main
from dogbreed.errors import Pruned
from dogbreed.runs import Run
from dogbreed.sweep.space import Space
from dogbreed.sweep.study import open_study
from dogbreed.training import fit
from tests.test_training import TermAt, fit_words, history

SPACE = """
metric: val/log_loss
parameters:
  model.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
  data.batch_size: {values: [4, 8]}
"""


@pytest.fixture
def space(tmp_path: Path) -> str:
    """Write a space."""
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return str(path)


def words(data: str, root: object, *more: str) -> list[str]:
    """A fit's words after --, without a name, which a trial has of its own."""
    own = fit_words(data, str(root), "none", "--trainer.max_epochs", "1", *more)
    at = own.index("--name")
    return ["--", *own[:at], *own[at + 2 :]]


def study_of(root: Path, space: str) -> optuna.Study:
    place = f"{root}/sweep/study.journal"
    return open_study(place, "sweep", Space.read(space), seed=0, prune=True)


def trials_of(root: Path, space: str) -> list[optuna.trial.FrozenTrial]:
    return study_of(root, space).get_trials()


def test_a_sweep_ends_with_a_table_a_config_and_a_page_and_goes_on_when_run_again(
    tiny_dataset: str, tmp_path: Path, space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--space", space, "--trials", "2", *words(tiny_dataset, tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["1/2  0000", "2/2  0001"]
    rows = [line.split() for line in said if line[:4] in {"0000", "0001"}]
    scores = [Run(f"{tmp_path}/sweep/{row[0]}").metrics()["val"]["log_loss"] for row in rows]
    assert [float(row[1]) for row in rows] == pytest.approx(sorted(scores), abs=1e-4)
    assert main(["report", f"{tmp_path}/sweep", "--best", "val/log_loss"]) == 0
    best = capsys.readouterr().out.strip()
    assert best == f"{tmp_path}/sweep/{rows[0][0]}"

    path = f"{tmp_path}/sweep/best.yaml"
    config = yaml.safe_load(Path(path).read_text())
    kept = yaml.safe_load(Path(best, "config.yaml").read_text())
    assert config["model"] == kept["model"]
    assert config["checkpoints"] == kept["checkpoints"]
    assert config["checkpoints"]["monitor"] == "val/log_loss"
    final = ["--run_root", str(tmp_path), "--name", "final"]
    assert main(["fit", "--config", path, *final]) == 0
    assert history(Run(f"{tmp_path}/final")) == history(Run(best))
    page = Path(tmp_path, "sweep/sweep.html").read_text()
    assert "Parallel coordinates" in page
    assert Path(best).name in page

    command[command.index("2")] = "3"
    assert main(command) == 0
    assert [t.state for t in trials_of(tmp_path, space)] == [TrialState.COMPLETE] * 3


def test_a_trial_that_does_worse_than_others_is_ended_and_says_so(
    tiny_dataset: str, tmp_path: Path
) -> None:
    pruner = optuna.pruners.ThresholdPruner(upper=-1.0)  # no log-loss is that low
    trial = optuna.create_study(pruner=pruner).ask()
    own = fit_words(tiny_dataset, str(tmp_path), "run")[1:]
    with pytest.raises(Pruned, match="after epoch 1: worse than the median"):
        fit(own, [Pruning(trial, "val/log_loss")])
    about = Run(f"{tmp_path}/run").read()
    assert about["state"] == "pruned"
    assert about["reason"].startswith("val/log_loss")


def test_a_sweep_ends_trials_that_do_worse_than_the_median_and_shows_them_apart(
    tiny_dataset: str,
    tmp_path: Path,
    space: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dogbreed.sweep.study.STARTUP", 1)
    monkeypatch.setattr("dogbreed.sweep.work.QUIET", 0.0)  # as of trials that take long
    own = words(tiny_dataset, tmp_path, "--trainer.max_epochs", "2")
    assert main(["sweep", "--space", space, "--trials", "5", *own]) == 0
    said = capsys.readouterr().out
    trials = trials_of(tmp_path, space)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    assert len(pruned) + len(done) == 5
    assert pruned
    for trial in pruned:
        run = f"{trial.number:04d}"
        assert Run(f"{tmp_path}/sweep/{run}").read()["state"] == "pruned"
        assert f"{run}: pruned after epoch 1" in said
        assert f"{run}: val/log_loss {trial.intermediate_values[1]:.4f} after epoch 1, " in said
        earlier = [t for t in done if t.number < trial.number]
        assert trial.intermediate_values[1] > min(t.intermediate_values[1] for t in earlier)
    page = Path(tmp_path, "sweep/sweep.html").read_text()
    assert f"{len(done)} done, {len(pruned)} pruned" in page


def test_a_sweep_ended_by_sigterm_goes_on_in_the_same_run(
    tiny_dataset: str, tmp_path: Path, space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    term = [f"--trainer.callbacks+={TermAt.__module__}.TermAt", "--trainer.callbacks.samples=8"]
    command = ["sweep", "--space", space, "--trials", "1", *words(tiny_dataset, tmp_path)]
    assert main([*command, *term]) == 143
    assert "the same command goes on" in capsys.readouterr().err
    assert main([*command, "--trainer.callbacks", "null"]) == 0
    first, waiting = trials_of(tmp_path, space)
    assert (first.state, waiting.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.params == waiting.params
    about = Run(f"{tmp_path}/sweep/0000").read()
    assert about["resumed"]
    assert about["state"] == "done"
    assert not Path(tmp_path, "sweep/0001").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--", "predict"], "say after -- what to train"),
        (["--trials", "0", "--", "fit"], "--trials 0: must be at least 1"),
        (["--space", "none.yaml", "--", "fit"], "none.yaml"),
        (["--", "fit", "--run_root", "gs://b/runs"], "a bucket cannot keep the study"),
        (["--", "fit", "--model.backbon", "x"], "did you mean 'model.backbone'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    more: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    space = str(Path("configs/sweep.yaml").absolute())
    monkeypatch.chdir(tmp_path)
    given = [] if "--space" in more else ["--space", space]
    assert main(["sweep", *given, *more]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))


def test_an_option_that_is_none_is_said_once(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("parameters:\n  model.lrr: {low: 0.1, high: 0.2}")
    command = ["sweep", "--space", str(path), *words(tiny_dataset, tmp_path)]
    assert main(command) == 2
    assert "'model.lrr', did you mean 'model.lr'?" in capsys.readouterr().err


def under_way(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have been validated, and not ended."""
    running = study.get_trials(states=(TrialState.RUNNING,))
    return [t for t in running if t.intermediate_values]


@pytest.mark.e2e
def test_processes_share_the_trials_and_the_features_and_a_killed_sweep_goes_on(
    tiny_dataset: str, tmp_path: Path, space: str
) -> None:
    own = words(tiny_dataset, tmp_path, "--model.freeze", "backbone", "--data.augment.scale", "1")
    own += ["--data.features", f"{tmp_path}/features", "--data.augment.flip", "0"]
    own += [f"--data.augment.{name}=0" for name in ("brightness", "contrast", "saturation")]
    own += ["--trainer.max_epochs", "40"]
    command = [sys.executable, "-m", "dogbreed", "sweep", "--space", space, "--trials", "6"]
    command += ["--processes", "2", "--prune", "false", *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as sweep:
        assert sweep.stdout is not None
        assert sweep.stdout.readline().startswith("1/6  ")
        study, end = study_of(tmp_path, space), time.monotonic() + 240
        while not (running := under_way(study)):
            assert sweep.poll() is None
            assert time.monotonic() < end
        os.killpg(sweep.pid, signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = trials_of(tmp_path, space)
    complete = [t for t in after if t.state == TrialState.COMPLETE]
    assert len(complete) == 6
    values = [t.params for t in complete]
    assert all(t.params in values for t in running)
    assert len({t.user_attrs["owner"]["pid"] for t in complete}) >= 2
    assert len(list(Path(tmp_path, "sweep").glob("*/run.json"))) == 6
    pictures = list(Path(tmp_path, "features").iterdir())
    assert len(pictures) == 2  # a chunk of train and one of val, for all trials
    again = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=240
    )
    assert again.returncode == 0, again.stderr[-2000:]  # where there is nothing left to do
    assert len(trials_of(tmp_path, space)) == len(after)
