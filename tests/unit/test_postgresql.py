"""The database: what is missing, what is said to the server, the proof from the node, and a cure for every message."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest

from roles.node.remote import Result
from roles.postgresql import admin, facts
from roles.postgresql.admin import LENT, Address, Found, Server
from roles.postgresql.libpq import BUNDLE, cause, cure
from roles.postgresql.settings import SSLMODES, DatabaseSettings
from roles.site.errors import StepError
from roles.site.secret import FileRef, Secret
from tests.unit import chat_sites

PASSWORD = 'it\'s a $PASSWORD \\ with `id` "quotes" & ünïcode '
DBA = "password-of-the-administrator"
GOOD = "150020 UTF8 mmuser t TLSv1.3\n"


def settings(**more) -> DatabaseSettings:
    values = {
        "host": "db.example.com",
        "password": FileRef("x"),
        "admin": {"user": "dba", "password": FileRef("y")},
    }
    return DatabaseSettings.model_validate(values | more)


def server(**more) -> Server:
    return Server(settings(**more), DBA, PASSWORD, None)


# --- what is missing ---

ROLE, PASS, BASE = (
    "create role mmuser",
    "set the password of role mmuser",
    "create database mattermost, owned by mmuser, in UTF8",
)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Found(True, True, "mmuser", "UTF8"), []),
        (Found(True, False, "mmuser", "UTF8"), [PASS]),
        (Found(False, False, None), [ROLE, BASE]),
        (Found(True, True, None), [BASE]),
        (Found(True, False, None), [PASS, BASE]),
    ],
)
def test_what_is_missing(found, told):
    assert server().missing(found) == told


def test_names_are_those_of_the_site_file():
    told = server(name="chat", user="chatter").missing(Found(False, False, None))
    assert told == ["create role chatter", "create database chat, owned by chatter, in UTF8"]


@pytest.mark.parametrize("role", [True, False])
def test_the_database_of_somebody_else_is_never_touched(role):
    with pytest.raises(StepError) as told:
        server().missing(Found(role, role, "gitlab", "UTF8"))
    assert "the database mattermost on db.example.com belongs to gitlab, not to mmuser" in str(told.value)
    assert "ALTER DATABASE mattermost OWNER TO mmuser" in str(told.value)
    assert "give mattermost.database another name" in str(told.value)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", ""])
def test_a_database_in_another_encoding_is_refused(encoding):
    with pytest.raises(StepError, match=rf"is in {encoding}; it must be in UTF8"):
        server().missing(Found(True, True, "mmuser", encoding))


# --- what is said to the server ---


class Cluster:
    """A server that knows a few answers, and remembers statements. Logins are (user, password) pairs."""

    def __init__(self, role=None, owner=None, encoding="UTF8", member=False, logins=(), refuses="", version=150020):
        self.role, self.owner, self.encoding, self.member = role, owner, encoding, member
        self.logins = {("dba", DBA), *logins}
        self.refuses = refuses
        self.info = SimpleNamespace(server_version=version)
        self.creates, self.comment = False, None
        self.asked: list[object] = []
        self.said: list[str] = []
        self.connected: list[tuple[str, str]] = []
        self.pgconn = SimpleNamespace(encrypt_password=lambda *words: b"SCRAM-SHA-256$4096:made-of-it")

    def execute(self, statement, values=()):
        text = statement if isinstance(statement, str) else statement.as_string(None)
        if text.startswith("SELECT rolcanlogin"):
            row = None if self.role is None else (self.role,)
        elif "pg_database" in text:
            row = (self.owner, self.encoding) if self.owner else None
        elif "pg_has_role" in text:
            self.asked += values
            row = (self.member,)
        elif "rolcreatedb" in text:
            row = (self.creates,)
        elif "shobj_description" in text:
            row = (self.comment,)
        else:
            self.said.append(text)
            row = None
            if self.refuses and text.startswith(self.refuses):
                raise psycopg.errors.InsufficientPrivilege("permission denied to create\nHINT:  more")
            if text.startswith("CREATE ROLE") and self.role is not None:
                raise psycopg.errors.DuplicateObject('role "mmuser" already exists')
        return SimpleNamespace(fetchone=lambda: row)

    @contextmanager
    def connect(self, server, user, password, database):
        self.connected.append((user, database))
        if (user, password) not in self.logins:
            raise StepError(f'FATAL:  password authentication failed for user "{user}"')
        yield self


@pytest.fixture
def cluster(monkeypatch):
    def make(**how):
        made = Cluster(**how)
        monkeypatch.setattr(Server, "connect", lambda self, *words: made.connect(self, *words))
        return made

    return make


MINE = ("mmuser", PASSWORD)


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({}, Found(False, False, None)),
        ({"role": True, "owner": "mmuser", "logins": [MINE]}, Found(True, True, "mmuser", "UTF8")),
        ({"role": True, "owner": "mmuser"}, Found(True, False, "mmuser", "UTF8")),
        ({"role": True, "logins": [MINE]}, Found(True, True, None)),
        ({"owner": "postgres", "encoding": "LATIN1"}, Found(False, False, "postgres", "LATIN1")),
    ],
)
def test_what_is_there(cluster, how, found):
    there = cluster(**how)
    assert server().look() == found
    assert there.said == [], "a look changes nothing"
    assert there.connected[0] == ("dba", "postgres")
    if how.get("role"):
        assert there.connected[1:] == [("mmuser", "mattermost" if "owner" in how else "postgres")]


def test_another_reason_than_the_password_is_told(cluster, monkeypatch):
    there = cluster(role=True, owner="mmuser")

    @contextmanager
    def no_entry(server, user, *words):
        if user == "mmuser":
            raise StepError('FATAL:  no pg_hba.conf entry for host "10.0.0.5"')
        yield there

    monkeypatch.setattr(there, "connect", no_entry)
    with pytest.raises(StepError, match=r"no pg_hba\.conf entry"):
        server().look()


def test_a_fresh_server_gets_role_and_database_and_the_loan_is_taken_back(cluster):
    there = cluster()
    server().make()
    assert there.said == [
        """CREATE ROLE "mmuser" LOGIN PASSWORD 'SCRAM-SHA-256$4096:made-of-it'""",
        'GRANT "mmuser" TO CURRENT_USER',
        """CREATE DATABASE "mattermost" OWNER "mmuser" ENCODING 'UTF8' TEMPLATE template0""",
        'REVOKE "mmuser" FROM CURRENT_USER',
    ]
    assert PASSWORD not in "".join(there.said)


def test_who_is_a_member_already_stays_one(cluster):
    there = cluster(member=True)
    server().make()
    assert not any(text.startswith(("GRANT", "REVOKE")) for text in there.said)
    assert any(text.startswith("CREATE DATABASE") for text in there.said)


def test_only_the_password_is_set_when_only_it_differs(cluster):
    there = cluster(role=True, owner="mmuser")
    server().make()
    assert there.said == ["""ALTER ROLE "mmuser" LOGIN PASSWORD 'SCRAM-SHA-256$4096:made-of-it'"""]


def test_nothing_is_said_when_nothing_is_missing(cluster):
    there = cluster(role=True, owner="mmuser", logins=[MINE])
    server().make()
    assert there.said == []


def test_the_database_of_somebody_else_stops_it_before_a_word_is_said(cluster):
    there = cluster(owner="gitlab")
    with pytest.raises(StepError, match="belongs to gitlab"):
        server().make()
    assert there.said == []


def test_a_refusal_is_told_and_the_loan_is_taken_back_all_the_same(cluster):
    there = cluster(refuses="CREATE DATABASE")
    with pytest.raises(StepError) as told:
        server().make()
    assert "refused: permission denied to create HINT:  more. The administrator dba needs CREATEROLE" in str(told.value)
    assert there.said[-1] == 'REVOKE "mmuser" FROM CURRENT_USER'


def test_a_role_that_may_not_log_in_is_altered(cluster):
    there = cluster(role=False, owner="mmuser")
    server().make()
    assert there.said == ["""ALTER ROLE "mmuser" LOGIN PASSWORD 'SCRAM-SHA-256$4096:made-of-it'"""]


def test_a_password_that_is_right_for_a_database_that_is_closed(cluster, monkeypatch):
    there = cluster(role=True)

    @contextmanager
    def closed(server, user, *words):
        if user == "mmuser":
            raise StepError('FATAL:  permission denied for database "postgres". DETAIL: User has no CONNECT privilege')
        yield there

    monkeypatch.setattr(there, "connect", closed)
    assert server().look() == Found(True, True, None)


# --- the connection ---


@pytest.fixture
def connection(monkeypatch):
    """What libpq is asked for; or what it says when `refused` is set."""
    asked = {}

    def connect(**words):
        asked.update(words)
        if asked.get("refused"):
            raise psycopg.OperationalError(asked["refused"])
        return psycopg_connection

    @contextmanager
    def closing():
        yield

    psycopg_connection = closing()
    monkeypatch.setattr(admin.psycopg, "connect", connect)
    return asked


@pytest.mark.parametrize("mode", SSLMODES)
@pytest.mark.parametrize("given", [True, False])
def test_tls_is_as_declared(connection, tmp_path, mode, given):
    ca = tmp_path / "ca.pem" if given else None
    with Server(settings(sslmode=mode), DBA, PASSWORD, ca).connect("mmuser", PASSWORD, "x"):
        pass
    assert connection["sslmode"] == mode
    trusted = str(ca) if given else BUNDLE
    assert connection["sslrootcert"] == (trusted if mode.startswith("verify") else None)
    assert (connection["host"], connection["hostaddr"], connection["port"]) == ("db.example.com", None, 5432)
    assert connection["connect_timeout"] == 10
    assert connection["autocommit"] is True


def test_through_a_tunnel_the_name_stays_that_of_the_certificate(connection):
    with Server(settings(), DBA, PASSWORD, None, Address("127.0.0.1", 40001)).connect("dba", DBA, "postgres"):
        pass
    assert (connection["host"], connection["hostaddr"], connection["port"]) == ("db.example.com", "127.0.0.1", 40001)


@pytest.mark.parametrize(
    ("user", "where"), [("dba", "mattermost.database.admin"), ("mmuser", "mattermost.database.password")]
)
def test_who_was_refused_and_where_the_password_comes_from(connection, user, where):
    connection["refused"] = f'connection failed: FATAL:  password authentication failed for user "{user}"\n'
    with pytest.raises(StepError) as told, server().connect(user, DBA, "postgres"):
        pass
    assert f"PostgreSQL on db.example.com as {user}, from here: " in str(told.value)
    assert str(told.value).endswith(f" Check {where}.")
    assert DBA not in str(told.value)


# --- messages and their cures ---

MESSAGES = {
    'connection to server at "db.example.com" (10.0.0.4), port 5432 failed: FATAL:  password authentication failed for '
    'user "mmuser"': "Check WHERE.",
    'connection to server failed: FATAL:  database "mattermost" does not exist': "With mattermost.database.admin",
    'FATAL:  role "mmuser" does not exist': "With mattermost.database.admin",
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "mmuser", database "mattermost", no encryption':
        "pg_hba.conf",
    "SSL error: certificate verify failed": "mattermost.database.ca",
    'server certificate for "db" does not match host name "db.example.com"': "name in the server's certificate",
    "server does not support SSL, but SSL was required": "ssl = on",
    'could not translate host name "db.example.com" to address: Name or service not known': "DNS",
    'connection to server at "10.0.0.4", port 5432 failed: Connection refused\n\tIs the server running on that host?':
        "listens there",
    "connection to server failed: timeout expired": "firewall",
    "FATAL:  sorry, too many clients already": "Nothing was started.",
}  # fmt: skip


@pytest.mark.parametrize("said", MESSAGES)
def test_every_message_has_its_cure(said):
    assert MESSAGES[said].replace("WHERE", "the.key") in cure(said, "the.key")


def test_no_two_messages_have_one_cure_but_for_what_is_absent():
    cures = [cure(said, "the.key") for said in MESSAGES]
    assert len(set(cures)) == len(cures) - 1


def test_authorities_that_are_absent_are_no_absent_database():
    said = (
        f'connection to server at "db.example.com" (10.0.0.4), port 5432 failed: root certificate file "{BUNDLE}" does '
        "not exist\nEither provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode "
        "to disable server certificate verification."
    )
    assert "mattermost.database.admin it is made" not in cure(said, "the.key")


def test_the_administrators_own_database_is_not_made(connection):
    connection["refused"] = 'FATAL:  database "postgrse" does not exist'
    with pytest.raises(StepError) as told, server().connect("dba", DBA, "postgrse"):
        pass
    assert "it is made for you" not in str(told.value)


def test_the_cause_is_one_line_without_its_last_stop():
    assert cause("  psql: error: a\n\n\tIs it running?  \n") == "psql: error: a Is it running?"
    assert cause("It ended.\n") == "It ended"
    assert cause("") == cause(" \n\t\n") == ""
    long = cause("x" * 1000 + "\nthe end")
    assert len(long) == 400
    assert long.endswith("x the end")


# --- the proof from the node ---


def prove(monkeypatch, result, ca=None, **more):
    run = chat_sites.Remote(lambda command, stdin: result)
    monkeypatch.setattr("roles.postgresql.facts.remote.run", run)
    try:
        return facts.prove(chat_sites.host(), settings(**more), Secret(PASSWORD), ca), run.asked
    finally:
        ((node, command, stdin),) = run.asked
        assert node == "chat-1"
        assert "PASSWORD \\ with" not in command
        assert stdin.startswith(f"{PASSWORD}\n")


def test_what_is_proven(monkeypatch):
    proof, _ = prove(monkeypatch, Result(True, GOOD, ""))
    assert (proof.version, proof.major, proof.encoding, proof.owner) == (150020, 15, "UTF8", "mmuser")
    assert (proof.creates, proof.tls) == (True, "TLSv1.3")
    proof, _ = prove(monkeypatch, Result(True, "90624 UTF8 dba t none\n", ""))
    assert (proof.major, proof.owner, proof.tls) == (9, "dba", "none")


@pytest.mark.parametrize("said", MESSAGES)
def test_a_proof_that_fails_says_where_and_how_to_cure_it(monkeypatch, said):
    with pytest.raises(StepError) as told:
        prove(monkeypatch, Result(False, "", f"psql: error: {said}\n"), port=6543)
    text = str(told.value)
    assert text.startswith("the database mattermost on db.example.com:6543 as mmuser, from chat-1: psql: error: ")
    assert text.endswith(cure(said, "mattermost.database.password; with database.admin it is set for you"))
    assert "\n" not in text
    assert PASSWORD not in text


def test_a_proof_that_ends_without_a_word(monkeypatch):
    with pytest.raises(StepError, match="psql ended without a word"):
        prove(monkeypatch, Result(False, "", ""))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_proof_of_another_encoding(monkeypatch, encoding):
    with pytest.raises(StepError, match=rf"it is in {encoding}\. It must be in UTF8; make another database"):
        prove(monkeypatch, Result(True, f"150020 {encoding} mmuser t none\n", ""))


def test_a_proof_of_a_role_that_may_not_create(monkeypatch):
    with pytest.raises(StepError) as told:
        prove(monkeypatch, Result(True, "150020 UTF8 postgres f TLSv1.3\n", ""))
    assert "may not create tables in the schema public" in str(told.value)
    assert "ALTER DATABASE mattermost OWNER TO mmuser;" in str(told.value)


# --- the command, run by a real shell with a psql that shows how it was called ---

PSQL = """#!/bin/sh
printf 'arg<%s>\\n' "$@"
printf 'pass<%s>\\n' "$PGPASSWORD"
printf 'root<%s>\\n' "$PGSSLROOTCERT"
[ -z "$PGSSLROOTCERT" ] || cat "$PGSSLROOTCERT"
"""


def call(folder, wanted, ca, stdin):
    program = folder / "psql"
    program.write_text(PSQL)
    program.chmod(0o755)
    (folder / "tmp").mkdir()
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(
        ["sh", "-c", facts._command(wanted, ca)],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert list((folder / "tmp").iterdir()) == [], "the authority's copy is removed"
    return done.stdout


def connection_words(out: str) -> dict[str, str]:
    (text,) = re.findall(r"^arg<(host=.*)>$", out, re.M)
    return dict(word.split("=", 1) for word in shlex.split(text))


@pytest.mark.parametrize(
    "password", [PASSWORD, " spaces ", "-n", "\\", "'", '"$(id)"', "a\tb", "한국어", "%s%n", "=''="]
)
def test_any_password_arrives_whole_and_only_in_the_environment(tmp_path, password):
    out = call(tmp_path, settings(), False, f"{password}\n")
    assert f"pass<{password}>\n" in out
    assert "root<>" in out
    assert password not in connection_words(out).values()


@pytest.mark.parametrize("host", ["db.example.com", "10.0.0.4", "2001:db8::1"])
@pytest.mark.parametrize("mode", SSLMODES)
def test_what_psql_is_told(tmp_path, host, mode):
    words = connection_words(call(tmp_path, settings(host=host, sslmode=mode, port=6543), False, "p\n"))
    expected = {
        "host": host, "port": "6543", "user": "mmuser", "dbname": "mattermost", "sslmode": mode,
        "connect_timeout": "10", "application_name": "pyinfra-gitlab",
    }  # fmt: skip
    assert words == expected | ({"sslrootcert": BUNDLE} if mode.startswith("verify") else {})


def test_psql_asks_for_nothing_and_reads_no_file_of_its_user(tmp_path):
    out = call(tmp_path, settings(), False, "p\n")
    assert {"arg<-X>", "arg<-w>", "arg<-q>", "arg<-A>", "arg<-t>"} <= set(out.splitlines())


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_the_authority_that_is_given_is_used(tmp_path, mode):
    pem = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
    out = call(tmp_path, settings(sslmode=mode), True, f"p\n{pem}")
    assert "sslrootcert" not in connection_words(out)
    assert f"root<{tmp_path}/tmp/" in out
    assert out.endswith(pem)
    assert "pass<p>" in out


def test_with_require_nothing_is_verified_as_the_server_does_not(tmp_path):
    out = call(tmp_path, settings(sslmode="require"), True, "p\nPEM\n")
    assert "root<>" in out


def test_an_owner_with_a_space_in_his_name(monkeypatch):
    proof, _ = prove(monkeypatch, Result(True, "150020 UTF8 db owner t TLSv1.3\n", ""))
    assert proof.owner == "db owner"


# --- the vocabulary ---


@pytest.mark.parametrize("name", ["a", "_", "mm_user1", "a" * 63])
def test_names_that_need_no_quotes(name):
    assert settings(name=name, user=name).name == name


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "a b", "a'", 'a"', "a" * 64, "ä", "a\n", "a;"])
@pytest.mark.parametrize("key", ["name", "user"])
def test_names_that_would_need_quotes_are_refused(key, name):
    with pytest.raises(ValueError, match=key):
        settings(**{key: name})


@pytest.mark.parametrize(("version", "word"), [(150020, "MEMBER"), (160000, "SET"), (170012, "SET")])
def test_who_made_a_role_may_act_as_it_only_by_a_grant_from_16_on(cluster, version, word):
    there = cluster(version=version)
    server().make()
    assert there.asked == ["mmuser", word]
    assert there.said[-1] == 'REVOKE "mmuser" FROM CURRENT_USER'


def test_the_right_to_create_databases_is_lent_and_taken_back(cluster):
    there = cluster(role=True)
    server().lend()
    assert [text.split(" IS ")[0] for text in there.said] == [
        'COMMENT ON ROLE "mmuser"',
        'ALTER ROLE "mmuser" CREATEDB',
    ]
    there.comment = LENT
    server().take_back()
    assert there.said[2:] == ['ALTER ROLE "mmuser" NOCREATEDB', 'COMMENT ON ROLE "mmuser" IS NULL']


def test_a_right_that_the_role_has_of_its_own_stays(cluster):
    there = cluster(role=True)
    there.creates, there.comment = True, "our chat"
    server().lend()
    server().take_back()
    assert there.said == []


def test_an_administrator_who_may_not_lend_is_told_what_is_needed(cluster):
    cluster(role=True, refuses="ALTER ROLE")
    with pytest.raises(StepError, match="needs CREATEROLE and CREATEDB"):
        server().lend()
