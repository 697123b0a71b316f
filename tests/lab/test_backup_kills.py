"""Killed at any point: the old system works, nothing is left half-way, and the next run succeeds."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

import pytest

from tests.lab import chat
from tests.lab.site import LabSite, Result
from tests.lab.test_backup import Json, backups, census, last_run, people, saved
from tests.lab.test_chat import login
from tests.lab.test_mattermost import sql

pytestmark = pytest.mark.lab
REUSE = True

__all__ = ["people", "saved"]

BACKUP = ["look", "dump the database", "read the files", "send to the repository", "read back", "count it"]
RESTORE = [
    "look",
    "fetch the files",
    "restore the database",
    "compare the database",
    "switch over",
    "start the server, muted",
    "ask the server",
    "open",
]
# Kills the program (and nothing else: systemd has to find the rest) as soon as it says that it is in a phase.
# Some phases last for milliseconds: what waits for one starts no other program meanwhile.
_KILLER = """\
until pid=$(systemctl show -p MainPID --value {unit}); [ "$pid" -gt 0 ]; do :; done
until [ "$now" = "{phase}" ]; do read -r now 2>/dev/null < /run/mattermost-backup.progress; done
kill -9 $pid"""

TIMER = "systemctl start --no-block mattermost-backup.service"
"""What the timer does."""


class Killer(threading.Thread):
    """Waits on the node for a phase of a unit, and kills it there."""

    def __init__(self, site: LabSite, unit: str, phase: str, meanwhile: str = "") -> None:
        """Nothing is waited for yet.

        Args:
            meanwhile: commands that run there while the program stands still, before it is killed.
        """
        super().__init__()
        self.site, self.script = site, _KILLER.format(unit=unit, phase=phase)
        if meanwhile:
            self.script = self.script.replace("kill -9", f"kill -STOP $pid; {meanwhile}; kill -9")
        self.done: subprocess.CompletedProcess[str] | None = None

    def run(self) -> None:
        """Kill once."""
        self.done = self.site.lab.sh("chat-1", f"timeout 60 sh -c '{self.script}'", check=False)


def killed(site: LabSite, unit: str, phase: str, deploy: str, *flags: str, meanwhile: str = "") -> Any:
    """Run a deploy whose program is killed on the node in a phase."""
    site.lab.sh("chat-1", "rm -f /run/mattermost-backup.progress")
    killer = Killer(site, unit, phase, meanwhile)
    killer.start()
    result = site.run(*flags, deploy=deploy)
    killer.join()
    assert killer.done is not None
    assert killer.done.returncode == 0, f"it was never in the phase {phase}"
    return result


@pytest.mark.parametrize("phase", BACKUP)
def test_a_backup_is_killed(saved: LabSite, phase: str) -> None:
    good = {one["backup"] for one in backups(saved) if one["good"]}
    result = killed(saved, "mattermost-backup.service", phase, "backup")
    assert result.code == 1
    assert "killed" in result.last_line
    assert saved.lab.sh("chat-1", "systemctl is-active mattermost").stdout.strip() == "active"
    left = saved.lab.sh("chat-1", "ls /var/lib/mattermost-backup; pgrep -l 'restic|pg_dump'", check=False).stdout
    assert "staging" not in left
    assert "restic" not in left
    now = {one["backup"] for one in backups(saved) if one["good"]}
    assert good <= now, "nothing is lost"
    assert len(now - good) <= (phase == "count it"), "it counts only if it was read back"
    if phase in ("dump the database", "count it"):  # each takes long: the others are tidied up by these
        assert "last good backup" in saved.ok(deploy="backup").screen
        assert all(one["good"] for one in backups(saved)), "what does not count is gone"


def test_two_commands_at_once_do_not_disturb_each_other(saved: LabSite) -> None:
    """During a backup the repository's check waits, a restore is refused, and a run of the site has what it needs."""
    newest = max(one["backup"] for one in backups(saved))
    script = """\
systemctl start --no-block mattermost-backup
until [ "$(cat /run/mattermost-backup.progress 2>/dev/null)" = "dump the database" ]; do :; done
kill -STOP $(systemctl show -p MainPID --value mattermost-backup)
systemctl start --no-block mattermost-backup-check
mattermost-backup prepare; mattermost-backup restore
systemctl start mattermost-restore; ls /var/lib/mattermost-backup
systemctl is-active mattermost-backup mattermost-backup-check
kill -CONT $(systemctl show -p MainPID --value mattermost-backup)
while systemctl is-active mattermost-backup mattermost-backup-check | grep -q ing; do sleep 0.2; done
journalctl -u mattermost-backup-check -o cat --no-pager | tail -n 8
systemctl show -p Result --value mattermost-backup mattermost-backup-check; systemctl reset-failed"""
    done = saved.lab.sh("chat-1", script, check=False)
    assert '{"made": false}' in done.stdout
    assert "mattermost-backup restore: `mattermost-backup take` (process" in done.stderr
    assert "staging" in done.stdout, "what the backup needs is still there"
    assert done.stdout.count("activating") == 2, done.stdout
    assert "wait for `mattermost-backup take` (process" in done.stdout
    assert done.stdout.split()[-2:] == ["success", "success"], done.stdout + done.stderr
    assert max(one["backup"] for one in backups(saved)) > newest
    saved.sound()


def test_a_reboot_in_the_middle_of_a_restore(saved: LabSite, people: list[Json]) -> None:
    before = census(saved, people)
    saved.lab.sh("chat-1", "rm -f /run/mattermost-backup.progress")
    stop = Killer(saved, "mattermost-restore.service", "start the server, muted")
    stop.script = stop.script.replace("kill -9", "kill -STOP")
    results: list[Result] = []
    runs = threading.Thread(target=lambda: results.append(saved.run("--data", "replace=yes", deploy="restore")))
    stop.start()
    runs.start()
    stop.join()
    saved.lab.kill("chat-1")
    saved.lab.heal("chat-1")
    runs.join()
    assert "the line to chat-1 was cut" in results[0].last_line
    assert results[0].last_line.endswith("mattermost-settle.service puts back what was there before.")
    settled(saved)
    assert census(saved, people) == before
    saved.ok("--data", "replace=yes", deploy="restore")


def settled(site: LabSite) -> None:
    """Wait until what was there before is there again, and runs."""
    deadline = time.monotonic() + 60
    while site.lab.sh("chat-1", "ls /var/lib/mattermost-backup/journal.json", check=False).returncode == 0:
        assert time.monotonic() < deadline, "it is not put back"
        time.sleep(0.5)
    assert site.lab.sh("chat-1", "systemctl is-active mattermost").stdout.strip() == "active"


@pytest.mark.parametrize("phase", RESTORE)
def test_a_restore_is_killed(saved: LabSite, people: list[Json], phase: str) -> None:
    written = chat.use(saved.lab, "write", **login(people[0]), seconds=1)["posts"][-1]["id"]
    before = census(saved, people)
    result = killed(saved, "mattermost-restore.service", phase, "restore", "--data", "replace=yes")
    assert result.code == 1
    assert "killed" in result.last_line
    settled(saved)
    assert census(saved, people) == before, "what was there before is there again"
    assert sql(saved, f"SELECT id FROM posts WHERE id = $${written}$$") == [written]
    names = set(sql(saved, "SELECT datname FROM pg_database"))
    assert "mattermost_restore" not in names
    assert saved.lab.sh("chat-1", "ls -d /var/lib/mattermost/.restore", check=False).stdout == ""
    assert saved.ok().code == 0
    if phase in ("fetch the files", "open"):  # each takes long: the first and the last will do
        saved.ok("--data", "replace=yes", deploy="restore")
        assert sql(saved, f"SELECT id FROM posts WHERE id = $${written}$$") == [], "this is the backup's"
        rows = saved.lab.sh(
            "db-1", "runuser -u postgres -- psql -XAt -c 'SELECT rolname FROM pg_roles WHERE rolcreatedb'"
        )
        assert sorted(rows.stdout.split()) == ["dba", "postgres"]


def ended_well(site: LabSite) -> None:
    """The backup that the timer began is there, and whole."""
    unit = "mattermost-backup.service"
    site.lab.sh("chat-1", f"while systemctl is-active {unit} | grep -q ing; do sleep 0.2; done")
    assert site.lab.sh("chat-1", f"systemctl show -p Result --value {unit}").stdout.strip() == "success"
    assert last_run(site)["result"] == "good"
    assert backups(site)[-1] | {"good": True} == backups(site)[-1]


def test_a_backup_that_waited_for_a_restore_that_was_killed(saved: LabSite, people: list[Json]) -> None:
    """What was there before is put back first: a half-restored server is no backup."""
    chat.use(saved.lab, "write", **login(people[0]), seconds=1)
    before, (posts,) = census(saved, people), sql(saved, "SELECT count(*) FROM posts WHERE deleteat = 0")
    newest = last_run(saved)
    assert newest["posts"] < int(posts), "the restored server would have fewer"
    waits = (
        f"{TIMER}; until grep -q take /proc/$(systemctl show -p MainPID --value mattermost-backup)/cmdline; do :; done"
    )
    result = killed(
        *(saved, "mattermost-restore.service", "start the server, muted", "restore", "--data", "replace=yes"),
        meanwhile=f"{waits}; sleep 1",
    )
    assert "killed" in result.last_line
    ended_well(saved)
    settled(saved)
    assert last_run(saved)["started"] > newest["started"]
    assert last_run(saved)["posts"] == int(posts)
    said = saved.lab.sh("chat-1", "journalctl -u mattermost-backup -o cat --no-pager | tail -n 12").stdout
    assert "wait for `mattermost-backup restore` (process" in said
    assert census(saved, people) == before
    saved.sound()
