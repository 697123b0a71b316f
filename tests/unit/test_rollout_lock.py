"""One run at a time, and who did what: with the real pyinfra, the real deploys, and simulated nodes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from roles.node import audit
from roles.site.errors import RefusedError
from roles.site.load import load
from tests.unit.sites import TOKENS, write
from tests.unit.test_rollout_order import NODES, Site, site

__all__ = ["site"]

BUSY = json.dumps({"by": "eve@desk", "deploy": "site.py", "since": "2026-11-23 22:00:00 UTC", "why": "ticket 7"})


def test_a_run_that_changes_takes_the_lock_everywhere_and_looks_again(site: Site) -> None:
    assert site.run()[0] == 0
    assert {name for name, act in site.world.log if act == "lock"} == set(NODES)
    assert site.did("lock")[0] == site.did("lock", "app-1")[0], "the first node decides"
    first_change = min(site.did("install"))
    assert {name for name, act in site.world.log[max(site.did("lock")) : first_change] if act == "look"} == set(NODES)
    site.run()
    assert not site.did("lock"), "a run that changes nothing needs none"


@pytest.mark.parametrize("node", NODES)
def test_another_run_is_respected(site: Site, node: str) -> None:
    site.world.nodes[node]["locked"] = BUSY
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert last.startswith("pyinfra-gitlab: refused: another run changes this site: eve@desk runs site.py since")
    assert "(ticket 7)" in last
    assert "lock_wait" in last
    assert {act for _, act in site.world.log} <= {"look", "lock", "busy"}
    assert site.run("site", "--dry")[0] == 0, "looking is always allowed"


def test_what_was_done_is_in_the_log_without_contents(site: Site) -> None:
    site.run("site", "--data", "why=ticket 8")
    lines = site.world.nodes["app-1"]["audit"]
    assert [line["what"] for line in lines] == [
        "files installed",
        "mail reader on record",
        "files installed",
        "gitlab-ctl reconfigure",
        "files installed",
        "gitlab-ctl reconfigure",
        "mail_room started",
    ]
    assert {(line["deploy"], line["why"]) for line in lines} == {("site.py", "ticket 8")}
    before, after = lines[2]["files"]["/etc/gitlab/gitlab.rb"]
    assert (before, len(after)) == ("absent", 16)
    assert "password" not in json.dumps(lines)


def test_a_word_that_a_deploy_does_not_know_is_refused(site: Site) -> None:
    code, last = site.run("site", "--data", "wyh=x")
    assert code == 1
    assert "--data wyh=... is unknown to site.py; it takes why, lock_wait, format" in last
    code, last = site.run("site", "--data", "lock_wait=soon")
    assert code == 1
    assert "lock_wait=soon: a whole number is wanted" in last


def test_a_line_that_was_changed_or_taken_out_is_seen(tmp_path: Path) -> None:
    """The shell that writes, with a real shell; what reads finds every damage."""
    log = tmp_path / "audit.jsonl"
    for number in range(4):
        script = audit.shell("did it", number=number, text="it's 100 % \\n “ü”").replace(audit.FOLDER, str(tmp_path))
        subprocess.run(["sh", "-c", script], check=True)
    lines = log.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2, 3]
    assert json.loads(lines[2])["text"] == "it's 100 % \\n “ü”"
    assert log.stat().st_mode & 0o777 == 0o600
    assert audit.broken(lines) == []
    assert audit.broken([lines[0], lines[2], lines[3]]) == [2]
    assert audit.broken([lines[0], lines[1].replace("did", "dId"), *lines[2:]]) == [3]
    assert audit.broken([*lines[:3], "{}"]) == [4]
    assert audit.broken(["cut o"]) == [1]


def test_what_another_run_has_changed_meanwhile_is_read_again(tmp_path: Path) -> None:
    site = load(write(tmp_path))
    before = site.token("incoming_email")
    (tmp_path / "secrets" / "in_token").write_text(TOKENS["service_desk_email"].reveal() + "\n")
    assert site.token("incoming_email") == before, "within a run a secret is one"
    site.model_copy(update={"nodes": {}}).read_again()
    assert site.token("incoming_email") == TOKENS["service_desk_email"]
    site.path.write_text(site.path.read_text() + "# another one\n")
    with pytest.raises(RefusedError, match="was changed while this run waited"):
        site.read_again()
