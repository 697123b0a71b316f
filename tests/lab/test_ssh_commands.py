"""How many commands a run executes over SSH on each node: what makes it fast must not be lost unnoticed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.lab.image import MACHINES
from tests.lab.site import AS_DECLARED, NODES, LabSite, Result

pytestmark = pytest.mark.lab
REUSE = True


def executed(site: LabSite, tmp_path: Path, deploy: str) -> tuple[Result, dict[str, int], int]:
    """Run a deploy; how many commands it executed on each node, and how often the reader tried all that it needs."""
    file = tmp_path / "executed.jsonl"
    python, *words = site.command(deploy=deploy)
    python = str(Path(python).with_name("python"))
    result = Result(site.lab.run([python, "-m", "tests.lab.counted", str(file), *words]))
    names = {address: name for name, address in MACHINES.items()}
    commands = [json.loads(line) for line in file.read_text().splitlines()]
    tried = sum("# Tries from the reader" in text for _, text in commands)
    return result, Counter(names[address] for address, _ in commands), tried


def test_a_run_that_changes_nothing_asks_every_node_once(site: LabSite, tmp_path: Path) -> None:
    """One look for all roles of a node. On Mattermost's also one as the database's role, and the walk of a sign-on."""
    result, found, _ = executed(site, tmp_path, "site")
    assert result.last_line == AS_DECLARED
    assert found == {**dict.fromkeys(NODES, 1), "chat-1": 3}


def test_verify(site: LabSite, tmp_path: Path) -> None:
    """The reader also tries routes and mailboxes, and asks for the OAuth application; Mattermost's node its database,
    its settings and the mail server, and walks through a sign-on."""
    result, found, _ = executed(site, tmp_path, "verify")
    assert result.code == 0, result.stdout
    assert found == {**dict.fromkeys(NODES, 1), "gitlab-1": 3, "chat-1": 3}


def test_a_change_of_gitlab(site: LabSite, tmp_path: Path) -> None:
    """Look, lock, look again, see that nobody reads, look, change, ask for token and clock, see who reads. The reader
    is also stopped, tries all that it needs, and is looked at, changed and started once more."""
    site.edit(("[127.0.0.0/8, ", "[127.0.0.0/8, 192.0.2.77/32, "))
    result, found, tried = executed(site, tmp_path, "site")
    assert result.code == 0, result.screen
    assert tried > 0
    spare = 2  # a mail_room that takes long to end is looked at again
    for name in NODES:
        most = 13 + 2 * (tried - 1) if name == "gitlab-1" else 8 + tried - 1
        assert 1 < found[name] <= most + spare, (name, found, tried)
    assert found["chat-1"] == 3
    site.write(site.original)
    site.ok()


def test_a_change_of_mattermost_nginx_and_the_backups(site: LabSite, tmp_path: Path) -> None:
    """Before and after the lock is taken: look, database, sign-on. Then each of the three is looked at and changed, and
    the way of a sign-on is walked."""
    site.edit(
        ("    LogSettings: {", '    TeamSettings: {SiteName: "Counted"}\n    LogSettings: {'),
        ("  proxy:\n", "  proxy:\n    hsts: false\n"),
        ("02-29 02:15:00", "02-29 02:16:00"),
    )
    result, found, _ = executed(site, tmp_path, "site")
    assert result.code == 0, result.screen
    for what in ("/etc/mattermost/environment", "/etc/nginx/", "mattermost-backup.timer"):
        assert what in result.screen
    assert found["chat-1"] == 13
    assert max(found[name] for name in NODES) <= 2, "look and lock"
    site.write(site.original)
    site.ok()
