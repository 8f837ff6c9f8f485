"""The study that processes share: who runs which trial."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dogbreed.errors import BadInput
from dogbreed.sweep import study as studies
from dogbreed.sweep.space import Parameter, Space
from dogbreed.sweep.study import next_trial, open_study, owned, run_of

SPACE = Space("val/top1", (Parameter("model.lr", 0.1, 0.2),))


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Name both kinds of storage."""
    return f"{tmp_path}/study" if request.param == "file" else f"sqlite:///{tmp_path}/study.db"


def opened(place: str, space: Space = SPACE) -> optuna.Study:
    return open_study(place, "sweep", space, seed=0, prune=True)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials()]


def test_two_processes_share_a_study_and_together_run_no_more_than_wanted(place: str) -> None:
    first, second = opened(place), opened(place)
    one, other = next_trial(first, 2), next_trial(second, 2)
    assert one is not None
    assert other is not None
    assert {one.number, other.number} == {0, 1}
    assert next_trial(first, 2) is None
    first.tell(one, 0.5)
    assert next_trial(second, 2) is None
    assert next_trial(second, 3) is not None


def test_a_trial_that_failed_counts_so_that_a_sweep_ends(place: str) -> None:
    study = opened(place)
    trial = next_trial(study, 1)
    assert trial is not None
    trial.set_user_attr("error", "out of memory")
    study.tell(trial, state=TrialState.FAIL)
    assert next_trial(study, 1) is None


def test_a_trial_of_a_killed_process_goes_on_with_its_values_in_its_run(place: str) -> None:
    script = (
        "import sys, os, signal\n"
        "from tests.sweep.test_study import opened, next_trial, owned, SPACE\n"
        "trial = next_trial(opened(sys.argv[1]), 9)\n"
        "print(SPACE.parameters[0].suggest(trial))\n"
        "sys.stdout.flush()\n"
        "with owned(trial): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, place], capture_output=True, check=False)
    assert done.returncode < 0, done.stderr
    study = opened(place)
    assert states(study) == [TrialState.RUNNING]
    trial = next_trial(study, 1)
    assert trial is not None
    assert SPACE.parameters[0].suggest(trial) == float(done.stdout)
    assert (trial.number, run_of(trial)) == (1, "0000")
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING]


def test_a_trial_of_another_machine_is_taken_over_once_that_is_silent(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(place)
    trial = next_trial(study, 9)
    assert trial is not None
    with owned(trial), monkeypatch.context() as elsewhere:
        elsewhere.setattr("platform.node", lambda: "another")
        studies.take_over(study)
        assert states(study) == [TrialState.RUNNING]
        later = time.time() + studies.SILENT + 1
        elsewhere.setattr(time, "time", lambda: later)
        studies.take_over(study)
    assert states(study)[0] == TrialState.FAIL


def test_owners_say_so_again_and_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "BEAT", 0.01)
    study = opened(place)
    trial = next_trial(study, 9)
    assert trial is not None
    tell, told, enough = trial.set_user_attr, list[Any](), threading.Event()

    def note(name: str, value: Any) -> None:
        tell(name, value)
        told.append(value)
        if len(told) >= 3:
            enough.set()

    monkeypatch.setattr(trial, "set_user_attr", note)
    with owned(trial):
        assert enough.wait(60)
    assert {owner["pid"] for owner in told} == {os.getpid()}
    assert told[0]["alive"] < told[2]["alive"]


def test_one_whose_trial_was_taken_over_ends_its_signs_of_life_without_an_error(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "BEAT", 0.01)
    study = opened(place)
    trial = next_trial(study, 9)
    assert trial is not None
    with owned(trial):
        (beating,) = (t for t in threading.enumerate() if t.name.endswith("(beat)"))
        studies.give_back(opened(place), trial)
        beating.join(60)
        assert not beating.is_alive()
    studies.give_back(study, trial)
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]


def test_a_sweep_over_something_else_needs_another_name(place: str) -> None:
    opened(place)
    with pytest.raises(BadInput, match="over other parameters; choose another --name"):
        opened(place, Space("val/top1", (Parameter("model.lr", 0.1, 0.3),)))


def test_a_storage_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--storage: it cannot be opened") as error:
        opened("nosuch://user:secret@host/db")
    assert "secret" not in str(error.value)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="--storage"):
        opened(f"{tmp_path}/file/study")
