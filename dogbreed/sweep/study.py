"""The study that all processes of a sweep share: in a file, or in a database.

Concurrency model: each process asks for a trial, runs it and tells its score; Optuna's storage
serialises that. A trial belongs to a process, which says so every half minute. One whose process
is gone is taken over: a new trial with the same values goes on in the same run directory.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from dogbreed.errors import BadInput
from dogbreed.sweep.space import Space

BEAT = 30.0  # seconds between two signs of life
SILENT = 300.0  # seconds without one after which a process of another machine counts as gone
NAME = "sweep"  # of the study within its storage, if that is a file
STARTUP = 5  # trials that end before any is pruned


def open_study(storage: str, name: str, space: Space, *, seed: int, prune: bool) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        storage: path of a file, or URL of a database.
        name: the study's, within its storage.
        space: what is varied; a study that is there must have begun with the same.
        seed: of the choice of values.
        prune: whether to end trials that do worse than the median at their age.

    Raises:
        BadInput: the storage cannot be had, or holds a sweep over something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_storage(storage),
            load_if_exists=True,
            direction="minimize" if space.mode == "min" else "maximize",
            # Trials under way count as bad, so that processes look in different places.
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
            if prune
            else optuna.pruners.NopPruner(),
        )
    except Exception as error:  # of the database's driver
        line = " ".join(str(error).split())[:160]
        raise BadInput(f"--storage: it cannot be opened ({type(error).__name__}: {line})") from None
    begun = study.user_attrs.get("space")
    if begun is None:
        study.set_user_attr("space", repr(space))
    elif begun != repr(space):
        raise BadInput(
            f"{name}: there is a sweep of this name over other parameters; choose another --name"
        )
    return study


def _storage(place: str) -> Any:
    if "://" in place:
        return optuna.storages.RDBStorage(place)
    os.makedirs(os.path.dirname(os.path.abspath(place)), exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(place))


def next_trial(study: optuna.Study, limit: int) -> optuna.Trial | None:
    """Ask for a trial: one that a process left behind, or a new one; None beyond the limit."""
    take_over(study)
    if sum(map(_counts, study.get_trials(deepcopy=False))) >= limit:
        return None
    trial = study.ask()
    # Others may have asked just now; the earlier ones go first.
    before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
    if sum(map(_counts, before)) >= limit:
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def _counts(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return "error" in trial.user_attrs
    return trial.state != TrialState.WAITING


def run_of(trial: FrozenTrial | optuna.Trial) -> str:
    """Name of its run below the sweep's folder: that of the first trial which began it."""
    return str(trial.user_attrs.get("run") or f"{trial.number:04d}")


def give_back(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Let somebody go on with a trial that was ended early."""
    with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another was quicker
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"run": run_of(trial)})


def take_over(study: optuna.Study) -> None:
    """Give back the trials whose process is gone."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_gone(trial):
            give_back(study, trial)


def _is_gone(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get("owner")
    if owner is None:  # it has just been asked for
        assert trial.datetime_start is not None
        return time.time() - trial.datetime_start.timestamp() > SILENT
    if owner["host"] == platform.node():
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return bool(time.time() - owner["alive"] > SILENT)


@contextlib.contextmanager
def owned(trial: optuna.Trial) -> Iterator[None]:
    """Say that this process is at work on a trial, again and again."""
    done = threading.Event()

    def say() -> None:
        mine = {"host": platform.node(), "pid": os.getpid(), "alive": time.time()}
        trial.set_user_attr("owner", mine)

    def beat() -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # it was taken over
            while not done.wait(BEAT):
                say()

    say()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
