"""Builds both images with buildah, runs them, and prints their sizes: `nox -s images`.

    python -m tests.images                                          # train, export, serve
    python -m tests.images --images serve --model runs/exp1/model

The base, python:3.11-slim unless said otherwise, must be there: `buildah pull`, or made by
debootstrap. Needs neither Docker nor root's daemon; on Debian: apt-get install buildah.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
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

import psutil

from dogbreed import __version__, storage
from dogbreed.data import sample
from tests.doubles.gcs import FakeGCS

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/python:3.11-slim"
LIMITS = {"serve": (450, 200)}  # MB without the base: unpacked, compressed
ISOLATION = ["--isolation", "chroot"]  # needs no namespaces of its own


def buildah(*words: str) -> str:
    """Run buildah; what it prints."""
    done = subprocess.run(["buildah", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"buildah {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def build(name: str, base: str, model: Path | None, more: list[str]) -> None:
    """Build an image, `localhost/NAME`, from the sources and the model's folder alone."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    arguments = {"BASE": base, "COMMIT": commit or "unknown", "VERSION": __version__}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("dogbreed", "configs", "docker", "pyproject.toml", "README.md", "LICENSE"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, part))
        shutil.copy(ROOT / ".dockerignore", folder)
        if model:
            shutil.copytree(model, Path(folder, "model"))
            data = json.loads((model / "model.json").read_text())["data"]
            arguments["DATA_VERSION"] = data["version"]
        words = ["bud", *ISOLATION, "--pull-never", "--format", "docker", "--layers", *more]
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
    return (unpacked(image) - unpacked(base)) / 1e6, sum(own) / 1e6


def run_words(
    name: str, config: dict[str, Any], words: list[str], env: dict[str, str]
) -> list[str]:
    """The command that runs `words` behind the image's entry point, as the image's user."""
    variables = [f"--env={key}={value}" for key, value in env.items()]
    user = ["--user", config["User"]]
    return [
        "buildah",
        "run",
        *ISOLATION,
        *user,
        *variables,
        name,
        "--",
        *config["Entrypoint"],
        *words,
    ]


def check_serve(image: str, model: Path) -> None:
    """The server answers, is healthy, writes nothing outside /tmp, and ends on SIGTERM with 0."""
    classes = [one["name"] for one in json.loads((model / "model.json").read_text())["classes"]]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with container(image) as (name, config, files):
        assert config["User"] not in {"", "0", "root"}
        assert not list(files.glob("opt/dogbreed/lib/python*/site-packages/torch"))
        marker = files / "tmp/marker"
        marker.touch()
        env = {"PORT": str(port)}
        command = run_words(name, config, config["Cmd"], env)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                begun = time.monotonic()
                wait_until_ready(url, process)
                print(f"serve: ready after {time.monotonic() - begun:.1f} s", flush=True)
                picture = sample.jpeg(3, 5)
                request = urllib.request.Request(
                    f"{url}/predict", picture, {"Content-Type": "image/jpeg"}
                )
                with urllib.request.urlopen(request, timeout=30) as answer:
                    told = json.loads(answer.read())
                print(f"serve: /predict answers {json.dumps(told)[:160]}")
                assert any(breed in json.dumps(told) for breed in classes), told
                healthy = config["Healthcheck"]["Test"][1:]
                check = ["run", *ISOLATION, "--user", config["User"], f"--env=PORT={port}", name]
                buildah(*check, "--", *healthy)
                print("serve: HEALTHCHECK passes")
            finally:
                end(process)
            output = process.stdout.read().decode() if process.stdout else ""
        assert process.returncode == 0, output
        written = subprocess.run(
            ["find", ".", "-xdev", "-newer", marker, "-type", "f", "-not", "-path", "./tmp/*"],
            cwd=files,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        # buildah's own, and not the server's
        written = [path for path in written if not path.startswith(("./etc/", "./run/"))]
        assert written == [], written
        print("serve: SIGTERM ends it with status 0; it wrote nothing outside /tmp")


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the container's own first process: buildah does not hand it on."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if Path(child.cmdline()[0]).name.startswith("python"):
            child.send_signal(signal.SIGTERM)
            break
    process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Ask until it says so; ends where the server has ended."""
    while True:
        if process.poll() is not None:
            raise SystemExit(process.stdout.read().decode() if process.stdout else "ended")
        refused = contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError)
        with refused, urllib.request.urlopen(f"{url}/ready", timeout=5):
            return
        time.sleep(0.2)


def check_train(image: str, folder: Path) -> Path:
    """The image trains on the sample and exports an engine, all of it in a bucket; the package."""
    fit = "fit --config configs/quickstart.yaml --trainer.max_epochs 2 --data.workers 0"
    with FakeGCS() as double, container(image) as (name, config, _):
        assert config["User"] not in {"", "0", "root"}
        run = f"{double.bucket()}/runs/check"
        root = run.rpartition("/")[0]
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        for words in (
            f"{fit} --run_root {root} --name check --resume auto",
            f"export --format openvino --run {run}",
        ):
            command = run_words(name, config, words.split(), double.env | threads)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            lines = done.stdout.strip().splitlines()
            print("train: " + next(x for x in lines if "validation" in x), flush=True)
        os.environ.update(double.env)
        for path, _ in storage.find(f"{run}/model"):
            storage.download(f"{run}/model/{path}", folder / path)
    return folder


def main() -> None:
    """Build, run, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="serve this one; by default what train has made")
    parser.add_argument("--images", nargs="+", default=["train", "serve"])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--option", action="append", default=[], help="of buildah bud")
    options = parser.parse_args()
    if options.images == ["serve"] and not options.model:
        parser.error(
            "--model: the serve image needs a package that dogbreed export has been through"
        )
    model, too_large = options.model, []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.images:
            image = f"localhost/{name}"
            build(name, options.base, model if name == "serve" else None, options.option)
            if name == "serve":
                check_serve(image, model)
            else:
                made = check_train(image, Path(folder, "model"))
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
