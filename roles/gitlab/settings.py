"""The vocabulary of GitLab itself in a site file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from roles.site.base import AbsoluteURL, SlashlessURL, StrictModel

SECTIONS = frozenset(
    """
    alertmanager bootstrap consul crond geo_logcursor geo_postgresql geo_secondary gitaly gitlab_backup_cli gitlab_ci
    gitlab_exporter gitlab_kas gitlab_kas_nginx gitlab_pages gitlab_rails gitlab_shell gitlab_sshd gitlab_workhorse
    high_availability letsencrypt logging logrotate mailroom manage_accounts manage_storage_directories mattermost
    mattermost_nginx nginx node_exporter oak omnibus_gitconfig package pages_nginx patroni pgbouncer pgbouncer_exporter
    postgres_exporter postgresql praefect prometheus prometheus_monitoring puma redis redis_exporter registry
    registry_nginx remote_syslog sentinel sidekiq spamcheck storage_check suggested_reviewers user web_server zoekt
    """.split()
)
"""Top-level words of `gitlab.rb` that are hashes. The package refuses any other word when it reads the file
(`Mixlib::Config::UnknownConfigOptionError`), so a misspelt one is refused here already."""

ROLES = (
    "application",
    "sidekiq",
    "postgres",
    "patroni",
    "redis_sentinel",
    "redis_master",
    "redis_replica",
    "geo_primary",
    "geo_secondary",
    "monitoring",
    "pgbouncer",
    "consul",
    "pages",
    "gitaly",
    "spamcheck",
    "backup",
)
"""Omnibus roles, without the `_role` that `gitlab.rb` wants behind them. There is none for mail_room. `spamcheck` ends
with 18.11, `backup` begins with 19.0; the package refuses a role that it does not know."""

MATTERMOST_ROLE = "mattermost"
"""Not an Omnibus role: the node is Mattermost's own and has no GitLab."""

DRILL_ROLE = "mattermost_drill"
"""Not an Omnibus role: a spare node, bare but for the time of a restore drill."""

RAILS_ROLES = frozenset({"application", "sidekiq", "postgres", "patroni", "geo_primary", "geo_secondary"})
"""Roles under which Rails is on, `gitlab.yml` and the token files are rendered, and mail_room can work. A node without
any role has everything on."""

Settings = dict[str, dict[str, Any]]
"""Section -> key -> value, as in `nginx['listen_port'] = 80`. Values may be secrets (`!env`, `!file`, `!command`)."""


class PackageSettings(StrictModel):
    """The Linux package."""

    install: bool = False
    """Install the package where it is absent, from the node's own apt repositories. Never upgrades."""

    revision: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+~-]*$")] | None = None
    """Full package version to install, such as `18.11.11-ee.0`. Default: `<version>-<edition>.0`, as GitLab does."""


class GitlabSettings(StrictModel):
    """GitLab on all nodes."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", description="three numbers, such as 18.11.11")]
    """The version that is installed, such as `18.11.11`. Rules that depend on it are checked; a node with another one
    is refused, except by `deploys/gitlab_upgrade.py`, which brings it there."""

    edition: Literal["ee", "ce"] = "ee"
    """Which package: `gitlab-ee` or `gitlab-ce`."""

    package: PackageSettings = PackageSettings()
    """The Linux package."""

    external_url: AbsoluteURL
    """The address that people use, through the load balancer if there is one."""

    internal_api_url: SlashlessURL | None = None
    """Where mail_room posts mail, if not to `external_url`: `gitlab_rails['internal_api_url']`, taken as it is. It must
    not end in `/` and includes the relative path if GitLab has one."""

    config: Literal["whole", "include"] = "include"
    """Who owns `/etc/gitlab/gitlab.rb`. `include`: you do; we keep `/etc/gitlab/pyinfra-mail.rb` beside it and one
    `from_file` line in it. `whole`: we write all of it from this file, and keep a copy of what was there before."""

    settings: Settings = {}
    """Other settings for all nodes (mode `whole`), by section and key."""

    extra_ruby: str | None = None
    """Ruby for `gitlab.rb` that no setting can say, written verbatim (mode `whole`). No secrets: use `settings`."""

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def package_name(self) -> str:
        """Name of the Debian package."""
        return f"gitlab-{self.edition}"

    @property
    def package_version(self) -> str:
        """Version of the Debian package to install."""
        return self.package.revision or f"{self.version}-{self.edition}.0"
