"""Dashboards, rules and objectives: read strictly, and made of metrics that the server has."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import monitoring_v3
from google.protobuf import json_format

from dogbreed.serve.metrics import Metrics

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
