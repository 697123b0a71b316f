"""Mails that mail_room has taken out of the mailbox's unread ones, and that GitLab never got.

mail_room marks a mail as read before it hands it over, and takes any HTTP answer for a delivery. So a 401, a 502, or
its own death leave mails behind that nobody will ever look at again. What it did with each is in its logs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from roles.gitlab.render import RUBY
from roles.mailroom import facts
from roles.mailroom.render import MAILBOXES
from roles.node.bundle import Question
from roles.site.models import Site

IN_FLIGHT = 120.0
"""Seconds after which a mail that is being handed over counts as given up: mail_room's HTTP client waits 60 s."""
CLOCKS = 5.0
"""Seconds by which the clocks of the mail server and of the nodes may differ."""


class Fate(Enum):
    """What became of a mail that was taken."""

    LOST = "lost"
    """GitLab answered with an error, or it was never handed over."""
    UNCLEAR = "unclear"
    """It was handed over, and no answer was logged: mail_room died at that moment. GitLab may have it."""
    UNKNOWN = "unknown"
    """mail_room's logs do not reach back to it. Somebody may have read it by hand."""
    IN_FLIGHT = "in flight"
    """mail_room may be at it right now."""


Evidence = Mapping[str, Mapping[str, Any]]
"""By mailbox type: `since` (seconds since 1970; None: no log), `started` (the last start of mail_room), `mails`: uid ->
[[moment, status], ...]; the status is None while there is none, and 0 when mail_room ended before it had one."""


@dataclass(frozen=True)
class Mail:
    """A mail that was taken, without a sign that GitLab has it."""

    kind: str
    """Mailbox type."""
    uid: int
    """Its number in the mailbox."""
    date: float
    """When it came; seconds since 1970."""
    message_id: str
    """As its sender wrote it: foreign text."""
    sender: str
    """Domain of the sender: foreign text."""
    fate: Fate
    """What became of it."""
    why: str
    """Why we think so."""

    def sentence(self) -> str:
        """One line for an operator; foreign text is shown in plain signs only."""
        name = self.message_id.encode("ascii", "backslashreplace").decode()
        name = "".join(sign if sign.isprintable() else "?" for sign in name)[:120]
        return f"{self.kind} uid {self.uid}, <{name}> from {self.sender[:60] or '?'}: {self.fate.value}, {self.why}"


@cache
def _program(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def evidence_command() -> str:
    """Shell that reads a node's logs; it feeds on :func:`evidence_questions`. Without the package it says nothing."""
    words = [RUBY, "-e", _program("evidence.rb"), facts.LOG]
    return f"[ ! -x {RUBY} ] || " + " ".join(shlex.quote(word) for word in words)


def evidence_questions(site: Site) -> str:
    """Standard input for `evidence.rb`: how each mailbox is called in the logs."""
    assert site.mail is not None
    boxes = {kind: box for kind in MAILBOXES if (box := site.mail.mailbox(kind))}
    return json.dumps({kind: {"user": box.user, "mailbox_name": box.mailbox_name} for kind, box in boxes.items()})


def evidence_question(site: Site) -> Question:
    """The same as a part of the one look at a node."""
    return Question(
        "mailroom.evidence", f"printf %s {shlex.quote(evidence_questions(site))} | {{ {evidence_command()}; }}"
    )


def merged(answers: Iterable[Evidence]) -> dict[str, dict[str, Any]]:
    """The evidence of all nodes together: the reader may have moved."""
    out: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for kind, found in answer.items():
            known = out.setdefault(kind, {"since": None, "started": 0.0, "mails": {}})
            known["started"] = max(known["started"], found["started"] or 0.0)
            moments = [moment for moment in (known["since"], found["since"]) if moment is not None]
            known["since"] = min(moments, default=None)
            for uid, tries in found["mails"].items():
                known["mails"].setdefault(int(uid), []).extend(tries)
    return out


def taken(evidence: Mapping[str, Any]) -> list[int]:
    """Uids of the mails that GitLab has taken (any 2xx)."""
    return sorted(
        uid for uid, tries in evidence["mails"].items() if any(status and 200 <= status < 300 for _, status in tries)
    )


def command() -> str:
    """Shell of `recover.rb`; it feeds on :func:`questions`."""
    return f"{RUBY} -e {shlex.quote(_program('recover.rb'))}"


def questions(site: Site, more: Mapping[str, Mapping[str, Any]]) -> str:
    """Standard input for `recover.rb`. Holds the mailbox passwords.

    Args:
        more: by mailbox type: `taken`, or `give_back` and `validity`. Mailboxes that are not in it are left alone.
    """
    assert site.mail is not None
    out = {}
    for kind, words in more.items():
        box = site.mail.mailbox(kind)
        assert box is not None
        keys = ("host", "port", "ssl", "start_tls", "user", "mailbox_name")
        out[kind] = {key: getattr(box, key) for key in keys}
        out[kind] |= {"password": site.secret(box.password).reveal(), **words}
    return json.dumps(out)


def judge(kind: str, found: Mapping[str, Any], evidence: Mapping[str, Any], now: float, reading: bool) -> list[Mail]:
    """What became of each mail that was taken and has no 2xx.

    Args:
        found: the answer of `recover.rb` for this mailbox.
        evidence: that of all nodes for this mailbox.
        now: seconds since 1970.
        reading: a mail_room runs: it may be at a mail right now.
    """
    out = []
    for one in found["mails"]:
        # An entry from before the mail came is about another mail: the mailbox was made new meanwhile.
        tries = sorted(
            ((at, status) for at, status in evidence["mails"].get(one["uid"], ()) if at >= one["date"] - CLOCKS),
            key=lambda one: one[0],
        )
        answers = [status for _, status in tries if status]
        if any(200 <= status < 300 for status in answers):
            continue
        last, answer = tries[-1] if tries else (max(one["date"], evidence["started"]), None)
        # A mail is marked as deleted only when mail_room is through with it.
        if reading and answer is None and not one["deleted"] and now - last < IN_FLIGHT:
            fate, why = Fate.IN_FLIGHT, "mail_room may be at it"
        elif tries and not answer:
            fate, why = Fate.UNCLEAR, "it was handed over, and no answer was logged"
        elif answers:
            fate, why = Fate.LOST, f"GitLab answered {answers[-1]}"
        elif evidence["since"] is not None and evidence["since"] <= one["date"] - CLOCKS:
            fate, why = Fate.LOST, "it was never handed over"
        else:
            fate, why = Fate.UNKNOWN, "mail_room's logs do not reach back to it"
        out.append(Mail(kind, one["uid"], one["date"], one["message_id"], one["sender"], fate, why))
    return out
