"""The steps that make a node back up. Each raises `StepError` with cause and cure."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyinfra.api.host import Host

from roles.backup import facts, unit
from roles.backup.render import MADE, PROGRAM, SETTLE, TIMERS, files, repository
from roles.node import install, remote
from roles.node.act import Act, do
from roles.node.bundle import File
from roles.node.facts import NodeState
from roles.node.plan import changes
from roles.rollout import packages
from roles.rollout.step import step
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
            put(run.site, host, run.look_at, True, *prepare(run.site), start())

        step(name="Configure backups", action=act if run.here else None)


def take(run: BackupRun) -> None:
    """Step: a backup, read back."""
    if run.plan.take:
        step(name="Take a backup", action=(lambda host: back_up(host)) if run.here else None)


def finish(run: BackupRun) -> None:
    """Step: the run is at its end."""
    step(name="Finish", action=(lambda host: run.finish()) if run.here else None)


def put(site: Site, host: Host, look_at: Callable[[tuple[File, ...]], NodeState], timers: bool, *then: Act) -> None:
    """Folders, files and units of the program.

    Args:
        look_at: looks at the node for files, as `BackupRun.look_at` does.
        timers: False on a node that only restores.
        then: what is done next, by the same command.
    """
    wanted = files(site, timers)
    installs, content = install.act(changes(wanted, look_at(wanted)))
    folders = Act(
        "\n".join(f"install -d -m {mode} {shlex.quote(path)} || exit 1" for path, mode in facts.FOLDERS.items()),
        told=lambda got: f"the folders of the backups could not be made: {got.said}",
    )
    units = Act(
        f"systemctl daemon-reload && systemctl enable --quiet {SETTLE}",
        told=lambda got: f"systemd does not take the units: {got.said}",
    )
    do(host, folders, *installs, units, *then, stdin=content, note="backups are configured")


def prepare(site: Site) -> list[Act]:
    """What finds the repository, or makes it."""
    return [
        Act(f"{PROGRAM} prepare", told=lambda got: f"the repository of the backups: {scrub(got.said)}"),
        Act(
            f"umask 077; printf %s {repository(site)} > {MADE}",
            told=lambda got: f"{MADE} could not be written: {got.said}",
        ),
    ]


def start() -> Act:
    """What starts the timers."""
    names = " ".join(TIMERS)
    return Act(
        f"systemctl enable --quiet {names} && systemctl restart {names}",
        told=lambda got: f"the timers do not start: {got.said}",
    )


def back_up(host: Host) -> None:
    """Take a backup now, as the timer does, and tell what is in it."""
    unit.follow(host, "mattermost-backup.service")
    got = remote.run(host, f"{PROGRAM} status")
    host.log(got.stdout.strip())
