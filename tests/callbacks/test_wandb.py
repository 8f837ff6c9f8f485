"""What lands in W&B: real offline runs, read back with W&B's own tool."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreed.callbacks.wandb_pictures import COLUMNS, SHOWN
from dogbreed.cli import main
from dogbreed.data.manifest import Manifest
from dogbreed.runs import Run
from tests.doubles.wandb import KEY, FakeWandb
from tests.test_training import LOGGERS, TermAt, fit_words, history


@pytest.fixture(scope="module", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give W&B a home of the test's own, and no way out."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
        patch.setenv("WANDB_SILENT", "true")
        yield
    wandb.teardown()


def records(folder: Path) -> list[dict[str, Any]]:
    """What `wandb leet inspect` reads in an offline run."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def of_kind(kind: str, read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record[kind] for record in read if record["type"] == kind]


def folders_to_sync(said: str) -> list[Path]:
    (line,) = [line for line in said.splitlines() if "wandb sync" in line]
    return [Path(word) for word in line.rpartition("wandb sync ")[2].split()]


@pytest.fixture(scope="module")
def tracked(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Fit with three loggers at once, and let the run go on for an epoch; for reading only."""
    root = tmp_path_factory.mktemp("runs")
    loggers: list[dict[str, Any]] = [{"class_path": f"{LOGGERS}.WandbLogger"}] + [
        {"class_path": f"{LOGGERS}.{kind}", "init_args": {"save_dir": f"{root}/logs"}}
        for kind in ("TensorBoardLogger", "CSVLogger")
    ]
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"logger": loggers, "log_every_n_steps": 1}}))
    words = fit_words(tiny_dataset, f"{root}/runs", "run", "--config", str(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_MODE", "offline")
        assert main([*words, "--notes", "a first try", "--tags", "small, tiny,small"]) == 0
        words = fit_words(tiny_dataset, f"{root}/runs", "run", "--resume", "last")
        assert main([*words, "--trainer.max_epochs", "3"]) == 0
    run = Run(f"{root}/runs/run")
    folders = sorted(Path(run.url, "wandb").glob("offline-run-*"))
    first, second = (records(folder) for folder in folders)
    return SimpleNamespace(root=root, run=run, folders=folders, first=first, second=second)


def values(read: list[dict[str, Any]], name: str) -> list[Any]:
    """The values of a metric in the order of the history."""
    rows = [row["item"] for row in of_kind("history", read)]
    return [row[name] for row in rows if name in row]


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tracked: SimpleNamespace) -> None:
    ids = {
        run["run_id"] for read in (tracked.first, tracked.second) for run in of_kind("run", read)
    }
    assert ids == {tracked.run.read()["wandb"]["id"]}
    assert values(tracked.second, "epoch")[0] == 2
    # W&B has one row for each step: those of the second part would replace those of the first.
    assert min(values(tracked.second, "_step")) > max(values(tracked.first, "_step"))


def test_what_was_kept_offline_is_uploaded_as_one_run_but_for_data_and_weights(
    tracked: SimpleNamespace, tiny_dataset: str
) -> None:
    with FakeWandb() as server:
        command = [Path(sys.executable).with_name("wandb"), "sync", *tracked.folders]
        environment = os.environ | server.env
        subprocess.run(command, env=environment, cwd=tracked.root, capture_output=True, check=True)
    ((name, run),) = server.runs.items()
    assert name == tracked.run.read()["wandb"]["id"]
    rows = history(tracked.run)
    scored = [row for row in run.history if "val/top1" in row]
    assert [row["epoch"] for row in scored] == [0, 1, 2]
    assert [row["val/top1"] for row in scored] == pytest.approx(
        [float(row["val/top1"]) for row in rows], abs=1e-6
    )
    assert run.summary["best/val/top1"] == pytest.approx(tracked.run.metrics()["val"]["top1"])
    assert run.config["model"]["backbone"] == "test_efficientnet"
    sent = {path.rpartition("/")[2] for path in server.uploaded}
    assert {"model.json", "version.txt", "pictures.table.json"} <= sent
    assert sent.isdisjoint({"weights.safetensors", "manifest.parquet", "best.ckpt"})
    assert [path for path, data in server.uploaded.items() if KEY.encode() in data] == []


def test_a_run_that_starts_from_its_config_does_not_go_on_in_it(tracked: SimpleNamespace) -> None:
    config = Path(tracked.run.path("config.yaml")).read_text()
    assert "WandbLogger" in config
    assert tracked.run.read()["wandb"]["id"] not in config


def test_values_are_those_of_the_history_and_stand_beside_their_axes(
    tracked: SimpleNamespace,
) -> None:
    rows = history(tracked.run)
    for name in ("train/loss", "train/top1", "val/top1", "val/log_loss", "val/macro_f1"):
        logged = values(tracked.first, name) + values(tracked.second, name)
        assert logged == pytest.approx([float(row[name]) for row in rows], abs=1e-6)
    for row in (row["item"] for row in of_kind("history", tracked.first)):
        if "val/top1" in row or "train/loss" in row or "train/loss_step" in row:
            assert {"epoch", "samples_seen"} <= row.keys()
        if "val/top1" in row:
            assert row["samples_seen"] == int(rows[row["epoch"]]["samples_seen"])
    metrics = {m.get("name") or m.get("glob_name"): m for m in of_kind("metric", tracked.first)}
    assert metrics["*"]["step_metric"] == "samples_seen"
    assert metrics["val/log_loss"]["step_metric"] == "epoch"
    assert metrics["val/log_loss"]["summary"]["min"]
    assert metrics["val/top1"]["summary"]["max"]


def test_each_step_has_the_rate_of_each_group_and_how_fast_it_went(
    tracked: SimpleNamespace,
) -> None:
    steps = len(values(tracked.first, "train/loss_step"))
    assert steps > 2
    for name in ("lr/head", "lr/backbone", "images/s", "waiting", "train/top1_step"):
        assert len(values(tracked.first, name)) == steps


def test_the_config_says_with_what_on_what_and_by_which_code(
    tracked: SimpleNamespace, tiny_dataset: str
) -> None:
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json"]
    out = subprocess.run([*command, tracked.folders[0]], capture_output=True, check=True).stdout
    config = json.loads(out)["config"]
    assert config["model"]["backbone"] == "test_efficientnet"
    assert config["data"]["root"] == tiny_dataset
    about = tracked.run.read()
    for name in ("git_commit", "dogbreed", "packages", "weights", "name"):
        assert config["run"].get(name) == about.get(name)
    assert config["run"]["data"]["version"] == Manifest.open(tiny_dataset).version
    assert config["run"]["url"] == tracked.run.url


def test_notes_and_tags_are_in_wandb_and_in_the_run_also_after_it_went_on(
    tracked: SimpleNamespace,
) -> None:
    about = tracked.run.read()
    assert (about["notes"], about["tags"]) == ("a first try", ["small", "tiny"])
    for read in (tracked.first, tracked.second):
        assert [(run["notes"], run["tags"]) for run in of_kind("run", read)][-1:] == [
            ("a first try", ["small", "tiny"])
        ]


def table(tracked: SimpleNamespace, name: str, last: int = -1) -> dict[str, Any]:
    path = values(tracked.first, f"{name}.path")[last]
    found: dict[str, Any] = json.loads((tracked.folders[0] / "files" / path).read_text())
    return found


def test_the_same_validation_pictures_are_shown_after_each_epoch(
    tracked: SimpleNamespace, tiny_dataset: str
) -> None:
    found = [a for a in of_kind("artifact", tracked.first) if "valpictures" in a["name"]]
    contents = [{e["path"]: e for e in of["manifest"]["contents"]} for of in found]
    tables = [
        json.loads(Path(of["val/pictures.table.json"]["local_path"]).read_text()) for of in contents
    ]
    assert [of["columns"] for of in tables] == [list(COLUMNS)] * 2
    rows = [[dict(zip(COLUMNS, row, strict=True)) for row in of["data"]] for of in tables]
    pictures, breeds = (
        [[row["picture"]["sha256"] for row in of] for of in rows],
        [[row["true"] for row in of] for of in rows],
    )
    assert pictures[0] == pictures[1]
    assert breeds[0] == breeds[1]
    data = Manifest.open(tiny_dataset)
    assert len(rows[0]) == min(SHOWN, len(data.rows_of("val"))) == len(set(pictures[0]))
    assert len(set(breeds[0])) == len(data.classes)
    for epoch, of in enumerate(rows):
        for row in of:
            assert row["epoch"] == epoch
            assert 0 <= row["probability"] <= 1
            assert row["heat"]["path"] in contents[epoch]


def test_it_ends_with_a_confusion_matrix_and_a_reliability_curve(tracked: SimpleNamespace) -> None:
    report = json.loads(Path(tracked.run.path("evaluation", "val.json")).read_text())
    cells = table(tracked, "val/confusion_table")["data"]
    assert sum(n for _, _, n in cells) == report["n"]
    keys = {row[1] for row in table(tracked, "val/reliability_table")["data"]}
    assert {"calibrated", "without", "ideal"} == keys


def summary_of(read: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for of in of_kind("summary", read):
        summary |= of.get("update", {})
    return summary


def test_the_summary_has_the_scores_of_the_kept_checkpoint(tracked: SimpleNamespace) -> None:
    summary = summary_of(tracked.second)
    for name, value in tracked.run.metrics()["val"].items():
        assert summary[f"best/val/{name}"] == pytest.approx(value)


def test_how_a_run_ended_is_told(
    tracked: SimpleNamespace,
    tiny_dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert of_kind("exit", tracked.first)[-1].get("exit_code", 0) == 0
    assert summary_of(tracked.first)["state"] == "done"

    monkeypatch.setenv("WANDB_MODE", "offline")
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.logger", "WandbLogger")
    words += [f"--trainer.callbacks+={TermAt.__module__}.TermAt", "--trainer.callbacks.samples=16"]
    assert main(words) == 143
    (folder,) = Path(tmp_path, "run/wandb").glob("offline-run-*")
    read = records(folder)
    assert of_kind("exit", read)[-1]["exit_code"] == 1
    assert summary_of(read)["state"] == "preempted"


def test_trials_of_a_sweep_are_a_group_of_runs(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.teardown()  # it has read the environment once
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "")
    monkeypatch.delenv("WANDB_RUN_GROUP")  # and whatever the sweep sets will be gone again
    space = tmp_path / "space.yaml"
    space.write_text("parameters:\n  model.lr: {low: 1.0e-4, high: 1.0e-1, log: true}")
    own = fit_words(tiny_dataset, str(tmp_path), "none", "--trainer.logger", "WandbLogger")
    own = [*own[: own.index("--name")], *own[own.index("--name") + 2 :]]
    words = ["--space", str(space), "--name", "rates", "--trials", "2"]
    assert main(["sweep", *words, "--", *own]) == 0
    folders = sorted(Path(tmp_path, "rates").glob("*/wandb/offline-run-*"))
    about = [of_kind("run", records(folder))[-1] for folder in folders]
    assert [(run["display_name"], run["run_group"]) for run in about] == [
        ("0000", "rates"),
        ("0001", "rates"),
    ]


def test_data_and_model_are_linked_by_reference(
    tracked: SimpleNamespace, tiny_dataset: str
) -> None:
    found = {a["type"]: a for a in of_kind("artifact", tracked.first) if a["type"] != "run_table"}
    assert found.keys() == {"dataset", "model"}
    references = [
        {entry["path"]: entry.get("ref") for entry in found[kind]["manifest"]["contents"]}
        for kind in ("dataset", "model")
    ]
    data, model = (json.loads(found[kind]["metadata"]) for kind in ("dataset", "model"))
    assert model["data"]["version"] == data["version"] == Manifest.open(tiny_dataset).version
    assert references[0]["manifest.parquet"] == f"file://{tiny_dataset}/manifest.parquet"
    assert (
        references[1]["weights.safetensors"]
        == f"file://{tracked.run.url}/model/weights.safetensors"
    )


def test_the_key_is_in_no_file(tracked: SimpleNamespace) -> None:
    places = [tracked.root, Path(os.environ["HOME"])]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_tensorboard_and_csv_stand_beside_it(tracked: SimpleNamespace) -> None:
    (events, *_) = sorted(tracked.root.rglob("events.out.tfevents.*"))
    board = EventAccumulator(str(events))
    board.Reload()
    assert [e.value for e in board.Scalars("val/top1")] == values(tracked.first, "val/top1")
    first = sorted(tracked.root.glob("logs/**/metrics.csv"))[0]
    rows = list(csv.DictReader(first.read_text().splitlines()))
    seen = [float(row["samples_seen"]) for row in rows if row["val/top1"]]
    assert seen == [int(row["samples_seen"]) for row in history(tracked.run)[:2]]
    hparams = yaml.safe_load(first.with_name("hparams.yaml").read_text())
    assert hparams["model"]["backbone"] == "test_efficientnet"


def test_without_a_key_it_stays_offline_and_the_last_line_uploads_it(
    tiny_dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wandb.teardown()  # it has read the environment once
    monkeypatch.chdir(tmp_path)
    words = fit_words(tiny_dataset, "runs", "run", "--trainer.logger", "WandbLogger")
    assert main([*words, "--name", "a run", "--trainer.max_epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "no key found, so the run is kept offline" in said
    line = said.splitlines()[-1]
    command = line.removeprefix("W&B: upload this run with: ")
    assert command.startswith("wandb sync ")
    dry = f"{Path(sys.executable).with_name('wandb')}{command.removeprefix('wandb')} --dry-run"
    out = subprocess.run(dry, shell=True, capture_output=True, text=True, check=True, cwd="/")
    assert "offline-run" in out.stdout + out.stderr


def test_a_wrong_key_is_one_line_before_anything_is_trained(
    tiny_dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wandb.teardown()  # it has read the environment once
    monkeypatch.setenv("WANDB_API_KEY", "short")
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.logger", "WandbLogger")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "WandbLogger: " in error
    assert not Run(f"{tmp_path}/run").exists


def test_a_csv_logger_in_a_bucket_would_lose_rows_and_is_refused(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.logger", "CSVLogger")
    assert main([*words, "--trainer.logger.save_dir", "gs://bucket/logs"]) == 2
    assert "which a bucket cannot (gs://bucket/logs)" in capsys.readouterr().err


def fit_elsewhere(words: list[str], *before: str, **env: str) -> str:
    """Run a fit in a process of its own, by a command before it; what it printed."""
    command = [*before, sys.executable, "-m", "dogbreed", *words, "--trainer.logger", "WandbLogger"]
    environment = {**os.environ, **env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.e2e
def test_with_a_key_the_run_is_on_the_server_from_its_start_and_goes_on_there(
    tiny_dataset: str, tmp_path: Path
) -> None:
    with FakeWandb() as server:
        words = fit_words(tiny_dataset, str(tmp_path), "run", "--notes", "with a key")
        said = fit_elsewhere(words, **server.env)
        assert "wandb sync" not in said
        words = fit_words(tiny_dataset, str(tmp_path), "run", "--resume", "last")
        fit_elsewhere([*words, "--trainer.max_epochs", "3"], **server.env)
    kept = Run(f"{tmp_path}/run")
    ((name, run),) = server.runs.items()
    assert name == kept.read()["wandb"]["id"]
    assert run.about["notes"] == "with a key"
    assert run.complete == 2
    assert [row["epoch"] for row in run.history if "val/top1" in row] == [0, 1, 2]
    of_type = {of["artifactTypeName"]: known for known, of in server.artifacts.items()}
    assert server.used == [of_type["dataset"]] * 2  # the same version, not a second one
    model = server.manifest(of_type["model"])
    assert model["weights.safetensors"]["ref"] == f"file://{kept.url}/model/weights.safetensors"
    assert {"weights.safetensors", "manifest.parquet"}.isdisjoint(
        path.rpartition("/")[2] for path in server.uploaded
    )
    told = [json.dumps(body) if path == "/graphql" else "" for _, path, body in server.requests]
    assert not any(KEY in text for text in told)
    assert not any(KEY.encode() in data for data in server.uploaded.values())
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(KEY.encode() in file.read_bytes() for file in files)


@pytest.mark.e2e
def test_several_processes_are_one_wandb_run(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.devices", "2")
    said = fit_elsewhere([*words, "--trainer.log_every_n_steps", "1"], OMP_NUM_THREADS="1")
    (folder,) = Path(tmp_path, "run/wandb").glob("*run-*-*")
    assert folders_to_sync(said) == [folder]
    read = records(folder)
    rows = history(Run(f"{tmp_path}/run"))
    for name in ("val/top1", "train/loss"):
        assert values(read, name) == pytest.approx([float(row[name]) for row in rows], abs=1e-6)


@pytest.mark.e2e
def test_without_root_and_with_a_home_for_reading_only_all_lies_in_the_run(
    tiny_dataset: str, tmp_path: Path
) -> None:
    home, root = tmp_path / "home", tmp_path / "runs"
    home.mkdir(mode=0o555)
    # Nothing is for reading only to root, unless it has lost its privileges.
    drop = ["setpriv", "--bounding-set", "-all"] if os.getuid() == 0 else []
    elsewhere = {
        "HOME": str(home),
        "XDG_CACHE_HOME": f"{root}/cache",
        "MPLCONFIGDIR": f"{root}/mpl",
    }
    said = fit_elsewhere(fit_words(tiny_dataset, str(root), "run"), *drop, **elsewhere)
    (folder,) = folders_to_sync(said)
    kept = [
        entry["local_path"]
        for of in of_kind("artifact", records(folder))
        for entry in of["manifest"]["contents"]
        if "local_path" in entry
    ]
    assert kept
    assert all(Path(path).is_relative_to(root / "run") for path in kept)
    assert list(home.iterdir()) == []
