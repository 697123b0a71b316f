"""Restore onto a node: make it ready, let its own program restore, and open it. Also used by drills."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra.api.host import Host

from roles.backup import deploy, facts, unit
from roles.backup.render import PROGRAM, STATE
from roles.mattermost import deploy as mattermost
from roles.mattermost import release
from roles.node import install, remote
from roles.node.act import do
from roles.node.plan import changes
from roles.rollout import packages
from roles.rollout.step import step
from roles.site.errors import StepError
from roles.site.secret import scrub

if TYPE_CHECKING:
    from roles.rollout.mattermost import MattermostRun
    from roles.rollout.restore import RestoreRun

UNIT = "mattermost-restore.service"
"""The unit that restores."""
_PATIENCE = 60
"""Seconds that we wait for what is being put back."""


def install_packages(run: RestoreRun) -> None:
    """Step: what Mattermost and its backups need, from the node's own apt sources."""
    packages.install(run.node, run.here, run.packages)


def make_ready(run: RestoreRun) -> None:
    """Step: everything that a restored server needs, and no server started."""
    step(name="Make the node ready", action=(lambda host: ready(run.chat, host, timers=True)) if run.here else None)


def restore(run: RestoreRun) -> None:
    """Step: the restore itself; it ends with the restored server running, or with the one from before."""

    def act(host: Host) -> None:
        with asked(run.chat, host, run.request) as request, lent(run.chat, host):
            told = perform(run.chat, host, request)
        run.tell(told)

    step(name="Restore", action=act if run.here else None)


def open_site(run: RestoreRun) -> None:
    """Step: nginx with HTTPS, the timers, and a walk along the way of a sign-on."""

    def act(host: Host) -> None:
        got = remote.run(host, "systemctl enable --quiet mattermost.service")
        if not got.ok:
            raise StepError(f"mattermost.service is not started at boot: {got.stderr.strip()}")
        if run.certificate:
            mattermost.certify(run.chat, host)
        mattermost.converge_proxy(run.chat, host)
        do(host, *deploy.prepare(run.site), deploy.start(), note="the repository is looked for")
        if run.chat.settings.sign_on:
            mattermost.walk(run.chat, host)
        run.finish()

    step(name="Open it", action=act if run.here else None)


def ready(chat: MattermostRun, host: Host, timers: bool) -> None:
    """Account, folders, release, configuration and program on the node. A server that runs goes on running.

    Args:
        chat: the run; of a drill, with the drill's site.
        timers: False on a node that only restores.
    """
    mattermost.prepare(chat.settings, host)
    target = release.folder(chat.settings.version)
    if remote.run(host, f"cat {target}/.sha256").stdout.strip() != chat.settings.identity(chat.site.dir):
        release.bring(chat.site, host)
    install.put(host, changes(files := chat.files(), chat.look_at(files)))
    deploy.put(chat.site, host, chat.look_at, timers)


def look(host: Host, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the node's program says to a request, before anything is done.

    Raises:
        StepError: it could not look.
    """
    got = remote.run(host, f"{PROGRAM} look", stdin=json.dumps(request), note="the repository is asked")
    if not got.ok:
        raise StepError(scrub(got.stderr.strip().removeprefix("mattermost-backup look: ")))
    answer: dict[str, Any] = json.loads(got.stdout)
    return answer


@contextmanager
def asked(chat: MattermostRun, host: Host, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The request as the node can do it: files of this machine are sent there, and are gone afterwards."""
    sent: dict[str, Any] = dict(request)
    try:
        for key in ("dump", "files"):
            if request.get(key):
                path = f"{STATE}/{key}"
                got = remote.send(host, Path(request[key]), path, f"{key} goes to the node")
                if not got.ok:
                    raise StepError(f"{request[key]} did not arrive on {host.name}: {got.stderr.strip()}")
                sent[key] = path
        yield sent
    finally:
        if request.get("dump"):
            remote.run(host, f"rm -f {STATE}/dump {STATE}/files")


def perform(chat: MattermostRun, host: Host, request: Mapping[str, Any], failing: bool = True) -> dict[str, Any]:
    """Let the node restore, and return its result.

    Args:
        failing: False: a restore that failed is no error here; the result tells.

    Raises:
        StepError: refused before anything was touched; or it failed, and what was there before is there again.
    """
    seen = look(host, request)
    if seen["refused"]:
        raise StepError("nothing was touched: " + " ".join(seen["refused"]))
    got = remote.run(host, f"umask 077; cat > {STATE}/request.json", stdin=json.dumps(request))
    if not got.ok:
        raise StepError(f"the request did not reach the node: {got.stderr.strip()}")
    try:
        unit.follow(host, UNIT)
    except StepError as error:
        told = result(host, str(request["id"]))
        if failing or not told:
            _settled(host)
            raise StepError(f"{error}{_state_of(host)}") from None
        return told
    return result(host, str(request["id"]))


def result(host: Host, identity: str) -> dict[str, Any]:
    """The result of a restore; empty when the node has none of this one."""
    got = remote.run(host, f"cat {STATE}/result.json")
    try:
        told: dict[str, Any] = json.loads(got.stdout)
    except json.JSONDecodeError:
        return {}
    return told if told.get("id") == identity else {}


@contextmanager
def lent(chat: MattermostRun, host: Host) -> Iterator[None]:
    """The role makes, renames and drops databases meanwhile; the administrator's password stays here.

    The right is not taken back while something on the node is still to be put back: that needs it too. The next restore
    or drill then takes it back.
    """
    if chat.settings.database.admin is None:
        yield
        return
    with chat.administrator() as server:
        server.make()
        server.lend()
    try:
        yield
    finally:
        if _settled(host):
            with chat.administrator() as server:
                server.take_back()


def _settled(host: Host) -> bool:
    """Nothing is to be put back on the node. Waits for what is being put back right now, if the node can be asked."""
    for _ in range(_PATIENCE):
        got = remote.run(host, f"{facts.OPEN.script}; echo seen")
        if not got.ok:
            return False
        if got.stdout.split() == ["seen"]:
            return True
        gevent.sleep(1)
    return False


def _state_of(host: Host) -> str:
    """What an operator wants to know first after a failure."""
    script = f"systemctl is-active mattermost.service; ls {shlex.quote(STATE)}/journal.json 2>/dev/null; true"
    got = remote.run(host, script)
    if not got.ok:
        return ". If it does not come to its end, mattermost-settle.service puts back what was there before."
    lines = got.stdout.split()
    if len(lines) > 1:
        return (
            ". What was there before is not back yet: mattermost-settle.service on the node tries until it is "
            "(journalctl -fu mattermost-settle)."
        )
    runs = "runs" if lines[:1] == ["active"] else "does not run, as before"
    return f". What was there before is there again; Mattermost {runs}."
