"""Ask the running server over its local socket, privately: what goes through here is printed at no verbosity."""

from __future__ import annotations

import json
from typing import Any

from pyinfra.api.host import Host

from roles.mattermost import facts
from roles.node import remote
from roles.site.errors import StepError
from roles.site.secret import scrub


def request(host: Host, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request; the body goes through standard input.

    Returns:
        the HTTP status (0: no answer), and the answer's JSON (an empty mapping when it is none).
    """
    options = ["--request", method, "--write-out", "\n%{http_code}"]
    if body is not None:
        options += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
    got = remote.run(host, facts.api(path, *options), stdin=json.dumps(body) if body is not None else "")
    text, _, code = got.stdout.rstrip().rpartition("\n")
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        answer = {}
    return int(code) if code.isdigit() else 0, answer


def demand(host: Host, method: str, path: str, body: Any = None, *, what: str) -> Any:
    """As :func:`request`, for what must succeed.

    Args:
        what: what was wanted, for the message.

    Raises:
        StepError: with the server's own words.
    """
    code, answer = request(host, method, path, body)
    if code not in (200, 201):
        said = answer.get("message") if isinstance(answer, dict) else None
        raise StepError(f"{what}: Mattermost answered {scrub(str(said or f'HTTP {code}'))}")
    return answer
