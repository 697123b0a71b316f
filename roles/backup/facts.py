"""What a node is asked about its backups, and what the answers mean."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from roles.backup.render import FOLDER, LIBRARY, MADE, PROGRAM, SETTLE, STATE, TIMERS
from roles.node.bundle import Question
from roles.node.facts import NodeState

PACKAGES = {"restic": "restic", "pg_dump": "postgresql-client", "python3": "python3", "psycopg": "python3-psycopg"}
"""What the program needs, and the packages of Debian 12 and Ubuntu 22.04 (and newer) that bring it."""
FOLDERS = {FOLDER: "700", str(Path(LIBRARY).parent): "755", LIBRARY: "755", STATE: "700"}
"""Folders that have to be there, with their modes; root's."""
OPEN = Question("backup.open", f"if [ -e {STATE}/journal.json ]; then echo yes; fi")
"""Whether a restore or a drill stands open: `yes`, or nothing."""


def questions() -> tuple[Question, ...]:
    """What the node is asked in every run."""
    units = " ".join((*TIMERS, SETTLE))
    return (
        Question(
            "backup.absent",
            "for p in restic pg_dump python3; do command -v $p >/dev/null || echo $p; done; "
            "python3 -c 'import psycopg' 2>/dev/null || echo psycopg",
        ),
        Question("backup.folders", f"stat -c '%n %a %U:%G' {' '.join(FOLDERS)} 2>/dev/null; true"),
        Question("backup.units", f"systemctl show -p Id -p ActiveState -p UnitFileState -p NeedDaemonReload {units}"),
        Question("backup.made", f"cat {MADE}"),
    )


def health_questions() -> tuple[Question, ...]:
    """What `verify` asks on top."""
    units = "mattermost-backup mattermost-backup-check"
    return (
        Question("backup.state", f"{PROGRAM} status --json"),
        Question("backup.list", f"timeout 60 {PROGRAM} list --json"),
        Question("backup.since", f"stat -c %Y {MADE}"),
        Question("backup.next", f"systemctl show -p NextElapseUSecRealtime --value {TIMERS[0]}"),
        Question("backup.results", f"for u in {units}; do systemctl show -p Result --value $u.service; done"),
        Question("backup.free", f"df -Pk {STATE} | awk 'NR > 1 {{print $4}}'"),
        OPEN,
    )


def absent(state: NodeState) -> list[str]:
    """The packages that are missing for backups and restores."""
    return [PACKAGES[name] for name in state.answer("backup.absent").split() if name in PACKAGES]


def prepared(state: NodeState) -> list[str]:
    """Folders that are not as they must be, in words."""
    found = {line.split()[0]: tuple(line.split()[1:]) for line in state.answer("backup.folders").splitlines()}
    return [f"make {path}" for path, mode in FOLDERS.items() if found.get(path) != (mode, "root:root")]


def units(state: NodeState) -> list[str]:
    """Units that are not as they must be: timers that do not run, or whatever systemd has to read again."""
    found = {}
    for block in state.answer("backup.units").split("\n\n"):
        words = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        active = words.get("ActiveState") == "active" or words.get("Id") == SETTLE
        found[words.get("Id")] = active and (words.get("UnitFileState"), words.get("NeedDaemonReload")) == (
            "enabled",
            "no",
        )
    return [name for name in (*TIMERS, SETTLE) if not found.get(name)]


def of_json(state: NodeState, key: str) -> Any:
    """An answer that is JSON; None when it is none."""
    try:
        return json.loads(state.answer(key))
    except json.JSONDecodeError:
        return None


def next_run(state: NodeState) -> str:
    """When the timer next elapses, as systemd says it; empty when it does not."""
    text = state.answer("backup.next").strip()
    return "" if text in ("", "n/a", "0") else text


def moment(seconds: float) -> str:
    """A moment for people, in UTC."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
