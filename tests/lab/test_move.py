"""Moves, take-overs, rotations and two operators, with mail flowing: every mail arrives once, and one node reads."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests.lab import mail
from tests.lab.site import ROOT, LabSite, Result
from tests.lab.storm import ADDRESSES, Readers, Storm, arrived, count_readers

pytestmark = pytest.mark.lab

SEED = 1
LONG = os.environ.get("SOAK") == "long"
GUARD = "systemctl start pyinfra-mail-guard.service; journalctl -u pyinfra-mail-guard -n 3 -o cat --no-pager"


def move(site: LabSite, to: str, *words: str) -> Result:
    """Run mailroom_move.py."""
    flags = [part for word in (f"to={to}", *words) for part in ("--data", word)]
    return site.run(*flags, deploy="mailroom_move")


def moved(site: LabSite, to: str, *words: str) -> Result:
    """Move the reader, which must succeed, and let the site file say so."""
    result = move(site, to, "edit=yes", *words)
    assert result.code == 0, result.screen
    assert count_readers(site.lab) == {to: 1}
    return result


def test_a_reader_that_dies_is_taken_over_from_and_may_come_back(site: LabSite) -> None:
    with Readers(site.lab) as readers:
        site.lab.kill("gitlab-1")
        sent = [one for address in ADDRESSES for one in mail.send(site.lab, address, "while nobody reads", count=3)]
        refused = move(site, "gitlab-2")
        assert refused.code == 1
        assert "--data fenced=gitlab-1" in refused.last_line
        took = moved(site, "gitlab-2", "fenced=gitlab-1", "why=the power supply burnt")
        assert "gitlab-1 is fenced and was not reached" in took.last_line
        assert arrived(site, sent) == ([], {})
        result = site.verify()
        assert result.code == 1
        fence = result.check("gitlab-1", "fenced node")
        assert "the power supply burnt" in fence["found"]
        site.ok("--data", "why=the others are managed meanwhile")

        site.lab.heal("gitlab-1")  # it still believes that it is the reader
        said = site.lab.sh("gitlab-1", f"{GUARD}; ls -d /opt/gitlab/service/mailroom").stdout
        assert "/opt/gitlab/service/mailroom" in said, "runit has the service"
        time.sleep(3)
        assert count_readers(site.lab) == {"gitlab-2": 1}
        site.ok()
        site.sound()  # seen off, and forgotten
        assert site.lab.sh("gitlab-1", "ls -d /opt/gitlab/service/mailroom", check=False).stdout == ""
    assert readers.two == []
    moved(site, "gitlab-1")


def test_a_reader_that_is_cut_off_stops_by_itself(site: LabSite) -> None:
    """Its cable is pulled, another node takes over, and the cable is plugged in again."""
    site.lab.cut("gitlab-1")
    for _ in range(2):
        site.lab.sh("gitlab-1", GUARD)
    assert count_readers(site.lab) == {}, "nobody answers it"
    site.lab.heal("gitlab-1")
    assert "is the reader on record: mail_room is started" in site.lab.sh("gitlab-1", GUARD).stdout
    assert count_readers(site.lab) == {"gitlab-1": 1}

    site.lab.cut("gitlab-1")
    result = move(site, "gitlab-2", "edit=yes", "fenced=gitlab-1")
    assert result.code == 0, result.screen
    site.lab.heal("gitlab-1")
    site.lab.sh("gitlab-1", "gitlab-ctl start mailroom; sleep 3")  # two readers: the operator's word was not true
    assert count_readers(site.lab) == {"gitlab-1": 1, "gitlab-2": 1}
    assert "another node is the reader on record: mail_room is stopped" in site.lab.sh("gitlab-1", GUARD).stdout
    assert count_readers(site.lab) == {"gitlab-2": 1}
    site.ok()
    moved(site, "gitlab-1")


def test_after_a_reboot_the_guard_asks_before_mail_is_read(site: LabSite) -> None:
    site.lab.reboot("gitlab-1")
    deadline = time.monotonic() + 60
    while count_readers(site.lab) != {"gitlab-1": 1}:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    said = site.lab.sh("gitlab-1", "journalctl -b -u pyinfra-mail-guard -o cat --no-pager").stdout
    assert "this node is the reader on record: mail_room is started" in said, "it was the guard, not runit"
    site.lab.sh("gitlab-1", f"gitlab-ctl stop mailroom; {GUARD}")
    assert count_readers(site.lab) == {}, "what an operator stops stays stopped"
    site.ok()
    assert count_readers(site.lab) == {"gitlab-1": 1}


def start(site: LabSite, *flags: str, deploy: str = "site") -> subprocess.Popen[str]:
    """Start a run, and do not wait for it."""
    command = site.lab.command(site.command(*flags, deploy=deploy))
    environment = os.environ | {"LAB_NAME": site.lab.name, "NO_COLOR": "1", "PYINFRA_PROGRESS": "off"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=pipe, text=True, start_new_session=True
    )


def locked(site: LabSite) -> None:
    """Wait until a run has the lock."""
    lock = "/var/lib/pyinfra-gitlab/site.lock"
    site.lab.sh("gitlab-1", f"timeout 60 sh -c 'while flock -n {lock} true; do sleep 0.2; done'")


def test_two_operators_at_once(site: LabSite) -> None:
    first = start(site, "--data", "why=ticket 7", deploy="mailroom_rotate")
    locked(site)
    second = site.run(deploy="mailroom_rotate")
    assert second.code == 1
    assert "refused: another run changes this site: " in second.last_line
    assert "runs mailroom_rotate.py since" in second.last_line
    assert "(ticket 7)" in second.last_line
    third = site.run("--data", "lock_wait=120", deploy="mailroom_rotate")
    assert third.code == 0, third.screen
    assert "waiting: another run changes this site" in third.screen
    assert first.wait(60) == 0
    assert site.ok().last_line.startswith("pyinfra-gitlab: as declared")


def test_a_lock_whose_owner_hangs_is_broken_on_request_alone(site: LabSite) -> None:
    hanging = start(site, deploy="mailroom_rotate")
    locked(site)
    os.killpg(hanging.pid, signal.SIGSTOP)
    try:
        assert "another run changes this site" in site.run(deploy="mailroom_rotate").last_line
        asked = site.run(deploy="unlock")
        assert asked.code == 1
        assert "has the lock since" in asked.last_line
        broken = site.run("--data", "break=yes", "--data", "why=its machine is gone", deploy="unlock")
        assert broken.code == 0, broken.screen
        site.run()
    finally:
        os.killpg(hanging.pid, signal.SIGCONT)
    _, said = hanging.communicate(timeout=120)
    assert hanging.returncode == 1
    assert "the lock of the site was broken on" in said
    site.ok()
    site.sound()
    assert "lock broken" in site.run(deploy="history").stdout


@pytest.mark.parametrize("point", range(21 if LONG else 3))
def test_a_run_that_is_killed_is_finished_by_the_next(site: LabSite, point: int) -> None:
    """SIGKILL at a moment of a move, a rotation, or a run with a changed setting; then the same command again."""
    chance = random.Random(SEED + point)
    deploy = ("mailroom_move", "mailroom_rotate", "site")[point % 3]
    to = "gitlab-2" if deploy == "mailroom_move" else ""
    flags = ("--data", f"to={to}") if to else ()
    if deploy == "site":
        site.edit(("[127.0.0.0/8, ", f"[127.0.0.0/8, 192.0.2.{point}/32, "))
    with Readers(site.lab) as readers, Storm(site.lab, SEED + point, rate=3) as storm:
        killed = start(site, *flags, deploy=deploy)
        locked(site)
        time.sleep(chance.uniform(0, 8))
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        again = site.run(*flags, "--data", "lock_wait=60", deploy=deploy)
        assert again.code == 0, again.screen
        if to:
            moved(site, "gitlab-1")
    assert readers.two == []
    assert arrived(site, storm.sent) == ([], {})
    assert site.ok().last_line.startswith("pyinfra-gitlab: as declared")


def test_the_history_tells_who_did_what(site: LabSite) -> None:
    site.ok("--data", "why=ticket 9", deploy="mailroom_rotate")
    result = site.run("--data", "format=json", "--data", "last=1000", deploy="history")
    assert result.code == 0, result.screen
    mine = [one for one in result.json["entries"] if one.get("why") == "ticket 9"]
    assert {one["node"] for one in mine} >= {"gitlab-1", "gitlab-2", "gitlab-3", "gitaly-1"}
    assert {"begins", "mail_room stopped", "files installed", "gitlab-ctl reconfigure", "mail_room started"} <= {
        one["what"] for one in mine
    }
    assert site.lab.sh("gitlab-2", "stat -c '%U %a' /var/log/pyinfra-gitlab/audit.jsonl").stdout == "root 600\n"
    assert "gitlab-ctl reconfigure" in site.run(deploy="history").stdout
    log = "/var/log/pyinfra-gitlab/audit.jsonl"
    site.lab.sh("gitlab-2", f"cp -p {log} /root/audit; sed -i '2s/{{/{{ /' {log}")
    tampered = site.run(deploy="history")
    site.lab.sh("gitlab-2", f"cp -p /root/audit {log}")
    assert tampered.code == 1
    assert f"{log} on gitlab-2 was changed by somebody: line 3" in tampered.last_line
    assert json.loads(site.lab.sh("gitlab-2", f"tail -n 1 {log}").stdout)["prev"]
