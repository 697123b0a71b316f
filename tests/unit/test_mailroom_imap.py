"""Our looks into a mailbox while mail_room is at work in it: real Ruby, and as much of a mail server as it takes."""

from __future__ import annotations

import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles" / "mailroom"
SAID = {
    "SEARCH": ["* SEARCH 1 2"],
    # The second one is marked by somebody else at this very moment, and then removed.
    "FETCH": [
        '* 1 FETCH (UID 1 FLAGS (\\Seen) INTERNALDATE "23-Nov-2026 10:00:00 +0000" '
        "BODY[HEADER.FIELDS (MESSAGE-ID FROM)] {0}\r\n)",
        "* 2 FETCH (FLAGS (\\Seen))",
    ],
    "EXAMINE": ["* 2 EXISTS", "* OK [UIDVALIDITY 7] UIDs valid"],
    "CAPABILITY": ["* CAPABILITY IMAP4rev1"],
}


class Imap(socketserver.StreamRequestHandler):
    """As much of IMAP as is asked here."""

    def handle(self) -> None:
        self.say("* OK ready")
        for line in self.rfile:
            tag, *words = line.decode().split()
            verb = words[1] if words[0] == "UID" else words[0]
            for text in SAID.get(verb, ()):
                self.say(text)
            self.say(f"{tag} OK done")

    def say(self, text: str) -> None:
        """One answer."""
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture(scope="module")
def box() -> Iterator[dict[str, Any]]:
    """How to reach the mailbox."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Imap) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"host": "127.0.0.1", "port": server.server_address[1], "ssl": False, "start_tls": False}
        yield {**where, "user": "in", "password": "secret", "mailbox_name": "inbox", "stuck_after": 600, "taken": []}
        server.shutdown()


def ruby(program: str, asked: dict[str, Any]) -> Any:
    """Run one of the programs that the nodes run."""
    words = ["ruby", str(ROLE / program)]
    done = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_probe_is_not_upset_by_flags_that_change(box: dict[str, Any]) -> None:
    answer = ruby("probe.rb", {"routes": [], "mailboxes": {"incoming_email": box}})
    assert answer["mailboxes"]["incoming_email"] == {"ok": True, "unseen": 2, "stuck": 1, "seen": 2}


def test_nor_is_the_look_for_lost_mails(box: dict[str, Any]) -> None:
    (answer,) = ruby("recover.rb", {"incoming_email": box}).values()
    assert [mail["uid"] for mail in answer["mails"]] == [1], answer
    assert answer["validity"] == 7
