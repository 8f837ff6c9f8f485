"""Whole jobs: asked for by `submit` and `gcloud`, run by the double of Vertex AI, on gs://."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.cloud import vertex
from dogbreed.runs import Run
from tests.doubles.gcs import FakeGCS
from tests.doubles.secret_manager import FakeSecretManager
from tests.doubles.vertex import STARTS, FakeVertex

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, gcs: FakeGCS) -> Iterator[FakeVertex]:
    """Let this process, and all that it starts, find the doubles."""
    monkeypatch.setattr(vertex, "POLL", 1.0)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with FakeVertex() as double:
        for name, value in double.env.items():
            monkeypatch.setenv(name, value)
        yield double


def fit(data: str, *more: str) -> list[str]:
    words = f"fit --data.root {data} --model.backbone test_convnext --model.weights none"
    words += " --data.image_size 32 --data.workers 0 --data.batch_size 4 --trainer.accelerator cpu"
    return [*words.split(), "--trainer.max_epochs", "3", "--name", "exp1", *more]


def submitted(bucket: str, words: list[str], *more: str) -> int:
    job = str(REPOSITORY / "configs/vertex/cpu.yaml")
    return main(["submit", "--job", job, "--bucket", bucket, *more, "--", *words])


def test_two_machines_of_which_one_is_taken_back_finish_where_the_model_is_asked_for(
    service: FakeVertex,
    gcs: FakeGCS,
    bucket: str,
    tiny_dataset: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    data = gcs.bucket(folder=Path(tiny_dataset))
    create = service._create

    def create_and_take_one_back(parent: str, body: Any) -> Any:
        made = create(parent, body)
        service.jobs["1000"].preempt(0, "epoch 1/3")
        return made

    monkeypatch.setattr(service, "_create", create_and_take_one_back)
    logger = "--trainer.logger+=WandbLogger --trainer.logger.offline=true"
    with FakeSecretManager(wandb=KEY) as secrets:
        for name, value in secrets.env.items():
            monkeypatch.setenv(name, value)
        words = fit(data, *logger.split())
        status = submitted(bucket, words, "--nodes", "2", "--wandb_secret", "wandb")
    job = service.jobs["1000"]
    log = job.log()
    assert status == 0, log
    assert job.attempts == [[143, 143], [0, 0]]
    assert log.count("epoch 1/3") == log.count("epoch 3/3") == 1
    assert "ended by SIGTERM" in log

    run = Run(f"{bucket}/runs/exp1")
    about = run.read()
    assert about["state"] == "done"
    assert [entry["from"] for entry in about["resumed"]] == [run.checkpoint("last")]
    assert about["device"] == "2 x cpu"
    model = f"{job.job.job_spec.base_output_directory.output_uri_prefix}/model"
    assert package.read(model).weights()
    assert not storage.exists(run.path("FAILED"))
    assert [row.split(",")[0] for row in storage.read(run.path("metrics.csv")).decode().split()][
        1:
    ] == ["0", "1", "2"]

    # W&B's key was read by each machine, and is nowhere but in their processes.
    assert len([path for _, path, _ in secrets.requests if ":access" in path]) == 4
    told = capfd.readouterr()
    everything = [log, told.out, told.err, str(job.job), str(service.requests)]
    everything += [
        storage.read(f"{run.url}/{name}").decode("latin1") for name, _ in storage.find(run.url)
    ]
    everything += [path.read_bytes().decode("latin1") for path in _files(job.folder)]
    assert len(everything) > 25
    assert [text[:200] for text in everything if KEY in text] == []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_job_that_fails_for_good_tries_once_and_ends_each_further_start_at_once(
    service: FakeVertex, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert submitted(bucket, fit(f"{bucket}/nothing-here")) == 1
    job = service.jobs["1000"]
    assert job.attempts == [[2], *[[1]] * (STARTS - 1)]
    reason = storage.read(f"{bucket}/runs/exp1/FAILED").decode().strip()
    assert f"{bucket}/nothing-here" in reason
    assert job.log().count(f"dogbreed fit: error: {reason} (delete ") == STARTS - 1
    assert "Replicas exited with status" in capfd.readouterr().err


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud")
def test_what_a_dry_run_prints_is_taken_and_run_by_gcloud(
    service: FakeVertex,
    gcs: FakeGCS,
    bucket: str,
    tiny_dataset: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    data = gcs.bucket(folder=Path(tiny_dataset))
    assert submitted(bucket, fit(data), "--dry_run") == 0
    said = capfd.readouterr().out
    (tmp_path / "job.yaml").write_text(said)
    config, create = (line.removeprefix("# ") for line in said.splitlines()[:2])
    fit_words = shlex.split(config.split(" | ")[0])
    parsing = subprocess.run([sys.executable, "-m", *fit_words], capture_output=True, check=False)
    assert parsing.returncode == 0, parsing.stderr.decode()
    storage.write(shlex.split(config)[-1], parsing.stdout)
    made = subprocess.run(
        shlex.split(create.replace("THIS_FILE", str(tmp_path / "job.yaml"))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert service.jobs["1000"].wait() == "SUCCEEDED", service.jobs["1000"].log()
    asked = service.jobs["1000"].job
    assert (asked.display_name, asked.labels["run"]) == ("exp1", "exp1")
    assert package.read(f"{bucket}/runs/exp1/model").model["run"] == "exp1"
    listed = subprocess.run(
        ["gcloud", "ai", "custom-jobs", "list", "--region", "us-central1", "--format", "yaml"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert yaml.safe_load(listed.stdout)["state"] == "JOB_STATE_SUCCEEDED"
