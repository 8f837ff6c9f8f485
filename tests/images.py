"""Builds both images with buildah, runs them, and prints their sizes: `nox -s images`.

    python -m tests.images                                          # train, export, serve
    python -m tests.images --images serve --model runs/exp1/model

They do what docker/compose.yaml has them do, against the double of the bucket. Needs no Docker, but
root: on Debian, apt-get install buildah. The base, python:3.11-slim unless said otherwise, must be
there: `buildah pull`, or with --debootstrap it is made of Debian's packages (tests/base_image.py).
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dogbreed import __version__, storage
from dogbreed.data import sample
from tests import base_image
from tests.doubles.gcs import FakeGCS

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/python:3.11-slim"
LIMITS = {"serve": (450, 200)}  # MB without the base: unpacked, compressed
ISOLATION = ["--isolation", "chroot"]  # needs no namespaces of its own
SERVICES = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
RUN = "gs://dogs/runs/walk"  # of compose.yaml

# As `docker run --read-only --tmpfs /tmp`, and each process has the pid of what was started.
READ_ONLY = """
mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs tmpfs "$0/tmp"
mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$@"
"""


def buildah(*words: str) -> str:
    """Run buildah; what it prints."""
    done = subprocess.run(["buildah", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"buildah {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


@functools.cache  # builds take minutes, in which somebody may commit
def commit() -> str:
    """What is checked out, or `unknown`."""
    words = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def data_version(model: Path) -> str:
    """The version of the data that a package's model was trained on."""
    return str(json.loads((model / "model.json").read_text())["data"]["version"])


def build(name: str, base: str, model: Path | None, more: list[str]) -> None:
    """Build an image, `localhost/NAME`, from the sources and the model's folder alone."""
    arguments = {"BASE": base, "COMMIT": commit(), "VERSION": __version__}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("dogbreed", "configs", "docker", "pyproject.toml", "README.md", "LICENSE"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, part))
        shutil.copy(ROOT / ".dockerignore", folder)
        if model:
            shutil.copytree(model, Path(folder, "model"))
            arguments["DATA_VERSION"] = data_version(model)
        # Without --layers: buildah keeps layers also where an ARG or another stage has changed.
        words = ["bud", *ISOLATION, "--pull-never", "--format", "docker", *more]
        words += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        words += ["-f", f"{folder}/docker/{name}.Dockerfile", "-t", f"localhost/{name}", folder]
        started = time.monotonic()
        buildah(*words)
        print(f"{name}: built in {time.monotonic() - started:.0f} s", flush=True)


@contextlib.contextmanager
def container(image: str) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Make a container: its name, its config, its files."""
    name = buildah("from", "--pull-never", "--name", f"check-{uuid.uuid4().hex[:8]}", image)
    try:
        config = json.loads(buildah("inspect", name))["Docker"]["config"]
        yield name, config, Path(buildah("mount", name))
    finally:
        buildah("rm", name)


def sizes(image: str, base: str) -> tuple[float, float]:
    """Megabytes that an image adds to its base: unpacked, and compressed as a registry has it."""

    def unpacked(name: str) -> int:
        with container(name) as (_, _, files):
            counted = subprocess.run(
                ["du", "-s", "--bytes", str(files)], capture_output=True, text=True, check=True
            )
            return int(counted.stdout.split()[0])

    def layers(name: str) -> list[int]:
        with tempfile.TemporaryDirectory() as folder:
            buildah("push", name, f"oci:{folder}:image")
            blobs = Path(folder, "blobs/sha256")
            index = json.loads(Path(folder, "index.json").read_text())
            digest = index["manifests"][0]["digest"].removeprefix("sha256:")
            manifest = json.loads((blobs / digest).read_text())
            return [layer["size"] for layer in manifest["layers"]]

    own = layers(image)[len(layers(base)) :]
    print(f"{image}: layers of {', '.join(f'{size / 1e6:.1f}' for size in own)} MB", flush=True)
    return (unpacked(image) - unpacked(base)) / 1e6, sum(own) / 1e6


def check_labels(config: dict[str, Any], model: Path | None = None) -> None:
    """The image says what it was made from, and its user is not root."""
    assert config["User"] not in {"", "0", "root"}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit()
    assert labels["org.opencontainers.image.version"] == __version__
    if model:
        assert labels["dogbreed.data.version"] == data_version(model)


def ask(url: str, body: bytes | None = None) -> Any:
    """The JSON that is answered."""
    request = urllib.request.Request(url, body, {"Content-Type": "image/jpeg"} if body else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def check_serve(image: str, model: Path, words: list[str], env: dict[str, str]) -> None:
    """The server answers, is healthy, may write nothing but /tmp, and ends on SIGTERM with 0.

    Args:
        image: its name.
        model: the package that it serves.
        words: behind the entry point; none: the image's own.
        env: variables beside the image's own.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with container(image) as (_, config, files):
        check_labels(config, model)
        assert not list(files.glob("opt/dogbreed/lib/python*/site-packages/torch"))

        def read_only(*command: str) -> list[str]:
            variables = [*config["Env"], *(f"{k}={v}" for k, v in env.items()), f"PORT={port}"]
            user = f"--userspec={config['User']}:{config['User']}"
            inside = [user, str(files), "env", "-i", *variables, *command]
            return ["unshare", "--mount", "sh", "-euc", READ_ONLY, str(files), *inside]

        command = read_only(*config["Entrypoint"], *(words or config["Cmd"]))
        touch = subprocess.run(read_only("touch", "/model/x"), capture_output=True, check=False)
        assert b"Read-only file system" in touch.stderr, touch
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                begun = time.monotonic()
                wait_until_ready(url, process)
                print(f"serve: ready after {time.monotonic() - begun:.1f} s", flush=True)
                told = json.dumps(ask(f"{url}/predict", sample.jpeg(3, 5)))
                print(f"serve: /predict answers {told[:160]}", flush=True)
                classes = json.loads((model / "model.json").read_text())["classes"]
                assert any(one["name"] in told for one in classes), told
                kind, *healthy = config["Healthcheck"]["Test"]
                assert kind == "CMD"
                subprocess.run(read_only(*healthy), check=True)
                print("serve: HEALTHCHECK passes", flush=True)
            finally:
                process.terminate()
                process.wait(60)
            output = process.stdout.read().decode() if process.stdout else ""
        assert process.returncode == 0, output
        print("serve: SIGTERM ends it with status 0, on a root that is read-only", flush=True)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Ask until it says so; ends where the server has ended."""
    while True:
        if process.poll() is not None:
            raise SystemExit(process.stdout.read().decode() if process.stdout else "ended")
        refused = contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError)
        with refused, urllib.request.urlopen(f"{url}/ready", timeout=5):
            return
        time.sleep(0.2)


def check_train(image: str, env: dict[str, str], folder: Path) -> Path:
    """The image trains on the sample and exports an engine, all of it in a bucket; the package."""
    quickly = ["--trainer.max_epochs", "2", "--data.workers", "0"]
    with container(image) as (name, config, _):
        check_labels(config)
        env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")} | env
        variables = [f"--env={key}={value}" for key, value in env.items()]
        run = ["buildah", "run", *ISOLATION, "--user", config["User"], *variables, name, "--"]
        for words in (SERVICES["train"]["command"] + quickly, SERVICES["export"]["command"]):
            command = [*run, *config["Entrypoint"], *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            lines = done.stdout.strip().splitlines()
            print("train: " + next(x for x in lines if "validation" in x), flush=True)
    for path, _ in storage.find(f"{RUN}/model"):
        storage.download(f"{RUN}/model/{path}", folder / path)
    return folder


def main() -> None:
    """Build, run, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="serve this one; by default what train has made")
    parser.add_argument("--images", nargs="+", default=["train", "serve"])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--debootstrap", action="store_true", help="make the base, if need be")
    parser.add_argument("--option", action="append", default=[], help="of buildah bud")
    options = parser.parse_args()
    if options.images == ["serve"] and not options.model:
        parser.error(
            "--model: the serve image needs a package that dogbreed export has been through"
        )
    if not buildah("images", "--quiet", "--filter", f"reference={options.base}"):
        if not options.debootstrap:
            parser.error(f"{options.base}: buildah pull it, or say --debootstrap")
        base_image.make(options.base)
    model, too_large = options.model, []
    with tempfile.TemporaryDirectory() as folder, FakeGCS() as double:
        double.bucket("dogs")
        os.environ.update(double.env)
        env = SERVICES["train"]["environment"] | {"STORAGE_EMULATOR_HOST": double.endpoint}
        for name in options.images:
            image = f"localhost/{name}"
            build(name, options.base, model if name == "serve" else None, options.option)
            if name == "serve":
                check_serve(image, model, [], {})
                if not options.model:  # compose.yaml has it take the model from the bucket
                    check_serve(image, model, SERVICES["serve"]["command"], env)
            else:
                made = check_train(image, env, Path(folder, "model"))
                model = model or made
            measured = sizes(image, options.base)
            print(
                f"{name}: {measured[0]:.0f} MB unpacked, {measured[1]:.0f} MB compressed, without"
                " the base",
                flush=True,
            )
            limits = LIMITS.get(name, (float("inf"),) * 2)
            too_large += [name] if any(a > b for a, b in zip(measured, limits, strict=True)) else []
    if too_large:
        raise SystemExit(f"above the limit: {', '.join(too_large)}")


if __name__ == "__main__":
    main()
