"""Make an application's role and database on a PostgreSQL server, from the machine that the run is started on.

Nothing is ever dropped. What is done: `CREATE ROLE`, `CREATE DATABASE`, `ALTER ROLE ... PASSWORD`, and the grant that
an administrator who is no superuser needs for that, taken back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from roles.postgresql.libpq import BUNDLE, CONNECT_TIMEOUT, cause, cure
from roles.postgresql.settings import DatabaseSettings
from roles.site.errors import StepError

LENT = "pyinfra-gitlab: CREATEDB is lent for the time of a restore"
"""Comment on the role meanwhile."""


@dataclass(frozen=True)
class Address:
    """Where the server is reached: directly, or at this end of a tunnel."""

    hostaddr: str | None = None
    """IP address to connect to, if not what the host name says."""
    port: int | None = None
    """Port there."""


@dataclass(frozen=True)
class Found:
    """What is on the server, as its administrator sees it."""

    role: bool
    """The application's role is there."""
    password: bool
    """It can log in with the declared password."""
    owner: str | None
    """Owner of the database; None when there is no database."""
    encoding: str = ""
    """Its encoding."""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and its administrator."""

    settings: DatabaseSettings
    """The database as declared."""
    admin_password: str
    """Of the administrator."""
    password: str
    """Of the application's role."""
    ca: Path | None
    """Certificate authority, a file here."""
    address: Address = Address()
    """Where it is reached."""

    @contextmanager
    def connect(self, user: str, password: str, database: str) -> Iterator[psycopg.Connection]:
        """A connection in autocommit mode.

        Raises:
            StepError: with what the server or libpq said.
        """
        ca = str(self.ca) if self.ca else (BUNDLE if Path(BUNDLE).exists() else "system")
        try:
            connection = psycopg.connect(
                host=self.settings.host,
                hostaddr=self.address.hostaddr,
                port=self.address.port or self.settings.port,
                user=user,
                password=password,
                dbname=database,
                sslmode=self.settings.sslmode,
                sslrootcert=ca if self.settings.sslmode.startswith("verify") else None,
                connect_timeout=CONNECT_TIMEOUT,
                application_name="pyinfra-gitlab",
                autocommit=True,
            )
        except psycopg.OperationalError as error:
            told = cure(str(error), "mattermost.database.password")
            if self.settings.admin and user == self.settings.admin.user:
                told = cure(str(error), "mattermost.database.admin")
                if "does not exist" in str(error):
                    told = "Check mattermost.database.admin."
            said = f"{cause(str(error))}. {told}"
            raise StepError(f"PostgreSQL on {self.settings.host} as {user}, from here: {said}") from None
        with connection:
            yield connection

    def look(self) -> Found:
        """What is there."""
        wanted, admin = self.settings, self.settings.admin
        assert admin is not None
        with self.connect(admin.user, self.admin_password, admin.database) as connection:
            role = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [wanted.user]).fetchone()
            found = connection.execute(
                "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = %s",
                [wanted.name],
            ).fetchone()
        works = bool(role and role[0]) and self._logs_in(wanted.name if found else admin.database)
        return Found(role is not None, works, found[0] if found else None, found[1] if found else "")

    def _logs_in(self, database: str) -> bool:
        try:
            with self.connect(self.settings.user, self.password, database):
                return True
        except StepError as error:
            if "password authentication failed" in str(error):
                return False
            if "permission denied for database" in str(error):  # which is looked at after the password
                return True
            raise

    def missing(self, found: Found) -> list[str]:
        """What has to be done, in words.

        Raises:
            StepError: when what is there must not be changed by us.
        """
        wanted = self.settings
        if found.owner is not None and found.owner != wanted.user:
            raise StepError(
                f"the database {wanted.name} on {wanted.host} belongs to {found.owner}, not to {wanted.user}. If it is "
                f"Mattermost's, run there: ALTER DATABASE {wanted.name} OWNER TO {wanted.user}; else give "
                "mattermost.database another name."
            )
        if found.owner is not None and found.encoding != "UTF8":
            raise StepError(f"the database {wanted.name} on {wanted.host} is in {found.encoding}; it must be in UTF8.")
        out = []
        if not found.role:
            out.append(f"create role {wanted.user}")
        elif not found.password:
            out.append(f"set the password of role {wanted.user}")
        if found.owner is None:
            out.append(f"create database {wanted.name}, owned by {wanted.user}, in UTF8")
        return out

    def make(self) -> None:
        """Do what is missing. The password goes to the server as a SCRAM verifier, so it is in no server log."""
        admin, wanted = self.settings.admin, self.settings
        assert admin is not None
        found = self.look()
        self.missing(found)
        role, name = sql.Identifier(wanted.user), sql.Identifier(wanted.name)
        with self.connect(admin.user, self.admin_password, admin.database) as connection:
            try:
                if not found.password:
                    verifier = connection.pgconn.encrypt_password(
                        self.password.encode(), wanted.user.encode(), b"scram-sha-256"
                    ).decode()
                    verb = sql.SQL("ALTER ROLE" if found.role else "CREATE ROLE")
                    connection.execute(sql.SQL("{} {} LOGIN PASSWORD {}").format(verb, role, sql.Literal(verifier)))
                if found.owner is None:
                    with self._membership(connection, role):
                        connection.execute(
                            sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0").format(name, role)
                        )
            except psycopg.Error as error:
                raise StepError(
                    f"PostgreSQL on {wanted.host} refused: {cause(str(error))}. The administrator {admin.user} needs "
                    "CREATEROLE and CREATEDB."
                ) from None

    def lend(self) -> None:
        """Let the application's role create and rename databases. It is noted at the role, if it could not before."""
        with self._altering() as (connection, role):
            query = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = %s"
            row = connection.execute(query, [self.settings.user]).fetchone()
            if not (row and row[0]):
                connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(LENT)))
                connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(role))

    def take_back(self) -> None:
        """Take back what :meth:`lend` has lent; a right that the role had of its own stays."""
        with self._altering() as (connection, role):
            query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
            row = connection.execute(query, [self.settings.user]).fetchone()
            if row and row[0] == LENT:
                connection.execute(sql.SQL("ALTER ROLE {} NOCREATEDB").format(role))
                connection.execute(sql.SQL("COMMENT ON ROLE {} IS NULL").format(role))

    @contextmanager
    def _altering(self) -> Iterator[tuple[psycopg.Connection, sql.Identifier]]:
        admin = self.settings.admin
        assert admin is not None
        with self.connect(admin.user, self.admin_password, admin.database) as connection:
            try:
                yield connection, sql.Identifier(self.settings.user)
            except psycopg.Error as error:
                raise StepError(
                    f"PostgreSQL on {self.settings.host} refused: {cause(str(error))}. The administrator {admin.user} "
                    "needs CREATEROLE and CREATEDB."
                ) from None

    @contextmanager
    def _membership(self, connection: psycopg.Connection, role: sql.Identifier) -> Iterator[None]:
        """Only a member of a role may make a database for it (a superuser counts as one)."""
        # From 16 on, who made a role is a member of it, but without the right to act as it (CREATE ROLE, notes).
        word = "SET" if connection.info.server_version >= 160000 else "MEMBER"
        member = connection.execute("SELECT pg_has_role(%s, %s)", [self.settings.user, word]).fetchone()
        lent = not (member and member[0])
        if lent:
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        try:
            yield
        finally:
            if lent:
                connection.execute(sql.SQL("REVOKE {} FROM CURRENT_USER").format(role))
