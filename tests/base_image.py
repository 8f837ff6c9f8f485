"""Makes the images' base out of Debian's packages, for machines that reach no registry of images.

Debian 12 has the Python of `python:3.11-slim`, which is made from it too.
"""

import subprocess
import tempfile
from pathlib import Path

RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = ["ca-certificates", "python3", "python3-pip", "python3-venv"]


def make(tag: str) -> None:
    """Make the base with debootstrap, which asks for root, and keep it under a tag.

    Args:
        tag: such as docker.io/library/python:3.11-slim.
    """

    def run(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout.strip()

    with tempfile.TemporaryDirectory() as folder:
        include = f"--include={','.join(PACKAGES)}"
        run("debootstrap", "--variant=minbase", include, RELEASE, folder, MIRROR)
        for kept in ("var/cache/apt/archives", "var/lib/apt/lists"):
            for path in Path(folder, kept).glob("*"):
                if path.is_file():
                    path.unlink()
        Path(folder, "usr/local/bin/python").symlink_to("/usr/bin/python3")
        name = run("buildah", "from", "scratch")
        try:
            run("buildah", "add", "--quiet", name, folder, "/")
            path_of_root = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            run("buildah", "config", "--env", f"PATH={path_of_root}", "--cmd", "python", name)
            run("buildah", "commit", "--quiet", name, tag)
        finally:
            run("buildah", "rm", name)
