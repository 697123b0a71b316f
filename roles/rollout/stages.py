"""In which stages the nodes of a site are changed. Pure: settings and names in, batches out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from roles.site.models import Site


def stages(site: Site) -> list[list[str]]:
    """The GitLab nodes that do not read mail, stage by stage: the canary, then the batches. The reader comes after all.

    Without `rollout` in the site file: all of them in one stage.
    """
    reader = site.mail.reader if site.mail else None
    nodes = [name for name in site.gitlab_nodes if name != reader]
    wanted = site.rollout
    if wanted is None or not nodes:
        return [nodes] if nodes else []
    canary = wanted.canary if wanted.canary in nodes else next((n for n in nodes if site.nodes[n].rails), nodes[0])
    return [[canary], *batches([name for name in nodes if name != canary], wanted.batches, len(nodes))]


_ORDER = "consul postgres patroni pgbouncer redis_master redis_replica redis_sentinel gitaly".split()


def upgrade_stages(site: Site) -> list[list[str]]:
    """The GitLab nodes in the order in which they get another version (GitLab's doc/update/zero_downtime.md).

    What others build on comes first, one node at a time; then the node that migrates the database; then the other ones
    with the application in batches (without `rollout`: one at a time); Sidekiq; the mail reader, unless it migrates.
    """
    reader = site.mail.reader if site.mail else None
    groups: dict[int, list[str]] = {}
    for name, node in site.gitlab_nodes.items():
        if name == site.migrates:
            place = 100
        elif name == reader:
            place = 103
        elif not node.roles or "application" in node.roles:
            place = 101
        elif "sidekiq" in node.roles:
            place = 102
        else:
            place = min((_ORDER.index(role) for role in node.roles if role in _ORDER), default=len(_ORDER))
        groups.setdefault(place, []).append(name)
    out = []
    for place, names in sorted(groups.items()):
        sizes = site.rollout.batches if site.rollout and place > 100 else [1]
        out += batches(names, sizes, len(site.gitlab_nodes))
    return out


def batches(nodes: Sequence[str], sizes: Sequence[int | str], total: int) -> list[list[str]]:
    """Cut a list of nodes into batches.

    Args:
        nodes: their names.
        sizes: how many at a time: numbers, or percentages of `total`, rounded up; the last one is repeated.
        total: of what the percentages are.
    """
    out, rest, number = [], list(nodes), 0
    while rest:
        size = sizes[min(number, len(sizes) - 1)]
        count = size if isinstance(size, int) else math.ceil(total * int(size.rstrip("%")) / 100)
        out.append(rest[:count])
        rest, number = rest[count:], number + 1
    return out
