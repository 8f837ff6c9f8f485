"""Checks: `nox` runs what continuous integration runs; `nox --list` shows the rest."""

import glob
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # load_toml and dependency_groups
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "no"

PYPROJECT = nox.project.load_toml("pyproject.toml")
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
TESTS = ["tests"]


def _install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the project and some groups; pip knows no groups before 25.1."""
    session.install("-e", f".{extras}", *(entry for group in groups for entry in GROUPS[group]))
    # Where it is set, each of many processes would compile torch and all else that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """Types, then tests of the default tier with coverage, in one environment."""
    _install(session, "types", "test", extras="[export]")
    if not session.posargs:
        session.run("mypy")
    session.run("coverage", "erase")
    # Two test processes with two threads of torch each would fight over two cores.
    options = ["-n", "2", "-m", "not e2e and not soak and not gpu", *(session.posargs or TESTS)]
    session.run("coverage", "run", "-m", "pytest", *options, env={"OMP_NUM_THREADS": "1"})
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))
    session.run("coverage", "xml", "--quiet", "--fail-under=0")


@nox.session(name="cloud-files")
def cloud_files(session: nox.Session) -> None:
    """What others would only complain of once it is pushed: workflows, builds, images, YAML."""
    session.install(*GROUPS["cloud-files"])
    session.run("yamllint", "--strict", ".")
    session.run("actionlint")
    session.run("zizmor", "--offline", "--quiet", ".github")
    session.run("hadolint", *glob.glob("docker/*.Dockerfile"))
    for schema, pattern in {
        "github-workflows": ".github/workflows/*.yml",
        "dependabot": ".github/dependabot.yml",
        "cloudbuild": "cloudbuild/*.yaml",
        "compose-spec": "docker/compose.yaml",
    }.items():
        files = glob.glob(pattern)
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@nox.session(default=False)
def minimum(session: nox.Session) -> None:
    """The tests with the oldest versions of direct dependencies that pyproject.toml admits."""
    session.install("-e", ".[export]", *GROUPS["test"], "--resolution", "lowest-direct")
    # What old packages call is deprecated in the new ones below them: no fault of anybody.
    options = ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    options += ["-n", "2", "-m", "not e2e and not soak and not gpu", *(session.posargs or TESTS)]
    session.run("pytest", *options, env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """Tests that start many processes, a Ray cluster, DVC, or a browser (Debian's `chromium`)."""
    _install(session, "test", "e2e", extras="[ray,dvc,export]")
    session.run("pytest", "-m", "e2e", *(session.posargs or TESTS))


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Tests that break things over and over."""
    _install(session, "test")
    session.run("pytest", "-m", "soak", *(session.posargs or TESTS))


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Tests that need a CUDA device."""
    _install(session, "test", extras="[gpu]")
    session.run("pytest", "-m", "gpu", *(session.posargs or TESTS))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Benchmarks: `nox -s bench -- walk --photos DIR …`; without a name, that of the sample."""
    _install(session, "test", "bench")
    for name in session.posargs[:1] or ["sample"]:
        session.run("python", "-m", f"tests.benchmarks.{name}", *session.posargs[1:])


@nox.session(default=False)
def locks(session: nox.Session) -> None:
    """Refresh the lists of exact packages, with hashes, that the images are built from."""
    session.install("uv")
    extras = PROJECT["optional-dependencies"]
    bounds = [entry for group in (PROJECT["dependencies"], *extras.values()) for entry in group]
    bounds_file = Path(session.create_tmp()) / "bounds.txt"
    bounds_file.write_text("\n".join(re.sub(r"\[.*?\]", "", entry) for entry in bounds))
    # `--upgrade` comes by hand: without it, what is locked and still fits stays.
    words = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
    words += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    words += ["--constraints", str(bounds_file), *session.posargs]
    for name in ("build", "serve", "train"):
        extras_too = ["pyproject.toml", "--extra", "gpu", "--extra", "export"]
        more = extras_too if name == "train" else []
        session.run(*words, f"docker/{name}.in", *more, "-o", f"docker/{name}.lock")


@nox.session(default=False)
def images(session: nox.Session) -> None:
    """Build the images with buildah (Debian's package), run them, print their sizes."""
    _install(session, "test")
    session.run("python", "-m", "tests.images", *session.posargs)
