"""/openapi.json tells the truth: requests made up from it are answered as it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import serving

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytestmark = pytest.mark.e2e

# Too many pictures break the schema's maxItems; what HTTP has for that is 413.
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["400", "413", "415", "405"]
"""


MAIN = "from schemathesis.cli import schemathesis; schemathesis()"


def made_up(schema: str, url: str, cwd: Path, *words: str) -> None:
    """Send requests that are made up from a description."""
    (cwd / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-c", MAIN, "--config-file", "schemathesis.toml", "run", schema]
    command += ["--url", url, "--max-examples", "100", "--seed", "1", "--no-color"]
    command += ["--continue-on-failure", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("locked", [False, True])
def test_requests_that_fit_the_description_or_break_it_are_answered_as_it_says(
    locked: bool, tiny_package: str, tmp_path: Path
) -> None:
    keys = {"DOGBREED_API_KEYS": "rex-rex-rex-rex-rex,fifi-fifi-fifi-fifi"} if locked else {}
    header = ["--header", "X-API-Key: fifi-fifi-fifi-fifi"] if locked else []
    with serving(tiny_package, tmp_path, **keys) as served:
        # A part of a form is bytes whatever it was meant to be: none breaks the description.
        others = ["--checks", "all", "--exclude-checks", "negative_data_rejection"]
        made_up(f"{served.url}/openapi.json", served.url, tmp_path, *others, *header)
        document = served.get("/openapi.json").json()
        del document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
        (tmp_path / "no_form.json").write_text(json.dumps(document))
        made_up(
            "no_form.json", served.url, tmp_path, "--checks", "negative_data_rejection", *header
        )
        assert served.metric("dogbreed_worker_restarts_total") == 0
