"""Which GitLab version may follow which. Pure.

Sources: config/upgrade_path.yml of GitLab (the required stops), doc/update/upgrade_paths.md (from 17.5 on they are x.2,
x.5, x.8 and x.11), doc/update/zero_downtime.md (nodes of two versions beside each other: one minor release at a time).
"""

from __future__ import annotations

from collections.abc import Iterator

Version = tuple[int, ...]
"""A version as numbers: `(18, 11, 11)`."""
Minor = tuple[int, int]
"""A minor release: `(18, 11)`."""

_STOPS: frozenset[Minor] = frozenset({(15, 0), (15, 4), (15, 11), (16, 3), (16, 7), (16, 11), (17, 3)})
"""Required stops before 17.5. 17.1 is one for few sites only, and is not counted (GitLab's upgrade notes for 17)."""
_EVERY = (2, 5, 8, 11)
"""Minor releases that are required stops since 17.5."""
_LAST = 11
"""The last minor release of every major one since 15."""


_SAFE = (18, 11, 9)
"""From 18.11 on to 19 only from here: 18.11.8 could switch the bundled Mattermost on while looking for it, those before
it are silent or refuse without reason (omnibus-gitlab, merge requests 9623, 9650, 9674)."""


def number(text: str) -> Version:
    """`18.11.11` as numbers."""
    return tuple(int(part) for part in text.split("."))


def stop(minor: Minor) -> bool:
    """True for a required stop."""
    return minor in _STOPS or (minor >= (17, 5) and minor[1] in _EVERY)


def following(minor: Minor) -> Minor:
    """The next minor release."""
    return (minor[0], minor[1] + 1) if minor[1] < _LAST else (minor[0] + 1, 0)


def between(old: Version, new: Version) -> Iterator[Minor]:
    """The minor releases that lie between two versions."""
    minor = following((old[0], old[1]))
    while minor < (new[0], new[1]):
        yield minor
        minor = following(minor)


def refusals(old: str, new: str, downtime: bool) -> list[str]:
    """Why a site must not go from one version to another in one go; nothing when it may.

    Args:
        old: what is installed.
        new: what is to be, not older.
        downtime: nobody is served meanwhile, so minor releases may be left out.
    """
    if number(old) < _SAFE and number(new) >= (19,):
        return [f"{old} to {new}: go to 18.11.9 or a later 18.11 first, whose check-config can be relied upon"]
    skipped = list(between(number(old), number(new)))
    stops = [minor for minor in skipped if stop(minor)]
    if stops:
        name = f"{stops[0][0]}.{stops[0][1]}"
        return [
            f"{old} to {new} leaves out {name}, which is a required stop: data is migrated there. Say gitlab.version: "
            f"the last patch release of {name}, upgrade, and let its background migrations end"
        ]
    if skipped and not downtime:
        name = f"{skipped[0][0]}.{skipped[0][1]}"
        return [
            f"{old} to {new} is more than one minor release, and nodes of both would work on one database. Go to "
            f"{name} first; or say --data downtime=yes: then puma and sidekiq are stopped everywhere meanwhile"
        ]
    return []
