"""The parts of `mattermost-backup` that need no machine: dumps, manifests, versions, the way back of a restore."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.backup.program import cli, config, database, files, manifest, repository, restore, state, take, versions
from roles.backup.program.config import Failure

DUMP = b"""\
SET statement_timeout = 0;
SET transaction_timeout = 0;
ALTER TABLE public.posts OWNER TO gitlab_mattermost;
COPY public.posts (id, message) FROM stdin;
1\tALTER TABLE public.posts OWNER TO somebody;
2\tGRANT ALL ON posts TO public;
3\tCOPY public.users (id) FROM stdin;
\\.

REVOKE ALL ON SCHEMA public FROM gitlab_mattermost;
GRANT ALL ON SCHEMA public TO PUBLIC;
COPY public."Odd-Table" (id) FROM stdin;
\\.
CREATE INDEX a ON public.posts USING btree (id);
"""


def test_owners_and_rights_are_left_out_of_a_dump_and_its_rows_are_not_touched():
    counts: dict[str, int] = {}
    out = b"".join(database.filtered(iter(DUMP.splitlines(keepends=True)), counts))
    assert counts == {"posts": 3, "Odd-Table": 0}
    gone = [line for line in DUMP.splitlines() if line not in out.splitlines()]
    assert gone == [
        b"SET transaction_timeout = 0;",
        b"ALTER TABLE public.posts OWNER TO gitlab_mattermost;",
        b"REVOKE ALL ON SCHEMA public FROM gitlab_mattermost;",
        b"GRANT ALL ON SCHEMA public TO PUBLIC;",
    ]


@given(st.lists(st.binary(max_size=60).map(lambda row: row.replace(b"\n", b"").replace(b"\\", b"/"))))
def test_no_row_is_changed_whatever_is_in_it(rows):
    lines = [b"COPY public.posts (m) FROM stdin;\n", *(row + b"\n" for row in rows), b"\\.\n"]
    counts: dict[str, int] = {}
    assert list(database.filtered(iter(lines), counts)) == lines
    assert counts == {"posts": len(rows)}


CENSUS = {
    "tables": {"posts": [3, "77"], "users": [2, "88"]},
    "objects": {"tables": ["posts", "users"], "indexes": ["a"]},
    "identities": [2, "abc"],
    "orphans": {"replies without root": 1},
    "migration": 121,
    "encoding": "UTF8",
}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, []),
        ({"tables": {"posts": [2, "70"], "users": [2, "88"]}}, ["row contents", "row counts"]),
        ({"tables": {"posts": [3, "70"], "users": [2, "88"]}}, ["row contents"]),
        ({"tables": {"users": [2, "88"]}}, ["row contents", "row counts"]),
        ({"identities": [2, "abd"]}, ["sign-on identities"]),
        ({"objects": {"tables": ["posts", "users"], "indexes": []}}, ["tables, indexes and other objects"]),
        ({"objects": {"tables": ["posts", "users", "x"], "indexes": ["a"]}}, ["tables, indexes and other objects"]),
        ({"orphans": {"replies without root": 2}}, ["orphans"]),
        ({"migration": 120}, ["schema version"]),
        ({"encoding": "LATIN1"}, ["encoding"]),
    ],
)
def test_each_difference_of_a_database_fails_its_own_check(change, failing):
    checks = manifest.of_database(CENSUS, {**CENSUS, **change})
    assert sorted(one["name"] for one in checks if not one["ok"]) == failing


def entry(**how):
    known = {"path": "/a", "kind": "file", "size": 3, "content": "ff", "mode": 0o640, "owner": "a:a"}
    return files.Entry(**{**known, **how})


@pytest.mark.parametrize(
    ("found", "failing"),
    [
        (entry(), []),
        (entry(owner="b:b"), []),
        (None, ["files present"]),
        (entry(content="fe"), ["file contents"]),
        (entry(size=2), ["file contents"]),
        (entry(kind="link"), ["file contents"]),
        (entry(mode=0o644), ["file modes"]),
    ],
)
def test_each_difference_of_a_file_fails_its_own_check(found, failing):
    checks = manifest.of_files([entry().row()], {"/a": found})
    assert [one["name"] for one in checks if not one["ok"]] == failing


def test_a_row_without_its_file_is_seen_unless_it_was_lost_before(tmp_path):
    (tmp_path / "there").write_bytes(b"123")
    rows = [
        database.Reference("1", "there", 3, ()),
        database.Reference("2", "gone", 3, ()),
        database.Reference("3", "there", 4, ()),
    ]
    (check,) = manifest.of_references(rows, str(tmp_path))
    assert not check["ok"]
    assert "gone is missing" in check["found"]
    assert "there has 3 bytes, its row says 4" in check["found"]
    (check,) = manifest.of_references(rows, str(tmp_path), ["2", "3"])
    assert check["ok"]


@pytest.mark.parametrize(
    ("was", "gate", "target", "refused"),
    [
        ("9.9.0", False, "9.9.0", False),
        ("9.9.0", False, "11.4.0", False),
        ("11.4.0", False, "10.11.8", True),
        ("10.11.20", True, "10.11.23", False),
        ("10.11.20", True, "11.6.4", True),
        ("10.11.20", True, "11.6.5", False),
        ("10.11.20", True, "11.7.2", True),
        ("10.11.20", True, "11.7.3", False),
        ("10.11.20", True, "11.8.0", True),
        ("10.11.20", True, "11.10.0", False),
        ("10.9.0", False, "10.11.0", False),
    ],
)
def test_which_server_may_take_which_data(was, gate, target, refused):
    assert bool(versions.conflicts(was, gate, target)) is refused


@pytest.mark.parametrize(
    "word", ["2026-11-23 02:15", "2026-11-23 02:15:00", "20261123T021500Z", "2026-11-23T03:15:00+01:00"]
)
def test_moments(word):
    assert versions.moment(word) == 1795400100.0
    assert versions.moment("latest") is None


def test_an_upload_that_the_dump_does_not_know_is_left_out(tmp_path):
    store, path = str(tmp_path), tmp_path / "20261123/teams/noteam/x"
    path.parent.mkdir(parents=True)
    path.touch()
    moment = path.stat().st_mtime
    name = "20261123/teams/noteam/x"
    assert files.unfinished(store, str(path), moment, set())
    assert not files.unfinished(store, str(path), moment, {name}), "a row names it"
    assert not files.unfinished(store, str(path), moment + 60, set()), "it was there long before"
    picture = tmp_path / "users" / "u" / "profile.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert not files.unfinished(store, str(picture), moment, set()), "no upload"


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_state_is_an_empty_one(tmp_path, monkeypatch, text):
    monkeypatch.setattr(state, "STATE", tmp_path / "state.json")
    state.STATE.write_text(text)
    assert state.load() == {"runs": [], "last_good": None, "check": None}


class Stopped(Exception):
    """A kill."""


class Machine:
    """A node and its database server, on which a restore is stopped after any number of steps."""

    def __init__(self, tmp_path, monkeypatch, steps):
        self.left = steps
        self.databases = {"mattermost": "old", "mattermost_restore": "new"}
        self.home = tmp_path / "home"
        for base, text in ((self.home, "old"), (self.home / ".restore" / "home", "new")):
            for child in restore.CHILDREN:
                (base / child).mkdir(parents=True)
                (base / child / "whose").write_text(text)
        (tmp_path / "mattermost-9.9.0").mkdir()
        (tmp_path / "mattermost-11.4.0").mkdir()
        os.symlink(tmp_path / "mattermost-9.9.0", tmp_path / "mattermost")
        self.running = True
        self.config = SimpleNamespace(
            home=str(self.home),
            current=str(tmp_path / "mattermost"),
            user="root",
            group="root",
            database=SimpleNamespace(name="mattermost", maintenance="postgres"),
        )
        monkeypatch.setattr(restore, "JOURNAL", tmp_path / "journal.json")
        monkeypatch.setattr(restore, "DROP_IN", tmp_path / "d" / "50-restore.conf")
        monkeypatch.setattr(restore, "call", self.call)
        monkeypatch.setattr(restore.files, "give", lambda *words: None)
        monkeypatch.setattr(restore.server, "demand_answer", lambda config: None)
        monkeypatch.setattr(restore.db, "connect", self.connect)
        monkeypatch.setattr(restore.db, "exists", lambda connection, name: name in self.databases)
        monkeypatch.setattr(restore.db, "drop", self.drop)
        monkeypatch.setattr(restore.db, "rename", self.rename)
        real = os.rename
        monkeypatch.setattr(os, "rename", lambda a, b: (self.step(), real(a, b)))

    def step(self):
        self.left -= 1
        if self.left < 0:
            raise Stopped

    def call(self, words, **more):
        self.step()
        if words[1] in ("stop", "start"):
            self.running = words[1] == "start"
        return "active\n" if self.running else "inactive\n"

    def connect(self, *words):
        from contextlib import nullcontext

        return nullcontext()

    def drop(self, connection, name):
        self.step()
        self.databases.pop(name, None)

    def rename(self, connection, *pairs):
        self.step()
        after = dict(self.databases)
        for old, new in pairs:
            assert new not in after, "PostgreSQL would refuse that"
            after[new] = after.pop(old)
        self.databases = after

    def whose(self):
        return {(self.home / child / "whose").read_text() for child in restore.CHILDREN}


@pytest.mark.parametrize("steps", range(40))
def test_stopped_after_any_step_of_the_switch_everything_is_put_back(tmp_path, monkeypatch, steps):
    machine = Machine(tmp_path, monkeypatch, steps)
    restore._note("preparing")
    request = {"release": str(tmp_path / "mattermost-11.4.0")}
    try:
        restore._switch(machine.config, request)
        restore._note("held")
        machine.running = True
        assert (machine.whose(), machine.databases["mattermost"]) == ({"new"}, "new")
    except Stopped:
        pass
    for more in (3, 7, 1000):  # the way back is stopped too, twice
        machine.left = more
        try:
            restore.settle(machine.config)
        except Stopped:
            continue
    assert machine.whose() == {"old"}
    assert machine.databases == {"mattermost": "old"}
    assert os.readlink(tmp_path / "mattermost").endswith("mattermost-9.9.0")
    assert machine.running
    assert not restore.JOURNAL.exists()
    assert not (machine.home / ".restore").exists()
    assert not restore.DROP_IN.exists()
    assert restore.settle(machine.config) is False, "there is nothing more to settle"


def test_two_commands_do_not_work_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "LOCK", tmp_path / "lock")
    with config.locked(), pytest.raises(Failure, match="works on this node now"), config.locked():
        pass
    with config.locked():
        pass


def test_what_a_timer_starts_waits_for_who_works_now(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(config, "PROGRESS", progress := tmp_path / "progress")
    seen = []

    def work():
        with config.locked(60):
            seen.append("works")

    timer = threading.Thread(target=work)
    with config.locked():
        timer.start()
        while not (progress.exists() and progress.read_text()):
            time.sleep(0.01)
        assert progress.read_text().startswith("wait for `mattermost-backup ")
        assert f"(process {os.getpid()})" in progress.read_text()
        assert seen == []
    timer.join()
    assert seen == ["works"]
    assert "wait for `mattermost-backup " in capsys.readouterr().out


@pytest.mark.parametrize(("open_", "done"), [(True, ["settle", "take"]), (False, ["take"])])
def test_a_restore_that_was_killed_is_settled_before_a_backup(tmp_path, monkeypatch, open_, done):
    monkeypatch.setattr(config, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(cli, "PROGRESS", tmp_path / "progress")
    did: list[str] = []
    monkeypatch.setattr(restore, "interrupted", lambda: open_)
    monkeypatch.setattr(restore, "settle", lambda config: did.append("settle"))
    monkeypatch.setattr(take, "take", lambda config: did.append("take"))
    cli._run("take", SimpleNamespace(), as_json=False)
    assert did == done


LOCKED = "repository is already locked by PID 7 on spare-1 by root (UID 0, GID 0)"


def test_a_repository_that_another_host_has_locked_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "PROGRESS", progress := tmp_path / "progress")
    monkeypatch.setattr(repository, "PROGRESS", progress)
    monkeypatch.setattr(repository, "_AGAIN", 0)
    asked, told = [], []

    def call(words, what, **_):
        asked.append(words[1])
        told.append(progress.read_text())
        if words[1] == "tag" and asked.count("tag") < 3:
            raise Failure(f"{what}: {LOCKED}")
        return "done"

    monkeypatch.setattr(repository, "call", call)
    config.tell("count it")
    where = SimpleNamespace(site="lab", repository="/srv", password="-", environment={}, ssh=None)
    assert repository.Repository(where, 60).run("tag", what="the mark") == "done"
    assert asked == ["tag", "unlock", "tag", "unlock", "tag"]
    assert told[0] == "count it"
    assert set(told[1:]) == {f"wait for another host: the mark: {LOCKED}"}
    assert progress.read_text() == "count it", "the phase is told again"
    asked.clear()
    with pytest.raises(Failure, match="`restic unlock` on it, if it is gone"):
        repository.Repository(where).run("tag", what="the mark")
    assert asked == ["tag"], "who asks at a screen is answered at once"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    config.write(path, "one")
    with pytest.raises(UnicodeEncodeError):
        config.write(path, "\ud800")
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


class Repo:
    """A repository that remembers what it is told."""

    def __init__(self):
        self.said: list[str] = []
        self.patience = config.PATIENCE
        self.waited: dict[str, float] = {}

    def __getattr__(self, name):
        def tell(*words, **more):
            self.said.append(name)
            self.waited[name] = self.patience
            if name == "snapshots":
                backups = [one for one in ("bad", "now") if one == "bad" or "back_up" in self.said]
                return [
                    SimpleNamespace(backup="20261123T021500Z" if b == "now" else b, good=False, snapshot=b)
                    for b in backups
                ]
            return {"snapshot_id": "s", "total_bytes_processed": 1, "data_added": 1}

        return tell


@pytest.fixture
def taking(tmp_path, monkeypatch):
    def make(read_back, stop=False):
        repo = Repo()
        called: list[list[str]] = []
        monkeypatch.setattr(take, "Repository", lambda config, patience: repo)
        for name, path in (("STAGING", tmp_path / "staging"), ("STOPPED", tmp_path / "stopped")):
            monkeypatch.setattr(take, name, path)
        monkeypatch.setattr(config, "PROGRESS", tmp_path / "progress")
        monkeypatch.setattr(state, "STATE", tmp_path / "state.json")
        monkeypatch.setattr(take, "call", lambda words, **more: called.append(list(words)) or "")
        monkeypatch.setattr(take, "_room", lambda config: None)
        monkeypatch.setattr(take, "room", lambda config: None)
        monkeypatch.setattr(take, "_dump", lambda config: (1795400100.0, {"posts": 1, "users": 1}, []))
        monkeypatch.setattr(take, "_manifest", lambda *words: {"files": [], "missing": []})
        monkeypatch.setattr(take, "_paths", lambda config: [])
        monkeypatch.setattr(take, "_excluded", lambda *words: [])
        answers = iter(read_back)

        def read(*words):
            answer = next(answers)
            if answer:
                raise answer

        monkeypatch.setattr(take, "read_back", read)
        wanted = SimpleNamespace(stop=stop, keep={"last": 3}, textfile=None)
        return repo, called, wanted

    return make


def test_a_backup_counts_after_it_was_read_back(taking):
    repo, _, wanted = taking([None])
    assert take.take(wanted)["result"] == "good"
    assert (
        repo.said.index("back_up")
        < repo.said.index("mark_good")
        < repo.said.index("retain")
        < repo.said.index("forget")
    )


def test_a_backup_that_is_not_whole_does_not_count_and_nothing_is_forgotten(taking):
    repo, _, wanted = taking([Failure("not what was backed up")])
    with pytest.raises(Failure, match="not what was backed up"):
        take.take(wanted)
    assert not {"mark_good", "retain", "forget"} & set(repo.said)
    last = json.loads(Path(state.STATE).read_text())["runs"][-1]
    assert (last["result"], last["reason"]) == ("failed", "not what was backed up")


def test_a_file_that_changes_is_read_again(taking):
    repo, _, wanted = taking([take.Changed("x changed"), None])
    assert take.take(wanted)["result"] == "good"
    assert repo.said.count("back_up") == 2
    repo, _, wanted = taking([take.Changed("x changed")] * take.ATTEMPTS)
    with pytest.raises(Failure, match="3 times"):
        take.take(wanted)
    assert "mark_good" not in repo.said


@pytest.mark.parametrize("answer", [None, Failure("no")])
def test_a_server_that_was_stopped_is_started_again(taking, answer):
    repo, called, wanted = taking([answer], stop=True)
    try:
        take.take(wanted)
    except Failure:
        assert answer
    words = [one[1] for one in called if one[0] == "systemctl"]
    assert words == ["stop", "start"]
    assert repo.waited["back_up"] == 0, "the server does not stand still for another host's sake"
    assert answer or repo.waited["mark_good"] == config.PATIENCE
    assert not take.STOPPED.exists()
