"""fit, validate and test from end to end, on a disk and in a bucket."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreed import __version__, storage
from dogbreed.cli import main
from dogbreed.data import manifest
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.evaluate.evaluation import values_of
from dogbreed.runs import Run
from tests.conftest import RUN_FILES, TIMES, FailAt
from tests.doubles.gcs import FakeGCS

SCORES = {"top1", "top5", "log_loss", "macro_f1", "ece", "n"}
LOGGERS = "lightning.pytorch.loggers"


def fit_words(data: str, root: str, name: str, *more: str) -> list[str]:
    """Words of a fit that takes a tenth of a second; those in `more` win."""
    words = f"fit --data.root {data} --run_root {root} --name {name}"
    words += " --model.backbone test_efficientnet --model.weights none --data.image_size 32"
    words += " --data.workers 0 --data.batch_size 16 --trainer.max_epochs 2"
    words += " --trainer.accelerator cpu"
    return [*words.split(), *more]


def history(run: Run) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns that the clock fills."""
    rows = csv.DictReader(io.StringIO(storage.read(run.path("metrics.csv")).decode()))
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def rewritten(data: Manifest, out: str, classes: list[str]) -> None:
    """Write a data set of the same pictures, of these breeds only, labelled in their order."""
    rows = []
    for row in data.take(np.arange(len(data))):
        breed = data.classes[row["label"]]
        if breed in classes:
            changed = {
                "split": SPLITS[row["split"]],
                "uri": storage.join(data.root, row["uri"]),
                "label": classes.index(breed),
            }
            rows.append(row | changed)
    table = pa.Table.from_pylist(rows, manifest.SCHEMA)
    manifest.save(out, table, classes=[{"name": name} for name in classes], name="other")


class TermAt(Callback):
    """Sends its own process a SIGTERM once the run has seen that many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if pl_module.samples_seen == self.samples:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a place on each kind of file system."""
    return str(tmp_path) if request.param == "disk" else str(request.getfixturevalue("bucket"))


def test_the_walk_from_photographs_to_answers(
    root: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = f"{root}/data", Run(f"{root}/runs/first")
    words = f"prepare --source folder --path {tiny_folder} --out {data} --splits 0.5,0.25,0.25"
    assert main(words.split()) == 0
    sizes = {k: sum(v.values()) for k, v in Manifest.open(data).dataset["counts"].items()}

    assert main(fit_words(data, f"{root}/runs", "first")) == 0
    assert {name for name, _ in storage.find(run.url)} == RUN_FILES
    metrics = run.metrics()
    assert set(metrics) == {"val"}
    assert set(metrics["val"]) == SCORES
    assert metrics["val"]["n"] == sizes["val"]
    rows = history(run)
    assert [(row["epoch"], int(row["samples_seen"])) for row in rows] == [
        ("0", sizes["train"]),
        ("1", 2 * sizes["train"]),
    ]
    best = max(rows, key=lambda row: (float(row["val/top1"]), -float(row["val/log_loss"])))
    ranks = ("top1", "top5", "macro_f1")  # the others are those at the package's temperature
    assert {key: f"{metrics['val'][key]:.6f}" for key in ranks} == {
        key: best[f"val/{key}"] for key in ranks
    }

    assert main(["test", "--run", run.url]) == 0
    assert set(run.metrics()) == {"val", "test"}
    assert set(run.metrics()["test"]) == SCORES
    assert run.metrics()["test"]["n"] == sizes["test"]

    assert main(["validate", "--run", run.url]) == 0
    assert run.metrics()["val"] == pytest.approx(metrics["val"])

    capsys.readouterr()
    assert main(["predict", "--run", run.url, "--data", data, "--out", f"{root}/out.csv"]) == 0
    answers = list(csv.DictReader(io.StringIO(storage.read(f"{root}/out.csv").decode())))
    assert len(answers) == sizes["test"]
    said = capsys.readouterr()
    assert said.out.startswith(f"{sizes['test']} pictures")
    assert said.out.endswith(f": {root}/out.csv\n")
    assert said.err == ""


def test_run_json_says_who_the_run_is(tiny_dataset: str, tmp_path: Path) -> None:
    assert main(fit_words(tiny_dataset, str(tmp_path), "me", "--data.augment.flip", "0")) == 0
    about, data = Run(f"{tmp_path}/me").read(), Manifest.open(tiny_dataset)
    assert (about["name"], about["state"]) == ("me", "done")
    assert about["created"] < about["ended"]
    assert about["dogbreed"] == __version__
    assert about["packages"].keys() >= {"torch", "lightning", "timm"}
    assert (about["device"], about["precision"]) == ("cpu", "32-true")
    assert about["weights"] == "none (random)"
    assert about["skipped"] == 0
    assert (
        about["data"].items()
        >= {
            "root": tiny_dataset,
            "name": "tiny",
            "version": data.version,
            "image_size": 32,
        }.items()
    )
    assert about["data"]["augment"]["flip"] == 0
    model = json.loads((tmp_path / "me/model/model.json").read_text())
    assert model["run"] == "me"
    assert [entry["name"] for entry in model["classes"]] == data.classes
    assert model["data"] == {"name": "tiny", "version": data.version}


def test_the_saved_config_says_what_was_left_open(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--seed_everything", "5")
    words.remove("--data.image_size")
    words.remove("32")
    words += ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
    assert main(words) == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["seed_everything"] == config["data"]["seed"] == 5
    assert config["data"]["image_size"] == 160  # that of test_efficientnet's weights
    assert config["data"]["crop"] == 0.95
    assert config["data"]["classes"] == Manifest.open(tiny_dataset).classes
    assert config["trainer"]["precision"] == "32-true"
    assert "resume" not in config


def test_a_precision_that_was_asked_for_is_used(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.precision", "bf16-mixed")
    assert main([*words, "--trainer.max_epochs", "1"]) == 0
    assert Run(f"{tmp_path}/run").read()["precision"] == "bf16-mixed"


def test_a_run_that_ended_in_mid_epoch_can_be_scored_by_its_config_from_the_start(
    tiny_dataset: str, tmp_path: Path
) -> None:
    fault = f"{FailAt.__module__}.FailAt"
    words = fit_words(tiny_dataset, str(tmp_path), "run", f"--trainer.callbacks+={fault}")
    words += ["--trainer.callbacks.samples=17", "--checkpoints.every_n_train_steps", "1"]
    with pytest.raises(RuntimeError, match="the fault"):
        main(words)
    run = Run(f"{tmp_path}/run")
    assert run.metrics() == {}
    assert main(["test", "--run", run.url, "--checkpoint", "last"]) == 0
    (scores,) = run.metrics()["others"].values()
    assert set(scores["test"]) == SCORES


def test_every_epoch_has_its_row_in_a_bucket_that_refuses_a_write_soon_after_another(
    tiny_dataset: str, bucket: str, gcs: FakeGCS
) -> None:
    gcs.faults.rewrites_refused = 1
    gcs.faults.only = "/run/"
    assert main(fit_words(tiny_dataset, bucket, "run", "--trainer.max_epochs", "3")) == 0
    assert gcs.counts["429"] > 0
    run = Run(f"{bucket}/run")
    assert [row["epoch"] for row in history(run)] == ["0", "1", "2"]
    assert run.read()["state"] == "done"
    assert {name for name, _ in storage.find(run.url)} == RUN_FILES


def test_without_a_name_a_run_is_called_after_time_and_backbone(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOGBREED_RUN_NAME", raising=False)
    words = fit_words(tiny_dataset, str(tmp_path), "x", "--trainer.max_epochs", "1")
    at = words.index("--name")
    assert main(words[:at] + words[at + 2 :]) == 0
    (folder,) = tmp_path.iterdir()
    stamp, time, backbone = folder.name.split("-")
    assert (len(stamp), len(time), backbone) == (8, 6, "test_efficientnet")
    assert Run(str(folder)).read()["name"] == folder.name


class TestScoring:
    @pytest.fixture
    def run(self, tiny_dataset: str, tmp_path: Path) -> Run:
        assert main(fit_words(tiny_dataset, str(tmp_path / "runs"), "run")) == 0
        return Run(str(tmp_path / "runs/run"))

    def test_json_is_one_object_and_nothing_else_on_stdout(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert main(["test", "--run", run.url, "--json"]) == 0
        said = capsys.readouterr()
        assert said.out.count("\n") == 1
        report = json.loads(said.out)
        assert report == storage.read_json(run.path("evaluation", "test.json"))
        assert values_of(report) == run.metrics()["test"]
        assert set(run.metrics()) == {"val", "test"}
        assert "top-1" in said.err

    def test_in_words_accuracy_has_its_interval_its_data_and_its_first_weights(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert main(["test", "--run", run.url]) == 0
        said = capsys.readouterr().out
        assert said.count("\n") <= 6
        n = run.metrics()["test"]["n"]
        for part in ("test of tiny: top-1 0.", "95 %", f"n = {n}", "weights: none (random)"):
            assert part in said

    def test_without_a_name_it_is_the_run_begun_last(
        self, run: Run, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = run.url.rsplit("/", 1)[0]
        assert main(fit_words(tiny_dataset, root, "a-later-one")) == 0
        Run(f"{root}/run").update(touched=True)
        capsys.readouterr()
        assert main(["test", "--run_root", root]) == 0
        assert f"{root}/a-later-one" in capsys.readouterr().out
        assert "test" not in run.metrics()
        assert "test" in Run(f"{root}/a-later-one").metrics()

    def test_what_is_typed_wins_over_the_runs_config(self, run: Run) -> None:
        assert main(["test", "--run", run.url]) == 0
        small = run.metrics()["test"]
        assert main(["test", "--run", run.url, "--data.image_size", "64"]) == 0
        (large,) = run.metrics()["others"].values()
        assert large["test"]["n"] == small["n"]
        assert large["test"]["log_loss"] != small["log_loss"]

    def test_only_the_best_checkpoint_gives_the_runs_own_scores(self, run: Run) -> None:
        assert main(["test", "--run", run.url]) == 0
        best = run.metrics()["test"]
        assert main(["test", "--run", run.url, "--checkpoint", "last"]) == 0
        assert run.metrics()["test"] == best
        (key,) = run.metrics()["others"]
        assert ", last, " in key

    def test_the_batch_size_changes_no_score(self, run: Run) -> None:
        assert main(["test", "--run", run.url]) == 0
        scores = run.metrics()["test"]
        assert main(["test", "--run", run.url, "--data.batch_size", "5"]) == 0
        assert run.metrics()["test"] == pytest.approx(scores, rel=1e-5)

    def test_the_same_pictures_with_classes_in_another_order_score_the_same(
        self, run: Run, tiny_dataset: str, tmp_path: Path
    ) -> None:
        assert main(["test", "--run", run.url]) == 0
        own = run.metrics()
        data = Manifest.open(tiny_dataset)
        other = str(tmp_path / "other")
        rewritten(data, other, data.classes[::-1])
        assert main(["test", "--run", run.url, "--data.root", other]) == 0
        (scores,) = run.metrics()["others"].values()
        assert scores["test"] == pytest.approx(own["test"])

    def test_other_data_of_fewer_breeds_is_scored_over_the_runs_classes_and_kept_apart(
        self, run: Run, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["test", "--run", run.url]) == 0
        own = run.metrics()
        data = Manifest.open(tiny_dataset)
        breeds, other = [data.classes[3], data.classes[1]], str(tmp_path / "other")
        rewritten(data, other, breeds)
        capsys.readouterr()
        assert main(["test", "--run", run.url, "--data.root", other, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        metrics = run.metrics()
        assert {"val": metrics["val"], "test": metrics["test"]} == own
        (key,) = metrics["others"]
        assert key == f"other@{Manifest.open(other).version[:12]}, best, 32 px, crop 0.95"
        assert metrics["others"][key]["test"] == values_of(printed)
        place = run.path("evaluation", "others", key.partition(", ")[0], "test.json")
        assert storage.read_json(place) == printed

        words = ["predict", "--run", run.url, "--data", tiny_dataset]
        assert main([*words, "--out", str(tmp_path / "out.csv")]) == 0
        answers = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
        right = [a["breed"] == breed for a in answers if (breed := a["id"].split("/")[0]) in breeds]
        assert len(right) == printed["n"]
        assert printed["scores"]["top1"]["value"] == pytest.approx(sum(right) / len(right))


def test_the_same_seed_gives_the_same_run_and_another_another(
    tiny_dataset: str, tmp_path: Path
) -> None:
    rows = {}
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        words = fit_words(tiny_dataset, str(tmp_path), name, "--seed_everything", seed)
        assert main(words) == 0
        rows[name] = history(Run(f"{tmp_path}/{name}"))
    assert rows["a"] == rows["b"]
    assert rows["a"][-1]["val/log_loss"] != rows["c"][-1]["val/log_loss"]


def test_with_workers_the_run_is_the_same(tiny_dataset: str, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        words = fit_words(tiny_dataset, str(tmp_path), workers, "--data.workers", workers)
        assert main(words) == 0
    assert history(Run(f"{tmp_path}/2")) == history(Run(f"{tmp_path}/0"))


def test_away_from_a_terminal_an_epoch_is_one_line(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.max_epochs", "3")) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert "\r" not in said.out
    assert said.err == ""
    assert f"run: {tmp_path}/run" in lines
    assert lines[-1].endswith(f"dogbreed test --run {tmp_path}/run")


def test_test_and_predict_without_an_option_take_the_newest_run(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["test"]) == 2
    assert main(fit_words(tiny_dataset, "runs", "run", "--trainer.max_epochs", "1")) == 0
    for verb in ("test", "validate"):
        assert main([verb]) == 0
    assert "test" in Run("runs/run").metrics()
    assert main(["predict", "--data", tiny_dataset]) == 0


class TestLoggers:
    def test_tensorboard(self, tiny_dataset: str, tmp_path: Path) -> None:
        words = fit_words(tiny_dataset, str(tmp_path / "runs"), "run")
        words += ["--trainer.logger", f"{LOGGERS}.TensorBoardLogger"]
        words += ["--trainer.logger.save_dir", str(tmp_path / "logs")]
        assert main([*words, "--trainer.log_every_n_steps", "1"]) == 0
        (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
        events = EventAccumulator(str(file))
        events.Reload()
        rows = history(Run(f"{tmp_path}/runs/run"))
        for tag in ("val/top1", "val/log_loss", "train/loss"):
            logged = [point.value for point in events.Scalars(tag)]
            assert logged == pytest.approx([float(row[tag]) for row in rows], abs=1e-6)

    def test_csv(self, tiny_dataset: str, tmp_path: Path) -> None:
        words = fit_words(tiny_dataset, str(tmp_path / "runs"), "run")
        words += ["--trainer.logger", f"{LOGGERS}.CSVLogger"]
        words += ["--trainer.logger.save_dir", str(tmp_path / "logs")]
        assert main([*words, "--trainer.log_every_n_steps", "1"]) == 0
        (file,) = (tmp_path / "logs").rglob("metrics.csv")
        rows = list(csv.DictReader(file.read_text().splitlines()))
        logged = [float(row["val/top1"]) for row in rows if row["val/top1"]]
        own = history(Run(f"{tmp_path}/runs/run"))
        assert logged == pytest.approx([float(row["val/top1"]) for row in own], abs=1e-6)
        seen = [float(row["samples_seen"]) for row in rows if row["samples_seen"]]
        assert seen[-1] == int(own[-1]["samples_seen"])


def test_a_config_may_lie_in_a_bucket(tiny_dataset: str, bucket: str, tmp_path: Path) -> None:
    storage.write(f"{bucket}/one.yaml", b"model: {lr: 0.0125}")
    storage.write(f"{bucket}/two.yaml", b"name: named_there")
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--config", f"{bucket}/one.yaml")
    assert main([*words, f"--config={bucket}/two.yaml"]) == 0
    config = yaml.safe_load(storage.read(f"{tmp_path}/named_there/config.yaml"))
    assert config["model"]["lr"] == 0.0125


def test_a_run_ended_by_sigterm_says_so_and_goes_on_where_it_was(
    tiny_dataset: str, tmp_path: Path
) -> None:
    root, many = str(tmp_path), ["--trainer.max_epochs", "100000"]
    command = [sys.executable, "-m", "dogbreed", *fit_words(tiny_dataset, root, "run", *many)]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as fit:
        assert fit.stdout is not None
        for line in fit.stdout:
            if line.startswith("epoch 1/") and not any(x.startswith("epoch") for x in lines):
                fit.send_signal(signal.SIGTERM)
            lines.append(line)
    assert fit.returncode == 143
    hint = f"go on with: dogbreed fit --resume last --run_root {root} --name run\n"
    assert lines[-1] == f"ended by SIGTERM; {hint}"
    run = Run(f"{root}/run")
    assert run.read()["state"] == "preempted"
    assert storage.exists(run.checkpoint("last"))
    epochs = len(history(run)) + 2

    words = fit_words(tiny_dataset, root, "run", "--resume", "last")
    assert main([*words, "--trainer.max_epochs", str(epochs)]) == 0
    about = run.read()
    assert about["state"] == "done"
    assert [entry["from"] for entry in about["resumed"]] == [run.checkpoint("last")]
    assert [int(row["epoch"]) for row in history(run)] == list(range(epochs))


def test_sigterm_in_mid_epoch_saves_where_the_run_is(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = len(Manifest.open(tiny_dataset).rows_of("train"))
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--data.batch_size", "4")
    assert main([*words, "--name", "whole"]) == 0
    term = [f"--trainer.callbacks+={TermAt.__module__}.TermAt"]
    assert main([*words, *term, f"--trainer.callbacks.samples={rows + 8}"]) == 143
    assert capsys.readouterr().out.endswith(" --name run\n")
    run = Run(f"{tmp_path}/run")
    assert run.read()["state"] == "preempted"
    last = torch.load(run.checkpoint("last"), weights_only=True)
    assert rows + 8 <= last["samples_seen"] < 2 * rows
    assert len(history(run)) == 1
    assert main([*words, "--resume", "last", "--trainer.callbacks", "null"]) == 0
    assert history(run) == history(Run(f"{tmp_path}/whole"))
