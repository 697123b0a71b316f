"""Moving the reader, taking over from a dead one, rotating tokens: real pyinfra, real deploys, simulated nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roles.mailroom import record
from tests.unit.test_rollout_order import NODES, Site, site

__all__ = ["site"]

RAILS = ("app-1", "app-2")


def off(site: Site, name: str, off: bool = True) -> None:
    """Switch a node off, or on."""
    site.world.nodes[name]["off"] = off
    site.world.save()


def on_record(site: Site, name: str) -> dict[str, Any]:
    """The record of a node."""
    return dict(json.loads(site.world.nodes[name]["files"][record.PATH]))


def move(site: Site, *words: str) -> tuple[int, str]:
    """Run mailroom_move.py with these words."""
    return site.run("mailroom_move", *(part for word in words for part in ("--data", word)))


def rotate(site: Site) -> tuple[int, str]:
    """Run mailroom_rotate.py."""
    return site.run("mailroom_rotate")


def tokens(site: Site) -> dict[str, Any]:
    """The tokens of the Rails nodes, as hashes."""
    return {name: site.world.nodes[name]["tokens"] for name in RAILS}


def test_an_old_site_file_does_not_move_the_reader_back(site: Site) -> None:
    site.run()
    assert move(site, "to=app-2")[0] == 0
    code, last = site.run()
    assert code == 1
    assert "refused: the mail reader on record is app-2" in last
    assert "say reader: app-2" in last
    assert "mailroom_move.py --data to=app-1" in last
    assert site.readers == ["app-2"]
    site.declare(reader="app-2")
    code, last = site.run()
    assert (code, last) == (0, "pyinfra-gitlab: as declared: nothing to do on 3 GitLab nodes")
    assert {on_record(site, name)["reader"] for name in RAILS} == {"app-2"}


def test_the_site_file_is_changed_on_request_alone(site: Site) -> None:
    site.run()
    file = site.folder / "site.yml"
    before = file.read_text()
    code, last = move(site, "to=app-2", "edit=yes")
    assert code == 0
    assert last.endswith("says `reader: app-2` now")
    assert file.read_text() == before.replace("reader: app-1", "reader: app-2")
    assert site.run()[1].endswith("as declared: nothing to do on 3 GitLab nodes")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "--data to=...: name a node with Rails: app-1, app-2"),
        (("to=gitaly-1",), "name a node with Rails"),
        (("to=app-2", "fenced=app-9"), "fenced=app-9: there is no such GitLab node"),
        (("to=app-2", "fenced=app-2"), "cannot be both"),
        (("to=app-2", "fenced=app-1"), "it answers"),
        (("to=app-2", "edit=maybe"), "edit=... is yes or no"),
        (("too=app-2",), "too=... is unknown to mailroom_move.py"),
    ],
)
def test_words_that_make_no_sense_are_refused(site: Site, words: tuple[str, ...], why: str) -> None:
    site.run()
    code, last = move(site, *words)
    assert code == 1
    assert why in last
    assert site.readers == ["app-1"]
    assert {act for _, act in site.world.log} <= {"look"}


def test_a_new_reader_that_cannot_log_in_does_not_get_the_job(site: Site) -> None:
    site.run()
    site.world.nodes["app-2"]["mailbox"] = {"ok": False, "step": "login", "error": "no"}
    site.world.save()
    code, last = move(site, "to=app-2")
    assert code == 1
    assert "app-2: nothing was changed" in last
    assert site.readers == ["app-1"], "the old one reads on"
    assert not site.did("stop")


def test_a_planned_move_does_nothing_else_by_the_way(site: Site) -> None:
    site.run()
    file = site.folder / "site.yml"
    file.write_text(file.read_text().replace("idle_timeout: 10", "idle_timeout: 11") + "# changed\n")
    site.world.nodes["gitaly-1"]["files"]["/etc/gitlab/gitlab.rb"] = "# by hand"
    site.world.save()
    code, last = move(site, "to=app-2")
    assert code == 1
    assert "gitaly-1: not as the site file says. Run deploys/site.py first" in last
    assert site.readers == ["app-1"]


def test_a_move_that_was_cut_off_is_finished_by_the_same_command(site: Site) -> None:
    site.run()
    site.world.nodes["app-2"]["broken"] = ["gitlab-ctl reconfigure"]
    site.world.save()
    assert move(site, "to=app-2")[0] == 1
    assert site.readers == []
    site.world.nodes["app-2"]["broken"] = []
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert "on record is app-2" in last, "site.py does not go back in silence"
    assert move(site, "to=app-2")[0] == 0
    assert site.readers == ["app-2"]


def test_a_dead_reader_is_taken_over_from_only_by_word(site: Site) -> None:
    site.run()
    site.world.nodes["app-1"]["readers"] = []
    off(site, "app-1")
    code, last = move(site, "to=app-2")
    assert code == 1
    assert "app-1 could not be looked at" in last
    assert "--data fenced=app-1" in last
    assert site.readers == []
    code, last = move(site, "to=app-2", "fenced=app-1", "why=burnt")
    assert code == 0, last
    assert "app-1 is fenced and was not reached" in last
    assert site.readers == ["app-2"]
    (fence,) = on_record(site, "app-2")["fenced"].items()
    assert (fence[0], fence[1]["why"]) == ("app-1", "burnt")
    assert any(line.get("fenced") == ["app-1"] for line in site.world.nodes["app-2"]["audit"])

    site.declare(reader="app-2")
    code, last = site.run()
    assert code == 0, "the others are managed meanwhile"
    assert "app-1 is fenced" in last
    code, last = site.run("verify")
    assert code == 1, "and nobody forgets it"


def test_a_fenced_node_that_comes_back_is_stopped_first_and_then_forgotten(site: Site) -> None:
    site.run()
    site.world.nodes["app-1"]["readers"] = []
    off(site, "app-1")
    assert move(site, "to=app-2", "fenced=app-1")[0] == 0
    site.declare(reader="app-2")
    site.world.nodes["app-1"]["files"].pop(record.PATH)
    off(site, "app-1", off=False)
    code, last = site.run()
    assert code == 0, last
    assert "fenced" not in last
    assert site.readers == ["app-2"]
    for name in RAILS:
        assert on_record(site, name)["fenced"] == {}
    assert site.did("reconfigure, mail_room off", "app-1")
    assert site.run()[1].endswith("as declared: nothing to do on 3 GitLab nodes")


def test_a_rotation_gives_new_tokens_to_all_while_nobody_reads(site: Site) -> None:
    site.run()
    before = tokens(site)
    code, last = rotate(site)
    assert code == 0, last
    after = tokens(site)
    assert after["app-1"] == after["app-2"]
    assert set(after["app-1"].values()).isdisjoint(before["app-1"].values())
    (stop,) = site.did("stop", "app-1")
    (on,) = site.did("reconfigure, mail_room on", "app-1")
    assert stop < min(site.did("install")) < max(site.did("reconfigure, mail_room off")) < site.did("probe")[0] < on
    assert site.run()[1].endswith("as declared: nothing to do on 3 GitLab nodes")


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("finish", ["mailroom_rotate", "site"])
def test_a_rotation_that_was_cut_off_is_finished_with_its_own_tokens(site: Site, node: str, finish: str) -> None:
    site.run()
    before = tokens(site)
    site.world.nodes[node]["broken"] = ["gitlab-ctl reconfigure"]
    site.world.save()
    code, _ = rotate(site)
    if node == "gitaly-1":
        assert code == 0, "it has no token"
        return
    assert code == 1
    assert site.readers == [], "nobody reads with a token that one node would refuse"
    site.world.nodes[node]["broken"] = []
    site.world.save()
    other = next(name for name in RAILS if name != node)
    given = site.world.nodes[other]["tokens"]
    code, last = site.run(finish)
    assert code == 0, last
    assert site.readers == ["app-1"]
    assert tokens(site)["app-1"] == tokens(site)["app-2"] != before["app-1"]
    if node == "app-1":  # the reader comes last: the other one had it already
        assert tokens(site)["app-2"] == given


def test_a_rotation_that_was_cut_off_before_the_reader_was_on_is_finished(site: Site) -> None:
    site.run()
    site.world.nodes["app-1"]["mailbox"] = {"ok": False, "step": "login", "error": "no"}
    site.world.save()
    assert rotate(site)[0] == 1
    given = tokens(site)
    assert given["app-1"] == given["app-2"], "all have the new one, and nobody reads"
    site.world.nodes["app-1"].pop("mailbox")
    site.world.save()
    code, last = rotate(site)
    assert code == 0, last
    assert site.readers == ["app-1"]
    assert tokens(site) == given


def test_a_rotation_wants_a_site_that_is_as_declared(site: Site) -> None:
    code, last = rotate(site)
    assert code == 1
    assert "Run deploys/site.py first" in last
    assert not site.did("install")
