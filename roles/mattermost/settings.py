"""The vocabulary of Mattermost in a site file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from roles.backup.settings import BackupSettings, DrillSettings
from roles.postgresql.settings import DatabaseSettings
from roles.proxy.settings import ProxySettings
from roles.site.base import AbsoluteURL, StrictModel, refuse
from roles.site.errors import SecretError
from roles.site.secret import FileRef, SecretRef


def _site_url(value: str) -> str:
    if not value.startswith("https://"):
        raise refuse("must be https: sign-on and passwords go over it", allowed="https://HOST[:PORT]")
    if value.removeprefix("https://").count("/"):
        raise refuse(
            "has a path: the server then rewrites its own release folder at every start, which is read-only here",
            allowed="https://HOST[:PORT]",
        )
    return value


def _sha256(value: Any) -> Any:
    if isinstance(value, FileRef) or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        return value
    raise refuse("is no SHA-256", allowed="64 hex digits in small letters, or !file PATH to what sha256sum prints")


APT = "apt"
"""Source of a release: the node's apt sources."""


class Download(StrictModel):
    """A file that is brought to the node, and checked."""

    source: Annotated[str, Field(pattern=r"^(https?://\S+|[^:]+)$", description="a URL or a file here")]
    """A URL from which the node downloads it, such as
    https://releases.mattermost.com/10.11.8/mattermost-team-10.11.8-linux-amd64.tar.gz; or a file on the machine that
    the run is started on, which is sent over SSH."""

    sha256: Annotated[Any, AfterValidator(_sha256), Field(json_schema_extra={"type": "string"})]
    """Its SHA-256: 64 hex digits, or `!file PATH` to a file in which it is the first word."""

    @property
    def file(self) -> str | None:
        """The file on the machine that the run is started on; None when the node downloads it."""
        return None if "://" in self.source or self.source == APT else self.source

    def sum(self, folder: Path) -> str:
        """The SHA-256 in hex.

        Args:
            folder: of the site file.

        Raises:
            SecretError: when the file that holds it cannot be read or holds none.
        """
        found = self.sha256
        if isinstance(found, FileRef):
            try:
                found = (found.path(folder).read_text().split() or [""])[0]
            except (OSError, UnicodeDecodeError) as error:
                raise SecretError(f"cannot be read: {getattr(error, 'strerror', error)}") from None
            if not re.fullmatch(r"[0-9a-f]{64}", found):
                raise SecretError("the first word of this file is no SHA-256 (64 hex digits in small letters)")
        return str(found)


class ReleaseSettings(Download):
    """Where the release comes from. `source: apt` takes it out of the package `mattermost` of the node's own apt
    sources (https://deb.packages.mattermost.com, for example): apt checks its signature, so there is no `sha256`; it is
    unpacked like a tarball, not installed, so that the releases before it stay."""

    sha256: Annotated[Any, AfterValidator(_sha256), Field(json_schema_extra={"type": "string"})] | None = None
    """Its SHA-256: 64 hex digits, or `!file PATH` to a file in which it is the first word. None for `apt`."""

    keep: Annotated[int, Field(ge=1, le=20)] = 3
    """How many releases stay on the node, this one included, for the way back."""


_Account = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="a system account's name")]
_Number = Annotated[int, Field(ge=1, le=60000)]


class AccountSettings(StrictModel):
    """The account that the server runs as. Made if absent; one that exists is taken as it is."""

    user: _Account = "mattermost"
    """Its name."""

    group: _Account = "mattermost"
    """Its main group."""

    uid: _Number | None = None
    """Number of the user, for storage shared between machines. Default: the next free one."""

    gid: _Number | None = None
    """Number of the group."""


class AdminSettings(StrictModel):
    """The first system administrator. Made once, when there is no such account; never changed afterwards."""

    username: Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{2,63}$", description="3 to 64 of a-z 0-9 . _ -")]
    """User name."""

    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=128, description="an e-mail address")]
    """E-mail address; counts as verified."""

    password: SecretRef
    """Password; Mattermost asks for at least 8 characters."""


class SignOnSettings(StrictModel):
    """Sign-on through the GitLab of this site (OAuth 2)."""

    application: Annotated[str, Field(min_length=1, max_length=255)] = "Mattermost"
    """Name of the instance-wide OAuth application in GitLab."""

    credentials: SecretRef
    """Its id and its secret, with white space between. A `!file` that does not exist yet is made: the application is
    registered, and what GitLab gave is kept there."""

    api_token: SecretRef | None = None
    """Personal access token of a GitLab administrator, scope `api`: then the application is looked up through GitLab's
    API. Default: through `gitlab-rails runner` on a Rails node, which takes longer and needs no token."""


PLUGIN = "com.github.manland.mattermost-plugin-gitlab"
"""Id of the GitLab plugin (its plugin.json)."""


class GitlabPluginSettings(Download):
    """The GitLab plugin: notifications, `/gitlab`, a sidebar. Needs `sign_on`'s way to GitLab, not sign-on itself."""

    application: Annotated[str, Field(min_length=1, max_length=255)] = "Mattermost GitLab plugin"
    """Name of its own OAuth application in GitLab."""

    credentials: SecretRef
    """Id and secret of that application, as for `sign_on`: a `!file` that does not exist is made."""

    settings: dict[str, Any] = {}
    """Further settings of the plugin, by their keys in its plugin.json, such as `gitlabgroup`. GitLab's URL and the
    application are set; the keys for encryption and webhooks are made once and stay in the server's config.json."""


class SlashCommandSettings(StrictModel):
    """A slash command that reaches one GitLab project (`/TRIGGER issue new ...`)."""

    team: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,63}$", description="the name in the team's URL")]
    """Team in Mattermost; it must exist."""

    trigger: Annotated[str, Field(pattern=r"^[^\s/][^\s]{0,127}$", description="a word without /")]
    """The word after the slash."""


class MattermostSettings(StrictModel):
    """Mattermost on its own server. One node of `nodes` has the role `mattermost`."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", description="three numbers, such as 10.11.8")]
    """The version to run. A newer one than what runs is an upgrade, an older one is refused."""

    edition: Literal["team", "entry", "enterprise"] = "team"
    """`team`: Team Edition. `entry`: the enterprise release without a licence. `enterprise`: with one."""

    release: ReleaseSettings
    """The release tarball."""

    site_url: Annotated[AbsoluteURL, AfterValidator(_site_url)]
    """The address that people use: `https://` and a host of its own (`ServiceSettings.SiteURL`)."""

    database: DatabaseSettings
    """Its PostgreSQL."""

    proxy: ProxySettings
    """nginx on the same node."""

    settings: dict[str, dict[str, Any]] = {}
    """Every other setting, by section and key as in `config.json`: `EmailSettings: {SMTPServer: ...}`. Values may be
    secrets. They are given by environment, so the System Console shows them but cannot change them."""

    environment: dict[str, str | SecretRef] = {}
    """Further environment variables of the server, such as `HTTPS_PROXY`, or `MM_...` for a key that is too new to be
    known here."""

    account: AccountSettings = AccountSettings()
    """Whom the server runs as."""

    admin: AdminSettings | None = None
    """The first system administrator."""

    sign_on: SignOnSettings | None = None
    """Sign-on through GitLab. The Team Edition has none from 11.0 on."""

    gitlab_plugin: GitlabPluginSettings | None = None
    """The GitLab plugin."""

    slash_commands: dict[str, SlashCommandSettings] = {}
    """Slash commands for GitLab projects, by the project's full path."""

    backup: BackupSettings | None = None
    """Backups."""

    drill: DrillSettings | None = None
    """Restore drills."""

    def identity(self, folder: Path) -> str:
        """What tells this release from others of the same version: its SHA-256, or that it is apt's.

        Raises:
            SecretError: when the file that holds the sum cannot be read or holds none.
        """
        return f"apt:{self.version}" if self.release.source == APT else self.release.sum(folder)

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def host(self) -> str:
        """Host name of `site_url`."""
        return str(urlsplit(self.site_url).hostname)

    @property
    def port(self) -> int:
        """Port of `site_url`."""
        return urlsplit(self.site_url).port or 443
