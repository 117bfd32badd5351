"""A server on this machine that speaks the part of Weights & Biases' protocol that medexp causes wandb to use.

It keeps what it is sent as the service is taken to do: runs by id, of the lines of their histories the first of each
step, files, and versions of artifacts. A call that it does not know is answered with an error and kept in `unknown`;
the fixture fails then.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

ENTITY = "someone"
_WHEN = "2026-01-01T00:00:00Z"
_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_TELEMETRY = "/sdk/otel/"


@dataclass
class ServedRun:
    """A run as the service knows it."""

    number: int
    id: str
    project: str
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    n_lines: int = 0
    events: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def plain_config(self) -> dict[str, Any]:
        """The configuration as the user gave it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The history in its order."""
        return [self.history[step] for step in sorted(self.history)]


@dataclass
class ServedArtifact:
    """A version of an artifact as the service knows it."""

    id: str
    type: str
    name: str
    version: int
    run: ServedRun
    metadata: str | None
    digest: str
    manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    def named_files(self) -> dict[str, bytes]:
        """Content of each file by its name."""
        contents = json.loads(self.manifest)["contents"]
        return {name: self.files[name] for name in contents}


class WandbServer:
    """The server; `url` is where it listens, on this machine alone."""

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.artifacts: list[ServedArtifact] = []
        self.received: list[bytes] = []
        self.asked: list[str] = []
        self.unknown: list[str] = []
        self.on_stream: Callable[[str, dict[str, Any]], int] = lambda run, content: 200
        self._uploads: dict[str, Callable[[bytes], None]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request: status and body."""
        with self._lock:
            self.received += [path.encode(), body]
            if path.startswith(_TELEMETRY):
                return 200, b""
            if path == "/graphql":
                return self._graphql(json.loads(body))
            if path.endswith("/file_stream") and method == "POST":
                return self._stream(unquote(path.split("/")[-2]), json.loads(body))
            if method == "PUT" and path in self._uploads:
                self._uploads[path](body)
                return 200, b""
            if method == "GET" and (content := self._content(path)) is not None:
                return 200, content
            self.unknown.append(f"{method} {path}")
            return 404, b"{}"

    def _graphql(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        found = _OPERATION.search(asked["query"])
        name = found.group(1) if found else "?"
        self.asked.append(name)
        answer = getattr(self, f"_answer_{_CAPITAL.sub('_', name).lower()}", None)
        if answer is None:
            self.unknown.append(f"{name}: {asked['query']} {asked.get('variables')}")
            return 400, json.dumps({"errors": [{"message": f"the stub does not know {name}"}]}).encode()
        return 200, json.dumps({"data": answer(asked.get("variables") or {})}).encode()

    def _stream(self, run_id: str, content: dict[str, Any]) -> tuple[int, bytes]:
        status = self.on_stream(run_id, content)
        if status != 200:
            return status, json.dumps({"error": "the stub was told to refuse"}).encode()
        run = self.runs[run_id]
        files = content.get("files", {})
        if history := files.get("wandb-history.jsonl"):
            for line in map(json.loads, history["content"]):
                run.history.setdefault(line["_step"], line)
            run.n_lines = history["offset"] + len(history["content"])
        if events := files.get("wandb-events.jsonl"):
            run.events = events["offset"] + len(events["content"])
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if content.get("complete"):
            run.exit_codes.append(content["exitcode"])
        return 200, b"{}"

    def _upload(self, keep: Callable[[bytes], None]) -> str:
        path = f"/storage/{next(self._numbers)}"
        self._uploads[path] = keep
        return self.url + path

    def _content(self, path: str) -> bytes | None:
        """A file of an artifact, or the list of them."""
        match [unquote(part) for part in path.split("/")]:
            case ["", "manifest", known_id]:
                return self._artifact(known_id).manifest
            case ["", "artifactsV2", "default", _, _, _, known_id, _, name]:
                return self._artifact(known_id).files[name]
        return None

    def _answer_viewer(self, _: dict[str, Any]) -> Any:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _answer_get_default_entity(self, _: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u", "entity": ENTITY}}

    def _answer_server_features_query(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _answer_run_resume_status(self, asked: dict[str, Any]) -> Any:
        run = self.runs.get(asked["name"])
        model = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}
        if run is not None:
            model["bucket"] = {
                "id": run.id, "name": run.id, "displayName": run.name, "config": json.dumps(run.config),
                "summaryMetrics": json.dumps(run.summary), "logLineCount": 0, "eventsLineCount": run.events,
                "historyLineCount": run.n_lines, "tags": run.tags, "notes": None, "eventsTail": "[]",
                "historyTail": json.dumps([json.dumps(line) for line in run.lines[-1:]]),
                "wandbConfig": json.dumps({"t": 1}),
            }  # fmt: skip
        return {"model": model}

    def _answer_upsert_bucket(self, asked: dict[str, Any]) -> Any:
        inserted = asked["name"] not in self.runs
        run = self.runs.setdefault(
            asked["name"], ServedRun(next(self._numbers), asked["name"], asked["project"] or "uncategorized")
        )
        run.group = asked["groupName"] or run.group
        run.job_type = asked["jobType"] or run.job_type
        run.name = asked["displayName"] or run.name
        run.tags = run.tags if asked["tags"] is None else asked["tags"]
        run.config = json.loads(asked["config"]) if asked["config"] else run.config
        if asked["summaryMetrics"]:
            run.summary = json.loads(asked["summaryMetrics"])
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": run.id, "name": run.id, "displayName": run.name, "description": None, "sweepName": None,
            "config": json.dumps(run.config), "project": project, "historyLineCount": run.n_lines,
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _answer_create_run_files(self, asked: dict[str, Any]) -> Any:
        files = self.runs[asked["run"]].files
        urls = [
            {"name": n, "uploadUrl": self._upload(lambda body, n=n: files.update({n: body}))} for n in asked["files"]
        ]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": urls}}

    def _answer_artifact_type(self, asked: dict[str, Any]) -> Any:
        found = self._latest(asked["name"].split(":")[0])
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def _latest(self, name: str) -> ServedArtifact | None:
        return next((item for item in reversed(self.artifacts) if item.name == name and item.committed), None)

    def _answer_create_artifact(self, asked: dict[str, Any]) -> Any:
        asked = asked["input"]
        name = asked["artifactCollectionName"]
        versions = [item for item in self.artifacts if item.name == name]
        same = [item for item in versions if item.committed and item.digest == asked["digest"]]
        if not same:
            same = [
                ServedArtifact(
                    f"artifact-{next(self._numbers)}", asked["artifactTypeName"], name, len(versions),
                    self.runs[asked["runName"]], asked.get("metadata"), asked["digest"],
                )
            ]  # fmt: skip
            self.artifacts += same
        latest = self._latest(name)
        sequence = {"latestArtifact": latest and {"id": latest.id}}
        state = "COMMITTED" if same[0].committed else "PENDING"
        return {"createArtifact": {"artifact": {"id": same[0].id, "state": state, "artifactSequence": sequence}}}

    def _artifact(self, known_id: str) -> ServedArtifact:
        return next(item for item in self.artifacts if item.id == known_id)

    def _answer_create_artifact_manifest(self, asked: dict[str, Any]) -> Any:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(asked["artifactID"])}}

    def _manifest(self, known_id: str) -> dict[str, Any]:
        artifact = self._artifact(known_id)
        url = self._upload(lambda body: setattr(artifact, "manifest", body))
        return {"id": known_id, "file": {"id": known_id, "uploadUrl": url, "uploadHeaders": []}}

    def _answer_fetch_artifact_manifest(self, asked: dict[str, Any]) -> Any:
        return {"artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/manifest/{asked['id']}"}}}}

    def _answer_create_artifact_files(self, asked: dict[str, Any]) -> Any:
        edges = []
        for item in asked["input"]["artifactFiles"]:
            artifact = self._artifact(item["artifactID"])
            keep = self._upload(lambda body, item=item, artifact=artifact: artifact.files.update({item["name"]: body}))
            node = {
                "storagePath": f"x/{quote(item['name'])}", "uploadUrl": keep, "uploadHeaders": [],
                "uploadMultipartUrls": None, "artifact": {"id": artifact.id},
            }  # fmt: skip
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _answer_commit_artifact(self, asked: dict[str, Any]) -> Any:
        artifact = self._artifact(asked["artifactID"])
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _answer_runs(self, asked: dict[str, Any]) -> Any:
        """Runs of a page; of filters, the group and the id alone are known."""
        filters = json.loads(asked["filters"])
        assert set(filters) <= {"group"}, filters
        runs = [run for run in self.runs.values() if run.project == asked["project"]]
        runs = [run for run in runs if filters.get("group", run.group) == run.group]
        start = int(asked.get("cursor") or 0)
        page = runs[start : start + asked["perPage"]]
        edges = [{"node": self._run_node(run), "cursor": str(start + n)} for n, run in enumerate(page, start=1)]
        info = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(runs)}
        if not any(run.project == asked["project"] for run in self.runs.values()):
            return {"project": None}
        found = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": found}}

    def _run_node(self, run: ServedRun) -> dict[str, Any]:
        return {
            "id": run.id, "projectId": "1", "tags": run.tags, "name": run.id, "displayName": run.name,
            "sweepName": None, "state": "finished", "group": run.group, "jobType": run.job_type, "commit": None,
            "readOnly": False, "createdAt": _WHEN, "heartbeatAt": _WHEN, "description": None, "notes": None,
            "historyLineCount": run.n_lines, "user": {"name": ENTITY, "username": ENTITY},
            "config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}",
            "historyKeys": None,
        }  # fmt: skip

    def _answer_run_output_artifacts(self, asked: dict[str, Any]) -> Any:
        own = [item for item in self.artifacts if item.run.id == asked["run"]]
        edges = [{"node": self._artifact_node(item)} for item in own]
        info = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        found = {"totalCount": len(own), "pageInfo": info, "edges": edges}
        return {"project": {"run": {"artifacts": found}}}

    def _artifact_node(self, artifact: ServedArtifact) -> dict[str, Any]:
        project = {"id": "p", "internalId": "1", "name": artifact.run.project, "entity": {"id": "e", "name": ENTITY}}
        return {
            "__typename": "Artifact", "id": artifact.id, "versionIndex": artifact.version,
            "artifactSequence": {"__typename": "ArtifactSequence", "name": artifact.name, "project": project},
            "artifactType": {"name": artifact.type}, "description": None, "metadata": artifact.metadata,
            "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "historyStep": None,
            "state": "COMMITTED" if artifact.committed else "PENDING", "digest": artifact.digest, "commitHash": None,
            "size": sum(map(len, artifact.files.values())), "fileCount": len(artifact.files), "createdAt": _WHEN,
            "updatedAt": _WHEN, "aliases": [],
        }  # fmt: skip


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            try:
                status, answer = server.answer(self.command, self.path, body)
            except Exception as error:
                server.unknown.append(f"{self.path}: {type(error).__name__}: {error}: {body[:2000]!r}")
                status, answer = 400, json.dumps({"errors": [{"message": repr(error)}]}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = _any  # noqa: N815

    return Handler
