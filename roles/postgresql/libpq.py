"""What the administrator's way to a server and the application's have in common: libpq, and what its errors mean."""

from __future__ import annotations

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""What Debian and Ubuntu trust; libpq, unlike lib/pq, has to be told."""
CONNECT_TIMEOUT = 10
"""Seconds that a connection may take."""


def cause(message: str) -> str:
    """What libpq said, in one line and without addresses that it repeats."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines)[-400:].rstrip(".")


def cure(said: str, password: str) -> str:
    """What an operator does about an error of libpq's.

    Args:
        password: where the password comes from, in the site file.
    """
    for words, told in (
        ("root certificate file", "Name mattermost.database.ca, or install ca-certificates."),
        ("password authentication failed", f"Check {password}."),
        ("does not exist", "With mattermost.database.admin it is made for you."),
        ("no pg_hba.conf entry", "Allow this address, with TLS, in the server's pg_hba.conf."),
        ("certificate verify failed", "Its certificate is not of mattermost.database.ca, or has expired."),
        ("does not match host name", "mattermost.database.host must be a name in the server's certificate."),
        ("does not support SSL", "Switch TLS on there (ssl = on), or give another sslmode."),
        ("could not translate host name", "Check mattermost.database.host and DNS."),
        ("Connection refused", "Check host and port, and that PostgreSQL listens there."),
        ("timeout expired", "A firewall in between?"),
    ):
        if words in said:
            return told
    return "Nothing was started."
