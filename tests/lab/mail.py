"""Send mail into the lab, and look into its mailboxes without touching them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from tests.lab.image import DOMAIN, LAB
from tests.lab.lab import Lab

_SEND = """
import json, smtplib, sys
mails = json.load(sys.stdin)
with smtplib.SMTP("mail.lab.test", 25, timeout=20) as smtp:
    for sender, recipient, text in mails:
        smtp.sendmail(sender, [recipient], text.encode())
"""

_LOOK = """
import imaplib, json, ssl, sys
user, password, folder = json.load(sys.stdin)
with imaplib.IMAP4_SSL("mail.lab.test", 993, ssl_context=ssl.create_default_context(cafile=sys.argv[1])) as imap:
    imap.login(user, password)
    imap.select(folder, readonly=True)
    count = lambda *what: len(imap.uid("search", *what)[1][0].split())
    print(json.dumps([count("ALL"), count("UNSEEN"), count("DELETED")]))
"""


@dataclass(frozen=True)
class Mailbox:
    """What is in a mailbox."""

    total: int
    """Messages."""
    unseen: int
    """Messages that nobody has fetched."""
    deleted: int
    """Messages marked as deleted but still there."""


def message(to: str, subject: str, message_id: str) -> str:
    """A small mail."""
    return (
        f"From: Customer <customer@example.org>\r\nTo: {to}\r\nSubject: {subject}\r\nMessage-ID: <{message_id}>\r\n"
        "Date: Mon, 01 Jan 2024 00:00:00 +0000\r\n\r\nIt does not work.\r\n"
    )


def send(lab: Lab, to: str, subject: str, count: int = 1) -> list[str]:
    """Send `count` mails to an address; returns their Message-IDs, without brackets.

    Raises:
        RuntimeError: when the mail server refuses one.
    """
    import secrets

    ids = [f"{secrets.token_hex(8)}@example.org" for _ in range(count)]
    mails = [("customer@example.org", to, message(to, subject, one)) for one in ids]
    done = lab.run([sys.executable, "-c", _SEND], stdin=json.dumps(mails))
    if done.returncode != 0:
        raise RuntimeError(f"the mail was not sent: {done.stderr.strip().splitlines()[-1]}")
    return ids


def look(lab: Lab, kind: str, folder: str = "INBOX") -> Mailbox:
    """What is in the mailbox `incoming_email` or `service_desk_email`."""
    user = {"incoming_email": "incoming", "service_desk_email": "servicedesk"}[kind] + f"@{DOMAIN}"
    password = (LAB / f"secrets/{kind}_password").read_text()
    command = [sys.executable, "-c", _LOOK, str(LAB / "ca/ca.crt")]
    done = lab.run(command, stdin=json.dumps([user, password, folder]))
    if done.returncode != 0:
        raise RuntimeError(f"the mailbox could not be read: {done.stderr.strip().splitlines()[-1]}")
    return Mailbox(*json.loads(done.stdout))
