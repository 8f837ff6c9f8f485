"""Vertex AI's jobs: create one, follow it to its end."""

import sys
import time
from typing import Any
from urllib.parse import quote

from dogbreed.cloud.clients import transport
from dogbreed.errors import BadInput

POLL = 5.0  # seconds between questions for the state
_PATIENCE = 600.0  # seconds without an answer after which following ends; the job goes on


class Jobs:
    """The jobs of a project in a region.

    Args:
        project: its id.
        region: such as us-central1.

    Raises:
        BadInput: there are no credentials.
    """

    def __init__(self, project: str, region: str) -> None:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.aiplatform_v1 import JobServiceClient

        self.project, self.region = project, region
        rest: Any = JobServiceClient.get_transport_class("rest")
        try:
            host = f"{region}-aiplatform.googleapis.com"
            self.client = JobServiceClient(transport=transport(rest, "aiplatform", host))
        except GoogleAuthError as error:
            raise BadInput(f"{_line(error)}; try: gcloud auth application-default login") from error

    def create(self, job: Any) -> str:
        """Ask for a job; its resource name.

        Args:
            job: a CustomJob message.

        Raises:
            BadInput: Vertex AI refuses it.
        """
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        parent = f"projects/{self.project}/locations/{self.region}"
        try:
            made = self.client.create_custom_job(parent=parent, custom_job=job, timeout=60)
        except (GoogleAPIError, GoogleAuthError, OSError) as error:  # requests' own are OSErrors
            raise BadInput(f"Vertex AI: {_line(error)}") from error
        return str(made.name)

    def follow(self, name: str) -> int:
        """Show the state in one line until the job has ended; the exit status: 0 done, 1 not.

        Args:
            name: the job's resource name.

        Raises:
            BadInput: Vertex AI refuses, or does not answer any more; the job goes on.
        """
        from google.api_core.exceptions import ClientError, GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.aiplatform_v1 import JobState

        ends = {JobState.JOB_STATE_SUCCEEDED: 0}
        ends |= dict.fromkeys(
            (
                JobState.JOB_STATE_FAILED,
                JobState.JOB_STATE_CANCELLED,
                JobState.JOB_STATE_EXPIRED,
                JobState.JOB_STATE_PARTIALLY_SUCCEEDED,
            ),
            1,
        )
        begun = answered = time.monotonic()
        shown = ""
        while True:
            try:
                job = self.client.get_custom_job(name=name, timeout=30)
            except (GoogleAPIError, GoogleAuthError, OSError) as error:
                final = isinstance(error, ClientError) and error.code not in {408, 429}
                if final or time.monotonic() - answered > _PATIENCE:
                    raise BadInput(f"Vertex AI: {_line(error)}; the job goes on") from error
                time.sleep(POLL)
                continue
            answered = time.monotonic()
            state = job.state.name.removeprefix("JOB_STATE_").lower()
            shown = _show(state, int(answered - begun), shown)
            if job.state in ends:
                if sys.stdout.isatty():
                    print()
                if job.error.message:
                    print(f"Vertex AI: {_line(job.error.message)}", file=sys.stderr)
                return ends[job.state]
            time.sleep(POLL)

    def links(self, name: str) -> dict[str, str]:
        """Pages of the console about a job."""
        number = name.rsplit("/", 1)[-1]
        console, project = "https://console.cloud.google.com", f"project={self.project}"
        query = f'resource.type="ml_job"\nresource.labels.job_id="{number}"'
        return {
            "job": f"{console}/vertex-ai/locations/{self.region}/training/{number}?{project}",
            "log": f"{console}/logs/query;query={quote(query, safe='')}?{project}",
        }


def _show(state: str, seconds: int, shown: str) -> str:
    """On a terminal one line that is written over, elsewhere a line for each new state."""
    line = f"{state}, {seconds // 60}:{seconds % 60:02d}"
    if sys.stdout.isatty():
        print(f"\r{line:<40}", end="", flush=True)
    elif state != shown:
        print(line, flush=True)
    return state


def _line(error: object) -> str:
    return " ".join(str(error).split())[:400]
