"""Prove a database as the application will use it: as its role, from its node, with its TLS mode."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from roles.postgresql.admin import BUNDLE, CONNECT_TIMEOUT
from roles.postgresql.settings import DatabaseSettings

_QUERY = (
    "SELECT current_setting('server_version_num'), pg_encoding_to_char(encoding), pg_get_userbyid(datdba), "
    "has_schema_privilege('public', 'CREATE'), coalesce((SELECT version FROM pg_stat_ssl WHERE pid = "
    "pg_backend_pid()), 'none') FROM pg_database WHERE datname = current_database()"
)


@dataclass(frozen=True)
class Proof:
    """What the application's role sees of its database."""

    version: int
    """Of the server, as `server_version_num`: 150020 for 15.20."""
    encoding: str
    """Of the database."""
    owner: str
    """Of the database."""
    creates: bool
    """The role may create tables in the schema `public`."""
    tls: str
    """TLS version of this very connection, or `none`."""

    @property
    def major(self) -> int:
        """Major version of the server."""
        return self.version // 10000


def proof_command(settings: DatabaseSettings, ca: str | None) -> str:
    """Shell for the application's node; reads the password from standard input.

    Args:
        ca: the certificate authority's file on the node; None: what the node trusts.
    """
    words = {
        "host": settings.host,
        "port": str(settings.port),
        "user": settings.user,
        "dbname": settings.name,
        "sslmode": settings.sslmode,
        "connect_timeout": str(CONNECT_TIMEOUT),
    }
    if settings.sslmode.startswith("verify"):
        words["sslrootcert"] = ca or BUNDLE
    connection = " ".join(f"{key}='{value}'" for key, value in words.items())
    # The environment of a process is readable by its own user and root alone; its command line by everybody.
    return (
        "IFS= read -r PGPASSWORD; export PGPASSWORD; command -v psql >/dev/null || { echo no psql >&2; exit 127; }; "
        f"psql -X -q -A -t -w -F ' ' -c {shlex.quote(_QUERY)} {shlex.quote(connection)}"
    )


def proof(text: str) -> Proof:
    """What the command printed.

    Raises:
        ValueError: when it is not that.
    """
    version, encoding, owner, creates, tls = text.split()
    return Proof(int(version), encoding, owner, creates == "t", tls)
