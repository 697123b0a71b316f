"""The vocabulary of incoming mail in a site file. Names are those of `gitlab.rb` without their prefix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from roles.site.base import Hostname, NodeName, Port, StrictModel
from roles.site.secret import SecretRef

ADDRESS = r"^[A-Za-z0-9._-]{1,31}\+%\{key\}@[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
"""An address with `+%{key}` directly before the `@`. A reply key has 32 characters, `+` is one more, and a mail server
need not accept more than 64 before the `@` (RFC 5321), so 31 are left."""


class MailboxSettings(StrictModel):
    """A mailbox that mail_room reads by IMAP."""

    address: Annotated[
        str,
        Field(
            pattern=ADDRESS,
            description="name+%{key}@host: +%{key} directly before @, at most 31 characters before it",
        ),
    ]
    """The address that people write to. `%{key}` stands for the project or conversation."""

    user: Annotated[str, Field(min_length=1, max_length=255)]
    """Login name at the IMAP server (`incoming_email_email`)."""

    password: SecretRef
    """Password at the IMAP server; goes to the reader only."""

    host: Hostname
    """IMAP server."""

    port: Port = 993
    """Its port. (The package's own default is 143.)"""

    ssl: bool = True
    """TLS from the first byte. (The package's own default is off.)"""

    start_tls: bool = False
    """Plain connection that is switched to TLS; not together with `ssl`."""

    mailbox_name: Annotated[str, Field(min_length=1, max_length=255)] = "inbox"
    """Folder to read; the package's default."""

    idle_timeout: Annotated[int, Field(ge=1, le=1740)] = 60
    """Seconds that mail_room waits for a new mail before it asks again. mail_room refuses more than 29 minutes
    (IdleTimeoutTooLarge)."""

    delivery_method: Literal["webhook", "sidekiq"] = "webhook"
    """How mail_room hands mail to GitLab: a POST to its API, or straight into Redis (deprecated since 16.0, announced
    to be removed in 19.0)."""

    inbox_method: Literal["imap"] = "imap"
    """How the mailbox is read."""


class IncomingEmailSettings(MailboxSettings):
    """The mailbox for replies, new issues and merge requests by mail (`incoming_email`)."""

    delete_after_delivery: bool = True
    """Mark a mail as deleted once it was handed over; the package's default."""

    expunge_deleted: bool = False
    """Also remove marked mails from the server for good. Leave it off at first: mail_room takes any HTTP answer for a
    delivery, and a mail that was only marked can be brought back."""


class ServiceDeskEmailSettings(MailboxSettings):
    """The additional mailbox of Service Desk (`service_desk_email`). The package renders neither
    `delete_after_delivery` (always on) nor `expunge_deleted` (always off) for it, in any version."""


class TokenSettings(StrictModel):
    """Where the shared webhook tokens are kept: base64 of exactly 32 bytes. A `!file` that does not exist yet is made:
    with the token that the running site already uses, or else a new one."""

    incoming_email: SecretRef | None = None
    """Token of the `incoming_email` webhook."""

    service_desk_email: SecretRef | None = None
    """Token of the `service_desk_email` webhook."""


class MailSettings(StrictModel):
    """Incoming mail of the whole site."""

    reader: NodeName
    """The one node that runs mail_room. One word, so two cannot be said."""

    incoming_email: IncomingEmailSettings | None = None
    """The mailbox for replies and new issues."""

    service_desk_email: ServiceDeskEmailSettings | None = None
    """The additional mailbox for Service Desk; must be another mailbox than that of `incoming_email`."""

    tokens: TokenSettings = TokenSettings()
    """The webhook tokens that all Rails nodes share."""

    def mailbox(self, kind: str) -> IncomingEmailSettings | ServiceDeskEmailSettings | None:
        """The mailbox of a type, by its name in GitLab: `incoming_email` or `service_desk_email`."""
        found: IncomingEmailSettings | ServiceDeskEmailSettings | None = getattr(self, kind)
        return found


class ServiceDeskProject(StrictModel):
    """Service Desk of one project."""

    suffix: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=255, description="a-z, 0-9 and _")]
    """E-mail address suffix (`project_key`), last part of the project's own Service Desk address."""


class ServiceDeskSettings(StrictModel):
    """Service Desk."""

    projects: dict[str, ServiceDeskProject] = {}
    """Projects by full path, such as `mygroup/myproject`."""
