"""Each check passes as declared, fails alone when its thing is spoilt, and says a cure. And the tokens."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shlex
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from roles.gitlab import checks as gitlab
from roles.gitlab.render import GITLAB_RB, RUBY, config_file
from roles.mailroom import checks, tokens
from roles.mailroom.render import node_url
from roles.node.checks import Check, Verdict
from roles.node.facts import Answer, FileState
from roles.site.errors import StepError
from roles.site.secret import Secret
from tests.unit import sites

KINDS = ("incoming_email", "service_desk_email")
CLOCK = 1_000_000.0
WAY = "POST /api/v4/internal/mail_room/incoming_email"
OTHER = "ff" * 32


@pytest.fixture
def site(tmp_path):
    return sites.site(tmp_path)


def states(site, **spoilt):
    """All nodes as declared; `app_2="why"` or `app_2={"clock_offset": 1.0}` spoils one."""
    found = {name: sites.state(site, name) for name in site.nodes}
    for name, how in spoilt.items():
        name = name.replace("_", "-")
        found[name] = how if isinstance(how, str) else replace(found[name], **how)
    return found


def answered(site, name, key, text, rc=0):
    """The answers of a node with one of them replaced."""
    return {"answers": {**sites.state(site, name).answers, key: Answer(text, rc)}}


def wrong(found: list[Check], verdict: Verdict = Verdict.DIFFERS) -> list[tuple[str, str]]:
    """Where and what the failing checks are; all of them must have this verdict."""
    failing = [check for check in found if not check.ok]
    assert {check.verdict for check in failing} <= {verdict}
    assert all(check.cure and check.cure in check.sentence() for check in failing)
    assert not any(check.cure for check in found if check.ok)
    return [(check.node, check.subject) for check in failing]


def only(found: list[Check]) -> Check:
    (check,) = [check for check in found if not check.ok]
    return check


# --- tokens and clocks ---


def test_tokens(site):
    found = checks.tokens(site, states(site), sites.TOKENS)
    assert [(c.node, c.subject) for c in found] == [(n, f"{k} token") for k in KINDS for n in ("app-1", "app-2")]
    assert wrong(found) == []
    empty = hashlib.sha256(b"").hexdigest()
    for text, rc, told in ((OTHER, 0, "another token"), (empty, 0, "no token"), ("", 1, "no token")):
        spoilt = answered(site, "app-2", "mailroom.token.service_desk_email", text, rc)
        found = checks.tokens(site, states(site, app_2=spoilt), sites.TOKENS)
        assert wrong(found) == [("app-2", "service_desk_email token")]
        assert f"found {told}; must be the same on all Rails nodes. Run deploys/site.py" in only(found).sentence()
    found = checks.tokens(site, states(site, app_1="gone"), sites.TOKENS)
    assert wrong(found, Verdict.NOT_SEEN) == [("app-1", f"{kind} token") for kind in KINDS]


@pytest.mark.parametrize(
    ("offset", "error", "fails"),
    [(0, 0, False), (0.24, 0, False), (0.26, 0.02, False), (0.3, 0, True), (9, 1, True), (-239, 0, False),
     (-242, 1, True)],
)  # fmt: skip
def test_clocks(site, offset, error, fails):
    reader = {"clock_offset": 5.0 + offset, "clock_error": error}
    found = checks.clocks(site, states(site, app_1=reader, app_2={"clock_offset": 5.0, "clock_error": 0.0}))
    assert [(c.node, c.subject) for c in found] == [("app-2", "clock")], "the reader is not compared with itself"
    assert wrong(found) == ([("app-2", "clock")] if fails else [])
    if fails:
        assert f"reader {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'} (±{error:.1f})" in found[0].found
        assert "NTP" in found[0].cure
        assert "app-2 and app-1" in found[0].cure


@pytest.mark.parametrize("gone", ["app_1", "app_2"])
def test_a_clock_that_was_not_seen_is_no_pass(site, gone):
    assert wrong(checks.clocks(site, states(site, **{gone: "gone"})), Verdict.NOT_SEEN) == [("app-2", "clock")]


def test_a_clock_that_was_not_measured_is_no_pass(site):
    (check,) = checks.clocks(site, states(site, app_1={"clock_offset": 60.0, "clock_error": float("inf")}))
    assert not check.ok


# --- the probe ---


def probe_answer(site, routes=None, mailboxes=None):
    asked = json.loads(checks.probe_questions(site))
    good = {route["name"]: {"wrong": 401, "right": 200} for route in asked["routes"]}
    boxes = {kind: {"ok": True, "unseen": 3, "stuck": 0, "seen": 0} for kind in asked["mailboxes"]}
    return {"routes": good | (routes or {}), "mailboxes": boxes | (mailboxes or {})}


def test_what_the_probe_is_asked(tmp_path):
    url = "  config: whole\n  internal_api_url: http://lb:8080/gitlab\n"
    site = sites.site(tmp_path, sites.SITE.replace("  config: whole\n", url))
    asked = json.loads(checks.probe_questions(site))
    expected = []
    for kind in KINDS:
        path = f"/api/v4/internal/mail_room/{kind}"
        secret = f"/var/opt/gitlab/gitlab-rails/etc/gitlab_{kind}_secret"
        for name, base, connect in (
            ("app-1", "https://gitlab.example.com:443", "10.0.0.1"),
            ("app-2", "https://gitlab.example.com:443", "10.0.0.2"),
            ("mail_room's way", "http://lb:8080/gitlab", None),
        ):
            expected.append({"name": f"{name} {kind}", "url": base + path, "connect": connect, "secret_file": secret})
    assert asked["routes"] == expected
    assert asked["mailboxes"]["incoming_email"] == {
        "host": "mail.example.com", "port": 993, "ssl": True, "start_tls": False, "user": "in@example.com",
        "password": "password-of-in", "mailbox_name": "inbox", "stuck_after": 600,
    }  # fmt: skip
    assert asked["mailboxes"]["service_desk_email"]["password"] == "password-of-desk"
    assert shlex.split(checks.probe_command()) == [RUBY, "-e", checks.probe_program()]


@pytest.mark.parametrize(
    ("external", "node", "expected"),
    [
        ("https://g.example.com", "", "https://g.example.com:443"),
        ("http://g.example.com/", "", "http://g.example.com:80"),
        ("https://g.example.com:8443/git/lab", "", "https://g.example.com:8443/git/lab"),
        ("https://g.example.com", "settings: {nginx: {listen_port: 8080, listen_https: false}}", "http://g.example.com:8080"),
        ("https://g.example.com:8443", "settings: {nginx: {listen_https: false}}", "http://g.example.com:80"),
        ("http://g.example.com:81", "settings: {nginx: {listen_https: false}}", "http://g.example.com:81"),
        ("https://g.example.com", "url: http://app-2:8080/x/", "http://app-2:8080/x"),
        pytest.param(
            "https://[2001:db8::1]", "", "https://[2001:db8::1]:443",
        ),
    ],
)  # fmt: skip
def test_how_a_node_is_reached(tmp_path, external, node, expected):
    text = sites.SITE.replace("https://gitlab.example.com", external)
    site = sites.site(tmp_path, text.replace("10.0.0.2, roles: [application]", f"10.0.0.2, {node}"))
    assert node_url(site, "app-2") == (expected, None if "url:" in node else "10.0.0.2")


def test_the_probe_as_declared(site):
    found = checks.probed(site, probe_answer(site))
    assert wrong(found) == []
    assert len(found) == 3 * 2 + 2


ROUTES = [
    ({"error": "Errno::ECONNREFUSED: no"}, "Errno::ECONNREFUSED: no", "firewall"),
    ({"wrong": 200, "right": None}, "200 with a wrong token", "checks nothing"),
    ({"wrong": 500, "right": None}, "500 with a wrong token", "not base64 of 32 bytes"),
    ({"wrong": 404, "right": None}, "404 with a wrong token", "external_url, internal_api_url and nodes.url"),
    ({"wrong": 502, "right": None}, "502 with a wrong token", "`gitlab-ctl status`"),
    ({"wrong": 401, "right": 401}, "401, then 401", "restart puma"),
    ({"wrong": 401, "right": None}, "401, then None", "restart puma"),
]


@pytest.mark.parametrize(("got", "told", "cure"), ROUTES)
def test_a_route_that_does_not_work(site, got, told, cure):
    check = only(checks.probed(site, probe_answer(site, routes={"app-2 incoming_email": got})))
    assert (check.node, check.subject, check.verdict, check.found) == ("app-2", WAY, Verdict.DIFFERS, told)
    assert cure in check.sentence()
    check = only(checks.probed(site, probe_answer(site, routes={"mail_room's way incoming_email": got})))
    assert (check.node, check.subject, check.found) == ("app-1", f"{WAY} on mail_room's own way", told)


@pytest.mark.parametrize(
    ("step", "cure"), [("connect", "host, port, ssl"), ("login", "user and password"), ("folder", "mailbox_name")]
)
def test_a_mailbox_that_does_not_work(site, step, cure):
    got = {"ok": False, "step": step, "error": "Net::IMAP::NoResponseError: no"}
    check = only(checks.probed(site, probe_answer(site, mailboxes={"service_desk_email": got})))
    assert (check.node, check.subject, check.verdict) == ("app-1", "service_desk_email mailbox", Verdict.DIFFERS)
    assert check.found == f"{step} failed: Net::IMAP::NoResponseError: no"
    assert check.declared == "desk@example.com at mail.example.com:993, folder inbox"
    assert cure in check.sentence()
    assert "mail.service_desk_email" in check.cure


def test_a_probe_that_could_not_be_run_is_no_pass(site):
    (check,) = checks.probed(site, "the connection broke")
    assert (check.node, check.verdict, check.found) == ("app-1", Verdict.NOT_SEEN, "the connection broke")


# --- who reads, and how it goes ---


@pytest.mark.parametrize(
    ("name", "pids", "ok", "found"),
    [
        ("app-1", "4711", True, "1 (process 4711)"),
        ("app-1", "", False, "0"),
        ("app-1", "1\n2", False, "2 (process 1, 2)"),
        ("app-2", "", True, "0"),
        ("app-2", "99", False, "1 (process 99)"),
        ("gitaly-1", "99", False, "1 (process 99)"),
    ],
)
def test_readers(site, name, pids, ok, found):
    check = checks.readers(site, name, sites.state(site, name, mailroom__readers=pids))
    assert (check.node, check.subject, check.found) == (name, "mail_room processes", found)
    assert check.declared == ("1 (the reader)" if name == "app-1" else "0")
    assert wrong([check]) == ([] if ok else [(name, "mail_room processes")])
    assert checks.readers(site, name, "gone").verdict is Verdict.NOT_SEEN


def log_line(age: float, **more) -> str:
    return json.dumps({"time": datetime.fromtimestamp(CLOCK - age, UTC).isoformat(), **more})


@pytest.mark.parametrize(
    ("polled", "pushed", "fails", "told"),
    [
        (log_line(179), log_line(5, status_code=200), None, ""),
        (log_line(181), "", "last poll", "181 s ago"),
        ("", "", "last poll", "never"),
        ("no JSON", "", "last poll", "never"),
        (log_line(1), log_line(0, status_code=401), "last push", "401 at 1970-01-12 13:46:40"),
        (log_line(1), log_line(0, status_code="502"), "last push", "502 at 1970-01-12 13:46:40"),
    ],
)
def test_reading(site, polled, pushed, fails, told):
    state = sites.state(site, "app-1", mailroom__polled=polled, mailroom__pushed=pushed)
    found = checks.reading(site, state, probe_answer(site))
    assert [c.subject for c in found] == ["last poll", "last push", *(f"{kind} stuck mails" for kind in KINDS)]
    assert wrong(found) == ([("app-1", fails)] if fails else [])
    if fails:
        assert only(found).found == told
        cure = {"last poll": "gitlab-ctl tail mailroom", "last push": "look for it in the mailbox"}[fails]
        assert cure in only(found).sentence()


def test_stuck_mails(site):
    state = sites.state(site, "app-1", mailroom__polled=log_line(1))
    stuck = {"ok": True, "unseen": 7, "stuck": 2, "seen": 0}
    check = only(checks.reading(site, state, probe_answer(site, mailboxes={"incoming_email": stuck})))
    assert (check.subject, check.verdict) == ("incoming_email stuck mails", Verdict.DIFFERS)
    assert "found 2 (7 unread); must be none older than 10 min. Nobody takes them" in check.sentence()
    closed = {"ok": False, "step": "login", "error": "no"}
    found = checks.reading(site, state, probe_answer(site, mailboxes={"incoming_email": closed}))
    assert wrong(found, Verdict.NOT_SEEN) == [("app-1", "incoming_email stuck mails")]
    assert checks.reading(site, "gone", "gone") == [], "the other checks say that the node was not seen"


# --- GitLab ---


def configuration(site, state):
    return gitlab.configuration(site, "app-1", state, config_file(site, "app-1", True, sites.TOKENS))


@pytest.mark.parametrize(
    ("spoilt", "subject", "told"),
    [
        ({"gitlab__version": "gitlab-ee 18.11.1"}, "GitLab version", "found 18.11.1; must be 18.11.11. Set"),
        ({"gitlab__version": ""}, "GitLab version", "found not installed"),
        ({"gitlab__reconfigured": ""}, "gitlab-ctl reconfigure", "found not done; must be after the last change. Run"),
        ({"mode": 0o644}, GITLAB_RB, "(mode 0644 -> 0600)"),
        ({"owner": "git"}, GITLAB_RB, "(owner git:root -> root:root)"),
        ({"sha256": "0"}, GITLAB_RB, "(content); must be as the site file says. Run deploys/site.py. `--dry --diff`"),
        ({"kind": "absent"}, GITLAB_RB, f"found create {GITLAB_RB}"),
    ],
)  # fmt: skip
def test_configuration(site, spoilt, subject, told):
    answers = {key: value for key, value in spoilt.items() if "__" in key}
    state = sites.state(site, "app-1", **answers)
    assert wrong(configuration(site, sites.state(site, "app-1"))) == []
    file = replace(state.files[GITLAB_RB], **{key: value for key, value in spoilt.items() if "__" not in key})
    found = configuration(site, replace(state, files={GITLAB_RB: FileState("absent") if file.absent else file}))
    assert wrong(found) == [("app-1", subject)]
    assert told in only(found).sentence()
    assert "password-of" not in only(found).sentence()


def test_a_node_that_could_not_be_read_is_no_pass(site):
    (check,) = configuration(site, "no route to host")
    assert check.verdict is Verdict.NOT_SEEN
    assert "no route to host. Bring it back" in check.sentence()


def test_the_include_line(tmp_path):
    site = sites.site(tmp_path, sites.SITE.replace("config: whole", "config: include"))
    good = {"error": None, "included": True, "conflicts": [], "lines": 1, "as_declared": True}
    conflict = {"file": "/etc/x.rb", "line": 7, "key": "mailroom['enable']"}
    for more, told in (
        ({}, None),
        ({"lines": 2, "as_declared": False}, "found 2 lines; must be 1 line. Run deploys/site.py."),
        ({"error": "it cannot be evaluated"}, "found it cannot be evaluated"),
        ({"conflicts": [conflict]}, "found /etc/x.rb:7 sets mailroom['enable'] after the line"),
    ):
        found = configuration(site, sites.state(site, "app-1", gitlab__include=json.dumps(good | more)))
        assert wrong(found) == ([("app-1", f"from_file line in {GITLAB_RB}")] if told else [])
        assert told is None or told in only(found).sentence()


# --- tokens: which, and kept how ---


def fetch(node: str, kind: str) -> Secret:
    return Secret(f"{kind} of {node}")


def no_fetch(node: str, kind: str) -> Secret:
    raise AssertionError(f"{kind} was fetched from {node}")


def test_declared_tokens_win(site):
    spoilt = answered(site, "app-1", "mailroom.token.incoming_email", OTHER)
    decided = tokens.decide(site, states(site, app_1=spoilt), no_fetch)
    assert decided == tokens.Tokens(sites.TOKENS, {}, {})


@pytest.mark.parametrize(
    ("reading", "having", "expected"),
    [
        ({"app-1"}, {"app-1", "app-2"}, "app-1"),
        ({"app-2"}, {"app-1", "app-2"}, "app-2"),
        (set(), {"app-1", "app-2"}, "app-1"),
        ({"app-1", "app-2"}, {"app-1", "app-2"}, "app-1"),
        ({"app-1"}, {"app-2"}, "app-2"),
        ({"gitaly-1"}, {"app-2", "gitaly-1"}, "app-2"),
    ],
)
def test_the_token_of_the_reading_node_is_adopted(tmp_path, reading, having, expected):
    site = sites.site(tmp_path, tokens=False)
    found = {}
    for name in site.nodes:
        hashes = {f"mailroom__token__{kind}": hashlib.sha256(name.encode()).hexdigest() for kind in KINDS}
        none = dict.fromkeys(hashes, "")
        found[name] = sites.state(site, name, reading=name in reading, **(hashes if name in having else none))
    decided = tokens.decide(site, found, fetch)
    assert {kind: token.reveal() for kind, token in decided.values.items()} == {k: f"{k} of {expected}" for k in KINDS}
    assert decided.origin == dict.fromkeys(KINDS, f"adopted from {expected}")
    assert decided.keep == {"incoming_email": tmp_path / "secrets/in_token", KINDS[1]: tmp_path / "secrets/desk_token"}


def test_a_token_is_made_where_none_is(tmp_path):
    site = sites.site(tmp_path, tokens=False)
    empty = {f"mailroom__token__{kind}": hashlib.sha256(b"").hexdigest() for kind in KINDS}
    found = {"app-1": sites.state(site, "app-1", **empty), "app-2": "gone", "gitaly-1": sites.state(site, "gitaly-1")}
    decided = tokens.decide(site, found, no_fetch)
    assert decided.origin == dict.fromkeys(KINDS, "newly made")
    values = [decided.values[kind].reveal() for kind in KINDS]
    assert [len(base64.b64decode(value, validate=True)) for value in values] == [32, 32]
    assert values[0] != values[1]
    assert decided.values[KINDS[0]] != tokens.decide(site, found, no_fetch).values[KINDS[0]]
    tokens.keep(decided)
    again = tokens.decide(sites.site(tmp_path, tokens=False), found, no_fetch)
    assert again == tokens.Tokens(decided.values, {}, {}), "the next run finds what was kept"


def to_keep(path) -> tokens.Tokens:
    return tokens.Tokens(sites.TOKENS, {"incoming_email": "newly made"}, {"incoming_email": path})


def test_a_token_is_kept_privately(tmp_path):
    path = tmp_path / "new" / "folder" / "token"
    before = os.umask(0)
    try:
        tokens.keep(to_keep(path))
    finally:
        os.umask(before)
    assert path.read_text() == sites.TOKENS["incoming_email"].reveal() + "\n"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert os.listdir(path.parent) == ["token"]


def test_a_token_that_is_there_meanwhile_is_not_replaced(tmp_path):
    (tmp_path / "token").write_text("of another run")
    with pytest.raises(StepError, match="token exists by now: another run") as caught:
        tokens.keep(to_keep(tmp_path / "token"))
    assert sites.TOKENS["incoming_email"].reveal() not in str(caught.value)
    assert (tmp_path / "token").read_text() == "of another run"
    assert os.listdir(tmp_path) == ["token"]


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, call):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StepError, match=r"could not be kept in .*/token: No space left on device\."):
        tokens.keep(to_keep(tmp_path / "token"))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["a file where the folder belongs", "a link to nowhere"])
def test_what_is_in_the_way_is_named(tmp_path, way):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    path = tmp_path / "file" / "token" if way.startswith("a file") else tmp_path / "link"
    assert not path.exists()
    with pytest.raises(StepError) as caught:
        tokens.keep(to_keep(path))
    assert "another run" not in str(caught.value)
