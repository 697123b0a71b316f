"""When a node may be called done: what Prometheus says, and what the node itself says, with real Ruby."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from roles.gitlab import gate
from roles.rollout.settings import ErrorRateSettings


@contextmanager
def server(answer: Any, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback that always gives this answer; its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Silence."""

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{web.server_port}", asked
    finally:
        web.shutdown()


def rate(answer: Any) -> tuple[str, list[str]]:
    """What is held against app-1 when Prometheus gives this answer."""
    with server(answer) as (url, asked):
        settings = ErrorRateSettings(url=url, query='errors{node="{node}", at="{address}"}', most=0.5)
        return gate.error_rate(settings, "app-1", "10.0.0.1"), asked


def test_an_error_rate_is_asked_for_the_node_and_compared() -> None:
    low, asked = rate({"data": {"result": [{"value": [1, "0.1"]}]}})
    assert low == ""
    (query,) = parse_qs(urlsplit(asked[0]).query)["query"]
    assert query == 'errors{node="app-1", at="10.0.0.1"}'
    high, _ = rate({"data": {"result": [{"value": [1, "0.1"]}, {"value": [1, "0.7"]}]}})
    assert "is 0.7, more than 0.5" in high
    assert rate({"data": {"result": []}})[0] == "", "no request, no error"


@pytest.mark.parametrize("answer", [{"data": {}}, {"status": "error"}, [], "x"])
def test_an_answer_that_is_none_stops_the_rollout(answer: Any) -> None:
    assert "Prometheus could not be asked" in rate(answer)[0]


def health(folder: Path, status: str, answer: Any, code: int = 200) -> dict[str, Any]:
    """What `health.rb` says of a node with these services and this /-/readiness."""
    ctl = folder / "gitlab-ctl"
    ctl.write_text(f"#!/bin/sh\ncat <<'END'\n{status}\nEND\n")
    ctl.chmod(0o755)
    program = Path(gate.__file__).with_name("health.rb")
    with server(answer, code) as (url, asked):
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(["ruby", str(program), url], env=environment, capture_output=True, text=True, check=True)
        assert asked == ["/-/readiness?all=1"]
    return dict(json.loads(done.stdout))


RUNS = "run: puma: (pid 1) 2s; run: log: (pid 2) 2s\nrun: sidekiq: (pid 3) 2s; run: log: (pid 4) 2s"


def test_a_healthy_node_is_told_from_a_sick_one(tmp_path: Path) -> None:
    well = health(tmp_path, RUNS, {"status": "ok", "db_check": [{"status": "ok"}], "redis_check": [{"status": "ok"}]})
    assert well == {"services": 2, "down": [], "readiness": {"code": 200, "failed": []}}
    mail_off = "down: mailroom: 5s, normally up; run: log: (pid 9) 5s"
    assert health(tmp_path, f"{RUNS}\n{mail_off}", {})["down"] == [], "that is our own doing"
    down = health(tmp_path, f"{RUNS}\ndown: registry: 1s, normally up; run: log: (pid 9) 5s", {})
    assert down["down"] == ["down: registry: 1s, normally up"]
    failed = health(tmp_path, RUNS, {"status": "failed", "db_check": [{"status": "failed", "message": "x"}]}, 503)
    assert failed["readiness"] == {"code": 503, "failed": ["db_check"]}
    assert health(tmp_path, RUNS, "not found", 404)["readiness"]["code"] == 404
