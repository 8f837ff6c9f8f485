"""What a sweep looks through, and the same space for W&B and Vertex AI."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dogbreed.cli import main
from dogbreed.errors import BadInput
from dogbreed.sweep.export import vertex_tuning, wandb_sweep
from dogbreed.sweep.space import Parameter, Space

SPACE = Space(
    "val/log_loss",
    (
        Parameter("model.lr", 1e-4, 1e-1, log=True),
        Parameter("trainer.max_epochs", 2, 30),
        Parameter("data.batch_size", values=(64, 128)),
        Parameter("model.freeze", values=("none", "backbone")),
    ),
)


def written(folder: Path, **told: Any) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(told))
    return str(path)


def test_the_space_of_the_configs_is_read() -> None:
    space = Space.read("configs/sweep.yaml")
    assert (space.metric, space.mode) == ("val/log_loss", "min")
    assert space.parameters[0] == Parameter("model.lr", 1e-3, 2e-2, log=True)
    assert space.parameters[-1].values == (128, 256, 512)


def test_numbers_that_yaml_takes_for_text_are_numbers_and_whole_bounds_make_whole_numbers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "metric: val/top1\nparameters:\n  a.b: {low: 1e-3, high: 1}\n  c: {low: 1, high: 2}"
    )
    space = Space.read(str(path))
    assert space.mode == "max"
    assert [of.low for of in space.parameters] == [0.001, 1]
    assert [of.whole for of in space.parameters] == [False, True]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"metric": "val/top"}, "metric 'val/top': no such score"),
        ({"parameter": {}}, "'parameter' is none of"),
        ({"parameters": {}}, "there are no parameters"),
        ({"parameters": {"--lr": {"low": 1, "high": 2}}}, "no option of fit"),
        ({"parameters": {"lr": {"low": 1}}}, "lr: say {low"),
        ({"parameters": {"lr": {"low": 1, "high": 2, "lgo": 1}}}, "'lgo'"),
        ({"parameters": {"lr": {"low": 2, "high": 1}}}, "low 2 must lie below high 1"),
        ({"parameters": {"lr": {"low": 0, "high": 1, "log": True}}}, "low must lie above 0"),
        ({"parameters": {"lr": {"low": "few", "high": 1}}}, "low 'few': must be a number"),
        ({"parameters": {"lr": {"values": []}}}, "values are a list"),
    ],
)
def test_what_is_wrong_with_a_space_is_said_in_one_line(
    told: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as error:
        Space.read(written(tmp_path, **told))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_wandb_gets_the_command_and_the_same_bounds(tmp_path: Path) -> None:
    space = written(
        tmp_path,
        parameters={"model.lr": {"low": 1e-4, "high": 0.1, "log": True}, "a": {"values": [1, 2]}},
    )
    out = tmp_path / "wandb.yaml"
    words = ["--space", space, "--trials", "7", "--export", "wandb", "--out", str(out)]
    assert main(["sweep", *words, "--", "fit", "--config", "configs/head.yaml"]) == 0
    told = yaml.safe_load(out.read_text())
    assert told["parameters"]["model.lr"] == {
        "distribution": "log_uniform_values",
        "min": 1e-4,
        "max": 0.1,
    }
    assert told["parameters"]["a"] == {"values": [1, 2]}
    assert told["command"][:4] == ["dogbreed", "fit", "--config", "configs/head.yaml"]
    assert told["command"][-1] == "${args}"
    assert "--trainer.logger=WandbLogger" in told["command"]
    assert (told["run_cap"], told["metric"]["goal"]) == (7, "minimize")
    assert told["metric"]["name"] == "best/val/log_loss"
    whole = yaml.safe_load(wandb_sweep(SPACE, [], 3, "s"))["parameters"]["trainer.max_epochs"]
    assert whole == {"min": 2, "max": 30}
    odd = Space("val/top1", (Parameter("x", values=(True, None, [0, 0.2], "text", 3)),))
    values = yaml.safe_load(wandb_sweep(odd, [], 3, "s"))["parameters"]["x"]["values"]
    assert values == ["true", "null", "[0, 0.2]", "text", 3]  # as fit takes them


JOB = """# dogbreed fit --print_config | gcloud storage cp - gs://b/runs/x/job/config.yaml
workerPoolSpecs:
- containerSpec:
    args: [fit, --config, gs://b/runs/x/job/config.yaml]
    imageUri: example/train
  machineSpec: {machineType: e2-standard-8}
  replicaCount: '1'
baseOutputDirectory: {outputUriPrefix: gs://b/runs/x}
"""


def test_vertex_gets_a_tuning_job_whose_parameters_fit_understands(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    text = vertex_tuning(SPACE, 20, 4, "heads", str(job))
    assert text.startswith("# dogbreed fit --print_config")
    assert "--max-trial-count 20 --parallel-trial-count 4" in text
    told = yaml.safe_load(text)
    study = told["studySpec"]
    assert study["metrics"] == [{"metricId": "val_log_loss", "goal": "MINIMIZE"}]
    parameters = {of.pop("parameterId"): of for of in study["parameters"]}
    assert parameters["model__lr"]["scaleType"] == "UNIT_LOG_SCALE"
    assert parameters["data__batch_size"]["discreteValueSpec"] == {"values": [64.0, 128.0]}
    assert parameters["model__freeze"]["categoricalValueSpec"] == {"values": ["none", "backbone"]}
    args = told["trialJobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]
    assert args[-2:] == ["--checkpoints.monitor=val/log_loss", "--checkpoints.mode=min"]
    protocol = pytest.importorskip("google.cloud.aiplatform_v1", reason="extra cloud")
    body = {"displayName": "heads", "maxTrialCount": 20, "parallelTrialCount": 4, **told}
    read = protocol.HyperparameterTuningJob.from_json(json.dumps(body), ignore_unknown_fields=False)
    assert len(read.study_spec.parameters) == len(SPACE.parameters)


def test_vertex_without_a_job_says_what_prints_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--export", "vertex", "--", "fit"]) == 2
    assert "dogbreed submit --dry_run" in capsys.readouterr().err
    other = written(tmp_path, model={})
    assert main(["sweep", "--export", "vertex", "--job", other, "--", "fit"]) == 2
    assert "no job that" in capsys.readouterr().err
