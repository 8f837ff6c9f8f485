"""Dashboards, rules and objectives: read strictly, and made of metrics that the server has."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from google.cloud import monitoring_v3
from google.protobuf import json_format
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from dogbreed.serve.metrics import Metrics
from tests.doubles.rest import Refused, RestDouble

FOLDER = Path(__file__).parents[2] / "cloudbuild/monitoring"
SLOS = yaml.safe_load((FOLDER / "slos.yaml").read_text())
KINDS = {
    "service": monitoring_v3.Service,
    "objectives": monitoring_v3.ServiceLevelObjective,
    "policies": monitoring_v3.AlertPolicy,
}


def parsed(kind: str, body: Any) -> Any:
    """The message; an unknown field or a value of another type is an error."""
    message = KINDS[kind]()
    json_format.ParseDict(body, message._pb)
    return message


class CloudMonitoring(RestDouble):
    """Keeps what it is given, once it has been read strictly."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}  # by name

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        name = path.removeprefix("/v3/")
        if method == "GET":
            title = query["filter"][0].removeprefix("display_name=").strip('"')
            found = [of for key, of in self.kept.items() if key.startswith(name + "/")]
            found = [of for of in found if of["displayName"] == title]
            return {"alertPolicies": found} if found else {}
        if method == "POST":
            given = query.get("serviceId") or query.get("serviceLevelObjectiveId")
            name += f"/{given[0] if given else len(self.kept)}"
            if name in self.kept:
                raise Refused(409, "ALREADY_EXISTS", name)
        kinds = {"services": "service", "serviceLevelObjectives": "objectives"}
        parsed(kinds.get(name.split("/")[-2], "policies"), body)
        fields = query.get("updateMask", [",".join(body)])[0].split(",")
        before = self.kept.get(name, {"name": name}) if method == "PATCH" else {"name": name}
        self.kept[name] = before | {field: body[field] for field in fields}
        return self.kept[name]


def known() -> set[str]:
    """Names of the samples that /metrics shows, once everything has happened."""
    metrics = Metrics("model", lambda: 0, lambda: 0, lambda: [1])
    metrics.requests.labels("/predict", "200").inc()
    metrics.latency.labels("/predict").observe(1)
    metrics.pictures.labels("success").inc()
    metrics.stage.labels("decode").observe(1)
    metrics.breeds.labels("pug").inc()
    metrics.log("written", 1)
    lines = metrics.text().decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_objectives_and_alerts_are_messages_of_cloud_monitoring() -> None:
    parsed("service", SLOS["service"])
    for body in SLOS["objectives"].values():
        assert 0.9 < parsed("objectives", body).goal < 1
    for body in SLOS["policies"].values():
        policy = parsed("policies", body)
        assert policy.documentation.content
        for condition in policy.conditions:
            named = re.search(r'"OBJECTIVES/(\w+)"', condition.condition_threshold.filter)
            assert named
            assert named[1] in SLOS["objectives"]
    with pytest.raises(json_format.ParseError):
        parsed("objectives", {"gaol": 0.995})


def test_what_is_applied_twice_is_there_once_and_keeps_who_is_told(tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text("#!/bin/sh\necho a-token\n")
    (tmp_path / "gcloud").chmod(0o755)
    with CloudMonitoring() as cloud:
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        env["MONITORING_API"] = cloud.endpoint.rstrip("/")

        def apply() -> None:
            words = ["bash", str(FOLDER / "apply.sh"), "my-project", "us-central1", "dogs"]
            subprocess.run(words, env=env, check=True, capture_output=True)

        apply()
        assert len(cloud.kept) == 1 + len(SLOS["objectives"]) + len(SLOS["policies"])
        assert not re.search("PROJECT|REGION|SERVICE|OBJECTIVES", json.dumps(cloud.kept))
        objectives = "projects/my-project/services/dogs/serviceLevelObjectives/"
        burning = 0
        for of in cloud.kept.values():
            for named in re.findall(r'burn_rate\(\\"([^"\\]+)', json.dumps(of)):
                assert named in cloud.kept
                assert named.startswith(objectives)
                burning += 1
        assert burning == 2 * len(SLOS["policies"])
        before = json.loads(json.dumps(cloud.kept))
        told = next(of for name, of in cloud.kept.items() if "/alertPolicies/" in name)
        told["notificationChannels"] = ["projects/my-project/notificationChannels/1"]
        told["severity"] = "WARNING"
        apply()
        assert told["name"] in cloud.kept
        assert cloud.kept[told["name"]].pop("notificationChannels")
        assert cloud.kept == before


def test_what_is_promised_is_what_the_readme_says() -> None:
    assert SLOS["objectives"]["availability"]["goal"] == 0.995
    cut = SLOS["objectives"]["latency"]["serviceLevelIndicator"]["requestBased"]
    assert cut["distributionCut"]["range"] == {"max": 1000}


def test_rules_and_dashboard_ask_for_metrics_that_the_server_has() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    board = json.loads((FOLDER / "dashboard.json").read_text())
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\bdogbreed_\w+", query)}
    assert len(asked) > 12
    assert asked <= known()


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_sidecar_reads_the_port_and_path_of_the_server() -> None:
    about = yaml.safe_load((FOLDER / "run-monitoring.yaml").read_text())
    assert (about["apiVersion"], about["kind"]) == (
        "monitoring.googleapis.com/v1beta",
        "RunMonitoring",
    )
    (endpoint,) = about["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (8080, "/metrics")


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("promtool"), reason="comes with Debian's prometheus")
@pytest.mark.parametrize("words", [["check", "rules", "alerts.yaml"], ["test", "rules"]])
def test_prometheus_takes_the_rules_and_they_speak_when_they_should(words: list[str]) -> None:
    files = ["alerts_test.yaml"] if words[0] == "test" else []
    subprocess.run(["promtool", *words, *files], cwd=FOLDER, check=True)


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not here")
def test_prometheus_shows_rules_and_dashboard_and_takes_each_of_their_queries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = f"127.0.0.1:{free.getsockname()[1]}"
    with subprocess.Popen(
        ["bash", str(FOLDER / "show.sh")],
        env=os.environ | {"LISTEN": here},
        start_new_session=True,  # prometheus is the script's child
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            patient = requests.Session()
            patient.mount("http://", HTTPAdapter(max_retries=Retry(connect=12, backoff_factor=0.1)))
            page = patient.get(f"http://{here}/consoles/dogbreed.html").text
            graphs = [json.loads(of) for of in re.findall(r"assign\((\{.*?\}), \{node", page)]
            assert len(graphs) == page.count("<section") > 10
            for query in (query for graph in graphs for query in graph["expr"]):
                answer = patient.get(f"http://{here}/api/v1/query", params={"query": query})
                assert answer.ok, f"{query}: {answer.text}"
            (group,) = patient.get(f"http://{here}/api/v1/rules").json()["data"]["groups"]
            assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
