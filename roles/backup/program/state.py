"""What the node remembers of its backups: for `verify`, for Prometheus, and for whoever asks at night."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from .config import FOLDER, Config, read, write

STATE = FOLDER / "state.json"
"""`runs` (newest last), `last_good` (the newest good one), `check` (of the repository)."""
KEPT = 60
"""How many runs are remembered."""


def load() -> dict[str, Any]:
    """The state; empty before the first run, or when its file is damaged."""
    found = read(STATE)
    empty: dict[str, Any] = {"runs": [], "last_good": None, "check": None}
    return {**empty, **found} if isinstance(found, dict) else empty


def begin(entry: dict[str, Any]) -> None:
    """A run has begun. If it is killed, this is what stays of it."""
    known = load()
    known["runs"] = [*known["runs"], entry][-KEPT:]
    write(STATE, _text(known))


def end(config: Config, entry: dict[str, Any]) -> None:
    """A run has ended, in whichever way."""
    known = load()
    earlier = [one for one in known["runs"] if one["started"] != entry["started"]]
    known["runs"] = [*earlier[-KEPT + 1 :], entry]
    if entry["result"] == "good":
        known["last_good"] = entry
    write(STATE, _text(known))
    metrics(config, known)


def checked(config: Config, ok: bool, reason: str, seconds: float) -> None:
    """The repository was checked."""
    known = load()
    known["check"] = {"finished": time.time(), "ok": ok, "reason": reason, "seconds": round(seconds, 1)}
    write(STATE, _text(known))
    metrics(config, known)


def _text(known: dict[str, Any]) -> str:
    return json.dumps(known, indent=1)


def metrics(config: Config, known: dict[str, Any]) -> None:
    """A file for node_exporter's textfile collector (Prometheus' text format)."""
    if not config.textfile:
        return
    last, good, check = (known["runs"] or [None])[-1], known["last_good"], known["check"]
    lines: list[str] = []

    def gauge(name: str, help_: str, value: object) -> None:
        lines.extend((f"# HELP mattermost_backup_{name} {help_}", f"# TYPE mattermost_backup_{name} gauge"))
        lines.append(f'mattermost_backup_{name}{{site="{config.site}"}} {value}')

    gauge("rpo_seconds", "How old the last good backup may be.", config.rpo)
    if last:
        gauge("last_run_timestamp_seconds", "When the last backup ended.", last.get("finished", last["started"]))
        gauge("last_run_good", "Whether the last backup was read back and is whole.", int(last["result"] == "good"))
    if good:
        gauge("last_good_timestamp_seconds", "When the last good backup began.", good["started"])
        gauge("duration_seconds", "How long it took.", round(good["finished"] - good["started"], 1))
        gauge("size_bytes", "Bytes in it.", good["bytes"])
        gauge("added_bytes", "Bytes that it added to the repository.", good["added"])
        gauge("files", "Files in it.", good["files"])
        gauge("posts", "Posts in it.", good["posts"])
    if check:
        gauge("check_timestamp_seconds", "When the repository was last checked.", check["finished"])
        gauge("check_good", "Whether it was whole.", int(check["ok"]))
    write(Path(config.textfile), "\n".join(lines) + "\n", 0o644)
