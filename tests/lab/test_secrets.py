"""No secret shows: on no screen at any verbosity, in no process list, in no log, in no file that others can read."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab.image import LAB
from tests.lab.site import NODES, LabSite

pytestmark = pytest.mark.lab
REUSE = True

# GitLab's own: rendered 0644 by the package, inside a folder that only git may enter (facts of the package).
PACKAGES_OWN = "/var/opt/gitlab/gitlab-rails/"


class ProcessList:
    """Every command line on this machine, the nodes' too, while it runs: what `ps` would have shown to anybody."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ProcessList:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)


def secrets(site: LabSite) -> dict[str, str]:
    """Every secret of the lab's site, by name."""
    found = {path.name: path.read_text().strip() for path in (LAB / "secrets").glob("*_password")}
    found |= {path.name: path.read_text().strip() for path in (site.folder / "secrets").glob("*")}
    found["mattermost_oauth"] = found["mattermost_oauth"].split()[1]  # the first word is the id, which browsers see
    found["chat.key"] = (LAB / "ca" / "chat.lab.test.key").read_text().splitlines()[5]
    found["backup_ed25519"] = (LAB / "ssh" / "backup_ed25519").read_text().splitlines()[2]
    assert len(found) >= 13
    return found


def forms(value: str) -> set[str]:
    """A secret as it stands, and as careless code would write it."""
    escaped = value.replace("\\", "\\\\")
    quoted = {escaped.replace("'", "\\'"), escaped.replace('"', '\\"'), re.sub(r'([\\"`$])', r"\\\1", value)}
    return {value, quote(value), quote(value, safe=""), *quoted}


def assert_unseen(text: str, known: dict[str, str], where: str) -> None:
    """No secret is in a text; the message names the secret, never its value."""
    shown = [name for name, value in known.items() if any(form in text for form in forms(value))]
    assert not shown, f"{shown} can be read {where}"


def use_secret_settings(site: LabSite, smtp: str, more: str = "") -> None:
    """A secret of the operator's own in gitlab.settings, and in the folder of the test."""
    path = site.folder / "secrets" / "smtp"
    path.write_text(smtp)
    path.chmod(0o600)
    site.edit(("    gitlab_rails:\n", f"    gitlab_rails:\n      smtp_password: !file {path}\n{more}"))


def test_nothing_shows_in_any_run(healed: LabSite) -> None:
    use_secret_settings(healed, "operators-smtp-s3cret-one")
    before = secrets(healed)
    with ProcessList() as processes:
        runs = [
            healed.run("--dry", "--diff", "-vvv"),
            healed.run("--diff", "-vvv", "--debug"),
            healed.run("--debug-operations", "--debug-facts"),
            healed.run("-vvv", "--data", "format=json", deploy="verify"),
            healed.run(deploy="verify"),
            healed.run("-vvv", "--diff", "--debug", deploy="backup"),
            healed.run("-vvv", "--data", "replace=yes", deploy="restore"),
            healed.run("-vvv", "--debug-facts", deploy="drill"),
            healed.run("-vvv", "--debug", deploy="drill"),
            healed.run("-vvv", "--diff", "--debug", deploy="mailroom_rotate"),
            healed.run("-vvv", "--debug", "--data", "deliver=yes", deploy="mail_recover"),
            healed.run("-vvv", "--debug", deploy="history"),
        ]
    for result in runs:
        assert result.code == 0, result.screen[-3000:]
    assert "+ gitlab_rails['smtp_password'] = '********'" in runs[1].screen, "the diff is shown, its secrets masked"
    known = secrets(healed) | {f"{name}, rotated": value for name, value in before.items() if "token" in name}
    assert known["incoming_email_token"] != known["incoming_email_token, rotated"]
    for result in runs:
        assert_unseen(result.screen + result.stdout, known, "on the screen")
    lines = b"\n".join(processes.seen).decode(errors="replace")
    assert "pyinfra" in lines
    assert "mail_room" in lines, "the nodes' processes are in the list too"
    assert_unseen(lines, known, "in a process list")


def test_nothing_shows_when_a_run_fails(healed: LabSite) -> None:
    """A reconfigure that fails prints the diff of gitlab.yml with its passwords; so does a Ruby error."""
    loud = (
        "  extra_ruby: |\n    raise gitlab_rails['smtp_password'].to_s + gitlab_rails['incoming_email_password'].to_s\n"
    )
    use_secret_settings(healed, "operators-smtp-s3cret-two")
    text = (healed.folder / "site.yml").read_text()
    healed.write(text.replace("  config: whole\n", "  config: whole\n" + loud))
    result = healed.run("-vvv")
    assert result.code == 1
    assert "gitlab-ctl reconfigure failed" in result.screen
    assert_unseen(result.screen, secrets(healed), "on the screen")


def test_no_other_user_can_read_a_secret_on_any_node(site: LabSite) -> None:
    known = secrets(site)
    patterns = "\n".join(form for value in known.values() for form in forms(value))
    for name in (*NODES, "chat-1", "db-1", "spare-1"):
        script = "grep -rlFf - / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev 2>/dev/null; true"
        holding = site.lab.sh(name, script, stdin=patterns).stdout.splitlines()
        if name == "gitlab-1":
            assert "/etc/gitlab/gitlab.rb" in holding, "the search does find what is there"
        if name == "chat-1":
            assert {"/etc/mattermost/environment", "/etc/nginx/pyinfra/mattermost.key"} <= set(holding)
            assert {"/etc/mattermost-backup/config.json", "/etc/mattermost-backup/id"} <= set(holding)
        if name == "spare-1":
            assert holding == [], "a drill leaves no secret"
        readable = [
            path
            for path in holding
            if site.lab.sh(name, f"chroot --userspec=nobody / test -r '{path}'", check=False).returncode == 0
        ]
        assert readable == [], f"on {name}, anybody can read secrets in {readable}"
        logs = [path for path in holding if re.match(r"/var/log/(?!gitlab/)", path)]
        assert logs == [], f"on {name}, secrets are in {logs}"


def test_no_process_shows_a_secret_to_others(site: LabSite) -> None:
    known = secrets(site)
    for name in (*NODES, "chat-1", "db-1"):
        assert_unseen(site.lab.sh(name, "ps -eww -o args").stdout, known, f"in ps on {name}")
        readable = "for f in /proc/[0-9]*/environ; do chroot --userspec=nobody / cat $f 2>/dev/null; done; true"
        assert_unseen(site.lab.sh(name, readable).stdout, known, f"in an environment on {name}")
        assert_unseen(site.lab.sh(name, "journalctl --no-pager -o cat").stdout, known, f"in the journal of {name}")
    own = site.lab.sh("chat-1", "cat /proc/$(systemctl show -p MainPID --value mattermost)/environ").stdout
    assert quote((LAB / "secrets" / "mattermost_db_password").read_text(), safe="") in own, "root does see it there"


def test_the_search_would_find_a_leak(site: LabSite) -> None:
    """The control: a secret in /tmp is found, and anybody could read it."""
    value = next(iter(secrets(site).values()))
    site.lab.sh("gitlab-2", "umask 022; cat > /tmp/leak", stdin=value)
    try:
        with pytest.raises(AssertionError, match="/tmp/leak"):
            test_no_other_user_can_read_a_secret_on_any_node(site)
    finally:
        site.lab.sh("gitlab-2", "rm /tmp/leak")
    with pytest.raises(AssertionError, match="on the screen"):
        assert_unseen("x" + value + "y", secrets(site), "on the screen")


def test_the_operators_own_files_are_private(site: LabSite) -> None:
    for path in (site.folder / "secrets").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert not Path("pyinfra-debug.log").exists()
