"""Each thing that keeps people from signing on through GitLab, provoked: the first that fails is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.image import LAB
from tests.lab.site import LabSite, broken
from tests.lab.test_mattermost import person

pytestmark = pytest.mark.lab

RUNNER = "gitlab-rails runner -"
APPLICATION = "app = Authn::OauthApplication.find_by(name: 'Mattermost')\n"


def tried(site: LabSite) -> str:
    """What a run says that cannot heal it; `verify` names the same."""
    result = site.run(deploy="mattermost")
    assert result.code == 1, result.screen
    assert result.last_line.startswith("pyinfra-gitlab: failed: chat-1: nobody can sign on through GitLab: ")
    verified = site.verify()
    assert verified.code == 1
    return result.last_line


@contextmanager
def balancer(site: LabSite, line: str) -> Iterator[None]:
    """lb-1 with this line in its frontend."""
    add = f"sed -i '/^frontend/a \\  {line}' /etc/haproxy/haproxy.cfg; systemctl reload haproxy"
    undo = "cat /run/haproxy.cfg > /etc/haproxy/haproxy.cfg; systemctl reload haproxy"
    with broken(site, "lb-1", f"cp /etc/haproxy/haproxy.cfg /run/haproxy.cfg; {add}", undo):
        yield


def works(site: LabSite) -> None:
    """Somebody signs on."""
    assert person(site, "sign_on", "alice", "password-of-alice-in-the-lab")["me"]["username"] == "alice"


def test_dns(healed: LabSite) -> None:
    forget = "cp /etc/hosts /run/hosts; grep -v gitlab.lab.test /run/hosts > /etc/hosts"
    with broken(healed, "chat-1", forget, "cat /run/hosts > /etc/hosts"):
        said = tried(healed)
    assert "the way to gitlab.lab.test (DNS, connection, TLS): found" in said
    assert "Could not resolve host" in said
    assert "/etc/hosts" in said
    works(healed)


def test_tls_trust(healed: LabSite) -> None:
    move = "mv {}/*.crt {}/ && update-ca-certificates >/dev/null 2>&1"
    folders = ("/usr/local/share/ca-certificates", "/run")
    with broken(healed, "chat-1", move.format(*folders), move.format(*reversed(folders))):
        said = tried(healed)
    assert "certificate problem" in said
    assert "update-ca-certificates" in said


def test_a_blocked_connection(healed: LabSite) -> None:
    route = "ip route {} prohibit 198.18.0.10/32"
    with broken(healed, "chat-1", route.format("add"), route.format("del")):
        said = tried(healed)
    assert "the way to gitlab.lab.test" in said
    assert "firewall" in said


def test_a_wrong_secret_is_renewed(healed: LabSite) -> None:
    healed.lab.sh("gitlab-2", RUNNER, stdin=APPLICATION + "app.renew_secret; app.save!")
    found = healed.verify().check("chat-1", "the application's id and secret")
    assert found["found"] == "GitLab refuses them (invalid_client)"
    assert "me" not in person(healed, "sign_on", "alice", "password-of-alice-in-the-lab")
    result = healed.ok(deploy="mattermost")
    assert "put the OAuth application in GitLab right" in result.screen
    works(healed)


def test_an_application_that_is_gone_is_made_again(healed: LabSite) -> None:
    healed.lab.sh("gitlab-2", RUNNER, stdin=APPLICATION + "app.destroy")
    healed.ok(deploy="mattermost")
    works(healed)


def test_another_redirect_uri_is_named_and_put_right(healed: LabSite) -> None:
    healed.lab.sh("gitlab-2", RUNNER, stdin=APPLICATION + "app.update!(redirect_uri: 'https://other.lab.test/x')")
    found = healed.verify().check("chat-1", "the application in GitLab")
    assert found["found"] == "another redirect_uri"
    assert "me" not in person(healed, "sign_on", "alice", "password-of-alice-in-the-lab")
    healed.ok(deploy="mattermost")
    works(healed)


def test_a_server_that_sends_people_elsewhere(healed: LabSite) -> None:
    folder = "/run/systemd/system/mattermost.service.d"
    script = f"mkdir -p {folder}; printf '[Service]\\nEnvironmentFile=/run/other\\n' > {folder}/x.conf; "
    script += "echo MM_SERVICESETTINGS_SITEURL=https://old.lab.test > /run/other; "
    again = "systemctl daemon-reload; systemctl restart mattermost"
    with broken(healed, "chat-1", script + again, f"rm -r {folder} /run/other; {again}"):
        said = tried(healed)
    assert "https://old.lab.test/signup/gitlab/complete" in said
    assert "redirect URI mismatch" in said


@pytest.mark.parametrize(
    ("line", "found", "cure"),
    [
        (
            "http-request deny deny_status 403 if { path /api/v4/user }",
            "GET /api/v4/user with a wrong token: found HTTP 403",
            "IP restrictions",
        ),
        # The nodes share this machine's clock, so it is GitLab's word for the time that is changed.
        ('http-response set-header Date "Mon, 23 Nov 2020 12:00:00 GMT"', "clock: found +", "NTP"),
        (
            "http-request return status 200 content-type text/html string login if { path /oauth/token }",
            "the application.s id and secret: found HTTP 200",
            "does not answer as GitLab does",
        ),
    ],
    ids=["an API that refuses", "a clock that is off", "something else"],
)
def test_what_stands_before_gitlab(healed: LabSite, line: str, found: str, cure: str) -> None:
    with balancer(healed, line):
        said = tried(healed)
    assert found.replace("application.s", "application's") in said
    assert cure in said


def test_through_the_api_with_a_token(healed: LabSite, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "puts User.find_by_username('root').personal_access_tokens.create!(name: 'lab', scopes: ['api'], "
        "expires_at: 30.days.from_now).token"
    )
    token = healed.lab.sh("gitlab-1", RUNNER, stdin=code).stdout.strip()
    path = healed.folder / "secrets" / "api_token"
    path.touch(mode=0o600)
    path.write_text(token)
    healed.edit(("  sign_on:\n", f"  sign_on:\n    api_token: !file {path}\n"))
    healed.lab.sh("gitlab-2", RUNNER, stdin=APPLICATION + "app.update!(redirect_uri: 'https://other.lab.test/x')")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    assert "certificate verify failed" in healed.run(deploy="mattermost").last_line, "this machine does not trust it"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(LAB / "ca" / "ca.crt"))
    result = healed.ok(deploy="mattermost")
    assert "another redirect_uri" in result.screen
    works(healed)
    assert "nothing to do for Mattermost" in healed.ok(deploy="mattermost").last_line
    path.write_text("glpat-wrong")
    said = healed.run(deploy="mattermost").last_line
    assert "api_token must be an administrator's" in said
    assert "glpat-wrong" not in said
    path.unlink()
    healed.lab.sh("gitlab-2", RUNNER, stdin=APPLICATION + "app.update!(trusted: false)")
    healed.write(healed.original)
    assert "another trusted" in healed.ok(deploy="mattermost").screen, "only Rails can say that it is trusted"
    healed.sound()
