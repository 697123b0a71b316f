"""A certificate by ACME: had by certbot from the lab's own directory, served by nginx, renewed."""

from __future__ import annotations

import time

import pytest

from tests.lab.site import LabSite

pytestmark = pytest.mark.lab

LIVE = "/etc/letsencrypt/live/chat.lab.test"


def served(site: LabSite) -> str:
    """Issuer and serial number of the certificate at port 443."""
    script = (
        "openssl s_client -connect chat.lab.test:443 -servername chat.lab.test </dev/null 2>/dev/null "
        "| openssl x509 -noout -issuer -serial"
    )
    return site.lab.run(["sh", "-c", script]).stdout


@pytest.fixture(scope="module")
def acme(fresh: LabSite) -> LabSite:
    """The site with ACME instead of files; Mattermost alone, without sign-on."""
    start = fresh.original.index("    certificate: ")
    end = fresh.original.index("  settings:\n    # The lab")
    text = fresh.original[:start] + "    acme: {directory: https://acme.lab.test:14000/dir}\n" + fresh.original[end:]
    fresh.write(text[: text.index("  sign_on:\n")] + text[text.index("  backup:\n") :])
    return fresh


def test_a_directory_that_cannot_look_is_named(acme: LabSite) -> None:
    acme.lab.sh("lb-1", "cp /etc/hosts /run/hosts; sed -i 's/^198.18.0.41/198.18.0.77/' /etc/hosts")
    result = acme.run(deploy="mattermost")
    assert result.code == 1
    assert "certbot got no certificate from https://acme.lab.test:14000/dir" in result.last_line
    assert "http://chat.lab.test/" in result.last_line
    acme.lab.sh("lb-1", "cat /run/hosts > /etc/hosts")


def test_the_same_command_finishes_it(acme: LabSite) -> None:
    result = acme.ok(deploy="mattermost")
    assert "get a certificate by ACME (there is none yet)" in result.screen
    assert "Pebble" in served(acme)
    assert "nothing to do" in acme.ok(deploy="mattermost").last_line
    found = acme.verify().check("chat-1", "certificate at port 443")
    assert found["verdict"] == "as declared"
    assert "one for chat.lab.test" in found["found"]


def test_it_is_renewed_and_served_without_us(acme: LabSite) -> None:
    before = served(acme)
    pid = acme.lab.sh("chat-1", "systemctl show -p MainPID --value nginx").stdout
    acme.lab.sh("chat-1", "certbot renew --force-renewal --quiet --no-random-sleep-on-renew")
    deadline = time.monotonic() + 20  # nginx reloads without a pause: its old workers may take connections until then
    while (now := served(acme)) == before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert now != before
    assert "Pebble" in now
    assert acme.lab.sh("chat-1", "systemctl show -p MainPID --value nginx").stdout == pid, "reloaded, not restarted"
    assert "nothing to do" in acme.ok(deploy="mattermost").last_line


def test_certbots_timer_is_there(acme: LabSite) -> None:
    assert "enabled" in acme.lab.sh("chat-1", "systemctl is-enabled certbot.timer").stdout


def test_another_directory_is_another_certificate(acme: LabSite) -> None:
    text = (acme.folder / "site.yml").read_text()
    acme.write(text.replace("https://acme.lab.test:14000/dir", "https://lb-1.lab.test:14000/dir"))
    acme.lab.sh("chat-1", "sed -i 's/acme.lab.test/acme.lab.test lb-1.lab.test/' /etc/hosts")
    result = acme.run(deploy="mattermost")
    assert "the one there is from https://acme.lab.test:14000/dir" in result.screen
    assert result.code == 1, "the directory's own certificate is not for that name"
    assert "Pebble" in served(acme), "what was there is still served"
