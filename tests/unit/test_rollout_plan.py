"""The plan for a whole site: what is done where, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.gitlab.render import config_file
from roles.node.facts import FileState
from roles.rollout.plan import plan
from tests.unit import sites


@pytest.fixture
def site(tmp_path):
    return sites.site(tmp_path)


def make(site, states=None, limit=None):
    found = {name: sites.state(site, name) for name in site.nodes} | (states or {})
    files = {name: config_file(site, name, name == site.mail.reader, sites.TOKENS) for name in site.nodes}
    return plan(site, found, files, sites.TOKENS, set(site.nodes) if limit is None else set(limit))


def drifted(site, name, **more):
    state = sites.state(site, name, **more)
    return replace(state, files={path: FileState("absent") for path in state.files})


def test_a_site_as_declared_has_no_work(site):
    made = make(site)
    assert not made.work
    assert made.summary() == {}


def test_a_second_reader_is_stopped_and_the_first_goes_on(site):
    made = make(site, {"app-2": sites.state(site, "app-2", reading=True)})
    assert set(made.stop) == {"app-2"}
    assert not made.start


def test_nobody_reads_while_a_rails_node_changes(site):
    made = make(site, {"app-2": drifted(site, "app-2")})
    assert set(made.stop) == {"app-1"}
    assert made.start
    assert made.first("app-2")
    assert not made.first("app-1")


def test_the_reader_goes_on_while_a_node_without_rails_changes(site):
    made = make(site, {"gitaly-1": drifted(site, "gitaly-1")})
    assert made.work
    assert not made.stop
    assert not made.start


def test_another_token_on_one_node_holds_the_reader_and_reconfigures_that_node(site):
    made = make(site, {"app-2": sites.state(site, "app-2", mailroom__token__incoming_email="00ff")})
    assert made.nodes["app-2"].reconfigure
    assert not made.nodes["app-2"].changes
    assert set(made.stop) == {"app-1"}
    assert made.start


def test_an_unfinished_reconfigure_is_finished(site):
    made = make(site, {"app-2": sites.state(site, "app-2", gitlab__reconfigured="")})
    assert made.nodes["app-2"].reconfigure
    assert made.start


def test_a_reader_that_does_not_run_is_started_without_reconfigure(site):
    made = make(site, {"app-1": sites.state(site, "app-1", reading=False)})
    assert made.start
    assert not made.nodes["app-1"].converge


@pytest.mark.parametrize(
    ("said", "stopped"),
    [
        ("down: /opt/gitlab/service/mailroom: 1s, normally up, want up; run: log: (pid 7) 90s", True),
        ("run: /opt/gitlab/service/mailroom: (pid 4711) 0s; run: log: (pid 7) 90s", True),
        ("finish: /opt/gitlab/service/mailroom: (pid 4712) 0s; run: log: (pid 7) 90s", True),
        ("run: /opt/gitlab/service/mailroom: (pid 4711) 5s, want down, got TERM; run: log: (pid 7) 90s", False),
        ("down: /opt/gitlab/service/mailroom: 60s, normally up; run: log: (pid 7) 90s", False),
        ("fail: /opt/gitlab/service/mailroom: runsv not running", False),
        ("", False),
    ],
)
def test_a_mail_room_that_just_died_is_kept_down_before_the_checks(site, said, stopped):
    """It has no process now, and runit would start it again while the others are being looked at."""
    for name in ("app-1", "app-2"):
        made = make(site, {name: sites.state(site, name, reading=False, mailroom__service=said)})
        assert (name in made.stop) == stopped


def test_two_mail_rooms_on_the_reader_are_stopped_and_one_started(site):
    made = make(site, {"app-1": sites.state(site, "app-1", mailroom__readers="1\n2")})
    assert set(made.stop) == {"app-1"}
    assert made.start


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (
            {"app-2": "connection refused"},
            "app-2 could not be looked at (connection refused). It might be",
        ),
        ({"gitlab__version": ""}, "the GitLab package is not installed"),
        ({"gitlab__version": "gitlab-ee 18.10.0"}, "GitLab 18.10.0 is installed, the site file says 18.11.11"),
    ],
)
def test_refusals(site, spoilt, told):
    states = spoilt if "app-2" in spoilt else {"app-2": sites.state(site, "app-2", **spoilt)}
    assert any(told in reason for reason in make(site, states).refused)


def test_a_full_disk_is_refused_before_anything_is_written(site):
    state = drifted(site, "app-2", gitlab__free_kib="2000")
    assert any("only 1 MiB are free" in reason for reason in make(site, {"app-2": state}).refused)


def test_limit_cannot_start_a_second_reader(site):
    stray = {"app-2": sites.state(site, "app-2", reading=True), "app-1": sites.state(site, "app-1", reading=False)}
    made = make(site, stray, limit=["app-1"])
    assert any("--limit" in reason for reason in made.refused)


def test_limit_to_another_node_does_not_start_the_reader(site):
    made = make(site, {"app-1": sites.state(site, "app-1", reading=False)}, limit=["app-2"])
    assert not made.start


BOOLS = st.booleans()


@given(
    running=st.tuples(BOOLS, BOOLS, BOOLS), changed=st.tuples(BOOLS, BOOLS, BOOLS), limit=st.tuples(BOOLS, BOOLS, BOOLS)
)
def test_never_two_readers_whatever_is_found(tmp_path_factory, running, changed, limit):
    """After the steps of any plan that is not refused, at most the declared reader runs."""
    site = sites.site(tmp_path_factory.mktemp("site"))
    names = list(site.nodes)
    states = {
        name: drifted(site, name, reading=run) if change else sites.state(site, name, reading=run)
        for name, run, change in zip(names, running, changed, strict=True)
    }
    inside = {name for name, chosen in zip(names, limit, strict=True) if chosen}
    made = make(site, states, limit=inside)
    if made.refused:
        return
    after = {name for name, run in zip(names, running, strict=True) if run and name not in made.stop}
    assert made.stop.keys() <= inside or not made.stop
    if made.start:
        assert after <= {"app-1"}, "the reader would be started beside another one"
        assert not changed[0] or "app-1" not in after, "the reader would go on while it changes"
        after.add("app-1")
    others = after - {"app-1"}
    assert not (others & inside), "a stray reader would be left running on a node of this run"
