"""The order across nodes, with the real pyinfra, the real deploys, and simulated nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.simulated import World
from tests.unit.sites import SITE, write

ROOT = Path(__file__).resolve().parents[2]
NODES = ("app-1", "app-2", "gitaly-1")
INVENTORY = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from roles.site.inventory import pyinfra_groups
from tests.unit.simulated import use
use(Path(__file__).with_name("world.json"))
gitlab = pyinfra_groups(Path(__file__).with_name("site.yml"))["gitlab"]
"""


class Site:
    """A site of simulated nodes: two application nodes, the first reads mail, and one for Gitaly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder / "world.json", NODES)
        (folder / "inventory.py").write_text(INVENTORY)
        self.declare()

    def declare(self, reader: str = "app-1") -> None:
        """Write the site file."""
        write(self.folder, SITE.replace("reader: app-1", f"reader: {reader}"))

    def run(self, deploy: str = "site", *flags: str) -> tuple[int, str]:
        """Run a deploy; returns the exit code and the last line. `world` and its log are then of this run."""
        self.world.log = []
        self.world.save()
        pyinfra = [sys.executable, "-m", "pyinfra", "-y", *flags]
        done = subprocess.run(
            [*pyinfra, str(self.folder / "inventory.py"), f"deploys/{deploy}.py"],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.world = World(self.folder / "world.json")
        assert not re.search("something unknown|two readers", done.stderr), done.stderr
        return done.returncode, done.stderr.strip().splitlines()[-1]

    @property
    def readers(self) -> list[str]:
        """Where mail_room runs."""
        return [name for name, node in self.world.nodes.items() if node["readers"]]

    def did(self, what: str, name: str | None = None) -> list[int]:
        """Positions in the log at which it happened (on that node)."""
        return [n for n, (node, act) in enumerate(self.world.log) if act == what and name in (None, node)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Three nodes with the package and nothing configured."""
    return Site(tmp_path)


def test_first_run_configures_all_checks_then_reads(site: Site) -> None:
    assert site.run() == (0, "pyinfra-gitlab: changed: app-1, app-2, gitaly-1")
    assert site.readers == ["app-1"]
    (on,) = site.did("reconfigure, mail_room on")
    off = site.did("reconfigure, mail_room off")
    assert [site.world.log[n][0] for n in off][-1] == "app-1", "the reader comes last"
    assert len(off) == 3
    assert max(off) < min(site.did("probe")) < on
    assert {name for name, act in site.world.log[on:] if act == "look"} == set(NODES), "all are counted at the end"


def test_second_run_looks_once_and_does_nothing(site: Site) -> None:
    site.run()
    code, last = site.run()
    assert (code, last) == (0, "pyinfra-gitlab: as declared: nothing to do on 3 GitLab nodes")
    assert sorted(site.world.log) == [[name, "look"] for name in NODES]


def test_the_old_reader_is_stopped_and_seen_before_the_new_one_reads(site: Site) -> None:
    site.run()
    code, last = site.run("mailroom_move", "--data", "to=app-2")
    assert code == 0, last
    assert re.search(r"changed: app-1, app-2; now say `reader: app-2` in .*site.yml, line \d+$", last)
    assert site.readers == ["app-2"]
    (stop,) = site.did("stop", "app-1")
    (on,) = site.did("reconfigure, mail_room on", "app-2")
    (first,) = site.did("install", "app-1")[:1]
    assert {name for name, act in site.world.log[stop:first] if act == "look"} == set(NODES), "all are seen in between"
    assert site.did("probe")[0] < stop, "the new reader was tried first"
    assert stop < min(site.did("note")) < first, "and written down"
    assert first < site.did("reconfigure, mail_room off", "app-1")[0] < site.did("probe")[1] < on


def test_a_reader_that_cannot_be_stopped_ends_the_run(site: Site) -> None:
    site.run()
    site.world.nodes["app-1"]["broken"] = ["gitlab-ctl stop mailroom"]
    site.world.save()
    code, last = site.run("mailroom_move", "--data", "to=app-2")
    assert code == 1
    assert "app-1: mail_room could not be stopped" in last
    assert {act for _, act in site.world.log} == {"look", "lock", "probe", "gitlab-ctl stop mailroom failed"}
    assert site.readers == ["app-1"]


def test_a_failed_reconfigure_leaves_mail_off_and_the_next_run_finishes(site: Site) -> None:
    site.world.nodes["app-2"]["broken"] = ["gitlab-ctl reconfigure"]
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert "app-2: gitlab-ctl reconfigure failed" in last
    assert site.readers == []
    assert not site.did("probe")
    assert not site.did("install", "app-1")
    site.world.nodes["app-2"]["broken"] = []
    site.world.save()
    code, _ = site.run()
    assert code == 0
    assert site.readers == ["app-1"]
    assert not site.did("install", "app-2")
    assert site.did("reconfigure, mail_room off", "app-2")
    assert not site.did("reconfigure, mail_room off", "gitaly-1"), "what the first run finished is not done again"


def test_a_check_that_fails_leaves_mail_off(site: Site) -> None:
    site.world.nodes["app-1"]["mailbox"] = {"ok": False, "step": "login", "error": "no"}
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert "mail_room stays off on every node" in last
    assert site.readers == []
    assert not site.did("reconfigure, mail_room on")


@pytest.mark.parametrize("gone", ["app-1", "app-2", "gitaly-1"])
def test_an_unreachable_node_stops_everything(site: Site, gone: str) -> None:
    site.world.nodes[gone]["off"] = True
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert gone in last
    assert "nothing is changed anywhere" in last
    assert {act for _, act in site.world.log} <= {"look"}


def test_limit_cannot_lead_to_two_readers(site: Site) -> None:
    site.run()
    code, last = site.run("mailroom_move", "--data", "to=app-2", "--limit", "app-2")
    assert code == 1
    assert "app-1" in last
    assert "--limit" in last
    assert site.readers == ["app-1"]
    assert {act for _, act in site.world.log} == {"look"}


def test_dry_run_and_verify_change_nothing(site: Site) -> None:
    before = json.dumps(site.world.nodes)
    assert site.run("site", "--dry") == (
        0,
        "pyinfra-gitlab: would change: app-1, app-2, gitaly-1 (nothing was touched)",
    )
    code, last = site.run("verify")
    assert code == 1
    assert last.startswith("pyinfra-gitlab: differs")
    assert json.dumps(site.world.nodes) == before
    assert {act for _, act in site.world.log} <= {"look", "probe", "logs", "mailboxes"}
