"""Upgrades of GitLab: which version may follow which, in which order, what speaks against it. Simulated nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.gitlab.path import between, following, number, refusals, stop
from roles.gitlab.upgrade import ROOM, judge
from roles.rollout.stages import upgrade_stages
from tests.unit import sites, test_rollout_order

MINORS = st.tuples(st.integers(15, 20), st.integers(0, 11))
VERSIONS = st.tuples(st.integers(15, 20), st.integers(0, 11), st.integers(0, 20))


def text(version: tuple[int, ...]) -> str:
    """As people write it."""
    return ".".join(map(str, version))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("18.10.5", "18.10.9", ""),
        ("18.11.8", "19.0.3", "go to 18.11.9 or a later 18.11 first"),
        ("18.10.0", "19.0.3", "go to 18.11.9 or a later 18.11 first"),
        ("18.10.5", "18.11.11", ""),
        ("18.11.11", "19.0.3", ""),
        (
            "18.9.1",
            "18.11.11",
            "more than one minor release, and nodes of both would work on one database. Go to 18.10",
        ),
        ("18.7.1", "18.9.0", "leaves out 18.8, which is a required stop"),
        ("18.11.11", "19.3.0", "leaves out 19.2, which is a required stop"),
        ("17.2.0", "17.4.0", "leaves out 17.3, which is a required stop"),
        ("16.11.0", "17.2.0", "Go to 17.0 first; or say --data downtime=yes"),
        ("15.11.13", "16.0.10", ""),
    ],
)
def test_the_path(old: str, new: str, told: str) -> None:
    found = refusals(old, new, downtime=False)
    assert bool(found) == bool(told)
    assert told in "".join(found)


@given(VERSIONS, VERSIONS)
def test_no_stop_is_ever_left_out(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    if old > new:
        old, new = new, old
    skipped = list(between(old, new))
    assert all(old[:2] < minor < new[:2] for minor in skipped)
    stops = [minor for minor in skipped if stop(minor)]
    unsafe = old < (18, 11, 9) and new >= (19,)
    assert bool(refusals(text(old), text(new), downtime=True)) == bool(stops or unsafe)
    assert bool(refusals(text(old), text(new), downtime=False)) == bool(skipped or unsafe)


@given(MINORS)
def test_the_next_minor_release(minor: tuple[int, int]) -> None:
    assert following(minor) > minor
    assert list(between(minor, following(minor))) == []
    assert number(text(minor)) == minor


def answer(**other: object) -> dict[str, object]:
    """A node against which nothing speaks."""
    fine = {"check": {"rc": 0, "said": []}, "node": True, "mattermost": {"used": False, "left": False}, "free": ROOM}
    return {**fine, "migrations": {"left": []}, **other}


@pytest.mark.parametrize(
    ("new", "other", "told"),
    [
        ("19.0.1", {}, ""),
        ("19.3.0", {"mattermost": {"used": False, "left": True}}, ""),
        ("19.2.5", {"mattermost": {"used": False, "left": True}}, ""),
        ("18.11.11", {"mattermost": {"used": True, "left": True}}, ""),
        ("19.3.0", {"mattermost": {"used": True, "left": True}}, "19.0 has none"),
        ("19.2.4", {"mattermost": {"used": False, "left": True}}, "takes for one in use"),
        ("18.11.11", {"node": False}, "left nothing for check-config to read"),
        ("18.11.11", {"check": {"rc": 1, "said": ["* x was removed", "Please correct"]}}, "* x was removed | Please"),
        ("18.11.11", {"migrations": {"left": ["A on b", "C on d"]}}, "2 background migrations are not through"),
        ("18.11.11", {"migrations": {"error": "no database"}}, "could not be asked for background migrations"),
        ("18.11.11", {"free": 1024 * 1024}, "only 1024 MiB are free for the package"),
    ],
)
def test_what_speaks_against_it(new: str, other: dict[str, object], told: str) -> None:
    found = judge(new, answer(**other))
    assert bool(found) == bool(told)
    assert told in "".join(found)


MANY = """\
nodes:
  app-1: {address: 10.0.0.1, roles: [application]}
  app-2: {address: 10.0.0.2, roles: [application]}
  app-3: {address: 10.0.0.3, roles: [application]}
  app-4: {address: 10.0.0.4, roles: [application]}
  side-1: {address: 10.0.0.5, roles: [sidekiq]}
  gitaly-1: {address: 10.0.0.6, roles: [gitaly]}
  gitaly-2: {address: 10.0.0.7, roles: [gitaly]}
  redis-1: {address: 10.0.0.8, roles: [redis_master]}
  consul-1: {address: 10.0.0.9, roles: [consul]}
  watch-1: {address: 10.0.0.10, roles: [monitoring]}
"""


@pytest.mark.parametrize(
    ("reader", "rollout", "batches"),
    [
        ("app-2", "", [["app-1"], ["app-3"], ["app-4"], ["side-1"], ["app-2"]]),
        ("app-2", "rollout: {canary: app-4, batches: [2]}\n", [["app-4"], ["app-1", "app-3"], ["side-1"], ["app-2"]]),
        ("app-1", "rollout: {batches: [2]}\n", [["app-1"], ["app-2", "app-3"], ["app-4"], ["side-1"]]),
    ],
)
def test_the_order_is_that_of_gitlab(tmp_path: Path, reader: str, rollout: str, batches: list[list[str]]) -> None:
    declared = sites.SITE
    start, end = declared.index("nodes:\n"), declared.index("gitlab:\n")
    declared = declared[:start] + MANY + rollout + declared[end:]
    site = sites.site(tmp_path, declared.replace("reader: app-1", f"reader: {reader}"))
    base = [["consul-1"], ["redis-1"], ["gitaly-1"], ["gitaly-2"], ["watch-1"]]
    assert upgrade_stages(site) == base + batches


class Site(test_rollout_order.Site):
    """Three simulated nodes with the version before."""

    def say(self, version: str) -> None:
        """Write the site file with this version."""
        self.declare()
        file = self.folder / "site.yml"
        file.write_text(file.read_text().replace("version: 18.11.11", f"version: {version}"))

    @property
    def versions(self) -> list[str]:
        """What is installed."""
        return [self.world.nodes[name]["version"] for name in test_rollout_order.NODES]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Configured, with 18.10.5."""
    made = Site(tmp_path)
    for node in made.world.nodes.values():
        node["version"] = "18.10.5"
    made.world.save()
    made.say("18.10.5")
    code, last = made.run()
    assert code == 0, last
    return made


def test_order_of_an_upgrade(site: Site) -> None:
    site.say("18.11.11")
    code, last = site.run("gitlab_upgrade")
    assert code == 0, last
    assert site.versions == ["18.11.11"] * 3
    first = {name: site.did("package", name)[0] for name in test_rollout_order.NODES}
    assert max(site.did("fetch")) < min(site.did("stop")) < min(first.values()), "fetched everywhere, and nobody reads"
    assert first["gitaly-1"] < first["app-1"] < first["app-2"]
    assert site.did("upgrade reconfigure", "app-1")[0] < first["app-2"]
    (post,) = site.did("post-deployment migrations")
    assert max(first.values()) < post < site.did("start", "app-1")[-1]
    assert site.readers == ["app-1"]
    assert site.run("gitlab_upgrade")[1].endswith("nothing to do on 3 GitLab nodes")
    assert site.run()[1].endswith("nothing to do on 3 GitLab nodes")


@pytest.mark.parametrize(
    ("broken", "versions", "phase", "back"),
    [
        ("apt-get install PACKAGE of gitaly-1", ["18.10.5"] * 3, "begun", True),
        ("apt-get install PACKAGE of app-1", ["18.10.5", "18.10.5", "18.11.11"], "begun", True),
        ("gitlab-ctl reconfigure of app-1", ["18.11.11", "18.10.5", "18.11.11"], "migrating", False),
        ("gitlab-ctl reconfigure of app-2", ["18.11.11"] * 3, "migrated", False),
        ("db:migrate of app-1", ["18.11.11"] * 3, "migrated", False),
    ],
)
def test_cut_off_anywhere(site: Site, broken: str, versions: list[str], phase: str, back: bool) -> None:
    what, _, name = broken.replace("PACKAGE", "gitlab-ee").rpartition(" of ")
    what = " install gitlab-ee=" if "apt-get" in what else what
    site.world.nodes[name]["broken"] = [what]
    site.world.save()
    site.say("18.11.11")
    assert site.run("gitlab_upgrade")[0] == 1
    assert site.versions == versions
    assert site.readers == [], "mail waits"
    assert site.world.nodes["app-1"]["upgrade"]["phase"] == phase
    code, last = site.run()
    assert code == 1
    assert "has not come to its end" in last or "deploys/gitlab_upgrade.py" in last
    site.world.nodes[name]["broken"] = []
    site.world.save()
    site.say("18.10.5")
    code, last = site.run("gitlab_upgrade")
    if back:
        assert code == 0, last
        assert site.versions == ["18.10.5"] * 3
        assert site.did("post-deployment migrations") == []
    else:
        assert code == 1
        assert "the database has been migrated for 18.11.11" in last
        site.say("18.11.11")
        code, last = site.run("gitlab_upgrade")
        assert code == 0, last
        assert site.versions == ["18.11.11"] * 3
        assert len(site.did("post-deployment migrations")) == 1
    assert site.readers == ["app-1"]
    assert site.run()[1].endswith("nothing to do on 3 GitLab nodes")


def test_with_downtime_minor_releases_may_be_left_out(site: Site) -> None:
    for node in site.world.nodes.values():
        node["version"] = "18.9.0"
    site.world.save()
    site.say("18.11.11")
    code, last = site.run("gitlab_upgrade")
    assert code == 1
    assert "--data downtime=yes" in last
    assert site.did("fetch") == []
    code, last = site.run("gitlab_upgrade", "--data", "downtime=yes")
    assert code == 0, last
    assert len(site.did("stop serving")) == 2
    assert max(site.did("stop serving")) < min(site.did("package"))


def test_on_the_way_back_what_was_stopped_serves_again(site: Site) -> None:
    for node in site.world.nodes.values():
        node["version"] = "18.9.0"
    site.world.nodes["app-1"]["broken"] = [" install gitlab-ee="]
    site.world.save()
    site.say("18.11.11")
    assert site.run("gitlab_upgrade", "--data", "downtime=yes")[0] == 1
    assert site.versions == ["18.9.0", "18.9.0", "18.11.11"]
    site.say("18.9.0")
    code, last = site.run("gitlab_upgrade")
    assert code == 0, last
    assert len(site.did("serve")) == 2
    assert site.versions == ["18.9.0"] * 3


def test_a_bare_node_is_not_upgraded(site: Site) -> None:
    site.world.nodes["app-2"]["version"] = ""
    site.world.save()
    site.say("18.11.11")
    code, last = site.run("gitlab_upgrade")
    assert code == 1
    assert "app-2: GitLab is not installed. deploys/site.py first" in last


def test_an_upgrade_is_not_bent_while_it_goes_on(site: Site) -> None:
    site.world.nodes["app-2"]["broken"] = ["gitlab-ctl reconfigure"]
    site.world.save()
    site.say("18.11.11")
    assert site.run("gitlab_upgrade")[0] == 1
    site.say("18.11.12")
    assert "has not come to its end. Say gitlab.version: 18.11.11" in site.run("gitlab_upgrade")[1]
    site.say("18.11.11")
    file = site.folder / "site.yml"
    file.write_text(file.read_text().replace("gitlab:\n", "rollout: {canary: app-2}\ngitlab:\n", 1))
    assert "Say rollout.canary: app-1 until this is done" in site.run("gitlab_upgrade")[1]
