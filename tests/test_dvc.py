"""dvc.yaml: pictures to scores without a network, kept in a bucket, fetched by somebody else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed.data.manifest import Manifest
from tests.doubles.gcs import FakeGCS

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
SMALL = {
    "--per_class 250": "--per_class 40",
    "fit: --config configs/quickstart.yaml": (
        "fit: --config configs/quickstart.yaml --trainer.max_epochs 1 --data.workers 0"
    ),
}


def run(folder: Path, *words: str) -> str:
    """Run a tool as a user would, with this environment's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "DVC_NO_ANALYTICS": "1", "XDG_CONFIG_HOME": str(folder / ".config")}
    done = subprocess.run(
        words, cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a repository of what DVC needs of this one, with less to do."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore", "configs/quickstart.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    stages = (ROOT / "dvc.yaml").read_text()
    for found, small in SMALL.items():
        assert stages.count(found) == 1
        stages = stages.replace(found, small)
    (folder / "dvc.yaml").write_text(stages)
    run(folder, "git", "init", "--quiet")
    return folder


def test_the_sample_goes_from_pictures_to_scores_and_through_a_bucket(
    project: Path, gcs: FakeGCS, tmp_path: Path
) -> None:
    run(project, "dvc", "repro")
    scores = json.loads((project / "runs/dvc/metrics.json").read_text())
    assert {"val", "test"} == set(scores)
    assert "Data and pipelines are up to date" in run(project, "dvc", "repro")
    assert "test.top1" in run(project, "dvc", "metrics", "show")

    gcs.bucket("my-bucket")
    run(project, "dvc", "push")
    run(project, "git", "add", "--all")
    run(project, "git", "-c", "user.name=x", "-c", "user.email=x@x.invalid", "commit", "-qm", "x")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull")
    ours, theirs = (Manifest.open(str(folder / "data/dogs")) for folder in (project, clone))
    assert ours.version == theirs.version
    table = run(clone, "dogbreed", "predict", "--model", "runs/dvc/model", "--data", "data/dogs")
    assert len(table.splitlines()) == 1 + scores["test"]["n"]
    assert "Data and pipelines are up to date" in run(clone, "dvc", "repro")


def test_another_setting_repeats_what_depends_on_it_alone(project: Path) -> None:
    run(project, "dvc", "repro")
    stages = project / "dvc.yaml"
    stages.write_text(
        stages.read_text().replace("--trainer.max_epochs 1", "--trainer.max_epochs 2")
    )
    said = run(project, "dvc", "repro")
    assert "Stage 'prepare' didn't change, skipping" in said
    assert "Running stage 'fit'" in said
    assert "Running stage 'test'" in said
