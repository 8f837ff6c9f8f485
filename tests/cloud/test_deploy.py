"""How a revision comes to Cloud Run, with doubles of gcloud and of the revision."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def revision(answer: str, ready: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Run a revision that answers those who bring a token: its URL, and the paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(self.path)
            known = self.headers["Authorization"] == "Bearer a-token"
            self.send_response(ready if known else 401)
            self.end_headers()
            self.wfile.write(answer.encode())

        do_GET = do_POST = _handle

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


CLOUD_RUN = r"""#!/bin/sh
echo "$*" >> "$RECORDED/asked"
case "$*" in
"run services list"*) [ "$THERE" = error ] && exit 1; echo "$THERE" ;;
"run services describe"*) printf '{"status": {"url": "https://dogs", "traffic": [
    {"tag": "b-old", "url": "https://old"}, {"tag": "b-01234567", "url": "%s"}]}}' "$URL" ;;
"auth print-identity-token --audiences https://dogs") echo a-token ;;
esac
"""


def deployed(folder: Path, url: str, there: str = "dogbreed") -> tuple[int, list[str], str]:
    """Deploy with a double of gcloud: the exit status, what was asked for, what was said."""
    programs = {
        "gcloud": CLOUD_RUN,
        "curl": f'#!/bin/sh\nexec {shutil.which("curl")} "$@" --retry 0',
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "asked").unlink(missing_ok=True)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "RECORDED": str(folder)}
    words = ["dogbreed", "us-central1", "image:1", "serve@dogs", "01234567-89ab-cdef"]
    done = subprocess.run(
        ["bash", str(ROOT / "cloudbuild/deploy.sh"), *words],
        env=env | {"URL": url, "THERE": there},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (folder / "asked").read_text().splitlines(), done.stdout + done.stderr


BREED = '{"predictions": [{"breed": "beagle"}]}'


def test_traffic_moves_only_after_the_new_revision_has_answered(tmp_path: Path) -> None:
    with revision(BREED) as (url, paths):
        status, asked, said = deployed(tmp_path, url)
    assert status == 0, said
    assert paths == ["/ready", "/predict"]
    assert "run deploy dogbreed --region us-central1 --no-traffic --image image:1" in asked[1]
    assert "--tag b-01234567 --revision-suffix b-01234567" in asked[1]
    assert asked[-1].startswith("run services update-traffic dogbreed")
    assert asked[-1].endswith("--to-tags b-01234567=100")
    assert "a-token" not in said


@pytest.mark.parametrize(("answer", "ready"), [('{"error": "no model"}', 200), (BREED, 503)])
def test_a_revision_that_does_not_answer_gets_no_traffic(
    answer: str, ready: int, tmp_path: Path
) -> None:
    with revision(answer, ready) as (url, _):
        status, asked, _ = deployed(tmp_path, url)
    assert status != 0
    assert asked[1].startswith("run deploy dogbreed")
    assert "update-traffic" not in str(asked)


def test_only_the_first_revision_of_a_service_has_traffic_from_the_start(tmp_path: Path) -> None:
    with revision(BREED) as (url, _):
        _, asked, _ = deployed(tmp_path, url, there="")
        assert "--no-traffic" not in asked[1]
        status, asked, _ = deployed(tmp_path, url, there="error")
    assert status != 0
    assert len(asked) == 1  # not knowing is no reason to begin anew
