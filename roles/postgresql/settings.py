"""The vocabulary of an external PostgreSQL in a site file."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from roles.site.base import Hostname, NodeName, Port, StrictModel, refuse
from roles.site.secret import SecretRef

SSLMODES = ("disable", "require", "verify-ca", "verify-full")
"""What both libpq and Mattermost's lib/pq 1.10 know (lib/pq CHANGELOG; `prefer` and `allow` came with 1.12)."""


def _sslmode(value: str) -> str:
    if value not in SSLMODES:
        hint = "write require (GitLab's documentation says required)" if value == "required" else ""
        raise refuse("is no TLS mode of PostgreSQL's drivers", allowed=", ".join(SSLMODES), hint=hint)
    return value


Identifier = Annotated[
    str,
    Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="small letters, digits and _, at most 63, no digit first"),
]
"""Name of a role or a database, such that no tool has to quote it."""


class DatabaseAdmin(StrictModel):
    """Who may create the role and the database: no superuser is needed, CREATEROLE and CREATEDB are enough."""

    user: Annotated[str, Field(min_length=1, max_length=63)]
    """Its role."""

    password: SecretRef
    """Its password. It never leaves the machine that the run is started on."""

    database: Annotated[str, Field(min_length=1, max_length=63)] = "postgres"
    """The database to connect to."""

    through: NodeName | None = None
    """Node of this site through whose SSH connection the server is reached. Default: directly from here."""


class DatabaseSettings(StrictModel):
    """A database on a PostgreSQL server."""

    host: Hostname
    """The server, as both the application and we name it; its certificate must hold this name with `verify-full`."""

    port: Port = 5432
    """Its port."""

    name: Identifier = "mattermost"
    """The database. Made if absent, owned by `user`, in UTF-8. Never dropped."""

    user: Identifier = "mmuser"
    """The application's role. Made if absent."""

    password: SecretRef
    """Its password. When it changes here, it is changed on the server, and the application is restarted once."""

    sslmode: Annotated[str, AfterValidator(_sslmode), Field(json_schema_extra={"enum": list(SSLMODES)})] = "verify-full"
    """TLS: `verify-full` (encrypted, to the right server), `verify-ca`, `require` (to anybody), `disable`."""

    ca: str | None = None
    """File with the certificate authority of the server, in PEM; it is put on the application's node. Default: the
    authorities that the node trusts anyway."""

    admin: DatabaseAdmin | None = None
    """Who may create role and database. None: they exist already, and are only checked."""
