"""Another version of GitLab on the whole site: what may be done, and what is left to do."""

from __future__ import annotations

import gevent
from pyinfra import state as pyinfra_state

from roles.gitlab import facts, path
from roles.gitlab.facts import BEGUN, Upgrade
from roles.gitlab.upgrade import preflight
from roles.node import remote
from roles.node.facts import NodeState
from roles.rollout.guard import option
from roles.rollout.run import Run, decide, survey

DEPLOY = "gitlab_upgrade.py"
"""Name of the deploy, whose `--data` is read."""


def begin() -> Run:
    """The run of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> Run:
    asked: list[list[str]] = []

    def look() -> Run:
        run = survey(pyinfra_state.inventory.state, upgrade=True)
        run.downtime = option(DEPLOY, "downtime") == "yes"
        run.upgrade = upgrade(run)
        run.back = run.upgrade is not None and run.upgrade.new != run.site.gitlab.version
        return run

    def refusals(run: Run) -> list[str]:
        reasons = _refusals(run)
        if not reasons and not run.plan.refused and run.upgrade and not run.back:
            asked[:] = asked or [_preflight(run)]
            reasons = asked[0]
        return reasons

    return decide(look, refusals)


def _versions(run: Run) -> dict[str, str]:
    """The other versions that are installed, and the nodes that have them."""
    out: dict[str, list[str]] = {}
    for name, state in run.states.items():
        if isinstance(state, NodeState) and (found := facts.version(state)) not in (None, run.site.gitlab.version):
            out.setdefault(str(found), []).append(name)
    return {version: ", ".join(names) for version, names in out.items()}


def upgrade(run: Run) -> Upgrade | None:
    """The upgrade to bring to its end: one that was cut off, or the one that the site file asks for now."""
    known = [facts.upgrade(state) for state in run.states.values() if isinstance(state, NodeState)]
    cut_off = next((one for one in known if one and one.open), None)
    if cut_off:
        return cut_off
    others = _versions(run)
    if not others or run.site.migrates is None:
        return None
    return Upgrade(min(others, key=path.number), run.site.gitlab.version, run.site.migrates, BEGUN)


def _refusals(run: Run) -> list[str]:
    site, new = run.site, run.site.gitlab.version
    if option(DEPLOY, "downtime") not in ("yes", "no"):
        return ["--data downtime=... is yes or no"]
    others, wanted = _versions(run), run.upgrade
    if wanted is None:
        if run.work:
            return [f"there is nothing to upgrade, every node has {new}; for the rest: deploys/site.py"]
        return []
    bare = [n for n, state in run.states.items() if isinstance(state, NodeState) and facts.version(state) is None]
    if bare:
        return [f"{', '.join(bare)}: GitLab is not installed. deploys/site.py first, with the version of the others"]
    geo = [name for name, node in site.gitlab_nodes.items() if "geo_secondary" in node.roles]
    if geo:
        return [f"{', '.join(geo)}: Geo secondaries have an order of their own, which this program does not know"]
    if wanted.node != site.migrates:
        return [
            f"{wanted.node} has begun to migrate the database. Say rollout.canary: {wanted.node} until this is done"
        ]
    if new not in (wanted.old, wanted.new):
        return [
            f"an upgrade from {wanted.old} to {wanted.new} has not come to its end. Say gitlab.version: {wanted.new} "
            f"and run again, or {wanted.old} to go back"
        ]
    strange = {version: names for version, names in others.items() if version not in (wanted.old, wanted.new)}
    if strange:
        told = "; ".join(f"{version} on {names}" for version, names in others.items())
        return [f"the nodes have more than two versions ({told}). Bring them to one by hand first"]
    if run.back and wanted.phase != BEGUN:
        return [
            f"the database has been migrated for {wanted.new} (or was about to be). GitLab goes back from there only "
            f'with a backup of exactly {wanted.old}, restored (its documentation: "Roll back to earlier versions"). '
            f"Say gitlab.version: {wanted.new} and run again to bring the upgrade to its end"
        ]
    if not run.back and path.number(wanted.old) > path.number(new):
        return [
            f"{', '.join(others)} is newer than {new}. GitLab does not go back: its database was migrated. It takes "
            "the old package and a backup of exactly that version, by hand"
        ]
    return [] if run.back else path.refusals(wanted.old, new, run.downtime)


def _preflight(run: Run) -> list[str]:
    """Every node that gets the package is asked, all at the same time."""
    assert run.upgrade is not None
    jobs = [
        gevent.spawn(
            preflight,
            run.site,
            run.state.inventory.get_host(name),
            name == run.upgrade.node and run.upgrade.phase == BEGUN,
        )
        for name in run.site.gitlab_nodes
        if run.plan.upgrades(name)
    ]
    gevent.joinall(jobs)
    return [why for job in jobs for why in job.get()]


_run = remote.Once(_begin)
