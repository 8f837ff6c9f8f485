"""A Ray cluster of two nodes prepares the same data set as this machine's cores."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogbreed import storage
from dogbreed.data.manifest import Manifest
from tests.data.official import kaggle
from tests.doubles.gcs import FakeGCS

pytestmark = pytest.mark.e2e

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(gcs_double: FakeGCS) -> Iterator[dict[str, str]]:
    """Start two nodes that reach the double; give what a process needs to find them."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line[0].isdigit())
        yield environment | {"RAY_ADDRESS": address.strip()}
        process.communicate()


def prepare(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dogbreed", "prepare", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def files(root: str) -> dict[str, bytes]:
    return {name: storage.read(storage.join(root, name)) for name, _ in storage.find(root)}


@pytest.mark.parametrize("packed", [["--shard_size", "20KB"], []])
def test_the_files_are_those_of_the_local_engine(
    cluster: dict[str, str], gcs: FakeGCS, tmp_path: Path, packed: list[str]
) -> None:
    source = kaggle(tmp_path, breeds=("beagle", "pug", "boxer"), each=20, zipped="deflated")
    outs = {engine: f"{gcs.bucket()}/dogs" for engine in ("local", "ray")}
    for engine, out in outs.items():
        words = ["--source", "kaggle", "--path", str(source), "--out", out, "--engine", engine]
        done = prepare(cluster, *words, *packed)
        assert (done.returncode, done.stderr) == (0, "")
    assert Manifest.open(outs["ray"]).version == Manifest.open(outs["local"]).version
    assert files(outs["ray"]) == files(outs["local"])


def test_what_a_node_cannot_do_is_an_error_of_one_line(
    cluster: dict[str, str], gcs: FakeGCS, tmp_path: Path
) -> None:
    source = kaggle(tmp_path, breeds=("beagle", "pug"), each=5, zipped="deflated")
    words = ["--source", "kaggle", "--path", str(source), "--engine", "ray"]
    done = prepare(cluster, *words, "--out", str(tmp_path / "out"), "--pictures", "gs://no-such")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("dogbreed prepare: error: gs://no-such/")
