"""A double of Vertex AI's training: takes CustomJobs and runs their replicas as local processes.

By hand: ``python -m tests.doubles.vertex --port 8787`` prints the `export` lines that
`dogbreed submit` and `gcloud` need; with the lines of `tests.doubles.gcs`, jobs train on gs://.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from google.cloud.aiplatform_v1 import CustomJob
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from tests.doubles.rest import Refused, RestDouble

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
GRACE = 30.0  # seconds from SIGTERM to SIGKILL
STARTS = 3  # of a job whose container fails; a machine taken back does not count


class FakeVertex(RestDouble):
    """The double, a context manager.

    Args:
        states: of each job, one for each question; none: jobs really run.
        entry_point: that of every image.
    """

    def __init__(
        self,
        states: Sequence[str] = (),
        entry_point: Sequence[str] = (sys.executable, "-m", "dogbreed"),
        port: int = 0,
    ) -> None:
        super().__init__(port)
        self.jobs: dict[str, Running] = {}
        self.states, self.entry_point = states, list(entry_point)
        self._folder = tempfile.TemporaryDirectory(prefix="vertex-")
        self.env = {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": self.endpoint,
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
            "GOOGLE_CLOUD_PROJECT": "dogs",
            "CLOUDSDK_CORE_PROJECT": "dogs",
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        parent, _, rest = path.removeprefix("/v1/").partition("/customJobs")
        if not parent.startswith("projects/dogs/locations/"):
            raise Refused(403, "PERMISSION_DENIED", f"Permission denied on resource {parent}.")
        name, _, verb = rest.removeprefix("/").partition(":")
        if method == "POST" and not name:
            return self._create(parent, body)
        if not name:
            return {"customJobs": [job.about() for job in self.jobs.values()]}
        if name not in self.jobs:
            raise Refused(404, "NOT_FOUND", f"The CustomJob {name} does not exist.")
        if verb == "cancel":
            self.jobs[name].cancel()
            return {}
        return self.jobs[name].about(asked=True)

    def _create(self, parent: str, body: Any) -> Any:
        """What the server finds wrong beyond the form, as far as it is known."""
        asked = CustomJob()
        try:
            ParseDict(body, CustomJob.pb(asked))
        except ParseError as error:
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid JSON payload: {error}") from None
        pools = asked.job_spec.worker_pool_specs
        wrong = {
            "display_name is required": not asked.display_name,
            "the first worker pool must have one replica": not pools or pools[0].replica_count != 1,
            "image_uri is required": not all(pool.container_spec.image_uri for pool in pools),
            "machine_type is required": not all(pool.machine_spec.machine_type for pool in pools),
            "a timeout must be set": not asked.job_spec.scheduling.timeout,
        }
        for reason, is_so in wrong.items():
            if is_so:
                raise Refused(400, "INVALID_ARGUMENT", reason)
        number = str(1000 + len(self.jobs))
        folder = Path(self._folder.name) / number
        folder.mkdir()
        asked.name = f"{parent}/customJobs/{number}"
        self.jobs[number] = job = Running(asked, folder, self.entry_point, list(self.states))
        return job.about()

    def __exit__(self, *_: object) -> None:
        for job in self.jobs.values():
            job.cancel()
            job.wait()
        super().__exit__()
        self._folder.cleanup()


class Running:
    """One job and its processes."""

    def __init__(
        self, job: CustomJob, folder: Path, entry_point: list[str], states: list[str]
    ) -> None:
        self.job, self.folder, self.entry_point, self.states = job, folder, entry_point, states
        self.state, self.reason = "PENDING", ""
        self.attempts: list[list[int]] = []  # exit status of each replica, for each start
        self.preempt_at: list[tuple[int, str]] = []  # replica and text: SIGTERM when it says that
        self._ended, self._cancelled = threading.Event(), threading.Event()
        self._replicas: list[subprocess.Popen[str]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        if states:
            self._ended.set()
        else:
            self._thread.start()

    def about(self, asked: bool = False) -> dict[str, Any]:
        """The job's resource."""
        if asked and self.states:
            self.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            self.reason = "Replicas exited with status 1." if self.state == "FAILED" else ""
        about: dict[str, Any] = MessageToDict(CustomJob.pb(self.job))
        about["state"] = f"JOB_STATE_{self.state}"
        return about | ({"error": {"code": 3, "message": self.reason}} if self.reason else {})

    def preempt(self, replica: int, text: str) -> None:
        """Take a machine back, once, when it says `text`."""
        self.preempt_at.append((replica, text))

    def cancel(self) -> None:
        """End the job."""
        self._cancelled.set()
        self._end_replicas()

    def wait(self) -> str:
        """Wait for the end; the last state."""
        self._ended.wait()
        return self.state

    def log(self) -> str:
        """All that the replicas have said, start by start."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _run(self) -> None:
        failures = 0
        try:
            for attempt in itertools.count():
                self.state = "RUNNING"
                statuses, preempted = self._attempt(attempt)
                self.attempts.append(statuses)
                if not any(statuses) or self._cancelled.is_set():
                    break
                failures += not preempted
                if failures == STARTS:
                    self.reason = f"Replicas exited with status {statuses}."
                    break
            self.state = "CANCELLED" if self._cancelled.is_set() else "SUCCEEDED"
            self.state = "FAILED" if self.reason else self.state
        except BaseException as error:
            self.state, self.reason = "FAILED", f"Internal error: {error!r}"
            raise
        finally:
            self._ended.set()

    def _attempt(self, attempt: int) -> tuple[list[int], bool]:
        """Start every replica and wait until all have ended: their statuses, and if by us."""
        pools = self.job.job_spec.worker_pool_specs
        hosts: dict[str, list[str]] = {}
        for k, pool in enumerate(pools):
            hosts[f"workerpool{k}"] = [f"127.0.0.1:{_free()}" for _ in range(pool.replica_count)]
        places = [(k, n) for k, pool in enumerate(pools) for n in range(pool.replica_count)]
        preempted = threading.Event()
        self._replicas = []
        for rank, (k, n) in enumerate(places):
            task = {"type": f"workerpool{k}", "index": n, "trial": ""}
            env = {"CLUSTER_SPEC": json.dumps({"cluster": hosts, "task": task})}
            # Vertex AI sets these too, of machines: whoever takes them for processes goes wrong.
            env |= {"RANK": str(rank), "WORLD_SIZE": str(len(places))}
            self._replicas.append(self._start(pools[k], env, f"{attempt}-{rank}"))

        def follow(rank: int) -> int:
            path = self.folder / f"{attempt}-{rank}.log"
            with self._replicas[rank] as process, path.open("w") as log:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    for asked in [a for a in self.preempt_at if a[0] == rank and a[1] in line]:
                        self.preempt_at.remove(asked)
                        preempted.set()
                        process.send_signal(signal.SIGTERM)
            return process.returncode

        with ThreadPoolExecutor(len(places)) as pool_of_threads:
            waiting = [pool_of_threads.submit(follow, rank) for rank in range(len(places))]
            left = set(waiting)
            while left:
                done, left = wait(left, return_when=FIRST_COMPLETED)
                if left and any(one.result() for one in done):
                    _, left = wait(left, GRACE if preempted.is_set() else 5.0)
                    self._end_replicas()
            return [one.result() for one in waiting], preempted.is_set()

    def _start(self, pool: Any, env: dict[str, str], name: str) -> "subprocess.Popen[str]":
        base = self.job.job_spec.base_output_directory.output_uri_prefix.rstrip("/")
        env |= {"CLOUD_ML_PROJECT_ID": "123456", "CLOUD_ML_JOB_ID": self.job.name.split("/")[-1]}
        if base:
            env |= {"AIP_MODEL_DIR": f"{base}/model/", "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/"}
            env["AIP_TENSORBOARD_LOG_DIR"] = f"{base}/logs/"
        env |= {one.name: one.value for one in pool.container_spec.env}
        place = self.folder / name
        place.mkdir()
        return subprocess.Popen(
            [*(pool.container_spec.command or self.entry_point), *pool.container_spec.args],
            env=os.environ | {"HOME": str(place)} | env,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _end_replicas(self) -> None:
        for process in self._replicas:
            if process.poll() is None:
                process.terminate()
        for process in self._replicas:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            with contextlib.suppress(ProcessLookupError):  # and whatever it has started
                os.killpg(process.pid, signal.SIGKILL)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    """Run the double until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    with FakeVertex(port=parser.parse_args().port) as double:
        for name, value in double.env.items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
