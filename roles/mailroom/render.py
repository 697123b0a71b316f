"""The `gitlab.rb` keys about mail for one node: who reads, with what, and the token all Rails nodes share. Pure.

Only keys that the Linux package really reads are written. GitLab's page on multi-node mail ingestion names others
(`incoming_email_secret_file`, `incoming_email_gitlab_url`, `mailroom['enabled']`): no version ever read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from roles.mailroom.settings import MailboxSettings
from roles.site.models import Site
from roles.site.secret import Secret

Key = tuple[str, str, Any]
"""Section, key and value of one line, such as `("mailroom", "enable", False)`."""

MAILBOXES = ("incoming_email", "service_desk_email")
"""The two mailbox types of GitLab, by the names that its settings and API routes use."""


def mail_keys(site: Site, node: str, reading: bool, tokens: Mapping[str, Secret]) -> list[Key]:
    """The mail part of one node's configuration.

    Args:
        site: the whole site.
        node: name of the node.
        reading: whether mail_room is to run there now. Every node says so explicitly, because the package starts
            mail_room by itself on any node where a mailbox is on and `mailroom['enable']` is not set
            (omnibus-gitlab, files/gitlab-cookbooks/gitlab/libraries/incoming_email.rb).
        tokens: the shared webhook token per mailbox type; written to all Rails nodes in the key that wins over
            `gitlab-secrets.json` (`mailroom['incoming_email_auth_token']`).
    """
    keys: list[Key] = []
    spec = site.nodes[node]
    if spec.rails and site.gitlab.internal_api_url:
        keys.append(("gitlab_rails", "internal_api_url", site.gitlab.internal_api_url))
    if spec.rails and site.mattermost:
        # GitLab's own pages link to it (files/gitlab-config-template/gitlab.rb.template).
        keys.append(("gitlab_rails", "mattermost_host", site.mattermost.site_url))
    if site.mail and spec.rails:
        for kind in MAILBOXES:
            mailbox = site.mail.mailbox(kind)
            if mailbox is None:
                continue
            keys.append(("gitlab_rails", f"{kind}_enabled", True))
            keys.append(("gitlab_rails", f"{kind}_address", mailbox.address))
            keys.append(("gitlab_rails", f"{kind}_delivery_method", mailbox.delivery_method))
            if site.mail.reader == node:
                keys += [("gitlab_rails", f"{kind}_{key}", value) for key, value in _reader_keys(site, mailbox)]
            if kind in tokens:
                keys.append(("mailroom", f"{kind}_auth_token", tokens[kind]))
    keys.append(("mailroom", "enable", reading))
    return keys


def _reader_keys(site: Site, mailbox: MailboxSettings) -> list[tuple[str, Any]]:
    """What only the reader needs: how to log in to the mailbox and how to read it."""
    keys: list[tuple[str, Any]] = [
        ("inbox_method", mailbox.inbox_method),
        ("email", mailbox.user),
        ("password", site.secret(mailbox.password)),
        ("host", mailbox.host),
        ("port", mailbox.port),
        ("ssl", mailbox.ssl),
        ("start_tls", mailbox.start_tls),
        ("mailbox_name", mailbox.mailbox_name),
        ("idle_timeout", mailbox.idle_timeout),
    ]
    keys += [
        (key, getattr(mailbox, key))
        for key in ("delete_after_delivery", "expunge_deleted")
        if getattr(mailbox, key, None) is not None
    ]
    return keys


def node_url(site: Site, node: str) -> tuple[str, str | None]:
    """How to reach one Rails node's own GitLab, past any load balancer.

    Returns:
        the URL, and the address to connect to instead of the one its host name resolves to. The URL keeps the name of
        `external_url`, so that the Host header and the certificate are those of real traffic; port and scheme follow
        `nginx['listen_port']` and `nginx['listen_https']` when the site file sets them.
    """
    spec = site.nodes[node]
    if spec.url:
        return spec.url.rstrip("/"), None
    url = urlsplit(site.gitlab.external_url)
    nginx: dict[str, Any] = {**site.gitlab.settings.get("nginx", {}), **spec.settings.get("nginx", {})}
    https = url.scheme == "https" and nginx.get("listen_https") is not False
    port = (
        nginx.get("listen_port") or (url.port if https == (url.scheme == "https") else None) or (443 if https else 80)
    )
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{'https' if https else 'http'}://{name}:{port}{url.path.rstrip('/')}", spec.address
