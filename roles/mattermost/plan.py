"""What a run has to do on Mattermost's node. Pure: state in, plan out."""

from __future__ import annotations

from dataclasses import dataclass

from roles.mattermost import facts, release
from roles.mattermost.render import CURRENT
from roles.mattermost.settings import MattermostSettings
from roles.node.bundle import File
from roles.node.facts import NodeState
from roles.node.plan import FileChange, changes
from roles.postgresql.settings import DatabaseSettings
from roles.proxy import facts as proxy

MIN_FREE_KIB = 200 * 1024
"""Free space in KiB, where we and the server write, below which nothing is begun."""


@dataclass(frozen=True)
class Database:
    """What was found out about the database before anything is done."""

    todo: tuple[str, ...] = ()
    """What is to be done on the server, in words."""
    refused: str = ""
    """Why nothing can be done."""
    major: int | None = None
    """Major version of PostgreSQL; None when it was not seen."""


@dataclass(frozen=True)
class MattermostPlan:
    """What is to be done, in this order."""

    packages: tuple[str, ...] = ()
    """Packages to install."""
    prepare: tuple[str, ...] = ()
    """Account and folders to make, in words."""
    bring: bool = False
    """The release has to be brought to the node."""
    upgrade_from: str = ""
    """The release in use, when the declared one is newer."""
    switch: bool = False
    """The link to the current release has to be moved."""
    database: tuple[str, ...] = ()
    """What is to be done on the database server, in words."""
    application: str = ""
    """Why the OAuth application has to be made or repaired; empty when it has not."""
    changes: tuple[FileChange, ...] = ()
    """Files of the server that differ."""
    start: bool = False
    """The server has to be started or restarted."""
    certificate: str = ""
    """Why certbot has to get a certificate; empty when it has not."""
    site: tuple[FileChange, ...] = ()
    """Files of nginx that differ."""
    load: bool = False
    """nginx has to read its files."""
    admin: bool = False
    """The first administrator has to be made."""
    plugin: tuple[str, ...] = ()
    """What of the GitLab plugin is not as declared, in words."""
    slash: tuple[str, ...] = ()
    """What of the slash commands is not as declared, in words."""
    prune: tuple[str, ...] = ()
    """Releases to remove."""
    sign_on: str = ""
    """What of sign-on did not work; empty when it worked, or was not tried yet."""
    refused: tuple[str, ...] = ()
    """Why nothing may be done at all, each with its cure."""

    @property
    def work(self) -> bool:
        """False when everything is as declared."""
        return bool(self.summary())

    def summary(self) -> list[str]:
        """What is to be done, as lines for an operator."""
        lines = [f"install {', '.join(self.packages)}"] if self.packages else []
        lines += self.prepare
        if self.bring:
            lines.append("bring the release")
        lines += [f"PostgreSQL: {what}" for what in self.database]
        if self.application:
            lines.append(f"put the OAuth application in GitLab right ({self.application})")
        lines += [change.summary() for change in self.changes]
        if self.switch:
            what = f"UPGRADE Mattermost from {self.upgrade_from}" if self.upgrade_from else "use the release"
            lines.append(f"{what}; the database is migrated, and there is no way back without a backup")
        if self.start:
            lines.append("start Mattermost")
        if self.certificate:
            lines.append(f"get a certificate by ACME ({self.certificate})")
        lines += [change.summary() for change in self.site]
        if self.load:
            lines.append("make nginx read its files")
        if self.admin:
            lines.append("make the first administrator")
        if self.plugin:
            lines.append(f"put the GitLab plugin right ({'; '.join(self.plugin)})")
        lines += [f"slash commands: {what}" for what in self.slash]
        if self.sign_on:
            lines.append(f"try sign-on again ({self.sign_on})")
        if self.prune:
            lines.append(f"remove {', '.join(self.prune)}")
        return lines


def minimum_postgresql(version: tuple[int, ...]) -> int:
    """Least major version of PostgreSQL (Mattermost's software requirements and upgrade notes)."""
    if version >= (11,):
        return 14
    return 13 if version >= (10, 6) else 11


def plan(
    settings: MattermostSettings,
    state: NodeState,
    files: tuple[File, ...],
    site: tuple[File, ...],
    sha256: str,
    database: Database,
    application: str,
    sign_on: str,
    plugin: tuple[str, ...] = (),
    slash: tuple[str, ...] = (),
) -> MattermostPlan:
    """Decide what to do.

    Args:
        settings: as declared.
        state: the node as found.
        files: what must be there of the server.
        site: what must be there of nginx.
        sha256: of the release.
        database: what was found out about it.
        application: why the OAuth application has to be made or repaired.
        sign_on: what of sign-on did not work.
        plugin: what of the GitLab plugin is not as declared.
        slash: what of the slash commands is not as declared.
    """
    target = release.folder(settings.version)
    here, current = facts.releases(state), facts.current(state)
    service = facts.service(state)
    bring = here.get(target) != sha256
    differing = tuple(changes(files, state))
    certificate = proxy.certificate_needed(settings.proxy, state)
    of_site = tuple(changes(site, state))
    switch = current != target
    older = release.number(current) < settings.number
    out = MattermostPlan(
        packages=tuple(facts.absent(state)),
        prepare=tuple(facts.prepared(settings, state)),
        bring=bring,
        upgrade_from=current.removeprefix(f"{CURRENT}-") if switch and older and release.number(current) else "",
        switch=switch,
        database=database.todo,
        application=application,
        changes=differing,
        start=not (service.active and service.enabled and facts.started_as_declared(state))
        or bool(differing or switch or bring or application or service.reload),
        certificate=certificate,
        site=of_site,
        load=bool(of_site or certificate) or not proxy.as_declared(state),
        admin=settings.admin is not None and not facts.has_admin(state),
        plugin=plugin,
        slash=slash,
        prune=tuple(release.surplus({**here, target: sha256}, settings, current)),
        sign_on=sign_on,
    )
    refused = _refused(settings, state, out, here, current) + _database(settings, settings.database, database)
    return MattermostPlan(**{**out.__dict__, "refused": tuple(refused)})


def _refused(
    settings: MattermostSettings, state: NodeState, plan: MattermostPlan, here: dict[str, str], current: str
) -> list[str]:
    out = [change.refused for change in (*plan.changes, *plan.site) if change.refused]
    target = release.folder(settings.version)
    if current == "folder" or (current and not release.number(current)):
        out.append(
            f"{CURRENT} is there and not ours ({current}). Move it away (its data and config too: `rsync -a` them to "
            "/var/lib/mattermost), then run again."
        )
    elif release.number(current) > settings.number:
        out.append(
            f"Mattermost {current.removeprefix(f'{CURRENT}-')} is in use, the site file says {settings.version}: an "
            "older server does not start on a newer database. Restore the backup from before the upgrade, or say what "
            "is in use."
        )
    if target in here and not here[target]:
        out.append(f"{target} is there and not ours. Move it away, then run again.")
    out += facts.account_conflicts(settings, state)
    if machine := facts.wrong_machine(settings, state):
        out.append(machine)
    free, needed = facts.free_kib(state), release.SPACE_KIB if plan.bring else MIN_FREE_KIB
    if plan.work and free is not None and free < needed:
        out.append(
            f"only {free // 1024} MiB are free in /opt, /etc, /var/lib or /var/log; {needed // 1024} MiB are needed. "
            "Make room, then run again."
        )
    return out


def _database(settings: MattermostSettings, wanted: DatabaseSettings, found: Database) -> list[str]:
    if found.refused:
        return [found.refused]
    least = minimum_postgresql(settings.number)
    if found.major is not None and found.major < least:
        return [
            f"PostgreSQL {found.major} on {wanted.host}: Mattermost {settings.version} needs {least} at least. "
            "Upgrade it first, or declare an older Mattermost."
        ]
    return []
