import csv
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from dogbreed import storage
from dogbreed.callbacks.checkpoint import place_loops
from dogbreed.cli import main
from dogbreed.runs import Run
from tests.conftest import TIMES
from tests.doubles.gcs import FakeGCS

Fit = Callable[..., int]


# A resumed run takes its callbacks from its saved config, the fault among them.
WITHOUT_FAULT = ["--trainer.callbacks", "null"]


class Fault(RuntimeError):
    """Stands for whatever ends a run: nothing is saved because of it."""


class FailAt(Callback):
    """Fails, or kills its process, once a run has seen that many samples."""

    def __init__(self, samples: int, kill: bool = False) -> None:
        self.samples, self.kill = samples, kill

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if pl_module.samples_seen >= self.samples:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Fault


class TermInValidation(Callback):
    """Sends SIGTERM to its own process in the validation of the second epoch."""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):  # type: ignore[no-untyped-def]
        if trainer.current_epoch == 1 and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def fit_words(data: str, root: str, name: str, *more: str) -> list[str]:
    words = f"fit --data.root {data} --run_root {root} --name {name}"
    words += " --model.backbone test_efficientnet --model.weights none --data.image_size 32"
    words += " --data.workers 0 --data.batch_size 16 --trainer.max_epochs 3"
    words += " --checkpoints.every_n_train_steps 1 --trainer.accelerator cpu"
    return [*words.split(), *more]


def fail_at(samples: int, kill: bool = False) -> list[str]:
    path = f"{FailAt.__module__}.FailAt"
    return [
        f"--trainer.callbacks+={path}",
        f"--trainer.callbacks.samples={samples}",
        f"--trainer.callbacks.kill={str(kill).lower()}",
    ]


def history(run: Run) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(storage.read(run.path("metrics.csv")).decode()))
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_a_run_that_failed_and_was_resumed_scores_as_one_that_was_not(
    tiny_dataset: str, tmp_path: Path
) -> None:
    root = str(tmp_path)
    assert main(fit_words(tiny_dataset, root, "whole")) == 0
    whole = history(Run(f"{root}/whole"))
    rows = int(whole[0]["samples_seen"])
    for number, samples in enumerate((5, rows - 1, rows + 20, 2 * rows)):
        name = f"cut{number}"
        with pytest.raises(Fault):
            main(fit_words(tiny_dataset, root, name, *fail_at(samples)))
        assert Run(f"{root}/{name}").read()["state"] == "failed"
        assert main(fit_words(tiny_dataset, root, name, "--resume", "auto", *WITHOUT_FAULT)) == 0
        assert history(Run(f"{root}/{name}")) == whole
        assert Run(f"{root}/{name}").read()["state"] == "done"


@pytest.mark.parametrize("batches", [1, 2], ids=["in its middle", "at its end"])
def test_killed_in_an_epoch_and_resumed_from_gs_scores_as_a_run_that_was_not(
    batches: int, tiny_dataset: str, bucket: str, gcs: FakeGCS
) -> None:
    assert main(fit_words(tiny_dataset, bucket, "whole")) == 0
    whole = history(Run(f"{bucket}/whole"))
    rows = int(whole[0]["samples_seen"])
    seen = min(rows + 16 * batches, 2 * rows)  # in the second of three epochs
    command = fit_words(tiny_dataset, bucket, "run", *fail_at(seen, kill=True))
    ended = subprocess.run(
        [sys.executable, "-m", "dogbreed", *command], env=os.environ | gcs.env, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    run = Run(f"{bucket}/run")
    assert run.read()["state"] == "running"
    assert main(fit_words(tiny_dataset, bucket, "run", "--resume", "last", *WITHOUT_FAULT)) == 0
    assert history(run) == whole  # to the last of six decimals
    assert run.read()["state"] == "done"


def test_an_epoch_ended_in_its_validation_is_validated_when_the_run_goes_on(
    tiny_dataset: str, tmp_path: Path
) -> None:
    root = str(tmp_path)
    assert main(fit_words(tiny_dataset, root, "whole")) == 0
    term = f"--trainer.callbacks+={TermInValidation.__module__}.TermInValidation"
    assert main(fit_words(tiny_dataset, root, "run", term, "--data.batch_size", "4")) == 143
    run = Run(f"{root}/run")
    assert [row["epoch"] for row in history(run)] == ["0"]
    words = fit_words(tiny_dataset, root, "run", "--resume", "last", *WITHOUT_FAULT)
    begun = time.monotonic()
    assert main([*words, "--data.batch_size", "4"]) == 0
    whole = time.monotonic() - begun
    assert [row["epoch"] for row in history(run)] == ["0", "1", "2"]
    rows = csv.DictReader(io.StringIO(storage.read(run.path("metrics.csv")).decode()))
    assert sum(float(row["seconds"]) for row in rows if row["epoch"] != "0") < whole
    assert all(float(row["train/loss"]) > 0 for row in history(run))


@pytest.mark.parametrize("how", ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
def test_a_fit_without_a_validation_keeps_its_last_step_and_says_so(
    how: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", how)
    assert main([*words, "--checkpoints.every_n_train_steps", "0"]) == 0
    assert "without a validation there is no best checkpoint" in capsys.readouterr().out
    assert storage.exists(Run(f"{tmp_path}/run").checkpoint("last"))


def test_the_rate_ends_with_max_steps(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.max_steps", "4")
    assert main(words) == 0
    rates = [float(row["lr/head"]) for row in history(Run(f"{tmp_path}/run"))]
    assert len(rates) == 2
    assert rates[1] < 0.5 * rates[0]


def test_name_and_resume_may_stand_in_a_config(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run")
    with pytest.raises(Fault):
        main([*words, *fail_at(30)])
    own = tmp_path / "own.yaml"
    own.write_text(f"name: run\nresume: last\nrun_root: {tmp_path}\ntrainer:\n  callbacks: null\n")
    assert main(["fit", "--config", str(own)]) == 0
    assert Run(f"{tmp_path}/run").read()["state"] == "done"


def test_a_file_that_is_no_checkpoint_is_bad_input(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.ckpt").write_bytes(b"something else")
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--resume", f"{tmp_path}/other.ckpt")
    assert main(words) == 2
    assert "other.ckpt: no checkpoint of this version of dogbreed fit" in capsys.readouterr().err


def test_resumed_with_another_batch_size_sees_each_sample_once(
    tiny_dataset: str, tmp_path: Path
) -> None:
    root = str(tmp_path)
    with pytest.raises(Fault):
        main(fit_words(tiny_dataset, root, "run", *fail_at(60)))
    words = fit_words(tiny_dataset, root, "run", "--resume", "last", *WITHOUT_FAULT)
    assert main([*words, "--data.batch_size", "7"]) == 0
    seen = [int(row["samples_seen"]) for row in history(Run(f"{root}/run"))]
    rows = seen[-1] // 3
    assert seen == [rows, 2 * rows, 3 * rows]
    assert [row["epoch"] for row in history(Run(f"{root}/run"))] == ["0", "1", "2"]


def test_resuming_under_a_new_name_leaves_the_other_run_alone(
    tiny_dataset: str, tmp_path: Path
) -> None:
    root = str(tmp_path)
    assert main(fit_words(tiny_dataset, root, "first", "--trainer.max_epochs", "1")) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    checkpoint = Run(f"{root}/first").checkpoint("last")
    assert main(fit_words(tiny_dataset, root, "second", "--resume", checkpoint)) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(history(Run(f"{root}/second"))) == 2
    assert storage.exists(Run(f"{root}/second").path("model", "model.json"))


def test_a_finished_run_resumed_has_nothing_left_to_do(tiny_dataset: str, tmp_path: Path) -> None:
    root = str(tmp_path)
    words = fit_words(tiny_dataset, root, "run", "--trainer.max_epochs", "1")
    assert main(words) == 0
    before = history(Run(f"{root}/run"))
    assert main([*words, "--resume", "auto"]) == 0
    assert history(Run(f"{root}/run")) == before


@pytest.mark.parametrize("other", ["none", "wrong-data"])
def test_what_cannot_be_resumed_is_bad_input(
    other: str,
    tiny_dataset: str,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(tmp_path)
    if other == "none":
        words = fit_words(tiny_dataset, root, "absent", "--resume", "last")
    else:
        assert main(fit_words(tiny_dataset, root, "run", "--trainer.max_epochs", "1")) == 0
        words = f"prepare --source folder --path {tiny_folder} --out {root}/other".split()
        assert main([*words, "--splits", "0.6,0.2,0.2"]) == 0
        words = fit_words(f"{root}/other", root, "run", "--resume", "last")
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("no run here" if other == "none" else "version") in error


@pytest.mark.parametrize(
    ("rows", "seen", "batch"),
    list(itertools.product([48, 50], [0, 1, 49, 77, 100], [1, 7, 16, 64])),
)
def test_lightning_is_told_what_remains_of_the_epoch(rows: int, seen: int, batch: int) -> None:
    def tracker(**counts: int) -> dict[str, dict[str, int]]:
        return {"total": dict(counts), "current": dict(counts)}

    loops = {
        "epoch_progress": tracker(ready=9, started=9, processed=8, completed=8),
        "epoch_loop.batch_progress": {
            **tracker(ready=5, started=5, processed=5, completed=4),
            "is_last_batch": True,
        },
        "epoch_loop.val_loop.batch_progress": tracker(ready=3, started=3, processed=3, completed=3),
        "epoch_loop.state_dict": {"_batches_that_stepped": 4},
    }
    checkpoint = {"loops": {"fit_loop": loops}, "global_step": 5}
    place_loops(checkpoint, samples_seen=seen, rows=rows, global_batch=batch)
    assert loops["epoch_progress"]["current"]["completed"] == seen // rows
    remaining = -(-(rows - seen % rows) // batch)
    assert loops["epoch_loop.batch_progress"]["current"]["ready"] + remaining == -(-rows // batch)
    assert loops["epoch_loop.batch_progress"]["is_last_batch"] is False
