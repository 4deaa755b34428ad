"""A stand-in of the W&B server, so that the real `wandb` client can be tested without a network.

It speaks what `wandb` 0.31 asks for: GraphQL for sweeps, agents and runs, `file_stream` for the
history and the summary, and uploads by PUT. It keeps what it was sent, and checks none of it: any
key of 40 characters is welcome. Only the loopback address can reach it.

By hand, in a folder with train.py:

    python tests/wandb_server.py --port 8642
    export WANDB_BASE_URL=http://127.0.0.1:8642 WANDB_API_KEY=$(printf '%040d' 0)
    wandb sweep sweeps/bitcount.yaml
    wandb agent --count 2 SWEEP

The server of W&B itself draws `bayes` from a model of the results; here it is drawn as `random` is.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

ENTITY = "tester"
"""The one user there is."""


@dataclass
class Run:
    """What a run has sent.

    Args:
        id: W&B's id of the run.
        project: The project that it was opened in.
        sweep: The sweep that it was opened for.
        state: `running`, `finished` or `failed`, as the client told.
        exitcode: Of its process; None until it ended.
        config: By key.
        history: A row for each call of `log` that was committed.
        summary: By key.
        files: The content of uploaded files, by name.
    """

    id: str
    project: str
    sweep: str | None = None
    display_name: str | None = None
    state: str = "running"
    exitcode: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    log: dict[int, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Sweep:
    """A sweep and what it has dealt.

    Args:
        id: W&B's id of the sweep.
        project: The project of its runs.
        text: The sweep file, as the client sent it.
        points: The parameters still to be dealt.
        state: `RUNNING`, `PAUSED`, `FINISHED` or `CANCELED`.
        dealt: The parameters of each run as they were sent: a client gives back 9 for 9.0.
    """

    id: str
    project: str
    text: str
    points: Iterator[dict[str, Any]]
    state: str = "RUNNING"
    dealt: dict[str, dict[str, Any]] = field(default_factory=dict)


class WandbServer(ThreadingHTTPServer):
    """The server; `url` is what WANDB_BASE_URL has to be.

    Args:
        port: 0 takes a free one.
        extra: Parameters dealt with every trial, over those of the sweep file.
        stops: Whether a run is to be stopped; asked at every heartbeat of its agent.
        seed: Of what is drawn.
    """

    daemon_threads = True

    def __init__(
        self,
        port: int = 0,
        extra: dict[str, Any] | None = None,
        stops: Callable[[Run], bool] = lambda run: False,
        seed: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.extra = extra or {}
        self.stops = stops
        self.random = random.Random(seed)
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, str] = {}
        """The sweep of each agent."""
        self.commands: list[dict[str, Any]] = []
        """All that agents were told."""
        self.unknown: list[str] = []
        """Questions that had no answer."""
        self.lock = threading.RLock()

    @contextmanager
    def running(self) -> Iterator[WandbServer]:
        """Serve in a thread."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()

    def answer(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL operation; None where it is not known."""
        method = getattr(self, f"_{re.sub('(?<!^)(?=[A-Z])', '_', name).lower()}", None)
        if method is None:
            self.unknown.append(name)
            return None
        with self.lock:
            data: dict[str, Any] = method(given)
        return data

    # Who asks, and what the server can.

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        user = {"id": "user", "entity": ENTITY, "username": ENTITY, "email": None, "flags": "{}",
                "admin": False, "teams": {"edges": [{"node": {"name": ENTITY}}]}}  # fmt: skip
        return {"viewer": user}

    _get_viewer = _get_default_entity = _viewer

    def _server_features_query(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    # Sweeps and their agents.

    def _upsert_sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("id"):
            sweep = self.sweeps[given["id"]]
            sweep.state = given.get("state") or sweep.state
        else:
            name = f"sweep{len(self.sweeps)}"
            config = yaml.safe_load(given["config"])
            points = _points(config, self.random)
            project = given.get("projectName") or "uncategorized"
            sweep = self.sweeps[name] = Sweep(name, project, given["config"], points)
        shown = {"name": sweep.id, "project": _project(sweep.project)}
        return {"upsertSweep": {"sweep": shown, "configValidationWarnings": []}}

    def _sweep_with_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(given["sweep"])
        if sweep is None:
            return {"project": None}
        shown = {"id": sweep.id, "name": sweep.id, "state": sweep.state, "config": sweep.text}
        return {"project": {"sweep": {**shown, "runs": {"edges": []}}}}

    _sweep_config = _sweep_with_runs

    def _create_agent(self, given: dict[str, Any]) -> dict[str, Any]:
        agent = f"agent{len(self.agents)}"
        self.agents[agent] = given["sweep"]
        return {"createAgent": {"agent": {"id": agent}}}

    def _heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        """What an agent is to do now."""
        sweep = self.sweeps[self.agents[given["id"]]]
        busy = json.loads(given.get("runState") or "{}")
        stopped = [run for run in busy if run in self.runs and self.stops(self.runs[run])]
        commands: list[dict[str, Any]] = [{"type": "stop", "run_id": run} for run in stopped]
        if sweep.state == "CANCELED" or (sweep.state == "FINISHED" and not busy):
            commands = [{"type": "exit"}]
        elif sweep.state == "RUNNING" and not busy:
            commands = [self._deal(sweep)]
        self.commands += commands
        return {"agentHeartbeat": {"agent": given, "commands": json.dumps(commands)}}

    def _deal(self, sweep: Sweep) -> dict[str, Any]:
        point = next(sweep.points, None)
        if point is None:
            return {"type": "exit"}
        run = f"{sweep.id}run{len(sweep.dealt)}"
        sweep.dealt[run] = {**point, **self.extra}
        arguments = {name: {"value": value} for name, value in sweep.dealt[run].items()}
        program = yaml.safe_load(sweep.text).get("program")
        return {"type": "run", "run_id": run, "program": program, "args": arguments}

    # Runs.

    def _upsert_bucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, given.get("project") or "uncategorized"))
        run.sweep = given.get("sweep") or run.sweep
        run.display_name = given.get("displayName") or run.display_name
        if given.get("config"):
            values = json.loads(given["config"])
            run.config = {k: v["value"] for k, v in values.items() if k != "_wandb"}
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        if not given.get("id"):
            run.state, run.exitcode = "running", None
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _run_resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        same = run is not None and run.project == given.get("project")
        project = _project(given.get("project") or "uncategorized")
        return {"model": {**project, "bucket": self._bucket(run) if run and same else None}}

    def _create_run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/uploads/{given['run']}/{name}"}
            for name in given["files"]
        ]
        answer = {"runID": given["run"], "uploadHeaders": [], "files": files}
        return {"createRunFiles": answer}

    def _mark_run_files_uploaded(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        tail = [json.dumps(row) for row in run.history[-1:]]
        return {
            "id": run.id, "name": run.id, "displayName": run.display_name, "description": None,
            "config": config, "sweepName": run.sweep, "project": _project(run.project),
            "summaryMetrics": json.dumps(run.summary), "historyTail": json.dumps(tail),
            "eventsTail": json.dumps(run.events[-1:]), "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events), "logLineCount": len(run.log), "tags": [],
            "notes": None,
            # A client takes a run without this for one that nobody has begun.
            "wandbConfig": json.dumps({"t": {}}) if run.config else None,
        }  # fmt: skip

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what went wrong, but not of clients that are gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Take a piece of a run's `file_stream`: lines of files from an offset on."""
        with self.lock:
            run = self.runs[run_id]
            for name, piece in (sent.get("files") or {}).items():
                lines, offset = piece["content"], piece["offset"]
                if name == "wandb-history.jsonl":
                    # What comes a second time has the same place.
                    run.history[offset : offset + len(lines)] = map(json.loads, lines)
                elif name == "wandb-summary.json":
                    run.summary |= json.loads(lines[-1])
                elif name == "wandb-events.jsonl":
                    run.events[offset : offset + len(lines)] = lines
                elif name == "output.log":
                    run.log |= {offset + n: line for n, line in enumerate(lines)}
            if sent.get("complete"):
                run.exitcode = sent.get("exitcode", 0)
                run.state = "failed" if run.exitcode else "finished"


class Handler(BaseHTTPRequestHandler):
    """HTTP: the way to the methods above."""

    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        _, _, run, name = unquote(self.path).split("/", 3)
        self.server.runs[run].files[name] = self._body()
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/file_stream"):
            self.server.stream(unquote(self.path).split("/")[-2], json.loads(body))
            self._send({})
            return
        if self.path != "/graphql":
            # Telemetry.
            self._send({}, 404)
            return
        given = json.loads(body)
        named = re.search(r"(?:query|mutation)\s+(\w+)", given["query"])
        name = given.get("operationName") or (named[1] if named else "")
        data = self.server.answer(name, given.get("variables") or {})
        unknown = {"errors": [{"message": f"the stand-in does not know {name}"}], "data": None}
        self._send(unknown if data is None else {"data": data})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """The terminal is the client's."""


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


def _points(config: dict[str, Any], draws: random.Random) -> Iterator[dict[str, Any]]:
    """The parameters of a sweep's trials, one after the other."""
    space = config["parameters"]
    if config["method"] == "grid":
        values = [p["values"] if "values" in p else [p["value"]] for p in space.values()]
        for point in itertools.product(*values):
            yield dict(zip(space, point, strict=True))
        return
    while True:
        yield {name: _draw(parameter, draws) for name, parameter in space.items()}


def _draw(parameter: dict[str, Any], draws: random.Random) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return draws.choices(parameter["values"], parameter.get("probabilities"))[0]
    low, high, step = parameter["min"], parameter["max"], parameter.get("q", 1)
    match parameter.get("distribution"):
        case "uniform":
            return draws.uniform(low, high)
        case "q_uniform":
            return round(draws.uniform(low, high) / step) * step
        case "log_uniform_values":
            return math.exp(draws.uniform(math.log(low), math.log(high)))
        case "q_log_uniform_values":
            return round(math.exp(draws.uniform(math.log(low), math.log(high))) / step) * step
        case "int_uniform" | None:
            return draws.randint(low, high)
    raise ValueError(f"the stand-in does not draw {parameter['distribution']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8642)
    server = WandbServer(parser.parse_args().port)
    print(f"WANDB_BASE_URL={server.url}", flush=True)
    server.serve_forever()
