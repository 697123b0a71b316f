"""The steps that make a node back up. Each raises `StepError` with cause and cure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pyinfra.api.host import Host

from roles.backup import facts, unit
from roles.backup.render import MADE, PROGRAM, SETTLE, TIMERS, files, repository
from roles.node import install, remote
from roles.node.bundle import File
from roles.node.plan import changes
from roles.rollout import packages
from roles.rollout.step import step
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import scrub

if TYPE_CHECKING:
    from roles.rollout.backup import BackupRun


def install_packages(run: BackupRun) -> None:
    """Step: restic, PostgreSQL's client and Python, from the node's own apt sources."""
    packages.install(run.node, run.here, run.plan.packages)


def configure(run: BackupRun) -> None:
    """Step: the program, its configuration, the repository, the timers."""
    if run.plan.configure:

        def act(host: Host) -> None:
            put(run.site, host, run.look_at, timers=True)
            prepare(run.site, host)
            start(host)

        step(name="Configure backups", action=act if run.here else None)


def take(run: BackupRun) -> None:
    """Step: a backup, read back."""
    if run.plan.take:
        step(name="Take a backup", action=(lambda host: back_up(host)) if run.here else None)


def finish(run: BackupRun) -> None:
    """Step: the run is at its end."""
    step(name="Finish", action=(lambda host: run.finish()) if run.here else None)


def put(site: Site, host: Host, look_at: object, timers: bool) -> None:
    """Folders and files of the program.

    Args:
        look_at: looks at the node for files, as `BackupRun.look_at` does.
        timers: False on a node that only restores.
    """
    lines = [f"install -d -m {mode} {shlex.quote(path)} || exit 1" for path, mode in facts.FOLDERS.items()]
    got = remote.run(host, "\n".join(lines))
    if not got.ok:
        raise StepError(f"the folders of the backups could not be made: {got.stderr.strip()}")
    wanted = files(site, timers)
    install_files(host, wanted, look_at)
    got = remote.run(host, f"systemctl daemon-reload && systemctl enable --quiet {SETTLE}")
    if not got.ok:
        raise StepError(f"systemd does not take the units: {got.stderr.strip()}")


def install_files(host: Host, wanted: tuple[File, ...], look_at: object) -> None:
    """Install those files that differ."""
    assert callable(look_at)
    install.put(host, changes(wanted, look_at(wanted)))


def prepare(site: Site, host: Host) -> None:
    """Find the repository, or make it."""
    got = remote.run(host, f"{PROGRAM} prepare", note="the repository is looked for")
    if not got.ok:
        raise StepError(f"the repository of the backups: {scrub(got.stderr.strip())}")
    got = remote.run(host, f"umask 077; printf %s {repository(site)} > {MADE}")
    if not got.ok:
        raise StepError(f"{MADE} could not be written: {got.stderr.strip()}")


def start(host: Host) -> None:
    """Start the timers."""
    names = " ".join(TIMERS)
    got = remote.run(host, f"systemctl enable --quiet {names} && systemctl restart {names}")
    if not got.ok:
        raise StepError(f"the timers do not start: {got.stderr.strip()}")


def back_up(host: Host) -> None:
    """Take a backup now, as the timer does, and tell what is in it."""
    unit.follow(host, "mattermost-backup.service")
    got = remote.run(host, f"{PROGRAM} status")
    host.log(got.stdout.strip())
