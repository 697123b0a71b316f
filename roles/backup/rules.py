"""Rules between the keys of backups and drills, on the site file's plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roles.gitlab.settings import DRILL_ROLE
from roles.site.found import Found, get, items
from roles.site.yaml import KeyPath as Loc


def check(data: Mapping[str, Any]) -> Iterator[Found]:
    """Every broken rule."""
    backup, drill = get(data, "mattermost", "backup"), get(data, "mattermost", "drill")
    spare = [name for name, node in items(data, "nodes") if DRILL_ROLE in (get(node, "roles") or ())]
    loc: Loc = ("mattermost", "drill")
    if isinstance(drill, Mapping):
        if not isinstance(backup, Mapping):
            yield Found(loc, "has nothing to restore", "no mattermost.backup", "mattermost.backup")
        if len(spare) != 1:
            found = ", ".join(spare) or "no such node"
            yield Found(
                loc, "needs exactly one node with the role mattermost_drill", found, "roles: [mattermost_drill]"
            )
        mine, theirs = get(drill, "database"), get(data, "mattermost", "database")
        place = [
            (get(one, "host"), get(one, "port") or 5432, get(one, "name") or "mattermost") for one in (mine, theirs)
        ]
        if place[0] == place[1]:
            yield Found(
                (*loc, "database"),
                "is Mattermost's own",
                str(get(mine, "host")),
                "a spare database, or a name of its own",
            )
    elif spare:
        yield Found(("nodes", spare[0], "roles"), "there is no drill in this file", "", "mattermost.drill")
    driver = get(data, "mattermost", "settings", "FileSettings", "DriverName")
    if isinstance(backup, Mapping) and driver not in (None, "local"):
        message = "would hold no files: they are not on the node"
        yield Found(
            ("mattermost", "backup"), message, f"FileSettings.DriverName {driver}", "versions of the bucket itself"
        )
