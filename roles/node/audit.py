"""The audit log of a node: who changed what on it, when, from where and why. Hashes stand in place of contents.

One JSON object per line in `/var/log/pyinfra-gitlab/audit.jsonl`, for root alone. Each line holds the hash of the one
before it (`prev`), so that a line which was changed or taken out is seen (`deploys/history.py`).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import socket
import time
from collections.abc import Iterable
from typing import Any

from pyinfra.api.host import Host

from roles.node import remote
from roles.site.secret import scrub

FOLDER = "/var/log/pyinfra-gitlab"
"""Folder of the log, mode 0700."""
LOG = f"{FOLDER}/audit.jsonl"
"""The log itself, mode 0600."""

NOTE = f"""\
note() {{ # a JSON object
  (umask 077; [ -d {FOLDER} ] || mkdir -p {FOLDER}; exec 8>> {LOG} && flock 8 || exit 1
  prev=$(tail -n 1 {LOG} | sha256sum); printf '{{"prev": "%s", %s\\n' "${{prev%% *}}" "${{1#?}}" >&8)
}}"""
"""Shell: the function that appends a line (`line`); exit code 0 only when it is in the log."""


class RunIdentity:
    """Who runs what, from where and why: the same for every line that a run writes."""

    def __init__(self) -> None:
        self.deploys = ""
        self.why = ""
        self.id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
        self.by = f"{getpass.getuser()}@{socket.gethostname()}"

    def words(self) -> dict[str, str]:
        """As they stand in a line."""
        return {"run": self.id, "by": self.by, "deploy": self.deploys, "why": self.why}


run = RunIdentity()
"""That of this process; `roles.rollout.guard` fills in what the command line says."""


def line(what: str, **more: Any) -> str:
    """One line: a JSON object without `prev`.

    Args:
        what: what was done, in words.
        more: what belongs to it: names, hashes, counts. Never a secret.
    """
    now = time.time()
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    return scrub(json.dumps({"time": when, **run.words(), "what": what, **more}, ensure_ascii=True))


def shell(what: str, **more: Any) -> str:
    """Shell that appends one line; exit code 0 only when it is in the log."""
    return f"{NOTE}\nnote {shlex.quote(line(what, **more))}"


def note(host: Host, what: str, **more: Any) -> None:
    """Append one line to a node's log. A log that cannot be written (a full disk) ends no run: it is told on screen."""
    got = remote.run(host, shell(what, **more))
    if not got.ok:
        host.log(f"not written into {LOG}: {what} ({got.stderr.strip()})")


def broken(lines: Iterable[str]) -> list[int]:
    """Which lines of a log do not fit to the one before them (counted from 1; the first is not looked at)."""
    out, before = [], None
    for number, line in enumerate(lines, 1):
        try:
            prev = json.loads(line)["prev"]
        except (ValueError, TypeError, KeyError):
            prev = None
        if prev is None or (before is not None and prev != hashlib.sha256(f"{before}\n".encode()).hexdigest()):
            out.append(number)
        before = line
    return out
