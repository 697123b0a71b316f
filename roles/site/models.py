"""A site: all of it, as one typed value. `roles.site.load` makes it from a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr

from roles.gitlab.settings import DRILL_ROLE, MATTERMOST_ROLE, RAILS_ROLES, ROLES, GitlabSettings, Settings
from roles.mailroom.settings import MailSettings, ServiceDeskSettings
from roles.mattermost.settings import MattermostSettings
from roles.rollout.settings import RolloutSettings
from roles.site.base import AbsoluteURL, Hostname, NodeName, Port, StrictModel
from roles.site.errors import RefusedError, SecretError
from roles.site.secret import FileRef, Secret, SecretRef

_OWN = {MATTERMOST_ROLE, DRILL_ROLE}
_ROLES = (*ROLES, MATTERMOST_ROLE, DRILL_ROLE)


class SshSettings(StrictModel):
    """How pyinfra reaches the nodes. What is not said here comes from `~/.ssh/config`."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.-]*\$?$")] = "root"
    """Login name."""

    port: Port = 22
    """Port of sshd."""

    key: str | None = None
    """Private key file; a relative path starts at the site file's folder. Default: the agent and ssh's usual files."""

    known_hosts: str | None = None
    """File with the nodes' host keys; with it, a node whose key is not in it is refused. Default: `~/.ssh/known_hosts`,
    to which new nodes are added on first contact (pyinfra's `accept-new`)."""

    sudo: bool | None = None
    """Become root by sudo without a password. Default: when `user` is not root."""


class NodeSettings(StrictModel):
    """One node."""

    address: Hostname
    """Where pyinfra reaches it."""

    roles: list[
        Annotated[str, Field(pattern=f"^({'|'.join(_ROLES)})$", description="one of: " + ", ".join(_ROLES))]
    ] = []
    """Its Omnibus roles, without the `_role` at their end. None: everything is on, Rails too. `mattermost` alone:
    the node is Mattermost's own server. `mattermost_drill` alone: a spare node for restore drills."""

    url: AbsoluteURL | None = None
    """This node's own GitLab as the reader reaches it, past the load balancer. Default: `external_url` with this node's
    address, and with `nginx['listen_port']` and `nginx['listen_https']` if they are set."""

    settings: Settings = {}
    """Settings of this node alone, on top of `gitlab.settings` (mode `whole`)."""

    @property
    def rails(self) -> bool:
        """Whether Rails runs on it, and so whether it takes mail from mail_room and may run it."""
        return not self.roles or bool(RAILS_ROLES & set(self.roles))


class Site(StrictModel):
    """Everything that an operator says about a site."""

    site: NodeName
    """Name of the site, for messages and logs."""

    ssh: SshSettings = SshSettings()
    """How the nodes are reached."""

    nodes: Annotated[dict[NodeName, NodeSettings], Field(min_length=1)]
    """All nodes, by name."""

    gitlab: GitlabSettings
    """GitLab on all nodes."""

    mail: MailSettings | None = None
    """Incoming mail. Without it mail_room is off on every node."""

    service_desk: ServiceDeskSettings = ServiceDeskSettings()
    """Service Desk of single projects."""

    mattermost: MattermostSettings | None = None
    """Mattermost on its own server."""

    rollout: RolloutSettings | None = None
    """How changes reach the GitLab nodes. Without it: all but the reader at once, then the reader."""

    _path: Path = PrivateAttr(default=Path("site.yml"))
    _text: bytes = PrivateAttr(default=b"")
    _secrets: dict[SecretRef, Secret] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path:
        """The site file."""
        return self._path

    @property
    def dir(self) -> Path:
        """Folder of the site file; relative paths in it start there."""
        return self._path.parent

    def file(self, name: str) -> Path:
        """A file that the site file names: `~` expanded, relative to the site file's folder."""
        return Path(os.path.normpath(self.dir / Path(name).expanduser()))

    @property
    def gitlab_nodes(self) -> dict[str, NodeSettings]:
        """The nodes with GitLab, by name."""
        return {name: node for name, node in self.nodes.items() if not _OWN & set(node.roles)}

    @property
    def mattermost_node(self) -> str | None:
        """Name of Mattermost's own server; None when the site has none."""
        return next((name for name, node in self.nodes.items() if MATTERMOST_ROLE in node.roles), None)

    @property
    def drill_node(self) -> str | None:
        """Name of the spare node for restore drills; None when the site has none."""
        return next((name for name, node in self.nodes.items() if DRILL_ROLE in node.roles), None)

    @property
    def rails_nodes(self) -> list[str]:
        """Names of the nodes with Rails."""
        return [name for name, node in self.gitlab_nodes.items() if node.rails]

    @property
    def migrates(self) -> str | None:
        """Name of the one node whose `gitlab-ctl reconfigure` migrates GitLab's database (`auto_migrate`).

        It is the canary of the rollout, or else the first node of the file, among those that serve the application.
        It does not follow the mail reader: moving that must change two nodes only.
        """
        rails = self.rails_nodes
        able = [
            name for name in rails if not self.nodes[name].roles or "application" in self.nodes[name].roles
        ] or rails
        canary = self.rollout.canary if self.rollout else None
        return canary if canary in able else next(iter(able), None)

    @property
    def webhook_mailboxes(self) -> list[str]:
        """The mailbox types that are on and delivered by webhook, and so need a token."""
        if self.mail is None:
            return []
        kinds = ("incoming_email", "service_desk_email")
        boxes = ((kind, self.mail.mailbox(kind)) for kind in kinds)
        return [kind for kind, box in boxes if box and box.delivery_method == "webhook"]

    def secret(self, ref: SecretRef) -> Secret:
        """The value of a reference; resolved once, then remembered.

        Raises:
            SecretError: when it cannot be resolved.
        """
        if ref not in self._secrets:
            self._secrets[ref] = ref.resolve(self.dir)
        return self._secrets[ref]

    def read_again(self) -> None:
        """Another run may have ended since the file was read, and have changed secrets that are kept in files.

        Raises:
            RefusedError: the site file itself is another one by now.
        """
        try:
            same = self._path.read_bytes() == self._text
        except OSError:
            same = False
        if not same:
            raise RefusedError(f"{self._path} was changed while this run waited for another one. Run again")
        for ref in [ref for ref in self._secrets if isinstance(ref, FileRef)]:
            del self._secrets[ref]

    def _token_ref(self, kind: str) -> SecretRef:
        ref = getattr(self.mail.tokens, kind) if self.mail else None
        if not isinstance(ref, SecretRef):
            raise SecretError(f"mail.tokens.{kind} is not set")
        return ref

    def token(self, kind: str) -> Secret | None:
        """The declared webhook token of a mailbox type; None when its file does not exist yet."""
        ref = self._token_ref(kind)
        if isinstance(ref, FileRef) and ref not in self._secrets and not ref.path(self.dir).exists():
            return None
        return self.secret(ref)

    def token_path(self, kind: str) -> Path:
        """The file in which a token that does not exist yet is to be kept."""
        ref = self._token_ref(kind)
        if not isinstance(ref, FileRef):
            raise SecretError(f"mail.tokens.{kind}: a new token can only be kept in a !file")
        return ref.path(self.dir)

    def service_desk_addresses(self) -> dict[str, str]:
        """The address of each project that has a suffix, by full path.

        `%{key}` becomes `<full_path_slug>-<suffix>`; the slug is that of Gitlab::Utils.slugify: lower case, a hyphen
        for anything but letters and digits, at most 63 characters, no hyphen at either end.
        """
        box = self.mail and self.mail.service_desk_email
        if not box:
            return {}
        out = {}
        for path, project in self.service_desk.projects.items():
            slug = re.sub(r"[^a-z0-9]", "-", path.lower())[:63].strip("-")
            out[path] = box.address.replace("%{key}", f"{slug}-{project.suffix}")
        return out
