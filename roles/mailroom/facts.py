"""What a node is asked about mail_room: who reads, with which token, and how it went lately."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from roles.mailroom.render import MAILBOXES
from roles.node.bundle import Question
from roles.node.facts import NodeState
from roles.site.secret import Secret

SERVICE = "/opt/gitlab/service/mailroom"
"""runit's link of the service; present only while it is enabled."""
SUPERVISED = "/opt/gitlab/sv/mailroom/supervise/pid"
"""Process id of the mail_room that runit started (runsv(8))."""
LOG = "/var/log/gitlab/mailroom/mail_room_json.log"
"""mail_room's structured log (default of `gitlab_rails['incoming_email_log_file']`)."""

POLL = "getting new messages"
"""What mail_room logs at each look into a mailbox, in any case (mail_room/mailbox_watcher.rb)."""

LOGGED = f"stat -c %s {LOG} 2>/dev/null || echo 0"
"""Shell: how long the log is."""


def secret_file(kind: str) -> str:
    """Path of the token that Rails and mail_room really use, written by `gitlab-ctl reconfigure`.

    Args:
        kind: `incoming_email` or `service_desk_email`.
    """
    return f"/var/opt/gitlab/gitlab-rails/etc/gitlab_{kind}_secret"


# Counted from processes, not from files or from runit: a mail_room started by hand reads mail as well. A process
# counts when one whole word of its command line is mail_room or ends in /mail_room, and Ruby runs it.
READERS = (
    "for f in $(grep -lzxE '(.*/)?mail_room' /proc/[0-9]*/cmdline 2>/dev/null); do d=${f%/cmdline}; "
    "case $(readlink $d/exe) in */ruby*) echo ${d#/proc/};; esac; done; true"
)
"""Shell: one line per running mail_room, its process id."""
WHO_READS = Question("mailroom.readers", READERS)
"""The same as a question."""
TOKENS = tuple(
    Question(f"mailroom.token.{kind}", f"tr -d '\\n' < {secret_file(kind)} | sha256sum") for kind in MAILBOXES
)
"""The tokens in use, as hashes."""


def questions(rails: bool, reader: bool) -> tuple[Question, ...]:
    """What a GitLab node is asked about mail. Tokens are answered as hashes.

    Args:
        rails: the node takes mails.
        reader: the node is to read mail.
    """
    asked = [
        WHO_READS,
        Question("mailroom.service", f"[ -e {SERVICE} ] && /opt/gitlab/embedded/bin/sv status {SERVICE}"),
    ]
    if rails:
        asked += TOKENS
    if reader:
        asked += [
            Question("mailroom.logged", LOGGED),
            Question("mailroom.polled", f"tail -n 5000 {LOG} | grep -i '{POLL}' | tail -n 1"),
            Question("mailroom.pushed", f"tail -n 5000 {LOG} | grep status_code | tail -n 1"),
        ]
    return tuple(asked)


def readers(state: NodeState) -> list[int]:
    """Process ids of the mail_rooms that run on the node."""
    return [int(pid) for pid in state.answer("mailroom.readers").split()]


def kept_up(state: NodeState) -> bool:
    """True when runit runs mail_room on the node, or starts it again in this second (`sv status`; sv.c of runit).

    A mail_room that just died has no process, and would have one a moment later.
    """
    said = state.answer("mailroom.service").partition(";")[0]
    return "want up" in said or (said.startswith(("run:", "finish:")) and "want down" not in said)


def token_hash(state: NodeState, kind: str) -> str | None:
    """SHA-256 (hex) of the token in use for a mailbox type; None when the node has none."""
    answer = state.answer(f"mailroom.token.{kind}").partition(" ")[0]
    empty = hashlib.sha256(b"").hexdigest()
    return answer if answer and answer != empty else None


def hash_of(token: Secret) -> str:
    """The same hash for a declared token."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()


@dataclass(frozen=True)
class LogLine:
    """One line of `mail_room_json.log`."""

    time: datetime
    """When it was written (the node's clock)."""
    status_code: int | None
    """HTTP status of a push; None for other lines."""


def logged(state: NodeState) -> int:
    """How long the log is, in bytes; 0 without one."""
    return int(state.answer("mailroom.logged") or 0)


def last_poll(state: NodeState) -> LogLine | None:
    """The last time mail_room looked for mail; None when the log has no such line."""
    return _log_line(state.answer("mailroom.polled"))


def last_push(state: NodeState) -> LogLine | None:
    """The last push to GitLab, with its status code; None when the log has none."""
    return _log_line(state.answer("mailroom.pushed"))


def _log_line(text: str) -> LogLine | None:
    try:
        line = json.loads(text)
        code = line.get("status_code")
        return LogLine(datetime.fromisoformat(str(line["time"])), int(code) if code is not None else None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
