"""The node bundle without a network: the look and the install run in a local shell on a temporary folder."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess

import pytest

from roles.node import audit, remote
from roles.node.act import Act, do
from roles.node.bundle import Bundle, File, Question
from roles.node.diff import MASK, masked_diff
from roles.node.facts import FileState, Look, NodeState, parse
from roles.node.install import install
from roles.node.plan import changes
from roles.site.errors import StepError

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


def file(path, content=b"new\n", **more) -> File:
    return File(str(path), content, content.decode(errors="replace"), owner=USER, group=GROUP, **more)


def look(*files: File, questions: tuple[Question, ...] = ()) -> NodeState:
    asked = Look(Bundle(files, questions))
    done = subprocess.run(["sh", "-c", asked.script], capture_output=True, text=True, check=True)
    return parse(asked, done.stdout.splitlines())


def put(*files: File) -> subprocess.CompletedProcess[str]:
    script, content = install(changes(files, look(*files)))
    return subprocess.run(["sh", "-c", script], input=content + "\n", capture_output=True, text=True, check=False)


def test_what_is_absent_is_created_and_a_second_look_finds_nothing_to_do(tmp_path):
    wanted = (file(tmp_path / "a b'c", b"\x00\xff\n", mode=0o640), file(tmp_path / "empty", b""))
    assert look(*wanted).files[wanted[0].path].absent
    assert put(*wanted).returncode == 0
    assert (tmp_path / "a b'c").read_bytes() == b"\x00\xff\n"
    assert (tmp_path / "a b'c").stat().st_mode & 0o7777 == 0o640
    assert changes(wanted, look(*wanted)) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a b'c", "empty"]


@pytest.mark.parametrize("drift", ["content", "mode"])
def test_drift_is_seen_and_put_right(tmp_path, drift):
    wanted = file(tmp_path / "f")
    put(wanted)
    if drift == "content":
        (tmp_path / "f").write_text("changed by hand\n")
    else:
        (tmp_path / "f").chmod(0o644)
    found = changes((wanted,), look(wanted))
    assert [drift in change.summary() for change in found] == [True]
    put(wanted)
    assert changes((wanted,), look(wanted)) == []


def test_nothing_is_installed_when_one_check_fails(tmp_path):
    good, bad = file(tmp_path / "good"), file(tmp_path / "bad", check='grep -q never "$1" || { echo why not; exit 1; }')
    done = put(good, bad)
    assert done.returncode == 1
    assert "its check failed: why not" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_installed_when_the_disk_is_full(tmp_path):
    """/dev/full cannot be a folder, so a file size limit stands for a full disk: the write fails in the same place."""
    old = file(tmp_path / "f", b"old\n")
    put(old)
    new = file(tmp_path / "f", b"x" * 200_000)
    script, content = install(changes((new,), look(new)))
    limited = "ulimit -f 8; trap '' XFSZ; " + script
    done = subprocess.run(["sh", "-c", limited], input=content + "\n", capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is the disk full?" in done.stderr
    assert (tmp_path / "f").read_bytes() == b"old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_content_cut_off_on_the_way_changes_nothing(tmp_path):
    one, two = file(tmp_path / "one"), file(tmp_path / "two")
    script, content = install(changes((one, two), look(one, two)))
    half = content.splitlines()[0] + "\n"
    done = subprocess.run(["sh", "-c", script], input=half, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "did not arrive whole" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_in_no_command_line(tmp_path):
    script, content = install(changes((wanted := file(tmp_path / "f", b"s3cret-value\n"),), look(wanted)))
    assert "s3cret-value" not in script
    assert "s3cret-value" not in repr(wanted)
    assert "czNjcmV0LXZhbHVl" in content


def test_what_the_operator_had_is_kept_once(tmp_path):
    (tmp_path / "f").write_text("the operator's\n")
    for content in (b"first\n", b"second\n"):
        assert put(file(tmp_path / "f", content, keep_first=str(tmp_path / "f.kept"))).returncode == 0
    assert (tmp_path / "f").read_text() == "second\n"
    assert (tmp_path / "f.kept").read_text() == "the operator's\n"


def test_a_link_is_not_replaced(tmp_path):
    (tmp_path / "target").write_text("x")
    (tmp_path / "f").symlink_to(tmp_path / "target")
    wanted = file(tmp_path / "f")
    (change,) = changes((wanted,), look(wanted))
    assert change.refused is not None
    assert "symbolic link" in change.refused


def test_a_missing_folder_is_named(tmp_path):
    done = put(file(tmp_path / "no" / "f"))
    assert done.returncode == 1
    assert f"{tmp_path}/no does not exist" in done.stderr


def test_answers_and_exit_codes_come_back(tmp_path):
    asked = (Question("a", "printf 'x\\ty\\n'; echo 한"), Question("b", "echo no; false"), Question("c", "exit 3"))
    state = look(questions=asked)
    assert state.answer("a") == "x\ty\n한"
    assert state.answers["b"].rc == 1
    assert state.answer("b") == ""
    assert state.answer("missing") == ""
    assert abs(state.clock - __import__("time").time()) < 30


def test_an_answer_that_was_cut_off_is_no_answer(tmp_path):
    """Wherever: between two characters of base64, or where these happen to decode."""
    asked = Look(Bundle((file(tmp_path / "f"),), (Question("a", "echo b"),)))
    whole = subprocess.run(["sh", "-c", asked.script], capture_output=True, text=True, check=True).stdout
    assert parse(asked, [whole]).answer("a") == "b"
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="not whole"):
            parse(asked, [whole[:length]])


def test_a_question_cannot_end_change_or_forge_the_look(tmp_path):
    """It exits, moves, reads what is not for it, says what the look itself says, and NUL and bytes that are no text."""
    asked = (
        Question("a", "cd /; LC_ALL=ko; cat; echo told; exit 4"),
        Question("b", "printf '\\n--0 rc 0\\n--0 clock 1\\n'; printf 'x\\0y\\377'"),
        Question("c", "echo gone >&2; echo $LC_ALL"),
    )
    state = look(file(tmp_path / "f"), questions=asked)
    assert (state.answers["a"].text, state.answers["a"].rc) == ("told", 4)
    assert state.answer("b") == "\n--0 rc 0\n--0 clock 1\nxy\N{REPLACEMENT CHARACTER}"
    assert state.answer("c") == "C"
    assert state.clock > 1


def test_every_kind_of_file_is_told_apart(tmp_path):
    """A look that opened a FIFO would wait for ever."""
    paths = {kind: tmp_path / kind for kind in ("file", "empty", "folder", "link", "broken", "fifo", "absent")}
    paths["file"].write_text("x\n")
    paths["empty"].touch()
    paths["folder"].mkdir()
    paths["link"].symlink_to("file")
    paths["broken"].symlink_to("nothing")
    os.mkfifo(paths["fifo"])
    found = look(*(file(path) for path in paths.values())).files
    kinds = [found[str(path)].kind for path in paths.values()]
    expected = ["regular file", "regular empty file", "directory", "symbolic link", "symbolic link", "fifo", "absent"]
    assert kinds == expected
    assert found[str(paths["file"])].sha256 == file("x", b"x\n").sha256
    assert found[str(paths["empty"])].sha256 == file("x", b"").sha256
    assert {found[str(paths[kind])].sha256 for kind in ("folder", "link", "broken", "fifo")} == {"-"}


def test_two_roles_cannot_want_one_file():
    with pytest.raises(ValueError, match="/a"):
        Bundle((file("/a"),)) + Bundle((file("/a"),))


def test_owner_and_mode_are_part_of_the_state(tmp_path):
    wanted = file(tmp_path / "f")
    put(wanted)
    state = look(wanted).files[wanted.path]
    assert state == FileState("regular file", 0o600, USER, GROUP, wanted.sha256)


OLD = """external_url 'https://old'
gitlab_rails['smtp_password'] = "hunter2-abc"
gitlab_rails['db'] = { 'password' => 'hunter3-abc' }
  'aws_secret' => 'hunter4-abc',
# password: hunter5-abc
postgresql://u:hunter6-abc@h
mailroom['enable'] = false
"""


def test_no_old_value_is_ever_shown():
    new = "external_url 'https://new'\ngitlab_rails['x'] = 'new-s3cret'\nmailroom['enable'] = false\n"
    shown = new.replace("new-s3cret", MASK)
    lines = "\n".join(masked_diff("/f", OLD, shown, new))
    assert "hunter" not in lines
    assert "s3cret" not in lines
    assert "- gitlab_rails['smtp_password'] = ********" in lines
    assert "+ external_url 'https://new'" in lines
    assert "  mailroom['enable'] = false" in lines


def test_a_changed_secret_shows_as_a_change():
    old, new = "a['password'] = 'one'\n", "a['password'] = 'two'\n"
    lines = masked_diff("/f", old, f"a['password'] = '{MASK}'\n", new)
    assert [line[0] for line in lines[3:]] == ["-", "+"]
    assert "one" not in "".join(lines)


def test_several_commands_in_one_are_as_if_each_had_run_alone(monkeypatch):
    """Each with its own input, exit code, output and error; one that exits or reads too much spoils no other."""
    monkeypatch.setattr(remote, "run", locally)
    big = "x" * 300_000
    asked = [("cat; echo why >&2; exit 3", "a\n한 \x01'\n\n"), ("head -c 1", big), ("cat", ""), ("wc -c", big)]
    got = remote.several(None, asked)
    assert [(one.ok, one.stdout, one.stderr) for one in got] == [
        (False, "a\n한 \x01'\n\n", "why\n"), (True, "x", ""), (True, "", ""), (True, "300000\n", ""),
    ]  # fmt: skip


def test_several_commands_that_were_cut_off_have_all_failed(monkeypatch):
    monkeypatch.setattr(remote, "run", lambda *a, **k: remote.Result(False, "half", "the connection to x failed"))
    got = remote.several(None, [("true", ""), ("true", "")])
    assert [(one.ok, one.stderr) for one in got] == [(False, "the connection to x failed")] * 2


def locally(_host, command, stdin="", note=None, every=0.0) -> remote.Result:
    """`remote.run` in a shell of this machine."""
    done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, text=True, check=False)
    return remote.Result(done.returncode == 0, done.stdout, done.stderr)


class Screen:
    """A host that remembers what it is to say."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def log(monkeypatch, tmp_path):
    """The audit log, in a folder of this test; commands run here."""
    monkeypatch.setattr(remote, "run", locally)
    monkeypatch.setattr(audit, "NOTE", audit.NOTE.replace(audit.FOLDER, str(tmp_path / "log")))
    return tmp_path / "log" / "audit.jsonl"


def test_acts_are_done_in_turn_and_written_down(log, tmp_path):
    """Also with a script that changes the shell, and a word that a shell would take for its own."""
    acts = (
        Act(
            f"cd {tmp_path}; read -r l; echo $l > one; set -eu; umask 777; trap '' 0; exit 0",
            "it's $(done) 한",
            {"n": 1},
        ),
        Act(f"cat > {tmp_path}/rest"),
        Act(f"echo two; echo three > {tmp_path}/three", "last"),
    )
    do(Screen(), *acts, stdin="one\ntwo\n")
    assert [(tmp_path / name).read_text() for name in ("one", "rest", "three")] == ["one\n", "two\n", "three\n"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["what"], line["ok"]) for line in lines] == [("it's $(done) 한", True), ("last", True)]
    assert lines[0]["n"] == 1
    assert audit.broken(log.read_text().splitlines()) == []
    assert log.stat().st_mode & 0o777 == 0o600


def told(number: int):
    """Words of an act, from which a test sees whose they are and what it was told."""
    return lambda got: f"{number}: {got.stdout.split()} {got.said}"


def test_an_act_that_fails_ends_it_and_is_written_down(log, tmp_path):
    after = tmp_path / "after"
    acts = (
        Act("echo a", "first", told=told(1)),
        Act("echo b; echo why >&2; exit 7", "second", told=told(2)),
        Act(f"touch {after}", "no", told=told(3)),
    )
    with pytest.raises(StepError, match=r"^2: \['a', 'b'\] why$"):
        do(Screen(), *acts)
    assert [(line["what"], line["ok"]) for line in map(json.loads, log.read_text().splitlines())] == [
        ("first", True),
        ("second", False),
    ]
    assert not after.exists()


def test_a_log_that_cannot_be_written_is_told_and_ends_nothing(log):
    log.parent.write_text("a file where the folder should be")
    screen = Screen()
    with pytest.raises(StepError, match=r"^2: \[\] done"):
        do(screen, Act("echo done >&2", "it's done"), Act("false", "not done", told=told(2)))
    assert [line.partition(": ")[2] for line in screen.said] == ["it's done", "not done"]


def test_a_connection_that_ends_says_nothing_about_what_was_done(monkeypatch):
    monkeypatch.setattr(remote, "run", lambda *a, **k: remote.Result(False, "", "the connection to x failed"))
    with pytest.raises(StepError, match=r"^2: \[\] the connection to x failed$"):
        do(Screen(), Act("true", "a", told=told(1)), Act("true", "b", told=told(2)))
