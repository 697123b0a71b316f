"""One run over the node that backs up: look at it once, decide, and act in steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.backup import facts, render
from roles.backup.plan import BackupPlan, plan
from roles.backup.settings import BackupSettings
from roles.node import remote
from roles.node.bundle import Bundle, File
from roles.node.facts import NodeState
from roles.rollout.diff import show
from roles.rollout.guard import deploys, strict
from roles.rollout.lock import lock
from roles.rollout.outcome import outcome
from roles.site.current import current
from roles.site.errors import RefusedError, StepError
from roles.site.models import Site

PART = "backup"
"""Name of this part of a run in the outcome."""


@dataclass
class BackupRun:
    """What is known of the backups in this run."""

    site: Site
    """As declared."""
    state: State
    """pyinfra's state."""
    found: NodeState | str
    """The node as found; a string is the reason why it could not be read."""
    plan: BackupPlan = field(default_factory=BackupPlan)
    """What is to be done."""

    @property
    def wanted(self) -> BackupSettings:
        """The section `mattermost.backup` of the site file."""
        assert self.site.mattermost is not None
        assert self.site.mattermost.backup is not None
        return self.site.mattermost.backup

    @property
    def node(self) -> str:
        """Name of Mattermost's node."""
        return str(self.site.mattermost_node)

    @property
    def here(self) -> bool:
        """True in the greenlet of Mattermost's node."""
        return str(host.name) == self.node

    @property
    def server(self) -> Host:
        """Mattermost's node."""
        return self.state.inventory.get_host(self.node)

    def look_at(self, files: tuple[File, ...]) -> NodeState:
        """Look at the node afresh, for these files.

        Raises:
            StepError: when it cannot be read.
        """
        found = remote.look(self.state, self.server, Bundle(files))
        if isinstance(found, str):
            raise StepError(f"the node could not be looked at: {found}. Run again.")
        return found

    def finish(self) -> None:
        """The run is at its end."""
        outcome.end("changed", self.node, part=PART)


seen: list[NodeState | str] = []
"""What Mattermost's part of this command has just found out for us, in the same look."""


def bundle(site: Site) -> Bundle:
    """What is asked of, and wanted on, the node; empty when the site has no backups."""
    if site.mattermost is None or site.mattermost.backup is None:
        return Bundle()
    more = facts.health_questions() if "verify.py" in deploys else ()
    return Bundle(render.files(site, timers=True), facts.questions() + more)


def survey(state: State) -> BackupRun | None:
    """Look at the node, without deciding anything; None when the site has no backups."""
    site = current()
    if site.mattermost is None or site.mattermost.backup is None or site.mattermost_node is None:
        return None
    node = site.mattermost_node
    found = seen.pop() if seen else remote.look_all(state, {node: bundle(site)})[node]
    return BackupRun(site, state, found)


def begin() -> BackupRun | None:
    """The run of this process: made once, the same for every node. None when there is nothing to do.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> BackupRun | None:
    take = "backup.py" in deploys  # site.py only sees to the timers
    run = survey(pyinfra_state.inventory.state)
    strict(pyinfra_state.inventory.state)
    if run is None:
        if take:
            raise _refused(["the site file has no mattermost.backup (see inventories/example/site.yml)"])
        outcome.end("as declared", part=PART)
        return None
    if not run.state.is_host_in_limit(run.server):
        outcome.end("as declared", f"{run.node} is left out by --limit", part=PART)
        return None
    if isinstance(run.found, str):
        raise _refused([f"{run.node}: {run.found}"])
    files = render.files(run.site, timers=True)
    run.plan = plan(run.found, files, render.repository(run.site), take)
    if run.plan.refused:
        raise _refused([f"{run.node}: {reason}" for reason in run.plan.refused])
    summary = run.plan.summary()
    if not summary:
        outcome.end("as declared", f"nothing to do for the backups of {run.node}", part=PART)
        return None
    if not lock.mine(run.state, run.site.gitlab_nodes):
        return _begin()
    for line in summary:
        logger.info(f"    {run.node}: {line}")
    if run.state.config.DIFF or outcome.dry:
        show(run.server, run.plan.changes)
    outcome.begin(PART, changes={run.node: summary})
    if outcome.dry:
        outcome.end("would change", f"{run.node} (nothing was touched)", part=PART)
    return run


def _refused(reasons: list[str]) -> RefusedError:
    outcome.refused(reasons)
    return RefusedError("nothing was touched:\n" + "\n".join(f"  - {reason}" for reason in reasons))


_run = remote.Once(_begin)
