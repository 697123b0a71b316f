"""One restore drill: decide whether it may be done, do it, and end with its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host

from roles.backup import drill, facts, report
from roles.mattermost import facts as mattermost_facts
from roles.node import remote
from roles.node.bundle import Bundle
from roles.rollout.guard import option, strict
from roles.rollout.lock import lock
from roles.rollout.mattermost import MattermostRun
from roles.rollout.outcome import outcome
from roles.rollout.restore import refused, request
from roles.site.current import current
from roles.site.errors import StepError
from roles.site.models import Site

PART = "drill"
"""Name of this part of a run in the outcome."""


@dataclass
class DrillRun:
    """What is known of the drill in this run."""

    site: Site
    """As declared."""
    chat: MattermostRun
    """Mattermost on the spare node."""
    request: dict[str, Any]
    """What the spare node is asked to do."""
    packages: tuple[str, ...] = ()
    """Packages to install first."""
    leftover: bool = False
    """An earlier drill was cut off, and its copy is still there."""

    @property
    def node(self) -> str:
        """Name of the spare node."""
        return str(self.site.drill_node)

    @property
    def here(self) -> bool:
        """True in the greenlet of the spare node."""
        return str(host.name) == self.node

    @property
    def rails(self) -> Host:
        """The Rails node that is asked who people are."""
        return self.chat.state.inventory.get_host(self.site.rails_nodes[0])

    @property
    def reports(self) -> Path:
        """Folder of the reports."""
        assert self.site.mattermost is not None
        assert self.site.mattermost.drill is not None
        return self.site.file(self.site.mattermost.drill.reports)

    def finish(self, found: report.Report) -> None:
        """Write the report, and set the verdict of the run.

        Raises:
            StepError: the drill did not pass.
        """
        try:
            record, page = report.write(found, self.reports)
        except OSError as error:
            raise StepError(f"{report.verdict(found)} The report could not be written: {error}") from None
        for phase in found.phases:
            logger.info(f"    {phase.name}: {phase.seconds:.1f} s")
        for check in found.checks:
            logger.info(f"    {'' if check.ok else 'FAILED: '}{check.name}: {check.found}")
        words = f"{report.verdict(found)} Report: {page}"
        if not found.passed:
            raise StepError(words)
        outcome.end("changed", words, part=PART, report=str(record))


def begin() -> DrillRun | None:
    """The drill of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> DrillRun | None:
    site, state = current(), pyinfra_state.inventory.state
    strict(state)
    if site.mattermost is None or site.mattermost.drill is None or site.drill_node is None:
        raise refused(["the site file has no mattermost.drill (see inventories/example/site.yml)"])
    node = state.inventory.get_host(site.drill_node)
    if not state.is_host_in_limit(node):
        raise refused([f"{site.drill_node} is left out by --limit"])
    lock.mine(state, site.gitlab_nodes)
    copy = drill.site_of(site)
    assert copy.mattermost is not None
    asked = Bundle((), mattermost_facts.questions(copy.mattermost) + facts.questions() + (facts.OPEN, drill.NFT))
    found = remote.look(state, node, asked)
    if isinstance(found, str):
        raise refused([f"{site.drill_node}: {found}"])
    leftover = found.answer(facts.OPEN.key) == "yes"
    if mattermost_facts.service(found).active and not leftover:
        raise refused([f"{site.drill_node}: Mattermost runs there, and no drill left it. A drill needs a spare node."])
    packages = dict.fromkeys([*mattermost_facts.absent(found), *facts.absent(found), *drill.absent(found)])
    run = DrillRun(
        site,
        MattermostRun(copy, state, found),
        request(site, option("drill.py", "backup"), drill=True),
        tuple(packages),
        leftover,
    )
    outcome.begin(PART)
    if outcome.dry:
        outcome.end("would change", f"{run.node} (nothing was touched)", part=PART)
    return run


_run = remote.Once(_begin)
