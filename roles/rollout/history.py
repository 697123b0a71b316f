"""The audit logs of all nodes as one history. Read-only."""

from __future__ import annotations

import json
from typing import Any

import gevent
from pyinfra import state as pyinfra_state
from rich.console import Console
from rich.table import Table
from rich.text import Text

from roles.node import audit, remote
from roles.rollout.guard import option
from roles.rollout.outcome import outcome
from roles.site.secret import scrub

_OWN = {"prev", "time", "run", "by", "deploy", "why", "what"}


def history() -> list[dict[str, Any]]:
    """Look once at all nodes, show it, and set the verdict of the run."""
    return _once.get()


def _history() -> list[dict[str, Any]]:
    state = pyinfra_state.inventory.state
    hosts = list(state.inventory)
    jobs = [gevent.spawn(remote.run, host, f"cat {audit.LOG} 2>/dev/null; true") for host in hosts]
    gevent.joinall(jobs)
    entries: list[dict[str, Any]] = []
    wrong, unseen = [], []
    for host, job in zip(hosts, jobs, strict=True):
        got = job.get()
        if not got.ok:
            unseen.append(str(host.name))
            continue
        lines = got.stdout.splitlines()
        if numbers := audit.broken(lines):
            wrong.append(f"{audit.LOG} on {host.name} was changed by somebody: line {', '.join(map(str, numbers))}")
        for line in lines:
            try:
                entries.append({"node": str(host.name), **json.loads(line)})
            except (ValueError, TypeError):
                continue  # counted above
    entries.sort(key=lambda one: str(one.get("time")))
    entries = entries[-int(option("history.py", "last")) :]
    if not outcome.json:
        _table(entries)
    wrong += [f"{', '.join(unseen)} could not be looked at"] if unseen else []
    verdict = "as declared" if not wrong else ("differs" if len(wrong) > bool(unseen) else "could not look")
    outcome.end(verdict, *(wrong or [f"{len(entries)} lines"]), entries=entries)
    return entries


def _table(entries: list[dict[str, Any]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 180
    out = Table(header_style="bold")
    for title in ("time", "node", "by", "deploy", "why", "what"):
        out.add_column(title, overflow="fold")
    for one in entries:
        more = {key: value for key, value in one.items() if key not in _OWN and key != "node"}
        what = f"{one.get('what', '')} {json.dumps(more) if more else ''}".strip()
        words = [str(one.get(key, "")) for key in ("time", "node", "by", "deploy", "why")]
        out.add_row(*(Text(scrub(word)) for word in [*words, what]))
    console.print(out)


_once = remote.Once(_history)
