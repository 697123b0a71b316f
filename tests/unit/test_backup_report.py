"""The report of a drill says what the drill found: never `passed` with a failure in it, nothing lost, nothing run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from roles.backup.report import earlier, from_json, html, to_json, write
from roles.backup.result import drill_time
from roles.backup.verdict import meaning
from roles.site import secret
from roles.site.secret import MASK, Secret
from tests.unit.drills import DRILL, GOOD, SAVED, STARTED, WRONG, Page, but, check


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch):
    monkeypatch.setattr(secret, "_known", set())
    monkeypatch.setattr(secret, "_pattern", None)


def test_a_good_drill_passed():
    assert GOOD.passed
    assert GOOD.reason == ""
    assert from_json(to_json(GOOD)).passed
    assert but(rpo_found=-59.0).passed, "clocks never agree wholly"


@pytest.mark.parametrize("what", WRONG)
def test_whatever_is_wrong_the_drill_did_not_pass_and_everything_says_so(what):
    bad = but(**WRONG[what])
    assert not bad.passed
    assert bad.reason
    assert json.loads(to_json(bad))["passed"] is False
    assert meaning(bad)
    seen = Page(html(bad)).text
    assert "Passed" not in seen.split("Time to recover")[0]
    assert "What this means" in seen


def test_a_file_that_says_passed_with_a_failed_check_is_refused():
    told = json.loads(to_json(GOOD))
    told["checks"][1]["ok"] = False
    with pytest.raises(ValueError, match="passed: it says true, but check “channels”"):
        from_json(json.dumps(told))
    told["passed"] = False
    assert not from_json(json.dumps(told)).passed
    del told["passed"]
    with pytest.raises(ValueError, match="passed: it says null"):
        from_json(json.dumps(told))


def test_passed_cannot_be_claimed():
    with pytest.raises(ValidationError):
        but(passed=True)


def test_no_secret_gets_into_a_report():
    value = "pass\"word'of<the>database"
    Secret(value)
    told = but(checks=(check(found=f"postgres://mmuser:{value}@db", ok=False),), error=f"refused: {value}")
    assert told.checks[0].found == f"postgres://mmuser:{MASK}@db"
    assert value not in to_json(told) + html(told)


def test_half_characters_do_not_stop_a_report():
    told = but(checks=(check(found="caf\udce9"),))
    assert from_json(to_json(told)).checks[0].found == "caf\\udce9"
    html(told).encode()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("", "not JSON"),
        ("[]", "no object"),
        ("[" * 100000, "not JSON"),
        ({"format": 2}, "format"),
        ({"format": None}, "format"),
        ({"drill": "../../etc/passwd"}, "drill"),
        ({"drill": "20269923T181530Z"}, "drill"),
        ({"drill": "19691231T235959Z"}, "drill"),
        ({"rto": "192"}, "rto"),
        ({"rto": -1}, "rto"),
        ({"rpo_promised": float("nan")}, "rpo_promised"),
        ({"started": 1e300}, "started"),
        ({"checks": [{"name": "x", "expected": "", "found": "", "ok": "yes"}]}, r"checks\.0\.ok"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(damage, named):
    text = damage if isinstance(damage, str) else json.dumps(json.loads(to_json(GOOD)) | damage)
    with pytest.raises(ValueError, match=named) as caught:
        from_json(text)
    assert not isinstance(caught.value, ValidationError)


def test_a_file_without_a_format_is_not_taken_for_one_of_ours():
    told = json.loads(to_json(GOOD))
    del told["format"]
    with pytest.raises(ValueError, match="format: only 1"):
        from_json(json.dumps(told))


def test_json_is_indented_and_says_first_whether_it_passed():
    assert to_json(GOOD).startswith('{\n  "passed": true,\n  "format": 1,')
    assert to_json(GOOD).endswith("}\n")


def test_reports_are_written_whole_for_their_group_and_never_over_another(tmp_path):
    folder = tmp_path / "new" / "drills"
    old = os.umask(0o077)
    try:
        record, shown = write(GOOD, folder)
    finally:
        os.umask(old)
    assert (record, shown) == (folder / f"drill-{DRILL}.json", folder / f"drill-{DRILL}.html")
    assert from_json(record.read_text()) == GOOD
    assert shown.read_text() == html(GOOD)
    assert {path.stat().st_mode & 0o7777 for path in (record, shown)} == {0o640}
    assert folder.stat().st_mode & 0o7777 == 0o750
    with pytest.raises(FileExistsError):
        write(but(site="other"), folder)
    assert from_json(record.read_text()) == GOOD
    assert sorted(folder.iterdir()) == [shown, record]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o700)
    write(GOOD, tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("kind", ["json", "html"])
def test_where_one_of_the_two_is_there_already_neither_is_written(tmp_path, kind):
    there = tmp_path / f"drill-{DRILL}.{kind}"
    there.write_text("old")
    with pytest.raises(FileExistsError):
        write(GOOD, tmp_path)
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_text() == "old"


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_leaves_nothing_half(tmp_path, monkeypatch, at):
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write(GOOD, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_earlier_drills_are_read_newest_first(tmp_path):
    assert earlier(tmp_path / "absent") == []
    for day in range(1, 30):
        write(but(drill=f"202610{day:02}T181530Z", started=STARTED - (53 - day) * 86400), tmp_path)
    write(but(drill="20261030T181530Z", backup=None, rto=None, rpo_found=None, error="cut\nmore"), tmp_path)
    write(but(drill="20261031T181530Z"), tmp_path)
    for name in (
        "drill-latest.json",
        "other.json",
        "drill-20261399T181530Z.json",
        ".drill-20261101T181530Z.json.x.new",
    ):
        (tmp_path / name).write_text("x")
    found = earlier(tmp_path)
    assert [one.drill for one in found] == [f"202610{day:02}T181530Z" for day in range(31, 1, -1)]
    assert (found[0].passed, found[0].rto, found[0].rpo_found, found[0].backup, found[0].reason) == (
        True,
        192.0,
        57480.0,
        SAVED.id,
        "",
    )
    assert (found[1].passed, found[1].rto, found[1].rpo_found, found[1].backup, found[1].reason) == (
        False,
        None,
        None,
        "",
        "cut",
    )
    write(but(history=tuple(found)), tmp_path)


def _bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def _other(path: Path) -> None:
    path.write_text(to_json(GOOD))


def _belied(path: Path) -> None:
    path.write_text(to_json(but(drill=path.name[6:22], error="cut")).replace('"passed": false', '"passed": true'))


@pytest.mark.parametrize(
    "damage",
    [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere"), _bytes, _other, _belied],
    ids=["empty", "folder", "pipe", "dangling", "bytes", "of another drill", "belied"],
)
def test_a_damaged_report_is_listed_and_does_not_break_the_next_drill(tmp_path, damage):
    damage(tmp_path / "drill-20261117T181530Z.json")
    write(but(drill="20261116T181530Z", started=STARTED - 7 * 86400), tmp_path)
    found = earlier(tmp_path)
    assert [one.drill for one in found] == ["20261117T181530Z", "20261116T181530Z"]
    assert found[0].reason.startswith("report unreadable: ")
    assert not found[0].passed
    assert found[0].started == drill_time("20261117T181530Z")
    assert found[1].passed
    record, shown = write(but(history=tuple(found)), tmp_path)
    assert "report unreadable" in Page(shown.read_text()).text
    assert from_json(record.read_text()).passed, "the past does not speak against today's drill"


def test_a_reason_stays_short_however_long_the_cause(tmp_path):
    write(but(checks=(check(found="x\n" * 5000, ok=False),)), tmp_path)
    assert len(earlier(tmp_path)[0].reason) <= 300
    assert "\n" not in earlier(tmp_path)[0].reason
