"""One mail reader, end to end: bare nodes are configured, mail arrives once, a second run does nothing."""

from __future__ import annotations

import json

import pytest

from tests.lab import mail
from tests.lab.site import AS_DECLARED, NODES, RAILS, LabSite

pytestmark = pytest.mark.lab


def test_bare_nodes_to_exactly_one_reader(fresh: LabSite) -> None:
    dry = fresh.run("--dry", "--diff")
    assert dry.code == 0, dry.screen
    assert "would change" in dry.last_line
    assert fresh.lab.sh("gitlab-1", "ls /etc/gitlab", check=False).returncode != 0
    assert not (fresh.folder / "secrets").exists()

    first = fresh.run()
    assert first.code == 0, first.screen
    assert first.last_line.startswith("pyinfra-gitlab: changed: (here), gitlab-1")
    assert fresh.readers() == {"gitlab-1": 1, "gitlab-2": 0, "gitlab-3": 0, "gitaly-1": 0}


def test_a_second_run_performs_no_operation(site: LabSite) -> None:
    before = {
        name: site.lab.sh(name, "find /etc/gitlab /opt/gitlab/sv -type f | xargs stat -c '%n %Y'").stdout
        for name in NODES
    }
    result = site.run("--json")
    assert result.code == 0
    assert result.last_line == AS_DECLARED
    assert json.loads(result.stdout)["results"]["operations"] == []
    after = {
        name: site.lab.sh(name, "find /etc/gitlab /opt/gitlab/sv -type f | xargs stat -c '%n %Y'").stdout
        for name in NODES
    }
    assert before == after


def test_every_node_says_whether_it_reads(site: LabSite) -> None:
    said = {name: site.lab.sh(name, "grep \"^mailroom\\['enable'\\]\" /etc/gitlab/gitlab.rb").stdout for name in NODES}
    assert said == {name: f"mailroom['enable'] = {'true' if name == 'gitlab-1' else 'false'}\n" for name in NODES}


def test_credentials_are_on_the_reader_only_and_tokens_on_rails_nodes_only(site: LabSite) -> None:
    for name in NODES:
        text = site.lab.sh(name, "cat /etc/gitlab/gitlab.rb").stdout
        assert ("incoming_email_password" in text) == (name == "gitlab-1")
        assert ("incoming_email_auth_token" in text) == (name in RAILS)
        assert site.lab.sh(name, "stat -c '%U %a' /etc/gitlab/gitlab.rb").stdout == "root 600\n"


def test_verify_finds_everything_as_declared(site: LabSite) -> None:
    result = site.verify()
    assert result.code == 0, result.stdout
    assert result.json["result"] == "as declared"
    assert {check["verdict"] for check in result.json["checks"]} == {"as declared"}
    people = site.run(deploy="verify")
    assert people.code == 0
    assert "mail_room processes" in people.stdout
    assert "servicedesk+mygroup-myproject-support@lab.test" in people.stdout


@pytest.mark.parametrize(
    ("to", "route"),
    [
        ("incoming+mygroup-myproject-1-issue@lab.test", "incoming_email"),
        ("servicedesk+mygroup-myproject-support@lab.test", "service_desk_email"),
    ],
)
def test_mail_arrives_exactly_once_at_the_right_route(site: LabSite, to: str, route: str) -> None:
    ids = set(mail.send(site.lab, to, "Printer on fire", count=9))
    got = site.wait_for(ids)
    assert sorted(m["message_id"].strip("<>") for m in got) == sorted(ids)
    assert {m["route"] for m in got} == {route}
    assert {m["node"] for m in got} == set(RAILS), "the load balancer spreads the posts over all nodes"
    site.sound()


def test_two_readers_would_deliver_twice(healed: LabSite) -> None:
    """The control for the test above: without the product's rule, the lab does show a second reader."""
    # The guard would stop it within a minute.
    healed.lab.sh("gitlab-2", f"systemctl stop pyinfra-mail-guard.timer; {second_reader(healed)}")
    ids = set(mail.send(healed.lab, "incoming+x@lab.test", "twice?", count=20))
    healed.wait_for(ids)
    for _ in range(5):
        if not healed.readers()["gitlab-2"]:  # two readers get into each other's way, and one may die of it at any time
            healed.lab.sh("gitlab-2", second_reader(healed), check=False)
        verify = healed.verify()
        if verify.check("gitlab-2", "mail_room processes")["verdict"] == "differs":
            break
    assert verify.code == 1
    assert verify.check("gitlab-2", "mail_room processes")["verdict"] == "differs"
    healed.ok()
    assert healed.readers() == {"gitlab-1": 1, "gitlab-2": 0, "gitlab-3": 0, "gitaly-1": 0}
    # The two have torn mails out of each other's hands, so some may be lost.
    healed.run("--data", "deliver=yes", "--data", "unclear=yes", deploy="mail_recover")
    healed.sound(seconds=30)


def second_reader(site: LabSite) -> str:
    """Shell that starts mail_room by hand on a node, with the reader's own configuration."""
    yml = site.lab.sh("gitlab-1", "cat /var/opt/gitlab/gitlab-rails/etc/gitlab.yml").stdout
    return (
        "cat > /var/opt/gitlab/gitlab-rails/etc/gitlab.yml <<'YML'\n" + yml + "\nYML\n"
        "install -d -o git /var/log/gitlab/mailroom\n"
        "cd /var/opt/gitlab/gitlab-rails/working; setsid chpst -u git /opt/gitlab/embedded/bin/mail_room -c "
        "/opt/gitlab/embedded/service/gitlab-rails/config/mail_room.yml >/tmp/by-hand.log 2>&1 </dev/null & "
        "sleep 3; pgrep -f 'mail_room -c'"
    )
