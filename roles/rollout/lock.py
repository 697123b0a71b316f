"""One run at a time changes a site. The lock is a process on every GitLab node that lives as long as our connection.

flock(1) gives it, so it is atomic, and the kernel takes it back when the holder ends: a run that was killed leaves no
lock behind. When a whole machine of an operator vanishes, its connections linger and hold the lock until sshd gives
them up; then `deploys/unlock.py` breaks it. Age alone never does.

The first node (by name) decides between two runs that begin at the same moment; the others follow, so that a run that
cannot reach one of them still meets every other run.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from typing import Any

import gevent
from pyinfra import logger
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.gitlab.facts import LOCK, STATE_DIR
from roles.node import audit, remote
from roles.rollout import guard
from roles.rollout.outcome import outcome
from roles.site.current import declared
from roles.site.errors import RefusedError, StepError

# Two seconds, because guards of the mail reader and people try the lock for a moment. The last program waits: standard
# input ends with our connection, however that ends.
_HOLD = """\
umask 077; mkdir -p {folder} || exit 1
exec 9>> {path} || exit 1
flock -w 2 9 || {{ echo busy; cat {path}; exit 0; }}
printf '%s\\n' {info} > {path}
{note} || {{ echo "the audit log could not be written (is the disk full?)" >&2; exit 1; }}
echo held; exec cat > /dev/null"""


class Lock:
    """The lock of this process."""

    def __init__(self) -> None:
        self._held: dict[str, remote.Held] = {}

    @property
    def held(self) -> bool:
        """True when this run may change the site."""
        return bool(self._held)

    def mine(self, state: State, nodes: Iterable[str]) -> bool:
        """Whether this run may act on what it has seen: it has the lock, or it is a dry run.

        Else the lock is taken now, and the answer is False: somebody may have changed the site since, so look again.

        Args:
            state: pyinfra's.
            nodes: names of the GitLab nodes.

        Raises:
            RefusedError: another run has it.
        """
        if self.held or outcome.dry:
            return True
        there = [host for host in state.inventory if host.name in set(nodes) and host not in state.failed_hosts]
        self.take(there, guard.seconds("lock_wait"))
        try:
            declared().read_again()
        except RefusedError as error:
            outcome.refused([str(error)])
            raise
        return False

    def take(self, hosts: Iterable[Host], wait: float) -> None:
        """Take it on every node, or on none.

        Args:
            hosts: the GitLab nodes that can be reached.
            wait: seconds to wait for another run's end.

        Raises:
            RefusedError: another run has it; who, since when, and what to do.
        """
        nodes = sorted(hosts, key=lambda host: str(host.name))
        deadline, told = time.monotonic() + wait, -1e9
        while reason := self._try(nodes):
            self.release()
            if time.monotonic() > deadline:
                outcome.refused([reason])
                raise RefusedError(f"nothing was touched:\n  - {reason}")
            if time.monotonic() - told > 15:
                told = time.monotonic()
                logger.info(f"    waiting: {reason}")
            gevent.sleep(1)

    def _try(self, nodes: list[Host]) -> str:
        """Why it is not ours; empty when it is."""
        info = {**audit.run.words(), "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
        words = {
            "folder": STATE_DIR,
            "path": LOCK,
            "info": shlex.quote(json.dumps(info)),
            "note": audit.shell("begins"),
        }
        command = _HOLD.format(**words)
        for group in (nodes[:1], nodes[1:]):
            jobs = [gevent.spawn(remote.hold, host, command) for host in group]
            gevent.joinall(jobs)
            for host, job in zip(group, jobs, strict=True):
                held: remote.Held = job.get()
                if held.said == "held":
                    self._held[str(host.name)] = held
                elif held.said == "busy":
                    held.end()
                    return _busy(held.more)
                else:
                    held.end()
                    return f"{host.name}: the lock of the site could not be taken: {held.more}"
        return ""

    def demand(self) -> None:
        """See that it is still ours.

        Raises:
            StepError: somebody broke it.
        """
        lost = [name for name, held in self._held.items() if held.broken]
        if lost:
            raise StepError(f"the lock of the site was broken on {', '.join(lost)}: another run may work. Run again.")

    def release(self) -> None:
        """Give it back. The end of the process does that too."""
        for held in self._held.values():
            held.end()
        self._held.clear()


def _busy(told: str) -> str:
    try:
        info: dict[str, Any] = json.loads(told)
        words = f"{info['by']} runs {info['deploy']} since {info['since']}" + (
            f" ({info['why']})" if info["why"] else ""
        )
    except (ValueError, TypeError, KeyError):
        words = "somebody just began"
    return (
        f"another run changes this site: {words}. Wait for its end, or add --data lock_wait=SECONDS. If that machine "
        "is gone for good: deploys/unlock.py"
    )


lock = Lock()
"""The lock of this process."""
