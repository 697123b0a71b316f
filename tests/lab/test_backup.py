"""Backups, restores and drills with the real Mattermost: what was lost is there again, what is damaged is refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import chat
from tests.lab.image import CACHE, LAB
from tests.lab.site import ROOT, LabSite, broken
from tests.lab.storage.build import programs
from tests.lab.test_chat import WHERE, login
from tests.lab.test_mattermost import secret, sql

pytestmark = pytest.mark.lab

Json = dict[str, Any]


@pytest.fixture(scope="module")
def people(site: LabSite) -> list[Json]:
    """Those who have written something; one signs on through GitLab, one with a password."""
    if "people" not in site.kept:
        admin = {"username": "admin", "password": secret("mattermost_admin_password")}
        users = chat.chat_users(site.lab, 2)
        done = chat.use(site.lab, "fill", **WHERE, admin=admin, gitlab=users, users=2, posts=200, megabytes=8)
        site.kept["people"] = done["users"]
    return list(site.kept["people"])


@pytest.fixture(scope="module")
def saved(site: LabSite, people: list[Json]) -> LabSite:
    """The site, filled, with a good backup."""
    result = site.ok(deploy="backup")
    assert "last good backup: " in result.screen
    return site


def census(site: LabSite, people: list[Json]) -> list[Json]:
    """All that everybody sees, bytes of files included."""
    return [chat.use(site.lab, "census", **login(one)) for one in people]


def backups(site: LabSite) -> list[Json]:
    """What is in the repository."""
    return list(json.loads(site.lab.sh("chat-1", "mattermost-backup list --json").stdout))


def last_run(site: LabSite) -> Json:
    """What the node remembers of its last backup."""
    return dict(json.loads(site.lab.sh("chat-1", "mattermost-backup status --json").stdout)["runs"][-1])


def test_a_second_run_of_the_site_does_nothing_and_verify_shows_the_backup(saved: LabSite) -> None:
    assert saved.ok().last_line.endswith("nothing to do for the backups of chat-1")
    result = saved.verify()
    assert result.code == 0, result.screen
    shown = {check["subject"]: check for check in result.json["checks"] if check["node"] == "chat-1"}
    assert "of 1 good ones" in shown["last good backup"]["found"]
    assert "in the repository" in shown["size of backups"]["found"]
    assert "next run" in shown["timers of backups"]["found"]


def test_what_is_in_the_repository_cannot_be_read_without_the_password(saved: LabSite, people: list[Json]) -> None:
    (path,) = sql(saved, "SELECT path FROM fileinfo ORDER BY size DESC LIMIT 1")
    nodes = saved.lab.folder
    piece = (nodes / "chat-1/merged/var/lib/mattermost/data" / path).read_bytes()[:64]
    held = [file.read_bytes() for file in (nodes / "backup-1/merged/srv/restic").rglob("*") if file.is_file()]
    assert sum(len(content) for content in held) > 8_000_000, "it is there"
    assert not any(piece in content or secret("mattermost_db_password").encode() in content for content in held)


def test_lost_and_restored_on_bare_machines(saved: LabSite, people: list[Json]) -> None:
    """chat-1 and the database are gone; new, empty machines take their places."""
    before = census(saved, people)
    saved.lab.reset("chat-1", "db-1")
    result = saved.ok(deploy="restore")
    assert "checks passed" in result.last_line
    assert census(saved, people) == before
    assert saved.ok().last_line.endswith("nothing to do for the backups of chat-1"), "it is as if nothing had been"
    rows = saved.lab.sh("db-1", 'runuser -u postgres -- psql -XAt -c "SELECT rolname FROM pg_roles WHERE rolcreatedb"')
    assert sorted(rows.stdout.split()) == ["dba", "postgres"], "what was lent is taken back"


def test_data_are_not_replaced_without_being_told(saved: LabSite) -> None:
    result = saved.run(deploy="restore")
    assert result.code == 1
    assert "If it is to be replaced, add --data replace=yes" in result.last_line
    assert result.last_line.startswith("pyinfra-gitlab: refused")
    slip = saved.run("--data", "replce=yes", deploy="restore")
    assert slip.code == 1
    assert "replce=... is unknown to restore.py" in slip.last_line
    absent = saved.run("--data", "replace=yes", "--data", "backup=2001-01-01", deploy="restore")
    assert "there is no good backup for '2001-01-01'" in absent.last_line


def test_a_backup_taken_while_people_write_is_whole(saved: LabSite, people: list[Json]) -> None:
    done: list[Json] = []
    until = LAB / "tests" / "until"
    until.unlink(missing_ok=True)

    def keep_on() -> None:
        done.append(chat.use(saved.lab, "write", **login(people[0]), seconds=120, until=str(until)))

    writer = threading.Thread(target=keep_on)
    writer.start()
    result = saved.run(deploy="backup")
    ended = int(saved.lab.sh("chat-1", "date +%s%3N").stdout)
    time.sleep(1)
    until.touch()
    writer.join()
    assert result.code == 0, result.screen
    assert done[0]["failed"] == [], "nobody noticed"
    assert done[0]["posts"][-1]["create_at"] > ended, "it was written until after the end of the backup"
    run = last_run(saved)
    assert run["missing"] == [], "every row of the dump has its file"
    assert saved.ok(deploy="drill").last_line.startswith("pyinfra-gitlab: changed: The backup of ")


def test_a_drill_on_a_newer_postgresql_passes_and_leaves_nothing(saved: LabSite) -> None:
    result = saved.ok(deploy="drill")
    assert "All 30 checks passed" in result.last_line
    page = Path(result.last_line.rpartition("Report: ")[2])
    told = json.loads(page.with_suffix(".json").read_text())
    names = {check["name"] for check in told["checks"]}
    assert {
        "row contents",
        "file contents",
        "sign-on identities, in GitLab",
        "GitLab cannot be reached by the copy",
    } <= names
    assert told["passed"] is True
    assert told["rto"] > 0
    assert told["backup"]["postgresql"] == "15", "and db-2 has 17"
    left = saved.lab.sh(
        "spare-1", "ls -d /var/lib/mattermost* /etc/mattermost-backup /etc/mattermost/environment", check=False
    )
    assert left.stdout == ""
    names_ = saved.lab.sh(
        "db-2", "runuser -u postgres -- psql -XAt -c 'SELECT datname FROM pg_database'"
    ).stdout.split()
    assert sorted(names_) == ["mattermost_drill", "postgres", "template0", "template1"]
    tables = "runuser -u postgres -- psql -XAt -d mattermost_drill -c 'SELECT count(*) FROM pg_stat_user_tables'"
    assert saved.lab.sh("db-2", tables).stdout.strip() == "0"


def test_people_who_are_others_in_gitlab_are_seen(saved: LabSite, people: list[Json]) -> None:
    """The negative control of the last check: two people of the copy have each other's id of GitLab."""
    pair = sql(saved, "SELECT id, authdata FROM users WHERE authservice = $$gitlab$$ ORDER BY id LIMIT 2")
    (a, x), (b, y) = (row.split("|") for row in pair)

    def swap(first: str, second: str) -> None:
        sql(saved, f"UPDATE users SET authdata = NULL WHERE id IN ($${a}$$, $${b}$$)")
        sql(saved, f"UPDATE users SET authdata = $${first}$$ WHERE id = $${a}$$")
        sql(saved, f"UPDATE users SET authdata = $${second}$$ WHERE id = $${b}$$")

    swap(y, x)
    try:
        saved.ok(deploy="backup")
        result = saved.run(deploy="drill")
    finally:
        swap(x, y)
    saved.ok(deploy="backup")
    assert result.code == 1
    assert "sign-on identities, in GitLab" in result.last_line


def test_every_damage_is_found_by_the_check_that_is_meant_for_it(saved: LabSite) -> None:
    lend = "CREATE ROLE stranger; GRANT stranger TO mmuser; ALTER ROLE mmuser CREATEDB"
    back = "DROP ROLE stranger; ALTER ROLE mmuser NOCREATEDB"
    script = "runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -c '{}'"
    with broken(saved, "db-1", script.format(lend), script.format(back)):
        done = saved.lab.sh("chat-1", "python3 -", stdin=(ROOT / "tests/lab/damage.py").read_text())
    assert json.loads(done.stdout) == {
        "nothing": [],
        "a file is missing": ["files of posts", "files present"],
        "one byte is another": ["file contents"],
        "the last byte is missing": ["file contents", "files of posts"],
        "others may read a file": ["file modes"],
        "a row is deleted": ["row contents", "row counts"],
        "a message is another": ["row contents"],
        "two people are swapped": ["row contents", "sign-on identities"],
        "an index is missing": ["tables, indexes and other objects"],
        "a row says another size": ["files of posts", "row contents"],
        "an owner is another": ["owner of all objects"],
    }


def test_a_damaged_pack_is_found_when_the_backup_is_read_back(saved: LabSite, people: list[Json]) -> None:
    before = census(saved, people)
    good = [one["backup"] for one in backups(saved) if one["good"]]
    damage = """\
cd /srv/restic/lab && tar -cf /root/packs data && for pack in $(find data -type f -size +100k); do
printf broken | dd of=$pack bs=1 seek=50000 conv=notrunc status=none; done"""
    with broken(saved, "backup-1", damage, "cd /srv/restic/lab && tar -xpf /root/packs"):
        result = saved.run(deploy="backup")
        assert result.code == 1
        assert "read back" in result.last_line
        assert [one["backup"] for one in backups(saved) if one["good"]] == good, "it does not count"
        assert saved.verify().code == 1
        restored = saved.run("--data", "replace=yes", deploy="restore")
        assert restored.code == 1
        assert "verification failed" in restored.last_line
        assert census(saved, people) == before
    saved.ok(deploy="backup")
    assert [one["backup"] for one in backups(saved) if not one["good"]] == [], "what does not count is gone"
    saved.sound()


def test_a_wrong_password_and_a_dump_that_fails_make_no_backup(saved: LabSite) -> None:
    number = len(backups(saved))
    config = "/etc/mattermost-backup/config.json"
    wrong = f'cp -p {config} /root/config; sed -i \'s/"password": "Aa1.*/"password": "wrong",/\' {config}'
    with broken(saved, "chat-1", wrong, f"cp -p /root/config {config}"):
        done = saved.lab.sh("chat-1", "mattermost-backup take", check=False)
        assert done.returncode == 1
        assert "password" in done.stderr
    fails = "mv /usr/bin/pg_dump /usr/bin/pg_dump.kept; printf '#!/bin/sh\\n/usr/bin/pg_dump.kept \"$@\"; exit 1\\n' > "
    with broken(
        saved,
        "chat-1",
        f"{fails}/usr/bin/pg_dump; chmod 755 /usr/bin/pg_dump",
        "mv /usr/bin/pg_dump.kept /usr/bin/pg_dump",
    ):
        done = saved.lab.sh("chat-1", "mattermost-backup take", check=False)
        assert done.returncode == 1
        assert "pg_dump" in done.stderr
    assert len(backups(saved)) == number
    assert saved.lab.sh("chat-1", "ls /var/lib/mattermost-backup").stdout.split() == sorted(
        ["repository", "request.json", "result.json", "state.json"]
    )


def test_the_strict_form_into_a_repository_on_a_disk(saved: LabSite) -> None:
    """`consistent: stop`: the server is stopped while the backup is taken, and runs afterwards."""
    kept = saved.lab.sh("chat-1", "systemctl show -p ActiveEnterTimestampMonotonic --value mattermost").stdout
    start = saved.original.index("    repository: sftp:")
    end = saved.original.index("    calendar:", start)
    password = saved.original[saved.original.index("    password:", start) :].splitlines()[0]
    local = f"    repository: /srv/backups\n{password}\n    consistent: stop\n"
    saved.write(saved.original[:start] + local + saved.original[end:])
    try:
        saved.lab.sh("chat-1", "install -d -m 700 /srv/backups")
        saved.ok(deploy="backup")
        run = last_run(saved)
        assert {"stop the server", "start the server"} <= {phase["name"] for phase in run["phases"]}
        again = saved.lab.sh("chat-1", "systemctl show -p ActiveEnterTimestampMonotonic --value mattermost").stdout
        assert int(again) > int(kept), "it was started again"
        assert [one["good"] for one in backups(saved)] == [True]
        saved.sound()
        saved.ok("--data", "replace=yes", deploy="restore")
    finally:
        saved.write(saved.original)
        saved.ok(deploy="backup")


SERVERS = {
    "rest": ("rest-server", "--no-auth --path /srv/rest --listen :8000", "rest:http://backup.lab.test:8000/lab", ""),
    "s3": (
        "gofakes3",
        "-backend memory -autobucket -host 0.0.0.0:9000",
        "s3:http://backup.lab.test:9000/lab",
        "    environment: {AWS_ACCESS_KEY_ID: key, AWS_SECRET_ACCESS_KEY: !file ../../.lab/secrets/restic_password}\n",
    ),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_repositories_of_other_kinds(saved: LabSite, people: list[Json], kind: str) -> None:
    """A backup to restic's REST server, and to an S3; verified, and restored on bare machines."""
    program, flags, repository, more = SERVERS[kind]
    path = programs(CACHE)[program]
    (saved.lab.folder / "backup-1/merged/usr/local/bin" / program).write_bytes(path.read_bytes())
    saved.lab.sh("backup-1", f"chmod 755 /usr/local/bin/{program}; systemd-run -q --unit {program} {program} {flags}")
    before = census(saved, people)
    old = "    repository: sftp:restic@backup.lab.test:/srv/restic/lab\n"
    saved.edit((old, f"    repository: {repository}\n{more.replace('../../.lab', str(ROOT / '.lab'))}"))
    try:
        saved.ok(deploy="backup")
        assert [one["good"] for one in backups(saved)] == [True]
        saved.sound()
        saved.lab.reset("chat-1", "db-1")
        saved.ok(deploy="restore")
        assert census(saved, people) == before
    finally:
        saved.write(saved.original)
        saved.lab.sh("backup-1", f"systemctl stop {program}")
    saved.ok(deploy="backup")


@pytest.mark.parametrize("database", ["db-1", "db-2"])
def test_the_files_that_gitlabs_documentation_makes(saved: LabSite, people: list[Json], database: str) -> None:
    """`pg_dump | gzip` and `tar` of data and config.json, with the owner that the Linux package has; restored on bare
    machines, with PostgreSQL 15 and with a newer one."""
    before = census(saved, people)
    folder = LAB / "tests" / "documented"
    folder.mkdir(exist_ok=True)
    dump, archive = folder / "mattermost_dbdump_2026-11-23.sql.gz", folder / "mattermost_data_2026-11-23.gz"
    saved.lab.sh("db-1", "runuser -u postgres -- psql -X -q -c 'CREATE ROLE gitlab_mattermost'", check=False)
    saved.lab.sh(
        "db-1",
        "cd /var/lib/postgresql && runuser -u postgres -- pg_dump -h /var/run/postgresql mattermost "
        "| sed 's/OWNER TO mmuser/OWNER TO gitlab_mattermost/' | gzip > /root/dump",
    )
    home = "/var/lib/mattermost"
    saved.lab.sh(
        "chat-1",
        f"cp {home}/config/config.json {home}; tar -zcf /root/files -C {home} data config.json; rm {home}/config.json",
    )
    dump.write_bytes((saved.lab.folder / "db-1/merged/root/dump").read_bytes())
    archive.write_bytes((saved.lab.folder / "chat-1/merged/root/files").read_bytes())
    if database == "db-2":
        saved.edit(("    host: db.lab.test\n    password: !file", "    host: db2.lab.test\n    password: !file"))
    saved.lab.reset("chat-1", "db-1", "db-2")
    flags = ("--data", f"dump={dump}", "--data", f"files={archive}")
    cut = folder / "cut.sql.gz"
    cut.write_bytes(dump.read_bytes()[:-2000])
    failed = saved.run("--data", f"dump={cut}", "--data", f"files={archive}", deploy="restore")
    assert failed.code == 1
    assert "the dump" in failed.last_line
    assert "Nothing was restored" in failed.last_line
    saved.ok(*flags, deploy="restore")
    try:
        assert census(saved, people) == before
    finally:
        if database == "db-2":
            saved.write(saved.original)
            saved.lab.reset("chat-1", "db-1", "db-2")
            saved.ok(deploy="restore")
