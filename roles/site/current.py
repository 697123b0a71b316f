"""The site of this process. Secrets must not be in pyinfra's host data (`debug-inventory` prints it), so it is here."""

from __future__ import annotations

from collections.abc import Iterable

from roles.site.errors import RefusedError
from roles.site.models import Site

_site: list[Site] = []
_away: set[str] = set()


def use(site: Site) -> None:
    """Make `site` the one that deploys work on. Called when the inventory is loaded."""
    _site[:] = [site]
    _away.clear()


def leave_out(names: Iterable[str]) -> None:
    """From now on the site of this run is without these nodes: they are off, by word of an operator."""
    _away.update(names)


def declared() -> Site:
    """The site as its file says.

    Raises:
        RefusedError: when the inventory did not load one.
    """
    if not _site:
        raise RefusedError("the inventory loaded no site file. Use an inventory like inventories/example/inventory.py.")
    return _site[0]


def current() -> Site:
    """The site of this run: as declared, without the nodes that are off.

    Raises:
        RefusedError: when the inventory did not load one.
    """
    site = declared()
    if not _away:
        return site
    return site.model_copy(update={"nodes": {name: node for name, node in site.nodes.items() if name not in _away}})
