"""Whether backups are as declared: taken, read back, young enough. Asked by `verify`; changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from roles.backup import facts, render
from roles.backup.settings import seconds
from roles.backup.words import duration, size
from roles.node.checks import Check, compare
from roles.node.facts import NodeState
from roles.node.plan import changes

if TYPE_CHECKING:
    from roles.rollout.backup import BackupRun

CURE = "Run deploys/backup.py."
LOG = "See `journalctl -u 'mattermost-backup*'` on the node."
_TREND = 5


def checks(run: BackupRun) -> list[Check]:
    """Everything about the backups of one node."""
    if isinstance(run.found, str):
        return [compare(run.node, "backups", "looked at", None, False, f"{run.found}. Bring it back, then look again.")]
    state = run.found
    known = facts.of_json(state, "backup.state") or {}
    return [
        _files(run, state),
        _timers(run, state),
        *_good(run, state, known),
        *_results(run, state),
        _open(run, state),
    ]


def _files(run: BackupRun, state: NodeState) -> Check:
    differing = changes(render.files(run.site, timers=True), state)
    lacks = [f"no {name}" for name in facts.absent(state)]
    found = "; ".join([*lacks, *(change.summary() for change in differing)]) or "the same"
    return compare(
        run.node, "program and settings of backups", "as the site file says", found, found == "the same", CURE
    )


def _timers(run: BackupRun, state: NodeState) -> Check:
    stopped, next_ = facts.units(state), facts.next_run(state)
    found = f"{', '.join(stopped)} not as it must be" if stopped else f"next run {next_ or 'never'}"
    return compare(run.node, "timers of backups", "run", found, not stopped and bool(next_), CURE)


def _good(run: BackupRun, state: NodeState, known: dict[str, Any]) -> list[Check]:
    """The repository itself is asked, not only the node's memory: it may have lost what the node remembers."""
    wanted = run.wanted
    promised = f"a good one, at most {wanted.rpo} old"
    listed = facts.of_json(state, "backup.list")
    if listed is None:
        cure = f"The repository does not answer, or not to this password. {LOG}"
        return [compare(run.node, "last good backup", promised, None, False, cure)]
    good = [one for one in listed if one["good"]]
    since = state.answer("backup.since")
    if not good and since.isdigit() and state.clock - int(since) < seconds(wanted.rpo):
        return [compare(run.node, "last good backup", promised, f"none yet; {facts.next_run(state)}", True)]
    if not good:
        return [compare(run.node, "last good backup", promised, "none", False, CURE)]
    age = max(time.time() - good[-1]["time"], 0)
    found = f"{good[-1]['backup']}, {duration(age)} old, of {len(good)} good ones"
    out = [compare(run.node, "last good backup", promised, found, age <= seconds(wanted.rpo), f"{CURE} {LOG}")]
    runs = [one for one in known.get("runs", ()) if one.get("result") == "good"]
    if runs:
        out.append(compare(run.node, "size of backups", "told", _trend(runs, state), True))
    check = known.get("check")
    if check:
        when = f"{duration(max(time.time() - check['finished'], 0))} ago"
        found = f"whole, {when}" if check["ok"] else f"{check['reason']} ({when})"
        out.append(compare(run.node, "repository of backups", "whole", found, check["ok"], LOG))
    return out


def _trend(runs: list[dict[str, Any]], state: NodeState) -> str:
    last, before = runs[-1], runs[-_TREND - 1 : -1]
    words = f"{size(last['bytes'])} in {duration(last['finished'] - last['started'])}, {size(last['added'])} new"
    if before:
        mean = sum(one["bytes"] for one in before) / len(before)
        words += f"; {(last['bytes'] / mean - 1) * 100 if mean else 0:+.0f} % against the {len(before)} before"
    free = state.answer("backup.free")
    room = last.get("room")
    words += f"; free: {size(int(free) * 1024)} on the node" if free.isdigit() else ""
    return words + (f", {size(room)} in the repository" if room is not None else "")


def _results(run: BackupRun, state: NodeState) -> list[Check]:
    lines = state.answer("backup.results").splitlines()
    known = facts.of_json(state, "backup.state") or {}
    runs = known.get("runs") or [{}]
    out = []
    for name, result in zip(("last backup", "last check of the repository"), lines, strict=False):
        found = "succeeded, or not run yet" if result == "success" else f"failed ({result})"
        if name == "last backup" and runs[-1].get("result") == "failed" and result != "success":
            found = f"failed: {runs[-1].get('reason')}"
        out.append(compare(run.node, name, "did not fail", found, result == "success", LOG))
    return out or [compare(run.node, "last backup", "did not fail", None, False, LOG)]


def _open(run: BackupRun, state: NodeState) -> Check:
    waits = state.answer(facts.OPEN.key) == "yes"
    found = "one stands open" if waits else "none stands open"
    cure = "mattermost-settle.service puts back what was there before (journalctl -u mattermost-settle)."
    return compare(run.node, "restores", "none stands open", found, not waits, cure)
