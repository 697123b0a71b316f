"""Each way to lose mail, provoked: it is named, nobody reads meanwhile, and the same command heals it."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.lab import mail
from tests.lab.site import AS_DECLARED, NODES, LabSite, broken

pytestmark = pytest.mark.lab
REUSE = True

ONE = {"gitlab-1": 1, "gitlab-2": 0, "gitlab-3": 0, "gitaly-1": 0}
NONE = dict.fromkeys(NODES, 0)
SECRET = "/var/opt/gitlab/gitlab-rails/etc/gitlab_incoming_email_secret"
OTHER_TOKEN = f"""
ruby -rjson -rsecurerandom -e '
  path = "/etc/gitlab/gitlab-secrets.json"
  all = JSON.parse(File.read(path))
  all["mailroom"]["incoming_email_auth_token"] = SecureRandom.base64(32)
  File.write(path, JSON.pretty_generate(all))
  File.write("{SECRET}", all["mailroom"]["incoming_email_auth_token"] + "\\n")'
gitlab-ctl restart puma >/dev/null; sleep 2
"""


def test_another_token_on_one_node_loses_mail_and_is_found_and_healed(healed: LabSite) -> None:
    healed.lab.sh("gitlab-3", OTHER_TOKEN)
    ids = set(mail.send(healed.lab, "incoming+lost@lab.test", "every third is lost", count=9))
    time.sleep(12)
    assert len(healed.wait_for(ids, seconds=1)) == 6, "the trap itself: a 401 counts as delivered"
    found = healed.verify()
    assert found.code == 1
    assert found.json["result"] == "differs"
    assert found.check("gitlab-3", "incoming_email token")["found"] == "another token"
    assert found.check("gitlab-2", "incoming_email token")["verdict"] == "as declared"
    assert found.check("gitlab-3", "POST /api/v4/internal/mail_room/incoming_email")["found"] == "401, then 401"
    fixed = healed.ok()
    assert "gitlab-3" in fixed.last_line
    assert "gitlab-2" not in fixed.last_line
    assert healed.verify().check("gitlab-3", "incoming_email token")["verdict"] == "as declared"
    ids = set(mail.send(healed.lab, "incoming+kept@lab.test", "none is lost", count=9))
    assert len(healed.wait_for(ids)) == 9
    given = healed.ok("--data", "deliver=yes", deploy="mail_recover")
    assert "3 mails were handed back" in given.last_line
    healed.sound()


def test_a_guard_that_systemd_has_read_otherwise_is_read_again(healed: LabSite) -> None:
    timer = "/etc/systemd/system/pyinfra-mail-guard.timer"
    healed.lab.sh("gitlab-2", f"sed -i 's/^OnUnitActiveSec=.*/OnUnitActiveSec=1h/' {timer}; systemctl daemon-reload")
    show = "systemctl show -p TimersMonotonic -p NeedDaemonReload pyinfra-mail-guard.timer"
    assert "OnUnitActiveUSec=1h" in healed.lab.sh("gitlab-2", show).stdout
    healed.ok()
    now = healed.lab.sh("gitlab-2", show).stdout
    assert "OnUnitActiveUSec=1min" in now
    assert "NeedDaemonReload=no" in now


def test_other_secrets_of_the_package_are_never_overwritten(healed: LabSite) -> None:
    keys = 'ruby -rjson -e \'puts JSON.parse(File.read("/etc/gitlab/gitlab-secrets.json"))["gitlab_rails"].to_json\''
    before = {name: healed.lab.sh(name, keys).stdout for name in ("gitlab-1", "gitlab-2", "gitlab-3")}
    assert len(set(before.values())) == 3, "each node has made its own"
    healed.lab.sh("gitlab-3", OTHER_TOKEN)
    healed.ok()
    assert {name: healed.lab.sh(name, keys).stdout for name in before} == before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("secrets/service_desk_email_password", "secrets/wrong", "service_desk_email mailbox: found login failed"),
        (
            "    user: incoming@lab.test",
            "    mailbox_name: no-such-folder\n    user: incoming@lab.test",
            "incoming_email mailbox: found folder failed",
        ),
        ("host: mail.lab.test", "host: lb-1", "mailbox: found connect failed"),
        ("host: mail.lab.test", "{host: gitlab.lab.test}"[1:-1], "mailbox: found connect failed"),
    ],
    ids=["login", "folder", "connect", "wrong host"],
)
def test_a_mailbox_that_cannot_be_read_keeps_mail_room_off(healed: LabSite, old: str, new: str, told: str) -> None:
    wrong = healed.folder / "secrets" / "wrong"
    wrong.write_text("not the password")
    wrong.chmod(0o600)
    if "secrets/" in new:
        start = healed.original.index(old) - len(str(healed.lab.folder.parents[1])) - 1
        end = healed.original.index("\n", start)
        healed.write(healed.original[:start] + str(wrong) + healed.original[end:])
    else:
        healed.edit((old, new))
    result = healed.run()
    assert result.code == 1
    assert told in result.screen
    assert "mail_room stays off on every node" in result.screen
    assert healed.readers() == NONE
    healed.write(healed.original)
    healed.ok()
    assert healed.readers() == ONE


def test_a_clock_that_is_off_keeps_mail_room_off(healed: LabSite) -> None:
    healed.lab.sh("gitlab-1", "gitlab-ctl stop mailroom")
    wrapper = '#!/bin/sh\nexec faketime -f -9s /bin/date "$@"\n'
    healed.lab.sh("gitlab-2", "cat > /usr/local/bin/date; chmod 755 /usr/local/bin/date", stdin=wrapper)
    result = healed.run()
    assert result.code == 1
    assert "gitlab-2: clock: found reader 9.0 s ahead" in result.screen
    assert healed.readers() == NONE
    assert healed.verify().check("gitlab-2", "clock")["verdict"] == "differs"
    healed.lab.sh("gitlab-2", "rm /usr/local/bin/date")
    healed.ok()
    assert healed.readers() == ONE


def test_a_node_that_does_not_serve_keeps_mail_room_off(healed: LabSite) -> None:
    healed.lab.sh("gitlab-1", "gitlab-ctl stop mailroom")
    healed.lab.sh("gitlab-3", "gitlab-ctl stop puma")
    result = healed.run()
    assert result.code == 1
    assert "gitlab-3: POST /api/v4/internal/mail_room/incoming_email: found Errno::ECONNREFUSED" in result.screen
    assert healed.readers() == NONE
    healed.lab.sh("gitlab-3", "gitlab-ctl start puma")
    healed.ok()
    assert healed.readers() == ONE


def test_a_mail_room_that_dies_after_its_start_is_told(healed: LabSite) -> None:
    """It dies later than a look at its process would take, and before it has looked into a mailbox."""
    program = "/opt/gitlab/embedded/bin/mail_room"
    healed.lab.sh("gitlab-1", "gitlab-ctl stop mailroom")
    dies = f"cp -p {program} /root/kept && printf '#!/opt/gitlab/embedded/bin/ruby\\nsleep 3\\n' > {program}"
    with broken(healed, "gitlab-1", dies, f"cp -p /root/kept {program}"):
        result = healed.run()
    assert result.code == 1
    assert "mail_room does not stay up" in result.last_line
    healed.ok()
    assert healed.readers() == ONE


def test_an_unreachable_node_stops_the_run_before_anything_is_enabled(healed: LabSite) -> None:
    healed.lab.sh("gitlab-1", "gitlab-ctl stop mailroom")
    healed.lab.cut("gitlab-2")
    result = healed.run()
    assert result.code == 1
    assert result.last_line.startswith("pyinfra-gitlab: refused: gitlab-2 could not be looked at")
    assert "--data fenced=gitlab-2" in result.last_line
    assert healed.readers() == NONE
    found = healed.verify()
    assert found.code == 1
    assert found.json["result"] == "could not look"
    assert found.check("gitlab-2", "node")["verdict"] == "could not look"
    assert found.check("gitlab-3", "GitLab version")["verdict"] == "as declared"
    healed.lab.heal("gitlab-2")
    healed.ok()
    assert healed.readers() == ONE


def test_limit_cannot_lead_to_two_readers(healed: LabSite) -> None:
    result = healed.run("--data", "to=gitlab-2", "--limit", "gitlab-2", deploy="mailroom_move")
    assert result.code == 1
    assert "--limit" in result.screen
    assert healed.readers() == ONE


@pytest.mark.parametrize("flag", ["--no-wait", "--serial", "--fail-percent=50"])
def test_flags_that_cannot_be_safe_are_refused(site: LabSite, flag: str) -> None:
    result = site.run(flag)
    assert result.code == 1
    assert result.last_line.startswith("pyinfra-gitlab: refused: --")
    assert "Connecting" not in result.screen


def test_a_failed_reconfigure_shows_its_last_lines_and_the_next_run_finishes(healed: LabSite) -> None:
    broken = "  extra_ruby: |\n    raise 'the quota of the lab is used up'\n  config: whole"
    healed.edit(("  config: whole", broken))
    result = healed.run()
    assert result.code == 1
    assert "gitlab-ctl reconfigure failed. Its last lines:" in result.screen
    assert "the quota of the lab is used up" in result.screen
    assert healed.readers() == NONE, "nobody reads while the nodes are not as declared"
    assert healed.verify().check("gitlab-2", "gitlab-ctl reconfigure")["verdict"] == "differs"
    healed.write(healed.original)
    healed.ok()
    assert healed.readers() == ONE


def test_a_syntax_error_in_the_operators_ruby_is_found_before_it_is_installed(healed: LabSite) -> None:
    before = healed.lab.sh("gitlab-2", "sha256sum /etc/gitlab/gitlab.rb").stdout
    healed.edit(("  config: whole", "  extra_ruby: |\n    if (\n  config: whole"))
    result = healed.run()
    assert result.code == 1
    assert "/etc/gitlab/gitlab.rb was not installed, its check failed" in result.screen
    assert healed.lab.sh("gitlab-2", "sha256sum /etc/gitlab/gitlab.rb").stdout == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_never_exits_0_and_the_next_one_finishes(healed: LabSite, number: signal.Signals) -> None:
    healed.edit(("[127.0.0.0/8, ", f"[127.0.0.0/8, 10.0.0.{int(number)}/32, "))
    command = healed.lab.command(healed.command())
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Configure gitlab-2" in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=60) not in (0, None)
    if number != signal.SIGKILL:
        assert rest.strip().splitlines()[-1].startswith("pyinfra-gitlab: failed: interrupted by")
    assert sum(healed.readers().values()) <= 1
    healed.ok()
    assert healed.readers() == ONE
    assert healed.run().last_line == AS_DECLARED


def test_a_node_that_reboots_comes_back_as_declared(healed: LabSite) -> None:
    healed.lab.reboot("gitlab-1")
    healed.sound(seconds=60)
    assert healed.readers() == ONE


def test_a_full_disk_is_refused_and_nothing_is_changed(healed: LabSite) -> None:
    before = healed.lab.sh("gitlab-2", "sha256sum /etc/gitlab/gitlab.rb").stdout
    small = (
        "cp -a /etc/gitlab /tmp/kept && mount -t tmpfs -o size=64k tmpfs /etc/gitlab && cp -a /tmp/kept/. /etc/gitlab"
    )
    healed.lab.sh("gitlab-2", small)
    try:
        healed.edit(("[127.0.0.0/8, ", "[127.0.0.0/8, 10.9.9.9/32, "))
        result = healed.run()
        assert result.code == 1
        assert "MiB are free in" in result.screen
        assert result.last_line.startswith("pyinfra-gitlab: refused")
        assert healed.lab.sh("gitlab-2", "sha256sum /etc/gitlab/gitlab.rb").stdout == before
        assert healed.readers() == ONE
    finally:
        healed.lab.sh("gitlab-2", "umount /etc/gitlab")
