"""The site of this process. Secrets must not be in pyinfra's host data (`debug-inventory` prints it), so it is here."""

from __future__ import annotations

from roles.site.errors import RefusedError
from roles.site.models import Site

_site: list[Site] = []


def use(site: Site) -> None:
    """Make `site` the one that deploys work on. Called when the inventory is loaded."""
    _site[:] = [site]


def current() -> Site:
    """The site.

    Raises:
        RefusedError: when the inventory did not load one.
    """
    if not _site:
        raise RefusedError("the inventory loaded no site file. Use an inventory like inventories/example/inventory.py.")
    return _site[0]
