"""The lab for tests: one that runs is used and left running; else one is started, and stopped at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.lab.image import LAB, MACHINES
from tests.lab.lab import Lab
from tests.lab.site import LabSite


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, up."""
    lab = Lab()
    was_up = lab.is_up
    lab.up()
    yield lab
    if not was_up:
        lab.down()


_last: list[LabSite] = []


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> LabSite:
    """The lab's site on new nodes: nothing is installed on them yet."""
    _last.clear()
    lab.reset()
    folder = LAB / "tests" / lab.name
    shutil.rmtree(folder, ignore_errors=True)
    return LabSite(lab, folder)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> LabSite:
    """The lab's site, configured.

    On new nodes; or, for a module that says `REUSE = True`, as the module before has left it, if it is in order.
    """
    if _last and getattr(request.module, "REUSE", False) and _in_order(_last[0]):
        return _last[0]
    found: LabSite = request.getfixturevalue("fresh")
    found.ok()
    _last[:] = [found]
    return found


def _in_order(site: LabSite) -> bool:
    site.write(site.original)
    for name in MACHINES:
        site.lab.heal(name)
    return site.run().code == 0 and site.verify().code == 0


@pytest.fixture
def healed(site: LabSite) -> Iterator[LabSite]:
    """The configured site for a test that damages it: put right again afterwards, and seen to be."""
    yield site
    site.write(site.original)
    for name in MACHINES:
        site.lab.heal(name)
    result = site.run()
    assert result.code == 0, result.screen
