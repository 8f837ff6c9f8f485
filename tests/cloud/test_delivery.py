"""Builds, images, workflows and the set-up, as far as they can be read without the cloud."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.devtools import cloudbuild_v1
from google.protobuf.json_format import ParseDict, ParseError

from dogbreed import __version__, package
from tests.doubles.rest import RestDouble
from tests.test_package import MODEL, WEIGHTS

ROOT = Path(__file__).parents[2]
BUILDS = sorted((ROOT / "cloudbuild").glob("*.yaml"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

# Notes its words, and knows again what it has made. In sh: it starts forty times in a set-up.
RECORDER = r"""#!/bin/sh
printf '%s\037' "$@" >> "$RECORDED/asked"; echo >> "$RECORDED/asked"
case "$*" in *projectNumber*) echo 123456; exit ;; esac
kind=
case "$NEW $*" in yes*dogbreed-serve@*serviceAccountUser*) # known from the second time on
    [ -e "$RECORDED/known" ] || { : > "$RECORDED/known"; exit 1; } ;;
esac
while [ $# -gt 0 ]; do
    made=$RECORDED/$(echo "$kind ${2%%@*}" | tr / _) # an account is described by its address
    case $1 in
    describe) [ -e "$made" ]; exit ;;
    create | create-oidc) [ ! -e "$made" ] || exit 1; : > "$made"; exit ;;
    esac
    kind="$kind $1"
    shift
done
"""


def build(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


@pytest.mark.parametrize("path", BUILDS, ids=lambda path: path.stem)
def test_a_build_is_one_that_cloud_builds_protocol_knows(path: Path) -> None:
    parsed = cloudbuild_v1.Build()
    ParseDict(build(path), cloudbuild_v1.Build.pb(parsed))
    assert parsed.options.logging.name == "CLOUD_LOGGING_ONLY"
    assert "dogbreed-build@" in parsed.service_account
    assert parsed.timeout.total_seconds() <= 3600
    with pytest.raises(ParseError):
        ParseDict(build(path) | {"time_outt": "1s"}, cloudbuild_v1.Build.pb(cloudbuild_v1.Build()))


@pytest.mark.parametrize("path", BUILDS, ids=lambda path: path.stem)
def test_each_substitution_of_a_build_is_declared_and_used(path: Path) -> None:
    about = build(path)
    text = path.read_text().split("\nsteps:")[1]
    used = set(re.findall(r"(?<!\$)\$\{(_\w+)\}", text))
    assert used == set(about["substitutions"])


def built(name: str, folder: Path, **substitutions: str) -> list[list[str]]:
    """Run the step `build` as Cloud Build would, with a double of docker: what that was asked."""
    (folder / "docker").write_text("#!/bin/sh\nprintf '%s\\037' \"$@\" >> asked; echo >> asked\n")
    (folder / "docker").chmod(0o755)
    about = build(ROOT / f"cloudbuild/{name}.yaml")
    values = {"BUILD_ID": "1f", "PROJECT_ID": "dogs", "LOCATION": "us-central1"}
    values |= about["substitutions"] | substitutions
    (step,) = (one for one in about["steps"] if one["id"] == "build")
    script = step["args"][-1]
    for _ in range(2):  # substitutions hold substitutions
        script = re.sub(r"(?<!\$)\$\{(\w+)\}", lambda found: values[found[1]], script)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    words = ["bash", *step["args"][:-1], script.replace("$$", "$")]
    subprocess.run(words, cwd=folder, env=env, check=True)
    return [x.split("\037")[:-1] for x in (folder / "asked").read_text().split("\n")[:-1]]


@pytest.mark.parametrize("name", ["serve", "train"])
def test_an_image_is_told_commit_and_versions_and_kept_under_its_name(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "dogbreed").mkdir()
    shutil.copy(ROOT / "dogbreed/__init__.py", tmp_path / "dogbreed")
    package.write(str(tmp_path / "model"), MODEL, WEIGHTS)
    first, *others = built(name, tmp_path, _COMMIT="abc")
    told = dict(x.split("=", 1) for x in first if "=" in x)
    assert (told["COMMIT"], told["VERSION"]) == ("abc", __version__)
    if name == "serve":
        assert told["DATA_VERSION"] == MODEL["data"]["version"]
    image = f"us-central1-docker.pkg.dev/dogs/dogbreed/{name}"
    tags = [f"{image}:{'1f' if name == 'serve' else 'abc'}", f"{image}:latest"]
    assert [word for word in first if word.startswith(f"{image}:")] == [f"{image}:latest", *tags]
    assert others == ([["push", tag] for tag in tags] if name == "serve" else [])


def test_workflows_begin_without_rights_and_name_what_they_run_by_commit() -> None:
    for path in WORKFLOWS:
        text, about = path.read_text(), yaml.safe_load(path.read_text())
        assert about["permissions"] == {"contents": "read"}, path
        assert "concurrency" in about, path
        for uses in re.findall(r"uses: (\S+)(.*)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses[0]), (path, uses)
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", uses[1]), (path, uses)
        federated = [job for job in about["jobs"].values() if "google-github" in str(job)]
        for job in about["jobs"].values():
            writes = {k for k, v in job.get("permissions", {}).items() if v == "write"}
            assert ("id-token" in writes) == (job in federated), path


def test_branches_are_protected_by_every_check_of_continuous_integration() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    told = {f"tests ({os_}, {python})" for os_ in matrix["os"] for python in matrix["python"]}
    asked = re.search(r"<< END\n(.*?)\nEND", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert asked
    protection = json.loads(asked[1])
    demanded = {name for name, job in jobs.items() if not job.get("continue-on-error")}
    assert set(protection["required_status_checks"]["contexts"]) == demanded - {"tests"} | told


@pytest.mark.parametrize("name", ["build", "serve", "train"])
def test_what_images_are_built_from_has_hashes_and_holds_the_direct_dependencies(name: str) -> None:
    lock = (ROOT / f"docker/{name}.lock").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==\S+(.*)$", lock, re.MULTILINE)
    assert len(pinned) > 4
    assert all(rest.endswith("\\") for _, rest in pinned)
    assert lock.count("--hash=sha256:") >= len(pinned)
    wanted = re.findall(r"^[a-z0-9-]+", (ROOT / f"docker/{name}.in").read_text(), re.MULTILINE)
    assert set(wanted) <= {package for package, _ in pinned}


def test_the_image_that_serves_holds_no_torch() -> None:
    lock = (ROOT / "docker/serve.lock").read_text()
    assert not re.search(r"^(torch|lightning|timm|nvidia-)", lock, re.MULTILINE)


class Setup:
    """Runs the set-up against a recording double of gcloud."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "gcloud").write_text(RECORDER)
        (folder / "sleep").write_text("#!/bin/sh\n")
        for name in ("gcloud", "sleep"):
            (folder / name).chmod(0o755)

    def run(self, *words: str, new: str = "") -> tuple[list[list[str]], str]:
        """What gcloud was asked for, and what was printed; new: accounts are not known at once."""
        asked = self.folder / "asked"
        asked.unlink(missing_ok=True)
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "RECORDED": str(self.folder)}
        env["NEW"] = new
        command = ["bash", str(ROOT / "cloudbuild/setup.sh"), "--project", "dogs", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = asked.read_text().split("\n")[:-1] if asked.exists() else []
        return [line.split("\037")[:-1] for line in lines], done.stdout


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Put the double where the script finds it."""
    return Setup(tmp_path)


def test_the_set_up_makes_everything_once(setup: Setup) -> None:
    def made(asked: list[list[str]]) -> list[str]:
        return [" ".join(x) for x in asked if {"create", "create-oidc"} & set(x)]

    first, said = setup.run("--github", "me/dogs")
    assert len(made(first)) == 10  # 2 buckets, 1 repository, 4 accounts, 1 secret, 2 of federation
    assert "GCP_PROVIDER  projects/123456/locations/global/" in said
    second, _ = setup.run("--github", "me/dogs")
    assert made(second) == []
    describing = [x for x in first if "describe" in x]
    assert [x for x in second if "describe" in x] == describing


def test_an_account_that_nobody_knows_yet_is_asked_for_again(setup: Setup) -> None:
    asked, _ = setup.run(new="yes")
    acts = [x for x in asked if x[-2] == "roles/iam.serviceAccountUser"]
    assert acts[0] == acts[1]


def test_a_dry_run_of_the_set_up_asks_for_nothing_and_prints_what_it_would(setup: Setup) -> None:
    asked, said = setup.run("--github", "me/dogs", "--dry-run")
    assert asked == []
    printed = [shlex.split(x)[2:] for x in said.splitlines() if x.startswith("+ gcloud")]
    really, _ = setup.run("--github", "me/dogs")
    did = [x[:-1] for x in really if x[-1] == "--quiet"]
    number = [[word.replace("PROJECT_NUMBER", "123456") for word in words] for words in printed]
    assert number == did


def test_the_set_up_gives_no_owner_and_no_editor_of_everything_and_no_key(setup: Setup) -> None:
    asked, _ = setup.run("--github", "me/dogs")
    roles = {x[x.index("--role") + 1] for x in asked if "--role" in x}
    assert not {"roles/owner", "roles/editor", "roles/storage.admin"} & roles
    assert not [x for x in asked if "keys" in x]
    provider = next(x for x in asked if "create-oidc" in x)
    condition = provider[provider.index("--attribute-condition") + 1]
    assert "assertion.repository == 'me/dogs'" in condition


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--project is missing"),
        (["--project", "dogs", "--github", "dogs"], "--github dogs: must be owner/name"),
        (["--projct", "dogs"], "unknown option --projct"),
    ],
)
def test_the_set_up_says_what_is_wrong_with_its_options(words: list[str], told: str) -> None:
    command = ["bash", str(ROOT / "cloudbuild/setup.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr


class FakeBuilds(RestDouble):
    """A double of Cloud Build that takes a build and leaves it alone."""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata"
        build = body | {"id": "1f", "projectId": "dogs", "status": "QUEUED", "logUrl": "https://x"}
        build["name"] = f"{path.removeprefix('/v1/')}/1f"
        return {"name": "operations/1f", "metadata": {"@type": kind, "build": build}}


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud")
@pytest.mark.parametrize("path", BUILDS, ids=lambda path: path.stem)
def test_gcloud_sends_a_build_as_it_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
    command = f"gcloud builds submit --config {path} --project dogs --region us-central1"
    command += " --substitutions _COMMIT=abc --no-source --async"
    with FakeBuilds() as double:
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD", double.endpoint)
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ((asked, sent),) = [one[1:] for one in double.requests if one[0] == "POST"]
    assert asked == "/v1/projects/dogs/locations/us-central1/builds"
    about, parsed = build(path), cloudbuild_v1.Build()
    ParseDict(sent, cloudbuild_v1.Build.pb(parsed))
    assert parsed.substitutions == about["substitutions"] | {"_COMMIT": "abc"}
    assert [list(step.args) for step in parsed.steps] == [step["args"] for step in about["steps"]]


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud")
def test_every_command_of_set_up_and_build_is_one_that_gcloud_knows(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))
    _, said = setup.run("--github", "me/dogs", "--dry-run")
    commands = [line[2:] for line in said.splitlines() if line.startswith("+ gcloud")]
    for path in [*BUILDS, ROOT / "cloudbuild/deploy.sh", *WORKFLOWS]:
        text = re.sub(r"\\\n", " ", path.read_text())
        words = r"gcloud [a-z](?:'[^'\n]*'|[^\n|)'])*?"
        found = re.findall(rf"^ *(?:\w+=\$\()?({words})(?: 2>|[\n|)])", text, re.MULTILINE)
        # `$traffic` is an option or nothing. Folded blocks of YAML go on without a backslash.
        found = [one.replace("$traffic", "") for one in found if " --" in one]
        commands += [re.sub(r"\$\$?\{?\w+\}?", "x", one) for one in found]
    kinds = {" ".join(shlex.split(one)[:4]): one for one in commands}
    for one in kinds.values():
        told = json.loads(
            subprocess.run(
                ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={one}"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        assert [x["error_message"] for x in told if not x["success"]] == [], one
    assert len(kinds) > 15
