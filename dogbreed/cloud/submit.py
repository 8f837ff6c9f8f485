"""`dogbreed submit`: the verb."""

import datetime
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from dogbreed import __version__, storage
from dogbreed.cloud.secrets import WANDB_SECRET
from dogbreed.cloud.spec import Job, message
from dogbreed.errors import BadInput
from dogbreed.runs import FAILED_FILE, Run

JOB_FOLDER = "job"
"""Below the run's directory: the settings that a job was given, and what was asked for."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WORDS = {"auto", "imagenet", "none"}  # in place of a path


def submit(
    fit: Sequence[str] = (),
    project: str | None = None,
    region: str = "us-central1",
    bucket: str | None = None,
    image: str | None = None,
    service_account: str | None = None,
    machine: str = "e2-standard-8",
    accelerator: str | None = None,
    accelerators: int = 1,
    nodes: int = 1,
    spot: bool = False,
    timeout: str = "2h",
    disk_gb: int = 100,
    wandb_secret: str | None = None,
    tensorboard: str | None = None,
    labels: dict[str, str] | None = None,
    follow: bool = True,
    dry_run: bool = False,
) -> int:
    """Train on Vertex AI.

    dogbreed submit --job configs/vertex/cpu.yaml -- fit --config configs/mobilenet.yaml --name exp1

    Options of fit are checked here, as the container will read them, before anything is asked for.
    The job's settings are kept in the run's directory, below job/. A machine that is taken back or
    fails is replaced, and the run goes on from its last checkpoint. Ctrl-C ends the watching alone.
    The exit status is the job's: 0 done, 1 failed or cancelled.

    Args:
        fit: after --, the command as on this machine: fit and its options. --run_root and --name
            say where the run goes; by default it is gs://BUCKET/runs and the time.
        project: Google Cloud's id of the project; by default that of $GOOGLE_CLOUD_PROJECT or of
            the credentials.
        region: where the machines stand: best where the bucket is.
        bucket: gs://… for runs, by default gs://PROJECT-dogbreed, as cloudbuild/setup.sh makes it.
        image: the container's; by default the newest that cloudbuild/train.yaml has made.
        service_account: whose rights the container has; by default dogbreed-train of the project.
        machine: Compute Engine's name of a machine.
        accelerator: Vertex AI's name of an accelerator, such as NVIDIA_L4.
        accelerators: how many each machine has; each is a process of its own.
        nodes: machines.
        spot: use spare machines, which cost a third or less and may be taken back at any time.
        timeout: the longest that it may take, such as 90m or 2h.
        disk_gb: size of each machine's disk.
        wandb_secret: name of the secret in Secret Manager that holds W&B's key.
        tensorboard: resource name of a TensorBoard instance: projects/…/tensorboards/….
        labels: further labels, for bills.
        follow: wait for the end; else only start it.
        dry_run: ask for nothing, and print what `gcloud ai custom-jobs create --config` takes.
    """
    project = project or _project()
    bucket = storage.normal(bucket or f"gs://{project}-dogbreed")
    if storage.is_local(bucket):
        raise BadInput(f"--bucket {bucket}: the job's machines see no local folder; give gs://…")
    if nodes < 1:
        raise BadInput(f"--nodes {nodes}: must be at least 1")
    config = placed(resolved(fit, nodes), bucket)
    run = Run(storage.join(config["run_root"], config["name"]))
    secret = wandb_secret
    if secret and not secret.startswith("projects/"):
        secret = f"projects/{project}/secrets/{secret}"
    job = Job(
        name=config["name"],
        image=image or f"{region}-docker.pkg.dev/{project}/dogbreed/train:latest",
        args=["fit", "--config", run.path(JOB_FOLDER, "config.yaml"), "--resume", "auto"],
        env={WANDB_SECRET: secret} if secret else {},
        output=run.url,
        service_account=service_account or f"dogbreed-train@{project}.iam.gserviceaccount.com",
        machine=machine,
        accelerator=accelerator,
        accelerators=accelerators,
        nodes=nodes,
        spot=spot,
        timeout=_seconds(timeout),
        disk_gb=disk_gb,
        tensorboard=tensorboard,
        labels={"dogbreed": _label(__version__), "run": _label(config["name"])} | (labels or {}),
    )
    asked = message(job.custom_job())
    spec = yaml.safe_dump(job.spec(), sort_keys=False)
    if dry_run:
        print(_by_hand(job, project, region, list(fit)) + spec, end="")
        return 0
    _not_begun(run, config["resume"])
    from dogbreed.cloud.vertex import Jobs

    jobs = Jobs(project, region)
    print(_summary(job, project, region, config), flush=True)
    storage.write(run.path(JOB_FOLDER, "config.yaml"), yaml.safe_dump(config).encode())
    storage.write(run.path(JOB_FOLDER, "job.yaml"), spec.encode())
    name = jobs.create(asked)
    print(f"submitted: {name}")
    for what, url in jobs.links(name).items():
        print(f"{what}: {url}")
    sys.stdout.flush()
    if not follow:
        return 0
    try:
        status = jobs.follow(name)
    except KeyboardInterrupt:
        print(f"\nthe job goes on; end it with: gcloud ai custom-jobs cancel {name}")
        raise
    if status == 0:
        print(f"the run lies in {run.url}; next: dogbreed test --run {run.url}")
    return status


def _project() -> str:
    """The project that the environment or the credentials name."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    for variable in ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"):
        if found := os.environ.get(variable):
            return found
    try:
        found = google.auth.default()[1]
    except DefaultCredentialsError:
        found = None
    if not found:
        raise BadInput("no project: give --project, or gcloud auth application-default login")
    return found


def resolved(words: Sequence[str], nodes: int) -> dict[str, Any]:
    """All settings of a fit, as a process of its own parses them.

    Args:
        words: `fit` and its options.
        nodes: machines that it will run on.

    Raises:
        BadInput: it does not parse.
    """
    if list(words[:1]) != ["fit"]:
        raise BadInput("say after -- what to train: dogbreed submit --job … -- fit --config …")
    command = [sys.executable, "-m", "dogbreed", *words, "--trainer.num_nodes", str(nodes)]
    # Where this runs in a job itself, that one's place is not the new one's.
    env = {name: value for name, value in os.environ.items() if name != "CLOUD_ML_JOB_ID"}
    done = subprocess.run(
        [*command, "--print_config"], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise BadInput(last.removeprefix("dogbreed fit: error: "))
    config: dict[str, Any] = yaml.safe_load(done.stdout)
    return config


def placed(config: dict[str, Any], bucket: str) -> dict[str, Any]:
    """The settings with the run in a bucket and a name.

    Args:
        config: all settings of a fit.
        bucket: `gs://…`, for runs whose place was left open.

    Raises:
        BadInput: they need what only this machine has.
    """
    if config["resume"] not in {None, "auto"}:
        raise BadInput(
            f"--resume {config['resume']}: a job goes on by itself; to begin with a run's weights"
            " say --model.weights RUN"
        )
    given = {f"data.{name}": config["data"][name] for name in ("root", "features")}
    given |= {f"model.{name}": config["model"][name] for name in ("weights", "teacher")}
    for option, value in given.items():
        if value and value not in _WORDS and storage.is_local(value):
            raise BadInput(
                f"--{option} {value}: the job's machines do not see this one's files; copy it to"
                f" the bucket: gcloud storage cp -r {value} {bucket}/"
            )
    root = f"{bucket}/runs" if config["run_root"] == "runs" else storage.normal(config["run_root"])
    if storage.is_local(root):
        raise BadInput(f"--run_root {root}: the job's machines see no local folder; give gs://…")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    name = config["name"] or f"{stamp}-{config['model']['backbone']}"
    return config | {"run_root": root, "name": name}


def _not_begun(run: Run, resume: str | None) -> None:
    """Raises BadInput where a run of this name is there already, unless it is to go on."""
    if storage.exists(run.path(FAILED_FILE)):
        reason = storage.read(run.path(FAILED_FILE)).decode().strip()
        raise BadInput(f"{run.url} failed: {reason}; choose another --name, or delete FAILED there")
    if run.exists and resume != "auto":
        raise BadInput(
            f"{run.url}: there is a run of this name; choose another --name, or go on with"
            " --resume auto"
        )


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found or not int(found[1]):
        raise BadInput(f"--timeout {text}: must be a number with a unit, such as 90m or 2h")
    return int(found[1]) * _UNITS[found[2]]


def _label(text: str) -> str:
    """`text` in the letters that a label's value may have."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _summary(job: Job, project: str, region: str, config: dict[str, Any]) -> str:
    with_it = f" with {job.accelerators} x {job.accelerator}" if job.accelerator else ""
    lines = {
        "asking for": f"{job.nodes} x {job.machine}{with_it}{', spot' if job.spot else ''},"
        f" at most {datetime.timedelta(seconds=job.timeout)} h, in {project}, {region}",
        "image": job.image,
        "as": job.service_account,
        "to train": f"{config['model']['backbone']} on"
        f" {config['data']['root'] or 'the embedded sample'}",
        "run": job.output,
    }
    if job.env:
        lines["W&B's key"] = f"the secret {job.env[WANDB_SECRET]}"
    return "\n".join(f"{what}: {value}" for what, value in lines.items())


def _by_hand(job: Job, project: str, region: str, words: list[str]) -> str:
    """What to type to do by hand what a dry run has not done, as comments."""
    labels = ",".join(f"{name}={value}" for name, value in job.labels.items())
    config = shlex.join(["dogbreed", *words, "--print_config"])
    create = ["gcloud", "ai", "custom-jobs", "create", "--project", project, "--region", region]
    create += ["--display-name", job.name, "--labels", labels, "--config", "THIS_FILE"]
    return f"# {config} | gcloud storage cp - {shlex.quote(job.args[2])}\n# {shlex.join(create)}\n"
