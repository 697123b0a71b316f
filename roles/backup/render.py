"""The program `mattermost-backup`, its configuration and its units. Pure: a site in, files out."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.backup.settings import BackupSettings, seconds
from roles.mattermost import render as mattermost
from roles.mattermost.settings import MattermostSettings
from roles.node.bundle import File
from roles.proxy import render as proxy
from roles.site.models import Site
from roles.site.secret import MASK, SecretRef

FOLDER = "/etc/mattermost-backup"
"""What we write; for root alone."""
LIBRARY = "/usr/local/lib/mattermost-backup/program"
"""The program's modules."""
PROGRAM = "/usr/local/sbin/mattermost-backup"
"""The program."""
STATE = "/var/lib/mattermost-backup"
"""What the program keeps."""
MADE = f"{STATE}/repository"
"""The SHA-256 of the repository's name, when it is known to exist."""
TIMERS = ("mattermost-backup.timer", "mattermost-backup-check.timer")
"""The timers, on the node that backs up."""
SETTLE = "mattermost-settle.service"
"""Started at boot when a restore did not come to its end."""
_UNITS = Path("/etc/systemd/system")
UNITS = (f"{_UNITS}/mattermost-restore.service", f"{_UNITS}/{SETTLE}")
"""Units on a node that restores."""
_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "backup"
_SOURCE = Path(__file__).with_name("program")
_ALSO = (
    "/etc/mattermost",
    mattermost.UNIT,
    f"{mattermost.UNIT}.d",
    FOLDER,
    proxy.CONFIG,
    "/etc/nginx/pyinfra",
    "/etc/letsencrypt",
)
_START = f"""\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{Path(LIBRARY).parent}")
from program.cli import main

sys.exit(main())
"""


@cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)


def files(site: Site, timers: bool) -> tuple[File, ...]:
    """All that belongs on a node that backs up or restores.

    Args:
        site: the whole site; of a drill, with the drill's database.
        timers: False on a node that only restores.
    """
    wanted = _wanted(site)
    text, display = (json.dumps(configuration(site, reveal), indent=1) + "\n" for reveal in (True, False))
    out = [
        File(f"{FOLDER}/config.json", text.encode(), display),
        File(PROGRAM, _START.encode(), _START, mode=0o755),
        *(_module(path) for path in sorted(_SOURCE.glob("*.py"))),
        _unit("settle.service", SETTLE, site, program=PROGRAM, journal=f"{STATE}/journal.json"),
        _service(site, "mattermost-restore", "restore", "Restore Mattermost", ""),
    ]
    if wanted.ssh:
        key = site.secret(wanted.ssh.key).reveal().rstrip("\n") + "\n"
        known = site.file(wanted.ssh.known_hosts).read_text()
        out.append(File(f"{FOLDER}/id", key.encode(), f"{MASK}\n" * key.count("\n")))
        out.append(File(f"{FOLDER}/known_hosts", known.encode(), known, mode=0o644))
    if not timers:
        return tuple(out)
    told = wanted.on_failure
    out.append(_service(site, "mattermost-backup", "take", "Back up Mattermost", told))
    out.append(_timer(site, "mattermost-backup", "Back up Mattermost", wanted.calendar, wanted.jitter))
    what = "Check the repository of Mattermost's backups"
    out.append(_service(site, "mattermost-backup-check", "check", what, told))
    out.append(_timer(site, "mattermost-backup-check", what, wanted.check.calendar, wanted.jitter))
    if told:
        out.append(_unit("failed.service", "mattermost-backup-failed@.service", site, command=_quoted(told)))
    return tuple(out)


def configuration(site: Site, reveal: bool) -> dict[str, Any]:
    """The program's configuration (`roles.backup.program.config.Config`).

    Args:
        reveal: False: every secret masked.
    """
    wanted, chat = _wanted(site), _mattermost(site)

    def value(word: str | SecretRef) -> str:
        if not isinstance(word, SecretRef):
            return word
        return site.secret(word).reveal() if reveal else MASK

    database = chat.database
    return {
        "site": site.site,
        "home": mattermost.HOME,
        "current": mattermost.CURRENT,
        "user": chat.account.user,
        "group": chat.account.group,
        "also": list(_ALSO),
        "socket": mattermost.SOCKET,
        "repository": value(wanted.repository),
        "password": value(wanted.password),
        "environment": {name: value(word) for name, word in wanted.environment.items()},
        "ssh": {"key": f"{FOLDER}/id", "known_hosts": f"{FOLDER}/known_hosts"} if wanted.ssh else None,
        "database": {
            "host": database.host,
            "port": database.port,
            "name": database.name,
            "user": database.user,
            "password": value(database.password),
            "sslmode": database.sslmode,
            "ca": mattermost.CA if database.ca else None,
            "maintenance": database.admin.database if database.admin else "postgres",
        },
        "keep": {unit: number for unit, number in wanted.keep.model_dump().items() if number},
        "stop": wanted.consistent == "stop",
        "rpo": seconds(wanted.rpo),
        "textfile": wanted.textfile,
        "read_data": wanted.check.read_data,
    }


def repository(site: Site) -> str:
    """SHA-256 of the repository's name (which may hold a password), to know it again."""
    wanted = _wanted(site).repository
    return hashlib.sha256(
        (site.secret(wanted).reveal() if isinstance(wanted, SecretRef) else wanted).encode()
    ).hexdigest()


def _wanted(site: Site) -> BackupSettings:
    wanted = _mattermost(site).backup
    assert wanted is not None
    return wanted


def _mattermost(site: Site) -> MattermostSettings:
    assert site.mattermost is not None
    return site.mattermost


def _module(path: Path) -> File:
    text = path.read_text()
    return File(f"{LIBRARY}/{path.name}", text.encode(), text, mode=0o644)


def _service(site: Site, name: str, command: str, description: str, on_failure: str | None) -> File:
    words = {"description": description, "command": command, "on_failure": on_failure, "program": PROGRAM}
    return _unit("service", f"{name}.service", site, **words)


def _timer(site: Site, name: str, description: str, calendar: str, jitter: str) -> File:
    check = 'systemd-analyze calendar -- "$(sed -n s/^OnCalendar=//p "$1")" >/dev/null'
    words = {"description": description, "calendar": calendar.replace("%", "%%"), "jitter": jitter}
    return _unit("timer", f"{name}.timer", site, check=check, **words)


def _unit(template: str, name: str, site: Site, check: str | None = None, **words: Any) -> File:
    text = _templates().get_template(f"{template}.j2").render(site=site.site, **words)
    return File(str(_UNITS / name), text.encode(), text, mode=0o644, check=check)


def _quoted(command: str) -> str:
    """One word of a unit's command line (systemd.service(5)): quoted, `$` and `%` doubled."""
    for sign, instead in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        command = command.replace(sign, instead)
    return f'"{command}"'
