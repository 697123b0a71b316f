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


def executed(site: LabSite, tmp_path: Path, deploy: str) -> tuple[Result, dict[str, int]]:
    """Run a deploy; how many commands it executed on each node."""
    file = tmp_path / "executed.jsonl"
    python, *words = site.command(deploy=deploy)
    python = str(Path(python).with_name("python"))
    result = Result(site.lab.run([python, "-m", "tests.lab.counted", str(file), *words]))
    names = {address: name for name, address in MACHINES.items()}
    return result, Counter(names[json.loads(line)[0]] for line in file.read_text().splitlines())


def test_a_run_that_changes_nothing_asks_every_node_once(site: LabSite, tmp_path: Path) -> None:
    """One look for all roles of a node. On Mattermost's also one as the database's role, and the walk of a sign-on."""
    result, found = executed(site, tmp_path, "site")
    assert result.last_line == AS_DECLARED
    assert found == {**dict.fromkeys(NODES, 1), "chat-1": 3}


def test_verify(site: LabSite, tmp_path: Path) -> None:
    """The reader also tries routes and mailboxes, and asks for the OAuth application; Mattermost's node its database,
    its settings and the mail server, and walks through a sign-on."""
    result, found = executed(site, tmp_path, "verify")
    assert result.code == 0, result.stdout
    assert found == {**dict.fromkeys(NODES, 1), "gitlab-1": 3, "chat-1": 3}


def test_a_change_takes_few_more(site: LabSite, tmp_path: Path) -> None:
    """What is counted is what is executed: a run that changes a node has more of it."""
    site.edit(("[127.0.0.0/8, ", "[127.0.0.0/8, 192.0.2.77/32, "))
    result, found = executed(site, tmp_path, "site")
    assert result.code == 0, result.screen
    assert all(1 < found[name] <= 25 for name in NODES), found
    site.write(site.original)
    site.ok()
