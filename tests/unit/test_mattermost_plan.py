"""As declared there is nothing to do; each deviation leads to exactly its steps; what is dangerous is refused."""

from __future__ import annotations

from dataclasses import fields

import pytest

from roles.mattermost import facts, release, render
from roles.mattermost.plan import MIN_FREE_KIB, Database, MattermostPlan, minimum_postgresql, plan
from roles.node.facts import FileState, NodeState
from roles.proxy import render as proxy
from tests.unit import chat_sites
from tests.unit.chat_sites import ADMIN, MAIL, SECRETS, SHA256, SIGN_ON, SITE, changed

NOW, OLD, NEW = "/opt/mattermost-10.11.8", "/opt/mattermost-10.5.1", "/opt/mattermost-11.0.0"
OTHER = "cd" * 32
ACME = changed(("    certificate: chat.pem\n    key: !file secrets/key", "    acme: {}"), more=ADMIN)
DIRECTORY = "https://acme-v02.api.letsencrypt.org/directory"


@pytest.fixture
def site(tmp_path):
    return chat_sites.site(
        tmp_path, changed(("    host: db", "    ca: ca.pem\n    host: db"), more=SIGN_ON + ADMIN + MAIL)
    )


def decide(site, state: NodeState, database=Database(major=15), application="", sign_on="") -> MattermostPlan:  # noqa: B008
    declared = chat_sites.wanted(site)
    files, nginx = chat_sites.files(site), chat_sites.proxy_files(site)
    return plan(declared, state, files, nginx, declared.release.sum(site.dir), database, application, sign_on)


def steps(made: MattermostPlan) -> dict:
    """What of a plan is not empty, but for file changes: of them the paths."""
    got = {field.name: getattr(made, field.name) for field in fields(made) if getattr(made, field.name)}
    for name in ("changes", "site"):
        if name in got:
            got[name] = [change.file.path for change in got[name]]
    return got


def fresh(site, **more) -> NodeState:
    """A node on which nothing is yet."""
    answers = {
        "mattermost.absent": "nginx\npsql\ncurl", "mattermost.account": "", "mattermost.folders": "",
        "mattermost.releases": "", "mattermost.current": "", "mattermost.service": "MainPID=0\nActiveState=inactive",
        "mattermost.started": "", "mattermost.admin": "000", "proxy.loaded": "", "proxy.active": "inactive", **more,
    }  # fmt: skip
    found = chat_sites.state(site, **answers)
    return NodeState(found.clock, files=dict.fromkeys(found.files, FileState("absent")), answers=found.answers)


def test_as_declared_there_is_nothing_to_do(site):
    made = decide(site, chat_sites.state(site))
    assert steps(made) == {}
    assert not made.work
    assert made.summary() == []


def test_a_fresh_node(site):
    todo = ("create role mmuser", "create database mattermost, owned by mmuser, in UTF8")
    made = decide(site, fresh(site), Database(todo), "there are no credentials yet")
    assert steps(made) == {
        "packages": ("nginx", "postgresql-client", "curl"),
        "prepare": ("make the account mattermost",
                    *(f"make {path}" for path in facts.folders(chat_sites.wanted(site)))),
        "bring": True, "switch": True, "database": todo, "application": "there are no credentials yet",
        "changes": [render.ENVIRONMENT, render.UNIT, render.CA], "start": True,
        "site": [proxy.CONFIG, proxy.CERTIFICATE, proxy.KEY], "load": True, "admin": True,
    }  # fmt: skip
    lines = made.summary()
    assert lines[0] == "install nginx, postgresql-client, curl"
    order = ["bring the release", "PostgreSQL: create role mmuser", f"create {render.ENVIRONMENT} (root:root 0600)",
             "start Mattermost", f"create {proxy.CONFIG} (root:root 0644)", "make nginx read its files",
             "make the first administrator"]  # fmt: skip
    assert [line for line in lines if line in order] == order
    assert "UPGRADE" not in "\n".join(lines)
    assert any(line.startswith("use the release; the database is migrated") for line in lines)


RESTART = {"start": True}
DEVIATIONS = {
    # name: (answers to replace, exactly these steps)
    "a package is absent": ({"mattermost__absent": "psql"}, {"packages": ("postgresql-client",)}),
    "an unknown program": ({"mattermost__absent": "vim"}, {}),
    "no account": ({"mattermost__account": ""}, {"prepare": ("make the account mattermost",)}),
    "only the group": ({"mattermost__account": "812"}, {"prepare": ("make the account mattermost",)}),
    "only the user": ({"mattermost__account": "812:812"}, {"prepare": ("make the account mattermost",)}),
    "no administrator": ({"mattermost__admin": "404"}, {"admin": True}),
    "the release is not there": (
        {"mattermost__releases": "", "mattermost__current": ""}, {"bring": True, "switch": True, "start": True},
    ),
    "the release was removed below its link": ({"mattermost__releases": ""}, {"bring": True, "start": True}),
    "another edition of the same version": ({"mattermost__releases": f"{NOW} {OTHER}"}, {"bring": True, "start": True}),
    "an older one is in use": (
        {"mattermost__releases": f"{OLD} {OTHER}", "mattermost__current": OLD},
        {"bring": True, "switch": True, "start": True, "upgrade_from": "10.5.1"},
    ),
    "an older one is in use, ours is there": (
        {"mattermost__releases": f"{OLD} {OTHER}\n{NOW} {SHA256}", "mattermost__current": OLD},
        {"switch": True, "start": True, "upgrade_from": "10.5.1"},
    ),
    "no link": ({"mattermost__current": ""}, {"switch": True, "start": True}),
    "it does not run": (
        {"mattermost__service": "ActiveState=inactive\nUnitFileState=enabled\nNeedDaemonReload=no"}, RESTART,
    ),
    "it is starting for ever": ({"mattermost__service": "ActiveState=activating\nUnitFileState=enabled"}, RESTART),
    "it failed": ({"mattermost__service": "ActiveState=failed\nUnitFileState=enabled"}, RESTART),
    "it is not enabled": ({"mattermost__service": "ActiveState=active\nUnitFileState=disabled"}, RESTART),
    "systemd has not read it": (
        {"mattermost__service": "ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes"}, RESTART,
    ),
    "it was started before the last change": ({"mattermost__started": ""}, RESTART),
    "nginx has not read its files": ({"proxy__loaded": ""}, {"load": True}),
    "nginx does not run": ({"proxy__active": "inactive"}, {"load": True}),
    "an older release too many": (
        {"mattermost__releases": f"{NOW} {SHA256}\n{OLD} {OTHER}\n/opt/mattermost-9.9.1 {OTHER}"},
        {"prune": ("/opt/mattermost-9.9.1",)},
    ),
    "as many releases as are kept": ({"mattermost__releases": f"{NOW} {SHA256}\n{OLD} {OTHER}"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVIATIONS)
def test_one_deviation_leads_to_exactly_its_steps(site, name):
    spoilt, expected = DEVIATIONS[name]
    made = decide(site, chat_sites.state(site, **spoilt))
    assert steps(made) == expected
    assert made.work == bool(expected)


def test_every_folder_that_is_not_as_declared_is_made(site):
    folders = facts.folders(chat_sites.wanted(site))
    state = chat_sites.state(site)
    lines = state.answer("mattermost.folders").splitlines()
    assert len(lines) == len(folders) > 6
    for number, path in enumerate(folders):
        absent = lines[:number] + lines[number + 1 :]
        owner = [line if n != number else f"{path} 750 nobody:nogroup" for n, line in enumerate(lines)]
        mode = [line if n != number else line.replace(" 75", " 77") for n, line in enumerate(lines)]
        for spoilt in (absent, owner, mode):
            made = decide(site, chat_sites.state(site, mattermost__folders="\n".join(spoilt)))
            assert steps(made) == {"prepare": (f"make {path}",)}


@pytest.mark.parametrize("path", [render.ENVIRONMENT, render.UNIT, render.CA])
@pytest.mark.parametrize("how", ["absent", "content", "mode", "owner"])
def test_a_file_of_the_server_means_a_restart(site, path, how):
    made = decide(site, chat_sites.state(site, **spoil(site, path, how)))
    assert steps(made) == {"changes": [path], "start": True}
    assert made.summary()[0].startswith("create " if how == "absent" else "change ")
    assert made.summary()[1:] == ["start Mattermost"]


@pytest.mark.parametrize("path", [proxy.CONFIG, proxy.CERTIFICATE, proxy.KEY])
@pytest.mark.parametrize("how", ["absent", "content", "mode", "owner"])
def test_a_file_of_nginx_means_no_restart_of_the_server(site, path, how):
    made = decide(site, chat_sites.state(site, **spoil(site, path, how)))
    assert steps(made) == {"site": [path], "load": True}


def spoil(site, path, how):
    good = chat_sites.state(site).files[path]
    other = {
        "absent": FileState("absent"),
        "content": FileState(good.kind, good.mode, good.owner, good.group, OTHER),
        "mode": FileState(good.kind, 0o666, good.owner, good.group, good.sha256),
        "owner": FileState(good.kind, good.mode, "mattermost", good.group, good.sha256),
    }
    return {path: other[how]}


@pytest.mark.parametrize("path", [render.ENVIRONMENT, render.UNIT, proxy.CONFIG, proxy.KEY])
@pytest.mark.parametrize("kind", ["symbolic link", "directory"])
def test_what_is_no_file_is_not_replaced(site, path, kind):
    made = decide(site, chat_sites.state(site, **{path: FileState(kind, 0o777, "root", "root", "-")}))
    (why,) = made.refused
    assert f"{path} is a {kind}" in why
    assert "Move it away" in why


def test_the_database_alone(site):
    made = decide(site, chat_sites.state(site), Database(("set the password of role mmuser",), major=15))
    assert steps(made) == {"database": ("set the password of role mmuser",)}
    assert made.summary() == ["PostgreSQL: set the password of role mmuser"]


def test_the_application_means_a_restart(site):
    made = decide(site, chat_sites.state(site), application="another redirect_uri")
    assert steps(made) == {"application": "another redirect_uri", "start": True}
    assert made.summary()[0] == "put the OAuth application in GitLab right (another redirect_uri)"


def test_sign_on_that_did_not_work_is_only_tried_again(site):
    made = decide(site, chat_sites.state(site), sign_on="clock: +300 s")
    assert steps(made) == {"sign_on": "clock: +300 s"}
    assert made.summary() == ["try sign-on again (clock: +300 s)"]


def test_without_an_administrator_none_is_made(tmp_path):
    site = chat_sites.site(tmp_path)
    assert steps(decide(site, chat_sites.state(site, mattermost__admin="404"))) == {}


# --- a certificate by ACME ---


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({}, ""),
        ({"proxy__acme__directory": ""}, "there is none yet"),
        ({"proxy__acme__directory": "https://other/"}, "the one there is from https://other/"),
        ({"proxy__acme__valid": ""}, "the one there has expired"),
    ],
)
def test_a_certificate_by_acme(tmp_path, spoilt, why):
    site = chat_sites.site(tmp_path, ACME)
    good = {"proxy__acme__directory": DIRECTORY, "proxy__acme__valid": "yes"}
    made = decide(site, chat_sites.state(site, **(good | spoilt)))
    assert steps(made) == ({"certificate": why, "load": True} if why else {})
    assert [line for line in made.summary() if "ACME" in line] == (
        [f"get a certificate by ACME ({why})"] if why else []
    )


# --- upgrades, and what is refused ---


def test_an_upgrade_is_told_loudly(site):
    made = decide(site, chat_sites.state(site, mattermost__releases=f"{OLD} {OTHER}", mattermost__current=OLD))
    (line,) = [line for line in made.summary() if "UPGRADE" in line]
    assert line == "UPGRADE Mattermost from 10.5.1; the database is migrated, and there is no way back without a backup"
    assert made.refused == ()


@pytest.mark.parametrize("older", ["10.11.7", "10.9.12", "9.11.8"])
def test_numbers_are_compared_as_numbers(site, older):
    current = f"/opt/mattermost-{older}"
    made = decide(site, chat_sites.state(site, mattermost__releases=f"{current} {OTHER}", mattermost__current=current))
    assert (made.upgrade_from, made.refused) == (older, ())


@pytest.mark.parametrize("newer", ["10.11.9", "10.11.10", "10.12.0", "11.0.0"])
def test_a_downgrade_is_refused(site, newer):
    current = f"/opt/mattermost-{newer}"
    releases = f"{current} {OTHER}\n{NOW} {SHA256}"
    made = decide(site, chat_sites.state(site, mattermost__releases=releases, mattermost__current=current))
    (why,) = made.refused
    assert f"Mattermost {newer} is in use, the site file says 10.11.8" in why
    assert "Restore the backup" in why
    assert made.upgrade_from == ""


@pytest.mark.parametrize(
    "current", ["folder", "/srv/mattermost", "mattermost-10.11.8", "/opt/mattermost-team", f"{NOW}/"]
)
def test_what_is_not_ours_at_its_place_is_refused(site, current):
    made = decide(site, chat_sites.state(site, mattermost__current=current))
    (why,) = made.refused
    assert f"/opt/mattermost is there and not ours ({current})" in why
    assert "rsync -a" in why


def test_a_folder_of_our_releases_name_that_is_not_ours(site):
    made = decide(site, chat_sites.state(site, mattermost__releases=f"{NOW} \n{OLD} {OTHER}", mattermost__current=OLD))
    assert made.refused == (f"{NOW} is there and not ours. Move it away, then run again.",)


@pytest.mark.parametrize(
    ("spoilt", "free", "refused"),
    [
        ({}, 0, False),  # nothing to do needs no room
        ({"mattermost__started": ""}, MIN_FREE_KIB - 1, True),
        ({"mattermost__started": ""}, MIN_FREE_KIB, False),
        ({"mattermost__releases": ""}, release.SPACE_KIB - 1, True),
        ({"mattermost__releases": ""}, release.SPACE_KIB, False),
    ],
)
def test_a_full_disk(site, spoilt, free, refused):
    made = decide(site, chat_sites.state(site, mattermost__free_kib=str(free), **spoilt))
    assert bool(made.refused) == refused
    if refused:
        assert f"only {free // 1024} MiB are free" in made.refused[0]
        assert "Make room" in made.refused[0]


def test_free_space_that_was_not_seen_refuses_nothing(site):
    assert decide(site, chat_sites.state(site, mattermost__free_kib="", mattermost__releases="")).refused == ()


@pytest.mark.parametrize(
    ("found", "refused"),
    [
        ("812:813\n813", []),
        ("", []),
        ("813", []),
        ("900:813\n813", ["user mattermost has the number 900, the site file says 812"]),
        ("812:900\n900", ["group mattermost has the number 900, the site file says 813"]),
        ("900", ["group mattermost has the number 900, the site file says 813"]),
        ("900:901\n901", ["user mattermost has the number 900", "group mattermost has the number 901"]),
    ],
)
def test_numbers_of_the_account(tmp_path, found, refused):
    site = chat_sites.site(tmp_path, SITE + "  account: {uid: 812, gid: 813}\n")
    made = decide(site, chat_sites.state(site, mattermost__account=found))
    assert len(made.refused) == len(refused)
    for why, part in zip(made.refused, refused, strict=True):
        assert part in why
        assert "Say what is there" in why


def test_without_declared_numbers_any_will_do(site):
    assert steps(decide(site, chat_sites.state(site, mattermost__account="1:2\n2"))) == {}


@pytest.mark.parametrize(
    ("version", "least"),
    [("9.9.1", 11), ("10.5.9", 11), ("10.6.0", 13), ("10.11.8", 13), ("11.0.0", 14), ("11.4.2", 14)],
)
def test_postgresql_that_is_too_old(tmp_path, version, least):
    site = chat_sites.site(tmp_path, changed(("10.11.8", version)))
    assert minimum_postgresql(chat_sites.wanted(site).number) == least
    assert decide(site, chat_sites.state(site), Database(major=least)).refused == ()
    assert decide(site, chat_sites.state(site), Database(major=None)).refused == ()
    (why,) = decide(site, chat_sites.state(site), Database(major=least - 1)).refused
    assert f"PostgreSQL {least - 1} on db.example.com: Mattermost {version} needs {least} at least" in why


def test_why_the_database_cannot_be_had_is_told_alone(site):
    assert decide(site, chat_sites.state(site), Database(refused="no route", major=9)).refused == ("no route",)


def test_every_reason_comes_at_once(site):
    state = chat_sites.state(
        site, mattermost__current=NEW, mattermost__releases=f"{NOW} \n{NEW} {OTHER}", mattermost__free_kib="5",
        **{render.UNIT: FileState("directory", 0o755, "root", "root", "-")},
    )  # fmt: skip
    made = decide(site, state, Database(major=9))
    assert len(made.refused) == 5
    for part in ("is a directory", "11.0.0 is in use", f"{NOW} is there", "MiB are free", "PostgreSQL 9"):
        assert sum(part in why for why in made.refused) == 1


# --- old releases ---


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (1, ["10.11.9", "10.5.1", "10.5.0", "9.11.1"]),
        (2, ["10.5.1", "10.5.0", "9.11.1"]),
        (3, ["10.5.0", "9.11.1"]),
        (20, []),
    ],
)
def test_the_oldest_go_and_never_the_declared_one(tmp_path, keep, gone):
    site = chat_sites.site(tmp_path, changed(("keep: 2", f"keep: {keep}")))
    versions = ["9.11.1", "10.5.0", "10.11.8", "10.5.1", "10.11.9"]
    releases = {release.folder(version): OTHER for version in versions}
    releases |= {
        "/opt/mattermost-8.0.0": "",
        "/opt/mattermost-mine": OTHER,
        "/opt/mattermost": OTHER,
        "/srv/x-1.2.3": OTHER,
    }
    left = release.surplus(releases, chat_sites.wanted(site), "")
    assert left == [release.folder(version) for version in gone]


def test_the_release_before_an_upgrade_stays_for_the_way_back(site):
    releases = f"{OLD} {OTHER}\n/opt/mattermost-9.9.1 {OTHER}"
    made = decide(site, chat_sites.state(site, mattermost__releases=releases, mattermost__current=OLD))
    assert made.prune == ("/opt/mattermost-9.9.1",)
    assert made.summary()[-1] == "remove /opt/mattermost-9.9.1"


def test_the_release_before_an_upgrade_stays_beside_newer_ones(site):
    releases = f"{OLD} {OTHER}\n{NEW} {OTHER}\n{NOW} {SHA256}"
    made = decide(site, chat_sites.state(site, mattermost__releases=releases, mattermost__current=OLD))
    assert OLD not in made.prune


@pytest.mark.parametrize(
    ("text", "number"),
    [(NOW, (10, 11, 8)), ("/opt/mattermost-10.11.8.part", ()), ("/opt/mattermost", ()), ("folder", ()), ("", ()),
     ("/opt/mattermost-10", ()), ("/srv/mattermost-10.11.8", ()), ("mattermost-10.11.8", ())],
)  # fmt: skip
def test_the_number_in_a_folders_name(text, number):
    assert release.number(text) == number


# --- nothing of it is secret ---


def test_no_summary_holds_a_secret(site):
    made = decide(site, fresh(site), Database(("create role mmuser",)), "there are no credentials yet", "clock: ?")
    text = "\n".join((*made.summary(), *made.refused, repr(made)))
    for value in (*SECRETS.values(), chat_sites.SECRET, "PRIVATE KEY"):
        assert value not in text
