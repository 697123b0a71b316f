"""Prove a database as the application will use it: as its role, from its node, with its TLS mode."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api.host import Host

from roles.node import remote
from roles.postgresql.libpq import BUNDLE, CONNECT_TIMEOUT, cause, cure
from roles.postgresql.settings import DatabaseSettings
from roles.site.errors import StepError
from roles.site.secret import Secret

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


def prove(host: Host, settings: DatabaseSettings, password: Secret, ca: Path | None) -> Proof:
    """Connect from `host` as the application's role, and look.

    Args:
        ca: the certificate authority's file here; None: what the node trusts.

    Raises:
        StepError: with what libpq said, or what is wrong with what is there.
    """
    command, stdin = question(settings, password, ca)
    return proof(remote.run(host, command, stdin=stdin), host, settings)


def question(settings: DatabaseSettings, password: Secret, ca: Path | None) -> tuple[str, str]:
    """The command of `prove`, and its standard input."""
    pem = ca.read_text() if ca else ""
    return _command(settings, bool(pem)), f"{password.reveal()}\n{pem}"


def proof(got: remote.Result, host: Host, settings: DatabaseSettings) -> Proof:
    """What `got`, the answer to `question`, proves. Raises as `prove` does."""
    where = f"the database {settings.name} on {settings.host}:{settings.port} as {settings.user}, from {host.name}"
    if not got.ok:
        told = cure(got.stderr, "mattermost.database.password; with database.admin it is set for you")
        raise StepError(f"{where}: {cause(got.stderr) or 'psql ended without a word'}. {told}")
    version, encoding, *owner, creates, tls = got.stdout.split()  # a name may have spaces
    found = Proof(int(version), encoding, " ".join(owner), creates == "t", tls)
    if found.encoding != "UTF8":
        raise StepError(f"{where}: it is in {found.encoding}. It must be in UTF8; make another database.")
    if not found.creates:
        raise StepError(
            f"{where}: the role may not create tables in the schema public (nobody may by default from PostgreSQL 15 "
            f"on). Run there: ALTER DATABASE {settings.name} OWNER TO {settings.user};"
        )
    return found


def _command(settings: DatabaseSettings, ca: bool) -> str:
    """Shell for the application's node; reads the password from the first line of standard input, then the CA."""
    words = {
        "host": settings.host,
        "port": str(settings.port),
        "user": settings.user,
        "dbname": settings.name,
        "sslmode": settings.sslmode,
        "connect_timeout": str(CONNECT_TIMEOUT),
        "application_name": "pyinfra-gitlab",
    }
    if settings.sslmode.startswith("verify") and not ca:
        words["sslrootcert"] = BUNDLE
    connection = " ".join(f"{key}='{value}'" for key, value in words.items())
    # The environment of a process is readable by its own user and root alone; its command line by everybody.
    return (
        'IFS= read -r PGPASSWORD; export PGPASSWORD; ca=$(mktemp) || exit 1; trap \'rm -f "$ca"\' EXIT; cat > "$ca"; '
        + ('export PGSSLROOTCERT="$ca"; ' if ca and settings.sslmode.startswith("verify") else "")
        + f"psql -X -q -A -t -w -F ' ' -c {shlex.quote(_QUERY)} {shlex.quote(connection)}"
    )
