"""Break the lock of a site, on request alone."""

from __future__ import annotations

import json
from dataclasses import dataclass

import gevent
from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.gitlab.facts import LOCK
from roles.node import remote
from roles.node.act import Act, do
from roles.rollout.guard import option, strict
from roles.rollout.outcome import outcome
from roles.rollout.step import step
from roles.site.current import current
from roles.site.errors import RefusedError

_HOLDERS = f"""\
for fd in /proc/[0-9]*/fd/9; do
  [ "$(readlink "$fd")" = {LOCK} ] && {{ pid=${{fd#/proc/}}; echo "${{pid%%/*}}"; }}
done 2>/dev/null; true"""
_LOOK = f"{_HOLDERS}; echo; cat {LOCK} 2>/dev/null; true"
_BREAK = f"kill -9 $({_HOLDERS}) 2>/dev/null; exec 9>> {LOCK} && flock -w 5 9"


@dataclass(frozen=True)
class Unlock:
    """The locks to break."""

    holders: dict[str, str]
    """Node -> who has the lock there, as JSON."""
    state: State
    """pyinfra's state."""


def begin() -> Unlock | None:
    """Say who has the lock; None when it is not to be broken.

    Raises:
        RefusedError: somebody has it, and `break=yes` was not said.
    """
    return _run.get()


def _begin() -> Unlock | None:
    state = pyinfra_state.inventory.state
    strict(state)
    nodes = [one for one in state.inventory if one.name in current().gitlab_nodes and one not in state.failed_hosts]
    jobs = {str(one.name): gevent.spawn(remote.run, one, _LOOK) for one in nodes}
    gevent.joinall(list(jobs.values()))
    holders = {}
    for name, job in jobs.items():
        pids, _, told = job.get().stdout.partition("\n\n")
        if pids.strip():
            holders[name] = told.strip()
    if not holders:
        outcome.end("as declared", "nobody has the lock of this site")
        return None
    for name, told in holders.items():
        logger.info(f"    {name}: {_words(told)}")
    if outcome.dry or option("unlock.py", "break") != "yes":
        reason = f"{_words(next(iter(holders.values())))}. If that run is dead for certain, add --data break=yes"
        outcome.refused([reason])
        raise RefusedError(reason)
    outcome.begin("")
    return Unlock(holders, state)


def _words(told: str) -> str:
    try:
        info = json.loads(told)
        return f"{info['by']} has the lock since {info['since']} for {info['deploy']}"
    except (ValueError, KeyError, TypeError):
        return "somebody has the lock"


def unlock(run: Unlock) -> None:
    """Step: end the processes that hold the lock; the run that they belong to ends at its next step."""

    def act(host: Host) -> None:
        broken = Act(
            _BREAK,
            "lock broken",
            {"of": _words(run.holders[str(host.name)])},
            told=lambda got: "the lock is still held: somebody has taken it again. Look who, with unlock.py.",
        )
        do(host, broken)
        outcome.end("changed", f"the lock is broken on {', '.join(run.holders)}")

    step(name="Break the lock", action=act if str(host.name) in run.holders else None)


_run = remote.Once(_begin)
