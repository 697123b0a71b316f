"""Mails that mail_room took and GitLab never got: seen, and handed back; and never one that GitLab has."""

from __future__ import annotations

import time

import pytest

from tests.lab import mail
from tests.lab.site import RAILS, LabSite, Result
from tests.lab.storm import ADDRESSES, Storm, arrived

pytestmark = pytest.mark.lab
REUSE = True

SECRET = "/var/opt/gitlab/gitlab-rails/etc/gitlab_incoming_email_secret"


def recover(site: LabSite, *words: str) -> Result:
    """Run mail_recover.py, with its JSON."""
    flags = [part for word in ("format=json", *words) for part in ("--data", word)]
    return site.run(*flags, deploy="mail_recover")


def everywhere(site: LabSite, script: str) -> None:
    """Run a script on all Rails nodes."""
    for name in RAILS:
        site.lab.sh(name, script)


def looked_at(site: LabSite) -> None:
    """Wait until mail_room has taken every mail."""
    deadline = time.monotonic() + 60
    while any(mail.look(site.lab, kind).unseen for kind in ("incoming_email", "service_desk_email")):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_mails_that_a_node_has_refused_are_handed_back(site: LabSite) -> None:
    before = recover(site)
    assert before.code == 0, before.stdout
    token = "another-token-of-32-bytes-really" + "\n"
    script = f"cp -p {SECRET} /root/kept; base64 -w0 > {SECRET}; gitlab-ctl restart puma; sleep 3"
    site.lab.sh("gitlab-2", script, stdin=token.strip())
    sent = mail.send(site.lab, ADDRESSES[0], "to be lost", count=9)
    looked_at(site)
    time.sleep(3)
    lost, _ = arrived(site, sent, seconds=5)
    assert 0 < len(lost) < 9, "one node of three refuses"
    result = site.verify()
    found = result.check("gitlab-1", "mails taken without delivery")
    assert found["verdict"] == "differs"
    assert found["found"].startswith(f"{len(lost)}, such as incoming_email uid ")
    listed = recover(site)
    assert listed.code == 1
    assert {one["message_id"] for one in listed.json["mails"]} == set(lost)
    assert {(one["fate"], one["why"]) for one in listed.json["mails"]} == {("lost", "GitLab answered 401")}
    refused = recover(site, "deliver=yes")
    assert refused.code == 1
    assert "Run deploys/site.py first" in refused.last_line
    site.ok()
    given = recover(site, "deliver=yes")
    assert given.code == 0, given.screen
    assert f"{len(lost)} mails were handed back to gitlab-1" in given.last_line
    assert arrived(site, sent) == ([], {}), "each of them once"
    assert recover(site).code == 0
    site.sound()


def test_mails_that_nobody_served_are_handed_back(site: LabSite) -> None:
    everywhere(site, "gitlab-ctl stop puma")
    sent = [one for address in ADDRESSES for one in mail.send(site.lab, address, "nobody serves", count=2)]
    looked_at(site)
    everywhere(site, "gitlab-ctl start puma; sleep 3")
    time.sleep(10)
    listed = recover(site)
    assert listed.code == 1, listed.screen
    assert recover(site, "deliver=yes", "why=all pumas were down").code == 0
    assert arrived(site, sent) == ([], {})


def test_a_mail_that_gitlab_may_have_is_not_handed_back_without_being_told(site: LabSite) -> None:
    """mail_room dies while GitLab is at it: the answer is never logged, and GitLab takes the mail all the same."""
    everywhere(site, "pkill -STOP -f '[p]uma'")
    (sent,) = mail.send(site.lab, ADDRESSES[0], "twice?")
    looked_at(site)
    site.lab.sh("gitlab-1", "kill -9 $(cat /opt/gitlab/sv/mailroom/supervise/pid)")
    everywhere(site, "pkill -CONT -f '[p]uma'")
    assert arrived(site, [sent]) == ([], {})
    time.sleep(3)
    site.ok()
    told = recover(site, "deliver=yes")
    assert told.code == 1
    assert "1 unclear" in told.last_line
    assert "with unclear=yes" in told.last_line
    time.sleep(15)
    assert arrived(site, [sent]) == ([], {}), "GitLab has it once"


def test_mails_from_before_the_logs_are_left_alone(site: LabSite) -> None:
    (sent,) = mail.send(site.lab, ADDRESSES[1], "taken, and the logs are gone")
    assert arrived(site, [sent]) == ([], {})
    everywhere(site, "rm -f /var/log/gitlab/mailroom/mail_room_json.log*")
    site.lab.sh("gitlab-1", "gitlab-ctl restart mailroom; sleep 15")
    listed = recover(site)
    assert sent in {one["message_id"] for one in listed.json["mails"] if one["fate"] == "unknown"}
    given = recover(site, "deliver=yes")
    assert given.code == 0
    assert "handed back" not in given.last_line, "nothing that could be without being named"
    named = recover(site, "deliver=yes", f"message_id={sent}")
    assert named.code == 0, named.screen
    time.sleep(15)
    assert arrived(site, [sent])[1] == {sent: 2}, "an operator wanted it"


def test_mails_on_their_way_are_not_called_lost(site: LabSite) -> None:
    """mail_room goes on between the look into its logs and the one into the mailbox."""
    with Storm(site.lab, seed=1, rate=8.0):
        for _ in range(5):
            listed = recover(site)
            assert listed.code == 0, listed.json["mails"]
