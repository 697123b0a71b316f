"""The vocabulary of backups and drills in a site file."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from roles.postgresql.settings import DatabaseSettings
from roles.site.base import StrictModel, refuse
from roles.site.secret import SecretRef

_UNITS = {"min": 60, "h": 3600, "d": 86400}

Span = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(min|h|d)$", description="a number and min, h or d, such as 26h")]
"""A length of time."""


def seconds(span: str) -> int:
    """A :data:`Span` in seconds."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", span).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]


def _repository(value: str | SecretRef) -> str | SecretRef:
    allowed = "/PATH, sftp:USER@HOST:/PATH, sftp://USER@HOST:PORT//PATH, s3:URL/BUCKET or rest:URL"
    if isinstance(value, str):
        if not re.match(r"^(/|sftp:|s3:|rest:)\S+$", value):
            raise refuse("is no repository that is supported", allowed=allowed)
        if re.search(r"//[^/@]*:[^/@]*@", value) and not value.startswith("sftp:"):
            raise refuse("has a password in it", allowed="!file PATH to the whole of it", found="(not shown)")
    return value


def _line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise refuse("must be one line of printable characters")
    return value


_Calendar = Annotated[str, AfterValidator(_line)]


class SshKeySettings(StrictModel):
    """How the node reaches an SFTP server."""

    key: SecretRef
    """Private key, without a passphrase."""

    known_hosts: str
    """File with the server's host key; any other key is refused."""


class KeepSettings(StrictModel):
    """How many good backups stay: the newest of each hour, day and so on. The last good one always stays."""

    last: Annotated[int, Field(ge=1, le=1000)] = 3
    """The newest ones, whenever they were taken."""
    hourly: Annotated[int, Field(ge=0, le=1000)] = 0
    """One of each hour."""
    daily: Annotated[int, Field(ge=0, le=1000)] = 7
    """One of each day."""
    weekly: Annotated[int, Field(ge=0, le=1000)] = 5
    """One of each week."""
    monthly: Annotated[int, Field(ge=0, le=1000)] = 12
    """One of each month."""
    yearly: Annotated[int, Field(ge=0, le=1000)] = 0
    """One of each year."""


class RepositoryCheckSettings(StrictModel):
    """`restic check` and `prune`, on a timer of their own."""

    calendar: _Calendar = "Sun *-*-* 04:30:00"
    """When (systemd.time(7))."""

    read_data: Annotated[str, Field(pattern=r"^(100|[0-9]{1,2})%$", description="0% to 100%")] = "5%"
    """How much of the data is read, chosen anew each time. Every new backup is read whole anyway."""


class BackupSettings(StrictModel):
    """Backups of Mattermost: database, files, configuration, certificates, secrets; encrypted, by restic."""

    repository: Annotated[str | SecretRef, AfterValidator(_repository), Field(json_schema_extra={"type": "string"})]
    """restic's repository. It must not be on Mattermost's node, unless something else takes it from there."""

    password: SecretRef
    """The repository's password. **Keep it elsewhere too: without it no backup can be read.**"""

    ssh: SshKeySettings | None = None
    """For SFTP. Default: what root's own ~/.ssh on the node says."""

    environment: dict[str, str | SecretRef] = {}
    """Environment of restic, such as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` for S3."""

    calendar: _Calendar = "*-*-* 02:15:00"
    """When a backup is taken (systemd.time(7), `systemd-analyze calendar` explains it)."""

    jitter: Span = "15min"
    """It begins at a random moment within this time, so that many sites do not begin at once."""

    rpo: Span = "26h"
    """How old the last good backup may be (recovery point objective); `verify` and drills measure against it."""

    keep: KeepSettings = KeepSettings()
    """Retention."""

    consistent: Literal["running", "stop"] = "running"
    """`running`: database first, files after, so every row has its file. `stop`: the server is stopped meanwhile."""

    check: RepositoryCheckSettings = RepositoryCheckSettings()
    """The repository itself."""

    on_failure: Annotated[str, AfterValidator(_line)] | None = None
    """Shell command that the node runs as root when a backup or a check fails; `$1` is the unit that did."""

    textfile: (
        Annotated[str, Field(pattern=r"^/\S+\.prom$", description="an absolute path that ends in .prom")] | None
    ) = None
    """File for node_exporter's textfile collector."""


class DrillSettings(StrictModel):
    """Restore drills: on the one node with the role `mattermost_drill`, and on a database of their own."""

    database: DatabaseSettings
    """Where the copy's database is made and dropped again; needs `admin`, or a role with CREATEDB."""

    reports: str = "drills"
    """Folder for the reports, relative to the site file."""
