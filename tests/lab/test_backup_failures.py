"""A full disk, a database or a repository that goes away half-way, an operator's command that is killed: nothing is
lost, the cause is told, the old system works, and the next run succeeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab.site import ROOT, LabSite, Result, broken
from tests.lab.test_backup import Json, backups, census, last_run, people, saved
from tests.lab.test_backup_kills import TIMER, ended_well, settled

pytestmark = pytest.mark.lab
REUSE = True

__all__ = ["people", "saved"]

POSTGRESQL = "/usr/lib/postgresql/15/bin"
"""Where Debian's wrapper finds the programs."""
FULL = "dd if=/dev/zero of={folder}/fill bs=64k status=none 2>/dev/null"
"""Uses up a disk to its last byte."""
# Starts the real program, stops it in the middle, and goes on when it is told to.
_GATE = """\
#!/bin/sh
case "$*" in *"{word}"*) ;; *) exec {path}.kept "$@";; esac
{path}.kept {flags} "$@" <&0 & child=$!
sleep {after}; kill -STOP $child && touch /run/gate.at
while [ ! -e /run/gate.open ]; do sleep 0.05; done
kill -CONT $child; wait $child"""


@contextmanager
def gate(
    site: LabSite, path: str, word: str, after: float, act: Callable[[], object], flags: str = ""
) -> Iterator[None]:
    """While a program of chat-1 stands still in the middle of its work, something happens.

    Args:
        path: the program.
        word: only its calls with this word in the command line.
        after: seconds from its start.
        act: what happens.
        flags: more words for the program, such as those that slow it down.
    """
    script = _GATE.format(path=path, word=word, after=after, flags=flags)
    happened = []

    def happen() -> None:
        done = site.lab.sh("chat-1", "timeout 90 sh -c 'until [ -e /run/gate.at ]; do sleep 0.05; done'", check=False)
        if done.returncode == 0:
            happened.append(act())
        site.lab.sh("chat-1", "touch /run/gate.open")

    keeper = threading.Thread(target=happen)
    damage = f"rm -f /run/gate.*; mv {path} {path}.kept; cat > {path} <<'END'\n{script}\nEND\nchmod 755 {path}"
    with broken(site, "chat-1", damage, f"mv {path}.kept {path}; rm -f /run/gate.*"):
        keeper.start()
        try:
            yield
        finally:
            keeper.join()
    assert happened, f"{path} never got so far"


@contextmanager
def small_disk(site: LabSite, folder: str, megabytes: int) -> Iterator[None]:
    """A folder of chat-1 on a disk of its own; afterwards it is where it was, with what is in it then."""
    script = """\
set -e; systemctl stop mattermost mattermost-backup.timer; {before}
cp -a {folder} {folder}.other; {between}; cp -a {folder}.other/. {folder}; rm -rf {folder}.other
systemctl start mattermost mattermost-backup.timer
until curl -sf http://127.0.0.1:8065/api/v4/system/ping > /dev/null; do sleep 0.3; done"""
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {folder}; chown --reference={folder}.other {folder}"
    mount += f"; chmod --reference={folder}.other {folder}"
    with broken(
        site,
        "chat-1",
        script.format(folder=folder, before="true", between=mount),
        script.format(folder=folder, before=f"rm -f {folder}/fill", between=f"umount {folder}"),
    ):
        yield


def runs(site: LabSite) -> None:
    """The old system works."""
    assert site.lab.sh("chat-1", "systemctl is-active mattermost").stdout.strip() == "active"


def cannot_back_up(site: LabSite, *words: str) -> None:
    """A backup fails, says why, counts nothing, loses nothing and leaves nothing."""
    good = [one["backup"] for one in backups(site) if one["good"]]
    result = site.run(deploy="backup")
    assert result.code == 1
    for word in words:
        assert word in result.last_line
    site.lab.heal("backup-1")
    assert [one["backup"] for one in backups(site) if one["good"]] == good
    left = site.lab.sh("chat-1", "ls /var/lib/mattermost-backup; pgrep -l 'restic|pg_dump'", check=False).stdout
    assert "staging" not in left
    assert "restic" not in left
    assert "pg_dump" not in left


def cannot_restore(site: LabSite, *words: str) -> Result:
    """A restore fails, and says why."""
    result = site.run("--data", "replace=yes", deploy="restore")
    assert result.code == 1
    for word in words:
        assert word in result.last_line
    return result


def test_a_disk_without_room_is_seen_before_anything_is_done(saved: LabSite) -> None:
    with small_disk(saved, "/var/lib/mattermost-backup", 30):
        cannot_back_up(saved, "MiB free, the dump needs up to")


def test_a_disk_that_gets_full_during_a_dump(saved: LabSite) -> None:
    folder = "/var/lib/mattermost-backup"

    def fill() -> None:
        saved.lab.sh("chat-1", FULL.format(folder=folder), check=False)

    with small_disk(saved, folder, 150):
        with gate(saved, f"{POSTGRESQL}/pg_dump", "--snapshot", 0.05, fill):
            cannot_back_up(saved, "No space left on device")
        runs(saved)
    saved.ok(deploy="backup")


def test_a_disk_that_gets_full_during_a_restore(saved: LabSite, people: list[Json]) -> None:
    before, home = census(saved, people), "/var/lib/mattermost"

    def fill() -> None:
        saved.lab.sh("chat-1", FULL.format(folder=home), check=False)

    with small_disk(saved, home, 600):
        with gate(saved, "/usr/bin/restic", "restore", 0.7, fill, flags="--limit-download 2000"):
            result = cannot_restore(saved, "no space left on device")
        assert "What was there before is there again; Mattermost runs." in result.screen
        saved.lab.sh("chat-1", f"rm {home}/fill")
        settled(saved)
        assert census(saved, people) == before
    saved.ok("--data", "replace=yes", deploy="restore")
    assert census(saved, people) == before


def test_a_database_that_goes_away_during_a_backup(saved: LabSite) -> None:
    def stop() -> None:
        saved.lab.sh("db-1", "systemctl stop postgresql@15-main")

    with (
        broken(saved, "db-1", "true", "systemctl start postgresql@15-main"),
        gate(saved, f"{POSTGRESQL}/pg_dump", "--snapshot", 0.05, stop),
    ):
        cannot_back_up(saved, "pg_dump failed")
    time.sleep(2)
    runs(saved)
    saved.ok(deploy="backup")


def test_a_database_that_goes_away_during_a_restore(saved: LabSite, people: list[Json]) -> None:
    before = census(saved, people)

    def stop() -> None:
        saved.lab.sh("db-1", "systemctl stop postgresql@15-main")

    with (
        broken(saved, "db-1", "true", "systemctl start postgresql@15-main"),
        gate(saved, f"{POSTGRESQL}/pg_restore", "--single-transaction", 0.2, stop),
    ):
        result = cannot_restore(saved)
        assert "mattermost-settle.service on the node tries until it is" in result.screen
    settled(saved)
    assert census(saved, people) == before
    assert "mattermost_restore" not in saved.lab.sh("db-1", "runuser -u postgres -- psql -lqtA").stdout
    saved.ok("--data", "replace=yes", deploy="restore")


def test_a_repository_that_cannot_be_reached_any_more(saved: LabSite, people: list[Json]) -> None:
    """The cable is pulled while a snapshot is sent, and again while one is fetched."""
    before = census(saved, people)
    more = "/var/lib/mattermost/data/of-nobody"
    with broken(saved, "chat-1", f"head -c 9000000 /dev/urandom > {more}; chown mattermost: {more}", f"rm {more}"):

        def cut() -> None:
            saved.lab.cut("backup-1")

        with gate(saved, "/usr/bin/restic", "backup --json", 3, cut, flags="--limit-upload 500"):
            cannot_back_up(saved, "restic could not take the snapshot")
        runs(saved)
        with gate(saved, "/usr/bin/restic", "restore", 3, cut, flags="--limit-download 500"):
            cannot_restore(saved, "the snapshot could not be read")
        saved.lab.heal("backup-1")
    settled(saved)
    assert census(saved, people) == before
    saved.ok(deploy="backup")
    assert all(one["good"] for one in backups(saved)), "what does not count is gone"


def test_the_timers_backup_waits_for_a_restore(saved: LabSite, people: list[Json]) -> None:
    """Neither spoils the other: the night's backup is taken of what was restored."""
    before, newest = census(saved, people), last_run(saved)["started"]
    with gate(saved, "/usr/bin/restic", "restore", 0.5, lambda: saved.lab.sh("chat-1", TIMER)):
        saved.ok("--data", "replace=yes", deploy="restore")
    ended_well(saved)
    assert last_run(saved)["started"] > newest
    assert census(saved, people) == before


# Another machine checks the repository, which locks it whole, and does not come to an end for hours.
_ELSEWHERE = """\
cd /usr/local/lib/mattermost-backup; unshare --uts python3 -c '
import socket; from program import config, repository
socket.sethostname("elsewhere")
there = repository.Repository(config.load())
there.options += ["--limit-download", "1"]
there.run("check", "--read-data", what="elsewhere")' > /dev/null 2>&1 &
timeout 60 sh -c 'until pgrep -f "[r]estic.*check --read-data"; do sleep 0.2; done'; sleep 3"""


def test_a_backup_waits_for_another_host_that_uses_the_repository(saved: LabSite) -> None:
    end = "pkill -INT -f '[r]estic.*check --read-data'"
    wait = "timeout 60 sh -c 'until grep \"wait for another\" /run/mattermost-backup.progress; do sleep 0.1; done'; "
    seen = []
    healer = threading.Thread(target=lambda: seen.append(saved.lab.sh("chat-1", wait + end).stdout))
    with broken(saved, "chat-1", _ELSEWHERE, f"{end}; true"):
        saved.sound()  # who only asks is answered
        healer.start()
        result = saved.ok(deploy="backup")
        healer.join()
    assert "on elsewhere by root" in seen[0]
    assert "wait for another host" in result.screen
    ended_well(saved)


# As unattended-upgrades does at night.
_DPKG = """\
apt-get -qq remove -y restic > /dev/null 2>&1
python3 -c '
import fcntl, time; lock = open("/var/lib/dpkg/lock-frontend", "w"); fcntl.lockf(lock, fcntl.LOCK_EX)
open("/run/dpkg.held", "w"); time.sleep(20)' > /dev/null 2>&1 &
until [ -e /run/dpkg.held ]; do sleep 0.1; done"""


def test_packages_wait_for_another_program_that_installs(saved: LabSite) -> None:
    with broken(saved, "chat-1", _DPKG, "rm /run/dpkg.held"):
        saved.ok(deploy="backup")


def killed_command(site: LabSite, node: str, unit: str, phase: str, deploy: str, *flags: str) -> None:
    """An operator's own command dies (SIGKILL) while a unit on a node is in a phase."""
    site.lab.sh(node, "rm -f /run/mattermost-backup.progress")
    command = site.lab.command(site.command(*flags, deploy=deploy))
    out = subprocess.DEVNULL
    environment = os.environ | {"LAB_NAME": site.lab.name}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
    wait = (
        f'timeout 90 sh -c \'until [ "$(cat /run/mattermost-backup.progress 2>/dev/null)" = "{phase}" ]; do :; done\''
    )
    site.lab.sh(node, wait)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    site.lab.sh(node, f"while systemctl is-active {unit} | grep -q ing; do sleep 0.2; done")


def test_an_operators_command_is_killed(saved: LabSite, people: list[Json]) -> None:
    """The node goes on by itself; the same command, or any other, finds things in order."""
    before = census(saved, people)
    newest = max(one["backup"] for one in backups(saved))
    killed_command(saved, "chat-1", "mattermost-backup", "dump the database", "backup")
    assert max(one["backup"] for one in backups(saved) if one["good"]) > newest
    killed_command(saved, "chat-1", "mattermost-restore", "fetch the files", "restore", "--data", "replace=yes")
    told = json.loads(saved.lab.sh("chat-1", "cat /var/lib/mattermost-backup/result.json").stdout)
    assert told["ok"] is True
    assert census(saved, people) == before
    saved.ok()
    assert saved.ok().last_line.endswith("nothing to do for the backups of chat-1")
    saved.sound()


def test_what_a_killed_drill_leaves_is_torn_down_by_the_next(saved: LabSite) -> None:
    killed_command(saved, "spare-1", "mattermost-restore", "fetch the files", "drill")
    left = "ls -d /var/lib/mattermost/data /etc/mattermost-backup/config.json"
    assert len(saved.lab.sh("spare-1", left).stdout.split()) == 2, "the copy stands"
    assert "table inet pyinfra_drill" in saved.lab.sh("spare-1", "nft list tables").stdout, "walled off"
    result = saved.ok(deploy="drill")
    assert "tear down what an earlier drill left" in result.screen
    assert "checks passed" in result.last_line
    assert saved.lab.sh("spare-1", left, check=False).stdout == ""
    rows = saved.lab.sh("db-2", "runuser -u postgres -- psql -XAt -c 'SELECT rolname FROM pg_roles WHERE rolcreatedb'")
    assert sorted(rows.stdout.split()) == ["dba", "postgres"]
