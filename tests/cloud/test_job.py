"""fit in a container of Vertex AI, its variables set by hand; with whole jobs: test_e2e.py."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.cloud import secrets
from dogbreed.errors import BadInput, OutOfReach
from dogbreed.runs import Run
from tests.doubles.secret_manager import FakeSecretManager

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make this process a container whose output is the run that is given."""
    monkeypatch.setenv("CLOUD_ML_JOB_ID", "7")
    for name in ("model", "checkpoints", "logs"):
        variable = "TENSORBOARD_LOG" if name == "logs" else name.upper().removesuffix("S")
        monkeypatch.setenv(f"AIP_{variable}_DIR", f"{tmp_path}/runs/first/{name}/")
    spec = {"cluster": {"workerpool0": ["here:1"]}, "task": {"type": "workerpool0", "index": 0}}
    monkeypatch.setenv("CLUSTER_SPEC", json.dumps(spec))
    for name in ("NODE_RANK", "RANK", "WORLD_SIZE", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")  # so that what the job sets is undone
        monkeypatch.delenv(name)
    return Run(f"{tmp_path}/runs/first")


def words(data: str, *more: str) -> list[str]:
    """Words of a fit that takes a tenth of a second, without a place for the run."""
    said = f"fit --data.root {data} --model.backbone test_efficientnet --model.weights none"
    said += " --data.image_size 32 --data.workers 0 --trainer.accelerator cpu"
    return [*said.split(), "--trainer.max_epochs", "1", *more]


def test_one_command_starts_a_run_where_the_model_is_asked_for_and_starts_again(
    job: Run, tiny_dataset: str
) -> None:
    logger = "--trainer.logger TensorBoardLogger --trainer.logger.save_dir logs"
    command = words(tiny_dataset, *logger.split(), "--trainer.max_epochs", "2")
    assert main(command) == 0
    assert storage.exists(os.environ["AIP_MODEL_DIR"] + "model.json")
    assert storage.exists(os.environ["AIP_CHECKPOINT_DIR"] + "last.ckpt")
    assert list(Path(os.environ["AIP_TENSORBOARD_LOG_DIR"]).rglob("events.*"))
    assert main(command) == 0
    assert len(job.read()["resumed"]) == 1
    assert not storage.exists(job.path("FAILED"))


def test_tensorboards_logs_come_whole_to_where_the_job_wants_them(
    job: Run, tiny_dataset: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIP_TENSORBOARD_LOG_DIR", f"{bucket}/logs/")
    monkeypatch.chdir(tmp_path)
    logger = "--trainer.logger TensorBoardLogger --trainer.logger.save_dir logs"
    assert main(words(tiny_dataset, *logger.split(), "--trainer.max_epochs", "3")) == 0
    assert not Path("logs").exists()
    files = [name for name, _ in storage.find(f"{bucket}/logs") if "tfevents" in name]
    storage.download(f"{bucket}/logs/{files[0]}", tmp_path / "events.out.tfevents.1")
    logs = EventAccumulator(str(tmp_path / "events.out.tfevents.1")).Reload()
    assert len(logs.Scalars("val/top1")) == 3


def test_what_fails_for_good_says_so_at_each_further_start_without_trying(
    job: Run, tiny_dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = words(tiny_dataset, "--model.backbone", "mobilenet_v9")
    assert main(wrong) == 2
    reason = storage.read(job.path("FAILED")).decode()
    assert "mobilenet_v9" in reason
    said = capsys.readouterr().err
    assert reason.strip() in said
    assert main(words(tiny_dataset)) == 1
    said = capsys.readouterr().err
    assert said == (
        f"dogbreed fit: error: {reason.strip()} (delete {job.path('FAILED')} to try again)\n"
    )
    assert not job.exists


@pytest.mark.parametrize(
    "error",
    [OSError("the line broke"), RuntimeError("CUDA error"), OutOfReach("no Hub today")],
    ids=repr,
)
def test_what_may_go_better_next_time_leaves_no_mark(
    error: Exception, job: Run, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogbreed.training.DogCLI", lambda *_: (_ for _ in ()).throw(error))
    with contextlib.suppress(type(error)):
        assert main(words(tiny_dataset)) == 2
    assert not storage.exists(job.path("FAILED"))


def test_a_defect_leaves_a_mark_with_its_name(
    job: Run, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect = TypeError("not this")
    monkeypatch.setattr("dogbreed.training.DogCLI", lambda *_: (_ for _ in ()).throw(defect))
    with pytest.raises(TypeError):
        main(words(tiny_dataset))
    assert storage.read(job.path("FAILED")) == b"TypeError: not this\n"


def test_a_trial_tells_its_score_and_lies_in_its_own_directory(
    job: Run, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "3")
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(tmp_path / "tell/metrics"))
    monkeypatch.setenv("AIP_MODEL_DIR", f"{tmp_path}/runs/first/3/model/")
    assert main(words(tiny_dataset, "--lr=0.0125", "--max_epochs=2")) == 0
    run = Run(f"{tmp_path}/runs/first/3")
    assert "lr: 0.0125" in storage.read(run.path("config.yaml")).decode()
    lines = [json.loads(x) for x in (tmp_path / "tell/metrics").read_text().splitlines()]
    assert [line["trial"] for line in lines] == ["3", "3"]
    best = max(float(line["val_top1"]) for line in lines)
    assert best == pytest.approx(run.metrics()["val"]["top1"])


@pytest.fixture
def secret(job: Run, monkeypatch: pytest.MonkeyPatch) -> FakeSecretManager:
    """Name W&B's key to the job, as a secret."""
    with FakeSecretManager(wandb=KEY) as double:
        for name, value in double.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DOGBREED_WANDB_SECRET", "projects/dogs/secrets/wandb")
        yield double


def test_a_secret_is_read_by_name(secret: FakeSecretManager) -> None:
    assert secrets.read("projects/dogs/secrets/wandb") == KEY
    assert secrets.read("projects/dogs/secrets/wandb/versions/latest") == KEY


def test_a_secret_that_arrives_damaged_is_an_error_without_it(secret: FakeSecretManager) -> None:
    secret.damaged = True
    with pytest.raises(OutOfReach, match="its checksum is another") as told:
        secrets.set_wandb_key()
    assert KEY[::-1] not in str(told.value)
    assert "WANDB_API_KEY" not in os.environ


def test_a_secret_that_is_not_there_is_named(secret: FakeSecretManager) -> None:
    with pytest.raises(BadInput, match=r"projects/dogs/secrets/wnb/versions/latest: 404"):
        secrets.read("projects/dogs/secrets/wnb")


def test_a_secret_that_too_many_ask_for_may_be_had_later(secret: FakeSecretManager) -> None:
    secret.busy = True
    with pytest.raises(OutOfReach, match="429"):
        secrets.read("projects/dogs/secrets/wandb")


@pytest.mark.e2e
def test_the_key_is_in_the_process_and_nowhere_else(
    secret: FakeSecretManager, job: Run, tiny_dataset: str, tmp_path: Path
) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from dogbreed.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "assert len(os.environ['WANDB_API_KEY']) == 40\n"
        "print(pathlib.Path('/proc/self/cmdline').read_text())\n"
        "print(pathlib.Path('/proc/self/environ').read_text())\n"
        "sys.exit(status)\n"
    )
    logger = "--trainer.logger WandbLogger --trainer.logger.offline true"
    command = [sys.executable, "-c", code, *words(tiny_dataset, *logger.split())]
    env = os.environ | {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, env=env, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert KEY.encode() not in ended.stdout + ended.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > len(list(Path(job.url).rglob("*"))) > 5  # W&B's own too
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
