"""The commands of `mattermost-backup`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import datetime, timezone
from types import FrameType
from typing import Any

from . import restore, state, take
from .config import FOLDER, PATIENCE, PROGRESS, Busy, Config, Failure, call, load, locked
from .repository import Repository

COMMANDS = {
    "take": "take a backup, read it back, and count it if it is whole (what the timer does)",
    "list": "the backups in the repository",
    "status": "what this node knows of its backups",
    "check": "check the repository, and remove data that no backup needs (what the other timer does)",
    "prepare": "make the repository, if there is none",
    "look": "what a restore would do; its request comes through standard input",
    "restore": "do what request.json says (what deploys/restore.py and drill.py do)",
    "settle": "put back what was there before a restore that did not come to its end, or end a drill",
    "stopped": "for systemd: a command has ended, in whichever way",
}

_PATIENCE = {"take": PATIENCE, "check": PATIENCE, "settle": 60}
"""Seconds that a command waits for another one on this node."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: failed, and why is said; 2: not understood."""
    parser = argparse.ArgumentParser("mattermost-backup", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "\n".join(f"{name:10}{what}" for name, what in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--json", action="store_true", help="for programs")
    told = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("mattermost-backup: only root may read what is to be kept.", file=sys.stderr)
        return 1
    os.umask(0o077)
    signal.signal(signal.SIGTERM, _end)
    try:
        FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
        answer = _run(told.command, load(), told.json)
    except Failure as error:
        print(f"mattermost-backup {told.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"mattermost-backup {told.command}: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    if answer is not None:
        print(answer if isinstance(answer, str) else json.dumps(answer))
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise Failure(f"ended by {signal.Signals(number).name}")


def _run(command: str, config: Config, as_json: bool) -> Any:
    if command == "list":
        found = [one.__dict__ for one in Repository(config).snapshots()]
        return found if as_json else _table(found)
    if command == "status":
        return state.load() if as_json else _status(state.load())
    if command == "look":
        return restore.look(config, json.load(sys.stdin))
    if command == "stopped":
        return _stopped()
    if command == "prepare":  # the repository is asked, and nothing on this node is touched
        return {"made": Repository(config).prepare()}
    with locked(_PATIENCE.get(command, 0)):
        try:
            if command == "take":
                if restore.interrupted():  # killed while we waited for it: not what is to be kept
                    restore.settle(config)
                return take.take(config)
            if command == "check":
                return _check(config)
            if command == "restore":
                return restore.restore(config)
            return {"settled": restore.settle(config)}
        finally:
            PROGRESS.unlink(missing_ok=True)


def _check(config: Config) -> None:
    started, reason = time.monotonic(), ""
    try:
        repository = Repository(config, PATIENCE)
        repository.unlock()
        repository.check(config.read_data)
    except Failure as error:
        reason = str(error)
        raise
    finally:
        state.checked(config, not reason, reason, time.monotonic() - started)


def _stopped() -> None:
    """After a kill nothing is left half-way: the server runs again, and a restore is put back (it may have to wait for
    the database, so that is a unit of its own). Another command that works now sees to that itself."""
    try:
        with locked():
            take.tidy()
            if restore.interrupted():
                call(["systemctl", "start", "--no-block", "mattermost-settle.service"], what="systemctl")
    except Busy:
        return


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _table(found: list[dict[str, Any]]) -> str:
    lines = [f"{one['backup']}  {_when(one['time'])}  {'good' if one['good'] else 'does not count'}" for one in found]
    return "\n".join(lines) or "There is no backup in the repository."


def _status(known: dict[str, Any]) -> str:
    good, last, check = known["last_good"], (known["runs"] or [None])[-1], known["check"]
    lines = []
    if good:
        size = f"{good['bytes'] >> 20} MiB, {good['files']} files, {good['posts']} posts"
        took = f"{good['finished'] - good['started']:.0f} s"
        lines.append(f"last good backup: {good['backup']} ({_when(good['started'])}), {size}, took {took}")
    else:
        lines.append("last good backup: none")
    if last and last["result"] != "good":
        lines.append(f"the last one failed ({_when(last['started'])}): {last['reason']}")
    if check:
        lines.append(f"repository: {'whole' if check['ok'] else check['reason']} ({_when(check['finished'])})")
    return "\n".join(lines)
