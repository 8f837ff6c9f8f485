"""The verb `submit`, against doubles of Vertex AI and of the bucket."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.cloud import submit as verb
from dogbreed.cloud import vertex
from dogbreed.cloud.submit import placed, resolved
from dogbreed.errors import BadInput
from tests.doubles.vertex import FakeVertex

Service = Callable[..., FakeVertex]
Said = pytest.CaptureFixture[str]
JOBS = sorted(Path(__file__).parents[2].glob("configs/vertex/*.yaml"))


def settings(**changed: Any) -> dict[str, Any]:
    """Give what `fit --print_config` says, as far as it matters here."""
    options = {
        "data": {"root": None, "features": "auto"},
        "model": {"backbone": "test_vit", "weights": "none", "teacher": None},
        "run_root": "runs",
        "name": "exp1",
        "resume": None,
    }
    for name, value in changed.items():
        group, _, key = name.partition("__")
        options[group] = {**options[group], key: value} if key else value  # type: ignore[dict-item]
    return options


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Spare the process that parses the options of fit; its answer may be changed."""
    answer = settings()

    def at_once(words: Sequence[str], nodes: int) -> dict[str, Any]:
        assert words[0] == "fit"
        return {**answer}

    monkeypatch.setattr(verb, "resolved", at_once)
    return answer


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Run a double of which jobs have the states that are given, one for each question."""
    monkeypatch.setattr(vertex, "POLL", 0.0)
    started = []

    def start(*states: str) -> FakeVertex:
        double = FakeVertex(states).__enter__()
        started.append(double)
        for name, value in double.env.items():
            monkeypatch.setenv(name, value)
        return double

    yield start
    for double in started:
        double.__exit__()


def words(bucket: str, *more: str, fit: Sequence[str] = ("fit",)) -> list[str]:
    return ["submit", "--job", str(JOBS[0]), "--bucket", bucket, *more, "--", *fit]


def test_options_of_fit_are_parsed_as_fit_does() -> None:
    config = resolved(["fit", "--config", "configs/quickstart.yaml", "--name", "exp1"], nodes=2)
    assert config["name"] == "exp1"
    assert config["trainer"]["num_nodes"] == 2
    assert config["model"]["backbone"] == "mobilenetv3_small_050"


def test_a_wrong_option_of_fit_is_told_before_anything_is_asked_for(
    service: Service, bucket: str, capsys: Said
) -> None:
    double = service("SUCCEEDED")
    assert main(words(bucket, fit=["fit", "--model.lrr", "1"])) == 2
    told = capsys.readouterr().err
    assert told == (
        "dogbreed submit: error: unknown option 'model.lrr', did you mean 'model.lr'?\n"
    )
    assert double.requests == []
    assert list(storage.find(bucket)) == []


@pytest.mark.parametrize("fit", [[], ["--name", "exp1"], ["test"]])
def test_what_is_no_fit_is_refused(fit: list[str]) -> None:
    with pytest.raises(BadInput, match="say after -- what to train"):
        resolved(fit, nodes=1)


def test_a_run_goes_to_the_bucket_and_gets_a_name() -> None:
    assert placed(settings(), "gs://dogs")["run_root"] == "gs://dogs/runs"
    elsewhere = placed(settings(run_root="gs://other/runs/", name=None), "gs://dogs")
    assert elsewhere["run_root"] == "gs://other/runs"
    assert elsewhere["name"].endswith("-test_vit")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (settings(data__root="photos"), "--data.root photos: the job's machines do not see"),
        (settings(model__weights="a.safetensors"), "--model.weights a.safetensors: the job's"),
        (settings(model__teacher="runs/exp0"), "--model.teacher runs/exp0: the job's"),
        (settings(data__features="/tmp/f"), "--data.features /tmp/f: the job's machines"),
        (settings(run_root="mine"), "--run_root mine: the job's machines see no local folder"),
        (settings(resume="best"), "--resume best: a job goes on by itself"),
    ],
)
def test_what_only_this_machine_has_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        placed(config, "gs://dogs")


def test_a_job_is_asked_for_followed_and_its_outcome_is_the_exit_status(
    service: Service,
    bucket: str,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    double = service("PENDING", "PENDING", "RUNNING", "SUCCEEDED")
    more = ["--nodes", "2", "--spot", "--wandb_secret", "wandb-key", "--region", "europe-west4"]
    assert main(words(bucket, *more)) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said[0] == "asking for: 2 x e2-standard-8, spot, at most 2:00:00 h, in dogs, europe-west4"
    )
    assert "W&B's key: the secret projects/dogs/secrets/wandb-key" in said
    assert [line.split(",")[0] for line in said if line[-3:-2] == ":"] == [
        *("pending", "running", "succeeded"),
    ]
    assert said[-1] == (
        f"the run lies in {bucket}/runs/exp1; next: dogbreed test --run {bucket}/runs/exp1"
    )
    assert any(line.startswith("job: https://console.cloud.google.com/") for line in said)
    (method, path, asked), *_ = double.requests
    assert (method, path) == ("POST", "/v1/projects/dogs/locations/europe-west4/customJobs")
    pool = asked["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    assert pool["env"] == [
        {"name": "DOGBREED_WANDB_SECRET", "value": "projects/dogs/secrets/wandb-key"}
    ]
    assert pool["args"][:2] == ["fit", "--config"]
    config = yaml.safe_load(storage.read(pool["args"][2]))
    assert config == parsed | {"run_root": f"{bucket}/runs"}
    kept = yaml.safe_load(storage.read(f"{bucket}/runs/exp1/job/job.yaml"))
    assert kept["scheduling"]["strategy"] == "SPOT"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_job_that_did_not_succeed_is_a_failure(
    state: str,
    service: Service,
    bucket: str,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    service("RUNNING", state)
    assert main(words(bucket)) == 1
    said = capsys.readouterr()
    assert state.lower() in said.out
    assert ("Replicas exited with status 1." in said.err) == (state == "FAILED")


def test_a_job_can_be_started_without_waiting_for_its_end(
    service: Service, bucket: str, parsed: dict[str, Any]
) -> None:
    double = service("RUNNING")
    assert main(words(bucket, "--follow=false")) == 0
    assert [method for method, _, _ in double.requests] == ["POST"]


def test_following_ends_at_once_where_the_job_is_gone(service: Service) -> None:
    double = service("RUNNING")
    gone = "projects/dogs/locations/us-central1/customJobs/77"
    with pytest.raises(BadInput, match="404 .*the job goes on|does not exist"):
        vertex.Jobs("dogs", "us-central1").follow(gone)
    assert len(double.requests) == 1


def test_what_vertex_ai_refuses_is_one_line(
    service: Service,
    bucket: str,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    service("RUNNING")
    assert main(words(bucket, "--project", "others")) == 2
    told = capsys.readouterr().err
    assert told.startswith("dogbreed submit: error: Vertex AI: 403 ")
    assert told.count("\n") == 1


def test_a_name_in_use_is_refused_unless_the_run_is_to_go_on(
    service: Service,
    bucket: str,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    double = service("SUCCEEDED")
    storage.write(f"{bucket}/runs/exp1/run.json", b"{}")
    assert main(words(bucket)) == 2
    assert "there is a run of this name" in capsys.readouterr().err
    assert double.requests == []
    parsed["resume"] = "auto"
    assert main(words(bucket)) == 0
    storage.write(f"{bucket}/runs/exp1/FAILED", b"too few pictures\n")
    assert main(words(bucket)) == 2
    assert f"{bucket}/runs/exp1 failed: too few pictures; choose" in capsys.readouterr().err


@pytest.mark.parametrize("file", JOBS, ids=lambda path: path.stem)
def test_a_dry_run_of_each_job_file_prints_what_gcloud_takes_and_asks_for_nothing(
    file: Path,
    service: Service,
    bucket: str,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    double = service("SUCCEEDED")
    assert main(["submit", "--job", str(file), "--bucket", bucket, "--dry_run", "--", "fit"]) == 0
    said = capsys.readouterr().out
    spec = yaml.safe_load(said)
    assert set(spec) == {
        *("workerPoolSpecs", "scheduling", "serviceAccount", "baseOutputDirectory"),
    }
    assert spec["scheduling"]["timeout"] == "7200s"
    assert "# gcloud ai custom-jobs create --project dogs --region us-central1" in said
    assert double.requests == []
    assert list(storage.find(bucket)) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--timeout", "2"], "--timeout 2: must be a number with a unit, such as 90m or 2h"),
        (["--nodes", "0"], "--nodes 0: must be at least 1"),
        (["--bucket", "mine"], "--bucket mine: the job's machines see no local folder"),
        (["--machne", "x"], "unknown option 'machne', did you mean 'machine'?"),
    ],
)
def test_a_wrong_option_of_the_job_is_one_line(
    more: list[str],
    told: str,
    service: Service,
    parsed: dict[str, Any],
    capsys: Said,
) -> None:
    service("SUCCEEDED")
    assert main(words("gs://dogs", *more)) == 2
    assert told in capsys.readouterr().err
