"""A double of W&B's server: takes runs, files, artifacts and a sweep from the real client.

By hand: ``python -m tests.doubles.wandb --port 8080`` prints the `export` lines that `dogbreed fit
--trainer.logger WandbLogger` and `wandb sync` need.
"""

import argparse
import dataclasses
import itertools
import json
import re
import threading
from typing import Any

from tests.doubles.rest import Refused, RestDouble

KEY = "0123456789abcdef" * 2 + "fedcba98"  # of the form of a real one
ENTITY, SWEEP = "someone", "sweep1"


@dataclasses.dataclass
class Kept:
    """What the server holds of a run."""

    about: dict[str, Any] = dataclasses.field(default_factory=dict)  # its bucket, as asked for
    streams: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    complete: int = 0  # times that a client ended it

    def lines(self, name: str) -> list[Any]:
        """Lines of a stream, parsed."""
        return [json.loads(line) for line in self.streams.get(name, [])]

    @property
    def history(self) -> list[dict[str, Any]]:
        """What W&B draws: a row for each step, in their order; a step that comes again counts."""
        rows: dict[int, dict[str, Any]] = {}
        for row in self.lines("wandb-history.jsonl"):
            rows[row["_step"]] = row
        return [rows[step] for step in sorted(rows)]

    @property
    def summary(self) -> dict[str, Any]:
        """The last that came."""
        return dict((self.lines("wandb-summary.json") or [{}])[-1])

    @property
    def config(self) -> dict[str, Any]:
        """Settings by name."""
        return {k: v["value"] for k, v in json.loads(self.about.get("config") or "{}").items()}


class FakeWandb(RestDouble):
    """The double, a context manager."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.runs: dict[str, Kept] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}  # as asked for, by id
        self.sweep: dict[str, Any] = {}  # the one there is, as asked for
        self.to_run: list[dict[str, Any]] = []  # values by parameter, for agents of the sweep
        self.used: list[str] = []  # ids of artifacts that are some run's input
        self.uploaded: dict[str, bytes] = {}  # by path
        self.env = {"WANDB_BASE_URL": self.endpoint.rstrip("/"), "WANDB_API_KEY": KEY}
        self._lock, self._numbers = threading.Lock(), itertools.count()

    def takes_json(self, method: str, path: str) -> bool:
        return path == "/graphql" or path.endswith("/file_stream")

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        with self._lock:
            if method == "PUT":
                self.uploaded[path] = body
                return {}
            if path.endswith("/file_stream"):
                return self._stream(self.runs[path.split("/")[-2]], body)
            if path != "/graphql":
                return {}
            found = re.search(r"(?:query|mutation) (\w+)", body["query"])
            assert found, body
            asked = getattr(self, f"_{found[1]}", None)
            if asked is None:
                raise Refused(400, "INVALID_ARGUMENT", f"the double knows no {found[1]}")
            return {"data": asked(body.get("variables") or {})}

    def manifest(self, artifact: str) -> dict[str, Any]:
        """Entries of an artifact by path: each has a digest, and a `ref` if it lies elsewhere."""
        contents: dict[str, Any] = json.loads(self.uploaded[f"/files/{artifact}/manifest"])
        return dict(contents["contents"])

    def _stream(self, run: Kept, body: dict[str, Any]) -> Any:
        for name, chunk in (body.get("files") or {}).items():
            lines, at = run.streams.setdefault(name, []), chunk["offset"]
            lines[at : at + len(chunk["content"])] = chunk["content"]
        run.complete += bool(body.get("complete"))
        return {}

    def _place(self, name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{self.endpoint}files/{name}", "uploadHeaders": []}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _Viewer(self, _: dict[str, Any]) -> Any:
        someone = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": {**someone, "teams": {"edges": []}}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> Any:
        return {"entity": None}

    def _XXHashDigestsEnabled(self, _: dict[str, Any]) -> Any:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _FetchArtifactDigestAlgorithm(self, _: dict[str, Any]) -> Any:
        return {"project": None}

    def _ArtifactType(self, _: dict[str, Any]) -> Any:
        return {"project": None}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> Any:
        run = self.runs.get(asked["name"])
        model = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": ENTITY}}
        return {"model": {**model, "bucket": run and self._bucket(asked["name"], run)}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> Any:
        run = self.runs.setdefault(asked["name"], Kept())
        run.about |= {key: value for key, value in asked.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(asked["name"], run), "inserted": True}}

    def _bucket(self, name: str, run: Kept) -> dict[str, Any]:
        streams = {"log": "output.log", "history": "wandb-history.jsonl"}
        streams["events"] = "wandb-events.jsonl"
        counts = {f"{k}LineCount": len(run.streams.get(v, [])) for k, v in streams.items()}
        tails = {f"{k}Tail": json.dumps(run.streams.get(v, [])[-1:]) for k, v in streams.items()}
        project = {"id": "p", "name": run.about.get("project"), "entity": {"id": "e"}}
        project["entity"]["name"] = ENTITY
        known = {key: run.about.get(key) for key in ("displayName", "config", "tags", "notes")}
        last = json.dumps(run.summary)
        return {"id": name, "name": name, "project": project, "summaryMetrics": last} | (
            {**known, **counts, **tails, "wandbConfig": json.dumps({"t": 1}), "sweepName": None}
        )

    def _UpsertSweep(self, asked: dict[str, Any]) -> Any:
        self.sweep = asked
        project = {"name": asked["projectName"], "entity": {"name": ENTITY}}
        sweep = {"id": "s", "name": SWEEP, "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _SweepWithRuns(self, _: dict[str, Any]) -> Any:
        sweep = {"name": SWEEP, "config": self.sweep["config"], "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _CreateAgent(self, _: dict[str, Any]) -> Any:
        return {"createAgent": {"agent": {"id": "a"}}}

    def _Heartbeat(self, asked: dict[str, Any]) -> Any:
        commands: list[dict[str, Any]] = []
        if asked["runState"] == "{}":
            commands = [{"type": "exit"}]
            if self.to_run:
                values = {k: {"value": v} for k, v in self.to_run.pop(0).items()}
                run = f"trial{len(self.to_run)}"
                commands = [{"type": "run", "run_id": run, "program": "", "args": values}]
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> Any:
        files = [{"name": name, **self._place(f"{asked['run']}/{name}")} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, _: dict[str, Any]) -> Any:
        return {"markRunFilesUploaded": {"success": True}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> Any:
        wanted = asked["input"]
        same = [
            known
            for known, of in self.artifacts.items()
            if (_name(of), of["digest"]) == (_name(wanted), wanted["digest"])
        ]
        known = same[0] if same else f"artifact{next(self._numbers)}"
        about = self.artifacts.setdefault(known, {**wanted, "state": "PENDING"})
        sequence = {"id": "s", "latestArtifact": None}
        artifact = {"id": known, "state": about["state"], "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        known = asked["artifactID"]
        file = {"id": "f", **self._place(f"{known}/manifest")}
        return {"createArtifactManifest": {"artifactManifest": {"id": known, "file": file}}}

    def _UpdateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        known = asked["artifactManifestID"]
        file = {"id": "f", **self._place(f"{known}/manifest")}
        return {"updateArtifactManifest": {"artifactManifest": {"id": known, "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> Any:
        nodes = [
            {
                "node": {
                    "storagePath": of["name"],
                    **self._place(f"{of['artifactID']}/{of['name']}"),
                    "uploadMultipartUrls": None,
                    "artifact": {"id": of["artifactID"]},
                }
            }
            for of in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> Any:
        artifact = self.artifacts[asked["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {
            "commitArtifact": {
                "artifact": {"id": asked["artifactID"], "digest": artifact["digest"]}
            }
        }

    def _UseArtifact(self, asked: dict[str, Any]) -> Any:
        self.used.append(asked["input"]["artifactID"])
        return {"useArtifact": {"artifact": {"id": asked["input"]["artifactID"]}}}

    def _ArtifactByID(self, asked: dict[str, Any]) -> Any:
        of = self.artifacts[asked["id"]]
        same = [id for id, other in self.artifacts.items() if _name(other) == _name(of)]
        ids = {"id": "p", "internalId": "p"}
        project = {"name": of["projectName"], "entity": {"name": ENTITY}, **ids}
        artifact = {
            "id": asked["id"],
            "artifactSequence": {"name": of["artifactCollectionName"], "project": project},
            "versionIndex": same.index(asked["id"]),
            "artifactType": {"name": of["artifactTypeName"]},
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "size": 0,
            "fileCount": 0,
            "createdAt": "2026-01-01T00:00:00Z",
            **{key: of[key] for key in ("description", "metadata", "state", "digest")},
        }
        none = dict.fromkeys(("historyStep", "commitHash", "updatedAt"))
        return {"artifact": artifact | none}

    def _ClientIDMapping(self, asked: dict[str, Any]) -> Any:
        ids = [
            known for known, of in self.artifacts.items() if of.get("clientID") == asked["clientID"]
        ]
        return {"clientIDMapping": {"serverID": ids[0]} if ids else None}


def _name(artifact: dict[str, Any]) -> tuple[str, str]:
    return artifact["artifactTypeName"], artifact["artifactCollectionName"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8080)
    with FakeWandb(parser.parse_args().port) as double:
        for name, value in double.env.items():
            print(f"export {name}={value}", flush=True)
        threading.Event().wait()
