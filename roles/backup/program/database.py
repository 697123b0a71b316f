"""PostgreSQL, as the application's role: what is in the database, the dump, and its way back."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from .config import Config, Database, Failure, call, last_words

Connection = psycopg.Connection[tuple[Any, ...]]

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""What Debian and Ubuntu trust; libpq has to be told."""
# A server that is gone must be noticed, also while it owes an answer.
_ALIVE = {"connect_timeout": 20, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# The text of a row must not depend on who asks.
_FORMS = "-c DateStyle=ISO -c TimeZone=UTC -c extra_float_digits=1 -c bytea_output=hex -c IntervalStyle=postgres"

_TABLES = (
    "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1"
)
_KINDS = {"r": "tables", "p": "tables", "i": "indexes", "S": "sequences", "v": "views", "m": "materialized views"}
_OBJECTS = (
    "SELECT relkind::text, relname FROM pg_class WHERE relkind IN ('r', 'p', 'i', 'S', 'v', 'm') AND "
    "relnamespace = 'public'::regnamespace ORDER BY 2"
)
_FOREIGN = """\
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r','p','S','v','m')
  AND pg_get_userbyid(relowner) <> current_user
UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
  AND pg_get_userbyid(typowner) <> current_user
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  AND pg_get_userbyid(proowner) <> current_user ORDER BY 1"""
_GATE = "SELECT count(*) FROM db_migrations WHERE version = 142 AND name = 'add_schemeid_to_roles'"
ORPHANS = {
    "posts without channel": (
        "SELECT count(*) FROM posts p LEFT JOIN channels c ON c.id = p.channelid WHERE c.id IS NULL"
    ),
    "posts without author": "SELECT count(*) FROM posts p LEFT JOIN users u ON u.id = p.userid WHERE u.id IS NULL",
    "replies without root": (
        "SELECT count(*) FROM posts p LEFT JOIN posts r ON r.id = p.rootid WHERE p.rootid <> '' AND r.id IS NULL"
    ),
    "files without post": (
        "SELECT count(*) FROM fileinfo f LEFT JOIN posts p ON p.id = f.postid WHERE f.postid <> '' AND p.id IS NULL"
    ),
    "members without channel": (
        "SELECT count(*) FROM channelmembers m LEFT JOIN channels c ON c.id = m.channelid WHERE c.id IS NULL"
    ),
}
"""Rows whose other half is missing. Retention leaves some: it is the number at the source that counts."""


def parameters(database: Database, name: str | None = None) -> dict[str, Any]:
    """libpq's parameters, without the password."""
    out = {
        "host": database.host,
        "port": database.port,
        "user": database.user,
        "dbname": name or database.name,
        "sslmode": database.sslmode,
        "application_name": "mattermost-backup",
        **_ALIVE,
    }
    if database.sslmode.startswith("verify"):
        out["sslrootcert"] = database.ca or BUNDLE
    return out


@contextmanager
def connect(config: Config, name: str | None = None) -> Iterator[Connection]:
    """A connection in autocommit mode.

    Args:
        name: of the database; default: Mattermost's.

    Raises:
        Failure: with what libpq or the server said, here and inside the context.
    """
    where = f"database {name or config.database.name} on {config.database.host}"
    try:
        words = parameters(config.database, name)
        with psycopg.connect(**words, password=config.database.password, options=_FORMS, autocommit=True) as connection:
            yield connection
    except psycopg.Error as error:
        raise Failure(f"{where}: {last_words(str(error))}") from None


@dataclass(frozen=True)
class Reference:
    """A file that a row of `fileinfo` names."""

    id: str
    path: str
    size: int
    previews: tuple[str, ...]
    """Thumbnail and preview, which the server can make again."""


def references(connection: Connection) -> Iterator[Reference]:
    """Every file that has to be there: uploads whose row is not deleted."""
    statement = (
        "SELECT id, path, size, coalesce(thumbnailpath, ''), coalesce(previewpath, '') FROM fileinfo "
        "WHERE deleteat = 0 AND path <> ''"
    )
    with connection.cursor(name="files") as cursor:
        cursor.itersize = 5000
        for row in cursor.execute(statement):
            yield Reference(str(row[0]), str(row[1]), int(row[2]), tuple(str(one) for one in row[3:] if one))


def census(connection: Connection) -> dict[str, Any]:
    """What is in the database: for every table its number of rows and one number made of every value in them (it does
    not depend on the order of the rows); who signs on as whom; objects; orphans; the schema's version."""

    def one(statement: sql.Composed | str) -> tuple[Any, ...]:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return tuple(row)

    tables = {}
    for (name,) in connection.execute(_TABLES).fetchall():
        count, content = one(
            sql.SQL(
                "SELECT count(*), coalesce(sum(('x' || substr(md5(row::text), 1, 16))::bit(64)::bigint::numeric), 0)"
                "::text FROM public.{} AS row"
            ).format(sql.Identifier(name))
        )
        tables[name] = [count, content]
    objects: dict[str, list[str]] = {}
    for kind, name in connection.execute(_OBJECTS).fetchall():
        objects.setdefault(_KINDS[kind], []).append(name)
    complete = {"posts", "users", "channels", "fileinfo", "channelmembers", "db_migrations"} <= set(tables)
    identities = (
        "SELECT count(*), coalesce(md5(string_agg(id || ' ' || authservice || ' ' || authdata, ',' ORDER BY id))"
    )
    identities += ", '') FROM users WHERE coalesce(authservice, '') <> ''"
    return {
        "server_version": int(one("SELECT current_setting('server_version_num')")[0]),
        "encoding": one("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")[0],
        "bytes": one("SELECT pg_database_size(current_database())")[0],
        "tables": tables,
        "objects": objects,
        "identities": list(one(identities)) if complete else [0, ""],
        "orphans": {name: one(query)[0] for name, query in ORPHANS.items()} if complete else {},
        "migration": one("SELECT coalesce(max(version), 0) FROM db_migrations")[0] if complete else 0,
        "gate_142": bool(one(_GATE)[0]) if complete else False,
        "users": one("SELECT count(*) FROM users WHERE deleteat = 0")[0] if complete else 0,
        "posts": one("SELECT count(*) FROM posts WHERE deleteat = 0")[0] if complete else 0,
    }


def people(connection: Connection) -> str:
    """How much a restore would replace, in words."""
    names = {name for (name,) in connection.execute(_TABLES).fetchall()}
    if not {"users", "posts"} <= names:
        return f"{len(names)} tables"
    row = connection.execute("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM posts)").fetchone()
    assert row
    return f"{row[0]} users and {row[1]} posts"


def foreign(connection: Connection) -> list[str]:
    """Objects that do not belong to the application's role: it could not migrate them."""
    return [str(row[0]) for row in connection.execute(_FOREIGN).fetchall()]


def may_create(connection: Connection) -> bool:
    """Whether the role may create tables in the schema public (from PostgreSQL 15 on, its owner alone by default)."""
    row = connection.execute("SELECT has_schema_privilege('public', 'CREATE')").fetchone()
    return bool(row and row[0])


def identities(connection: Connection) -> list[dict[str, str]]:
    """Who signs on through GitLab, and as which GitLab user id."""
    rows = connection.execute(
        "SELECT username, email, coalesce(authdata, '') FROM users WHERE authservice = 'gitlab' AND deleteat = 0"
    ).fetchall()
    return [{"username": str(a), "email": str(b), "authdata": str(c)} for a, b, c in rows]


def client_major(program: str) -> int:
    """Major version of `pg_dump` or `pg_restore` on this node."""
    found = re.search(r"(\d+)", call([program, "--version"], what=program))
    return int(found.group(1)) if found else 0


def _libpq(config: Config, name: str | None = None) -> tuple[str, dict[str, str]]:
    words = parameters(config.database, name)
    return " ".join(f"{key}='{value}'" for key, value in words.items()), {"PGPASSWORD": config.database.password}


def dump(config: Config, snapshot: str, path: Path) -> None:
    """`pg_dump -Fc` of exactly what the exported snapshot shows. Not compressed: restic does that, and can then keep
    what did not change since yesterday once.

    Raises:
        Failure: it failed; what is at `path` is worth nothing.
    """
    conninfo, environment = _libpq(config)
    words = [
        "pg_dump",
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--snapshot={snapshot}",
        "--file",
        str(path),
    ]
    call([*words, "--dbname", conninfo], environment=environment, what="pg_dump failed")
    call(["pg_restore", "--list", str(path)], what="the dump cannot be read")


def restore(config: Config, name: str, path: Path) -> None:
    """Restore a `pg_dump -Fc` into an empty database: as the application's role, all or nothing, then ANALYZE."""
    conninfo, environment = _libpq(config, name)
    words = ["pg_restore", "--no-owner", "--no-acl", "--exit-on-error", "--single-transaction", "--no-password"]
    call([*words, "--dbname", conninfo, str(path)], environment=environment, what="pg_restore failed")
    analyze(config, name)


def analyze(config: Config, name: str) -> None:
    """Statistics for the planner: a restored table has none."""
    with connect(config, name) as connection:
        connection.execute("ANALYZE")


# A plain dump names the owner of every object and what others may do with it, and sets parameters that only newer
# servers know. All of these are statements of one line, outside of the data.
_DROPPED = re.compile(
    rb"^(ALTER [A-Z ]+ .* OWNER TO .*;|(GRANT|REVOKE) .*;|SET transaction_timeout = 0;|"
    rb"CREATE EXTENSION IF NOT EXISTS plpgsql\b.*;|COMMENT ON (SCHEMA public|EXTENSION plpgsql) .*;)$"
)
_COPY = re.compile(rb"^COPY (?:public\.)?\"?([^\s\"(]+)\"? .*FROM stdin;$")


def filtered(lines: Iterator[bytes], counts: dict[str, int]) -> Iterator[bytes]:
    """A plain dump without owners and rights; its rows are counted, and never changed.

    Args:
        lines: of the dump.
        counts: gets the number of rows per table.
    """
    table = ""
    for line in lines:
        bare = line.rstrip(b"\n")
        if table:
            if bare == rb"\.":
                table = ""
            else:
                counts[table] += 1
            yield line
            continue
        found = _COPY.match(bare)
        if found:
            table = found.group(1).decode(errors="replace")
            counts.setdefault(table, 0)
        if not _DROPPED.match(bare):
            yield line


def restore_plain(config: Config, name: str, path: Path) -> dict[str, int]:
    """Restore a plain dump (`pg_dump | gzip`, as GitLab's documentation makes it), whatever owner it names.

    Returns:
        how many rows the dump holds, by table.

    Raises:
        Failure: nothing was restored.
    """
    conninfo, environment = _libpq(config, name)
    words = ["psql", "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", conninfo]
    path_env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        opener: Any = gzip.open if file.read(2) == b"\x1f\x8b" else open
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env={**path_env, **environment}, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        why = ""
        try:
            with opener(path, "rb") as source:
                complete = False
                for line in filtered(iter(source.readline, b""), counts):
                    complete = complete or line.startswith(b"-- PostgreSQL database dump complete")
                    process.stdin.write(line)
            if not complete:
                why = "the dump is cut off: its last line is missing"
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            why = f"the dump cannot be read: {error}"
        if why:  # the end of standard input would commit what arrived so far
            process.kill()
        try:
            _, said = process.communicate()
        except (OSError, ValueError):
            said = process.stderr.read() if process.stderr else b""
    if why and "Broken pipe" not in why:
        raise Failure(f"{why}. Nothing was restored.")
    if process.returncode != 0:
        raise Failure(f"psql refused the dump: {last_words(said.decode(errors='replace'))}. Nothing was restored.")
    analyze(config, name)
    return counts


def exists(connection: Connection, name: str) -> bool:
    """Whether there is a database of this name."""
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def create(connection: Connection, name: str) -> None:
    """An empty database that belongs to the role itself, in UTF-8 (template1 may hold things)."""
    connection.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name)))


def drop(connection: Connection, name: str) -> None:
    """Drop a database of ours (see `restore.aside`)."""
    end_sessions(connection, name)
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def end_sessions(connection: Connection, *names: str) -> None:
    """End the role's own sessions in these databases."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s) AND usename = current_user "
        "AND pid <> pg_backend_pid()",
        [list(names)],
    )


def rename(connection: Connection, *pairs: tuple[str, str]) -> None:
    """Rename databases, all of them or none."""
    end_sessions(connection, *(old for old, _ in pairs))
    with connection.transaction():
        for old, new in pairs:
            statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            connection.execute(statement.format(sql.Identifier(old), sql.Identifier(new)))


def empty(config: Config, name: str) -> bool:
    """Whether the database has no table of ours."""
    with connect(config, name) as connection:
        return not connection.execute(_TABLES).fetchall()
