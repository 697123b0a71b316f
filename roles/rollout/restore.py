"""One restore: look at the node, decide whether it may be done, and act in steps."""

from __future__ import annotations

import getpass
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyinfra import host, logger
from pyinfra import state as pyinfra_state

from roles.backup import facts, render
from roles.backup import restore as backup
from roles.mattermost import facts as mattermost_facts
from roles.mattermost import release
from roles.node import remote
from roles.node.facts import NodeState
from roles.node.plan import changes
from roles.proxy import facts as proxy
from roles.rollout.guard import option, strict
from roles.rollout.lock import lock
from roles.rollout.mattermost import MattermostRun, survey
from roles.rollout.outcome import outcome
from roles.site.errors import RefusedError, StepError
from roles.site.models import Site

PART = "restore"
"""Name of this part of a run in the outcome."""


@dataclass
class RestoreRun:
    """What is known of the restore in this run."""

    chat: MattermostRun
    """Mattermost's node."""
    request: dict[str, Any]
    """What the node is asked to do (`roles.backup.program.restore`)."""
    packages: tuple[str, ...] = ()
    """Packages to install first."""
    certificate: bool = False
    """A certificate has to be got by ACME."""
    told: dict[str, Any] = field(default_factory=dict)
    """How it ended."""

    @property
    def site(self) -> Site:
        """As declared."""
        return self.chat.site

    @property
    def node(self) -> str:
        """Name of Mattermost's node."""
        return self.chat.node

    @property
    def here(self) -> bool:
        """True in the greenlet of Mattermost's node."""
        return str(host.name) == self.node

    def tell(self, told: dict[str, Any]) -> None:
        """The restore is done: say what was checked."""
        self.told = told
        for phase in told.get("phases", ()):
            logger.info(f"    {phase['name']}: {phase['seconds']:.1f} s")
        for check in told.get("checks", ()):
            logger.info(f"    {check['name']}: {check['found']}")

    def finish(self) -> None:
        """The run is at its end."""
        number, when = len(self.told.get("checks", ())), self.told.get("backup", {}).get("backup")
        what = f"the backup {when}" if when else str(self.request.get("dump"))
        kept = f"what was there before is kept: database {self.chat.settings.database.name}_before, {_BEFORE}"
        outcome.end(
            "changed", f"{what} is restored on {self.node}, {number} checks passed; {kept}", part=PART, **self.told
        )


_BEFORE = "/var/lib/mattermost/.before"


def request(site: Site, backup_: str, **more: Any) -> dict[str, Any]:
    """What a node is asked to do.

    Args:
        site: the site.
        backup_: which backup.
        more: further words of the request.
    """
    assert site.mattermost is not None
    version = site.mattermost.version
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    identity = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return {
        "id": identity,
        "by": by,
        "backup": backup_,
        "version": version,
        "release": release.folder(version),
        **more,
    }


def begin() -> RestoreRun | None:
    """The run of this process: made once, the same for every node. None with `--dry`.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> RestoreRun | None:
    chat = survey(pyinfra_state.inventory.state, facts.questions())
    strict(pyinfra_state.inventory.state)
    if chat is None or chat.settings.backup is None:
        raise refused(["the site file has no mattermost.backup: there is nothing to restore from"])
    dump, archive = option("restore.py", "dump"), option("restore.py", "files")
    if not lock.mine(chat.state, chat.site.gitlab_nodes):
        return _begin()
    run = RestoreRun(
        chat,
        request(
            chat.site,
            option("restore.py", "backup"),
            replace=option("restore.py", "replace") == "yes",
            dump=str(Path(dump).expanduser()) if dump else "",
            files=str(Path(archive).expanduser()) if archive else "",
        ),
    )
    if isinstance(chat.found, str):
        raise refused([f"{run.node}: {chat.found}"])
    if not chat.state.is_host_in_limit(chat.server):
        raise refused([f"{run.node} is left out by --limit"])
    reasons = _files(run) + _differs(run, chat.found)
    if not reasons and not facts.absent(chat.found) and not _absent(run, chat.found):
        reasons += _look(run)
    if reasons:
        raise refused([f"{run.node}: {reason}" for reason in reasons])
    run.packages = tuple(dict.fromkeys([*mattermost_facts.absent(chat.found), *facts.absent(chat.found)]))
    run.certificate = bool(proxy.certificate_needed(chat.settings.proxy, chat.found))
    outcome.begin(PART)
    if outcome.dry:
        outcome.end("would change", f"{run.node} (nothing was touched)", part=PART)
    return run


def _files(run: RestoreRun) -> list[str]:
    dump, archive = run.request["dump"], run.request["files"]
    if bool(dump) != bool(archive):
        return ["--data dump=FILE and --data files=FILE go together: the database, and data with config.json"]
    return [
        f"{name}: there is no such file on this machine"
        for name in (dump, archive)
        if name and not Path(name).is_file()
    ]


def _differs(run: RestoreRun, found: NodeState) -> list[str]:
    """A server that runs must be as declared, so that only its data change, and the way back is to what was there."""
    if not mattermost_facts.service(found).active:
        return []
    differing = [change.file.path for change in changes(run.chat.files(), found)]
    if not differing:
        return []
    return [
        f"Mattermost runs, and {', '.join(differing)} is not as the site file says. Run deploys/mattermost.py first."
    ]


def _absent(run: RestoreRun, found: NodeState) -> bool:
    """The program is not there yet, or not as declared; then it looks when it is."""
    wanted = render.files(run.site, timers=True)
    state = run.chat.look_at(wanted)
    return bool(changes(wanted, state))


def _look(run: RestoreRun) -> list[str]:
    asked = {**run.request, "dump": "", "files": ""} if run.request["dump"] else run.request
    if run.request["dump"]:
        return []  # looked at when it is there
    try:
        seen = backup.look(run.chat.server, asked)
    except StepError as error:
        return [str(error)]
    known = seen["backup"]
    what = f"{known['bytes'] >> 20} MiB in {known['files']} files, {known['posts']} posts, {known['users']} users"
    logger.info(f"    {run.node}: restore the backup {known['backup']} of Mattermost {known['mattermost']}: {what}")
    for words in seen["replaces"]:
        logger.info(f"    {run.node}: replaces {words}; it is kept aside")
    # A role without the right to make databases is lent it when there is an administrator.
    lent = run.chat.settings.database.admin is not None
    return [reason for reason in seen["refused"] if not (lent and "may not create a database" in reason)]


def refused(reasons: list[str]) -> RefusedError:
    """Tell why nothing is done; to be raised."""
    outcome.refused(reasons)
    return RefusedError("nothing was touched:\n" + "\n".join(f"  - {reason}" for reason in reasons))


_run = remote.Once(_begin)
