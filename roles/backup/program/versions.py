"""Which server may take which data, and moments as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_NO_142 = (((11, 0, 0), (11, 6, 4)), ((11, 7, 0), (11, 7, 2)), ((11, 8, 0), (11, 8, 0)))
"""Servers that die on a database which 10.11.17 or later has migrated (mattermost issue #36594, PRs #37009-37011)."""


def number(version: str) -> tuple[int, ...]:
    """A version as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def conflicts(was: str, gate_142: bool, target: str) -> list[str]:
    """Why a server must not start with these data.

    Args:
        was: version that the data come from.
        gate_142: the database has the migration 142 of 10.11.17 and later.
        target: version that is to start.
    """
    if number(target) < number(was):
        return [
            f"the backup is of Mattermost {was}, the site file says {target}: an older server does not start on it."
        ]
    if gate_142 and any(low <= number(target) <= high for low, high in _NO_142):
        return [
            f"Mattermost {target} dies on a database that {was} has migrated (migration 142 is there twice; issue "
            "#36594). Take 11.6.5, 11.7.3, 11.8.1 or newer."
        ]
    return []


def moment(word: str) -> float | None:
    """A moment (`2026-11-23`, `2026-11-23 02:00`, `20261123T020000Z`; UTC unless it says otherwise), in seconds since
    1970; None when it is none."""
    for form in ("%Y%m%dT%H%M%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ"):
        try:
            return datetime.strptime(word, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    try:
        found = datetime.fromisoformat(word)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
