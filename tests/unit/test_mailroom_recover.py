"""Which mails GitLab never got: told from mail_room's own logs, with real Ruby, and from flags."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.mailroom import recover
from roles.mailroom.recover import Fate, Mail, judge

BOXES = {
    "incoming_email": {"user": "in@example.com", "mailbox_name": "inbox"},
    "service_desk_email": {"user": "desk@example.com", "mailbox_name": "inbox"},
}
HOUR = "2026-11-23T10:"


def sending(user: str, uid: int, at: str) -> str:
    """mail_room begins to hand over a mail."""
    context = {"email": f"{user}@example.com", "name": "inbox"}
    line = {"severity": "INFO", "time": f"{HOUR}{at}+00:00", "context": context, "uid": uid}
    return json.dumps({**line, "action": "sending to deliverer", "deliverer": "Postback"})


def pushed(kind: str, status: int, at: str) -> str:
    """GitLab's answer."""
    url = f"https://gitlab.example.com/api/v4/internal/mail_room/{kind}"
    line = {"severity": "INFO", "time": f"{HOUR}{at}+00:00", "delivery_method": "Postback"}
    return json.dumps({**line, "action": "message pushed", "url": url, "status_code": status})


def evidence(folder: Path, *lines: str, older: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `evidence.rb` makes of a log, and of one that was rotated and packed."""
    log = folder / "mail_room_json.log"
    log.write_text("\n".join(lines) + "\n")
    if older:
        with gzip.open(f"{log}.1.gz", "wt") as file:
            file.write("\n".join(older) + "\n")
    program = Path(recover.__file__).with_name("evidence.rb")
    done = subprocess.run(["ruby", str(program), str(log)], input=json.dumps(BOXES), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return recover.merged([json.loads(done.stdout)])


def test_two_mailboxes_at_the_same_time_are_kept_apart(tmp_path: Path) -> None:
    found = evidence(
        tmp_path,
        sending("in", 7, "00:01.000"),
        sending("desk", 7, "00:01.100"),
        "not JSON, status_code",
        pushed("service_desk_email", 401, "00:02.000"),
        pushed("incoming_email", 200, "00:02.100"),
        sending("in", 8, "00:03.000"),
    )
    assert recover.taken(found["incoming_email"]) == [7]
    assert recover.taken(found["service_desk_email"]) == []
    assert [status for _, status in found["service_desk_email"]["mails"][7]] == [401]
    assert [status for _, status in found["incoming_email"]["mails"][8]] == [None]


def test_a_push_whose_answer_is_in_the_next_log_is_read_across_the_rotation(tmp_path: Path) -> None:
    found = evidence(tmp_path, pushed("incoming_email", 200, "00:02.000"), older=(sending("in", 7, "00:01.000"),))
    assert recover.taken(found["incoming_email"]) == [7]


def starting(user: str, at: str) -> str:
    """mail_room starts."""
    context = {"email": f"{user}@example.com", "name": "inbox"}
    return json.dumps({"time": f"{HOUR}{at}+00:00", "context": context, "action": "Setting up watcher"})


def test_a_mail_room_that_ended_before_the_answer_never_gets_it(tmp_path: Path) -> None:
    found = evidence(
        tmp_path,
        sending("in", 7, "00:01.000"),
        starting("in", "00:05.000"),
        pushed("incoming_email", 200, "00:06.000"),
        sending("in", 8, "00:07.000"),
        pushed("incoming_email", 200, "00:08.000"),
    )["incoming_email"]
    assert [status for _, status in found["mails"][7]] == [0]
    assert recover.taken(found) == [8]
    assert found["started"] > found["since"]


def test_no_log_is_no_evidence(tmp_path: Path) -> None:
    program = Path(recover.__file__).with_name("evidence.rb")
    done = subprocess.run(
        ["ruby", str(program), str(tmp_path / "x")], input=json.dumps(BOXES), capture_output=True, text=True
    )
    assert json.loads(done.stdout)["incoming_email"] == {"since": None, "started": None, "mails": {}}


def fate(
    tries: list[tuple[float, int | None]],
    since: float | None = 0,
    reading: bool = True,
    now: float = 5000,
    deleted: bool = False,
    started: float = 0,
) -> Any:
    """What is thought of a mail that came at second 1000."""
    found = {"mails": [{"uid": 3, "date": 1000.0, "message_id": "a@b", "sender": "b", "deleted": deleted}]}
    evidence = {"since": since, "started": started, "mails": {3: tries}}
    mails = judge("incoming_email", found, evidence, now, reading)
    return mails[0].fate if mails else "taken"


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        ("taken", {"tries": [(1001, 200)]}),
        ("taken", {"tries": [(1001, 502), (1700, 201)]}),
        ("taken", {"tries": [(1700, 201), (1001, 502)]}),
        (Fate.LOST, {"tries": [(1001, 401)]}),
        (Fate.LOST, {"tries": [(1001, 500)], "now": 1002}),
        (Fate.LOST, {"tries": []}),
        (Fate.UNCLEAR, {"tries": [(1001, None)]}),
        (Fate.UNCLEAR, {"tries": [(1001, 500), (1600, None)]}),
        (Fate.IN_FLIGHT, {"tries": [(1001, None)], "now": 1030}),
        (Fate.UNCLEAR, {"tries": [(1001, None)], "now": 1030, "reading": False}),
        (Fate.IN_FLIGHT, {"tries": [], "now": 1030}),
        (Fate.LOST, {"tries": [], "now": 1030, "reading": False}),
        (Fate.LOST, {"tries": [], "now": 1030, "deleted": True}),
        (Fate.UNCLEAR, {"tries": [(1001, 0)], "now": 1030}),
        (Fate.IN_FLIGHT, {"tries": [], "started": 4990}),
        (Fate.UNKNOWN, {"tries": [], "since": 2000}),
        (Fate.UNKNOWN, {"tries": [], "since": None}),
        (Fate.UNKNOWN, {"tries": [(500, 200)], "since": 2000}),
        (Fate.LOST, {"tries": [(500, 200)]}),
    ],
)
def test_what_became_of_a_mail(expected: Any, case: dict[str, Any]) -> None:
    assert fate(**case) == expected


@given(st.text(), st.text())
def test_foreign_text_cannot_write_on_the_screen(message_id: str, sender: str) -> None:
    said = Mail("incoming_email", 1, 0, message_id, "b", Fate.LOST, "x").sentence()
    assert said.isprintable()
    assert said.isascii()
    assert "\n" not in said
