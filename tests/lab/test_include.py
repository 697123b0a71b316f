"""Mode `include`: the operator's own gitlab.rb stays theirs, and what would undo our settings is named."""

from __future__ import annotations

import pytest

from tests.lab import mail
from tests.lab.site import AS_DECLARED, NODES, RAILS, LabSite

pytestmark = pytest.mark.lab

OPERATORS = """\
# our company's gitlab.rb, mängled over the years
external_url "https://gitlab.lab.test"
nginx['listen_port'], nginx['listen_https'] = 80, false
roles ["{role}_role"]
gitlab_rails['monitoring_whitelist'] = %w[127.0.0.0/8 198.18.0.10/32]
gitlab_rails["smtp_password"] = 'operators-own-s3cret'
# from_file '/etc/gitlab/pyinfra-mail.rb'
mailroom['enable'] = true
gitlab_rails.merge!('incoming_email_enabled' => false)
=begin
from_file '/etc/gitlab/pyinfra-mail.rb'
=end
from_file "/etc/gitlab/pyinfra-mail.rb"
nginx['worker_processes'] = 1
from_file('/etc/gitlab/pyinfra-mail.rb')   # twice, by two colleagues
puts 'hello from the operator'"""
LINE = "from_file '/etc/gitlab/pyinfra-mail.rb'"


@pytest.fixture(scope="module")
def include(fresh: LabSite) -> LabSite:
    """Nodes with an operator's own, hostile gitlab.rb; the site file in mode include."""
    for name in NODES:
        role = "application" if name in RAILS else "gitaly"
        script = "mkdir -p /etc/gitlab; umask 077; cat > /etc/gitlab/gitlab.rb; chmod 640 /etc/gitlab/gitlab.rb"
        fresh.lab.sh(name, script, stdin=OPERATORS.replace("{role}", role))
    start = fresh.original.index("  config: whole")
    end = fresh.original.index("\nmail:")
    fresh.original = fresh.original[:start] + "  config: include\n" + fresh.original[end:]
    for number in (1, 2, 3):  # where each node's own GitLab is, only the operator's file says: TLS ends at lb-1
        node = f"{{address: 198.18.0.1{number}, roles: [application]"
        fresh.original = fresh.original.replace(node, f"{node}, url: http://198.18.0.1{number}")
    fresh.write(fresh.original)
    return fresh


def test_one_line_is_kept_and_one_node_reads(include: LabSite) -> None:
    result = include.ok()
    assert "operators-own-s3cret" not in result.screen
    for name in NODES:
        text = include.lab.sh(name, "cat /etc/gitlab/gitlab.rb").stdout
        live = [line for line in text.splitlines() if line.startswith("from_file") and "twice" in line]
        assert len(live) == 1, text
        assert 'from_file "/etc/gitlab/pyinfra-mail.rb"' not in text
        assert "operators-own-s3cret" in text, "the rest is untouched"
        assert include.lab.sh(name, "stat -c %a /etc/gitlab/gitlab.rb").stdout == "640\n"
        assert include.lab.sh(name, "stat -c '%U %a' /etc/gitlab/pyinfra-mail.rb").stdout == "root 600\n"
    assert include.readers() == {"gitlab-1": 1, "gitlab-2": 0, "gitlab-3": 0, "gitaly-1": 0}
    ids = set(mail.send(include.lab, "incoming+x@lab.test", "through the operator's own file", count=3))
    assert len(include.wait_for(ids)) == 3
    assert include.run().last_line == AS_DECLARED
    include.sound()


@pytest.mark.parametrize(
    "line",
    [
        "mailroom['enable'] = true",
        "gitlab_rails.merge!('incoming_email_enabled' => false)",
        "mailroom.store(:enable, 1)",
    ],
)
def test_a_key_of_ours_after_the_line_is_an_error_that_names_it(include: LabSite, line: str) -> None:
    kept = include.lab.sh("gitlab-2", "cat /etc/gitlab/gitlab.rb").stdout
    number = len(kept.splitlines()) + 1
    include.lab.sh("gitlab-2", "printf '\\n%s\\n' \"$(cat)\" >> /etc/gitlab/gitlab.rb", stdin=line)
    result = include.run()
    assert result.code == 1
    assert f"/etc/gitlab/gitlab.rb:{number} sets" in result.screen
    assert result.last_line.startswith("pyinfra-gitlab: refused")
    assert include.verify().code == 1
    include.lab.sh("gitlab-2", "cat > /etc/gitlab/gitlab.rb", stdin=kept)
    assert include.run().code == 0


def test_the_operators_own_change_is_reconfigured(include: LabSite) -> None:
    include.lab.sh("gitlab-3", "sed -i 's/worker_processes.*/worker_processes'\"'\"'] = 2/' /etc/gitlab/gitlab.rb")
    assert include.verify().check("gitlab-3", "gitlab-ctl reconfigure")["verdict"] == "differs"
    assert "gitlab-3" in include.ok().last_line
    include.sound()


def test_tokens_of_a_running_site_are_adopted(include: LabSite) -> None:
    secret = "/var/opt/gitlab/gitlab-rails/etc/gitlab_incoming_email_secret"
    before = include.lab.sh("gitlab-1", f"cat {secret}").stdout
    (include.folder / "secrets" / "incoming_email_token").unlink()
    result = include.ok()
    assert result.last_line == "pyinfra-gitlab: changed: (here)"
    assert "keep the incoming_email token, adopted from gitlab-1, in" in result.screen
    assert (include.folder / "secrets" / "incoming_email_token").read_text() == before
    assert {include.lab.sh(name, f"cat {secret}").stdout for name in RAILS} == {before}


def test_a_file_that_is_no_ruby_is_named_without_its_secrets(include: LabSite) -> None:
    kept = include.lab.sh("gitlab-2", "cat /etc/gitlab/gitlab.rb").stdout
    include.lab.sh(
        "gitlab-2", "echo \"gitlab_rails['smtp_password'] = 'operators-own-s3cret\" >> /etc/gitlab/gitlab.rb"
    )
    result = include.run("-vvv")
    assert result.code == 1
    assert "/etc/gitlab/gitlab.rb cannot be evaluated: SyntaxError at line" in result.screen
    assert "operators-own-s3cret" not in result.screen
    include.lab.sh("gitlab-2", "cat > /etc/gitlab/gitlab.rb", stdin=kept)
    assert include.run().code == 0
