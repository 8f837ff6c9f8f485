"""`dogbreed sweep`: the verb."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, Any, Literal

from dogbreed import storage as files
from dogbreed.cores import cores
from dogbreed.errors import BadInput
from dogbreed.sweep.export import vertex_tuning, wandb_sweep
from dogbreed.sweep.space import Space

if TYPE_CHECKING:
    from dogbreed.sweep.work import Plan

STORAGE_VARIABLE = "DOGBREED_SWEEP_STORAGE"
STUDY_FILE = "study.journal"


def sweep(
    fit: Sequence[str] = (),
    space: str = "configs/sweep.yaml",
    name: str = "sweep",
    trials: int = 30,
    processes: int = 1,
    storage: str | None = None,
    seed: int = 0,
    prune: bool = True,
    export: Literal["wandb", "vertex"] | None = None,
    job: str | None = None,
    out: str | None = None,
) -> int:
    """Look for good settings of fit: many runs, each with values that the earlier ones suggest.

    dogbreed sweep --space configs/sweep.yaml -- fit --config configs/head.yaml --data.root DATA

    Trials are runs below RUN_ROOT/NAME, so `dogbreed report` shows them too. The same command goes
    on with a sweep that was ended, and in the same place, on this machine or another, takes part
    in it. It ends with a table, best.yaml for `fit --config`, and sweep.html there.

    Args:
        fit: after --, the command as for a single run: fit and its options.
        space: YAML file with what is varied and the score to compare by, see configs/sweep.yaml.
        name: of the sweep: its folder in the run root.
        trials: how many there shall be in all.
        processes: how many run at once on this machine; heads are quickest with one for each core.
        storage: what all processes share: a file, by default in the sweep's folder, or a database's
            URL, which belongs into $DOGBREED_SWEEP_STORAGE if there is a password in it.
        seed: of the choice of values.
        prune: end trials that do worse than the median of the others after as many epochs.
        export: run nothing, and print the sweep for W&B, or the tuning job for Vertex AI.
        job: for Vertex AI: the job of a trial, as `dogbreed submit --dry_run` prints it.
        out: file for what --export prints.
    """
    if list(fit[:1]) != ["fit"]:
        raise BadInput("say after -- what to train: dogbreed sweep --space … -- fit --config …")
    words, looked_through = list(fit[1:]), Space.read(space)
    for flag, number in (("trials", trials), ("processes", processes)):
        if number < 1:
            raise BadInput(f"--{flag} {number}: must be at least 1")
    if export is not None:
        text = (
            wandb_sweep(looked_through, words, trials, name)
            if export == "wandb"
            else vertex_tuning(looked_through, trials, processes, name, job)
        )
        if out:
            files.write(files.normal(out), text.encode())
        else:
            print(text, end="")
        return 0
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise BadInput("sweep needs Optuna: pip install 'dogbreed[sweep]'") from None
    from dogbreed.resuming import option
    from dogbreed.sweep import work
    from dogbreed.sweep.study import NAME
    from dogbreed.trainer_cli import RUN_ROOT

    folder = files.join(files.normal(option(words, "run_root") or RUN_ROOT), name)
    place = storage or os.environ.get(STORAGE_VARIABLE) or files.join(folder, STUDY_FILE)
    if not files.is_local(folder) and place.startswith(folder):
        raise BadInput(
            f"--run_root {folder}: a bucket cannot keep the study; give --storage a file or a"
            f" database's URL, the latter in ${STORAGE_VARIABLE}"
        )
    database = "://" in place
    plan = work.Plan(
        folder, place, folder if database else NAME, looked_through, words, trials, seed, prune
    )
    os.environ.setdefault("WANDB_RUN_GROUP", name)  # for trials that have its logger
    ready = multiprocessing.get_context("spawn").Event()
    with _helpers(plan, processes - 1, ready) as helpers:
        status = work.work(plan, ready=ready.set)
        if not status:
            ready.set()  # also where there was nothing to do
            for helper in helpers:
                helper.join()
    if status:
        print("ended by SIGTERM; the same command goes on", file=sys.stderr)
        return status
    from dogbreed.sweep.ending import finish

    finish(plan)
    return 0


@contextlib.contextmanager
def _helpers(plan: "Plan", number: int, ready: Event) -> Iterator[list[Any]]:
    """Further processes of this machine that run trials; at the end they are ended."""
    if number:
        import torch

        # Each has its share of the cores, for they would fight over them.
        share = max(1, cores() // (number + 1))
        torch.set_num_threads(share)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=_help, args=(plan, k + 1, ready)) for k in range(number)]
    for helper in helpers:
        helper.start()
    try:
        yield helpers
    finally:
        for helper in helpers:
            helper.terminate()  # a fit saves where it is
        for helper in helpers:
            helper.join()


def _help(plan: "Plan", worker: int, ready: Event) -> None:
    """Run trials once the first one has computed the features that all share."""
    from dogbreed.sweep.work import work

    try:
        ready.wait()
        sys.exit(work(plan, worker))
    except BadInput as error:  # the first process says it too, if it is the same for all
        print(f"dogbreed sweep: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
