"""The lab for tests: one that runs is used and left running; else one is started, and stopped at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.lab.image import LAB
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


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> LabSite:
    """The lab's site on new nodes: nothing is installed on them yet."""
    lab.reset()
    folder = LAB / "tests" / lab.name
    shutil.rmtree(folder, ignore_errors=True)
    return LabSite(lab, folder)


@pytest.fixture(scope="module")
def site(fresh: LabSite) -> LabSite:
    """The lab's site, configured."""
    fresh.ok()
    return fresh


@pytest.fixture
def healed(site: LabSite) -> Iterator[LabSite]:
    """The configured site for a test that damages it: put right again afterwards, and seen to be."""
    yield site
    site.write(site.original)
    for name in ("gitlab-1", "gitlab-2", "gitlab-3", "gitaly-1", "lb-1", "mail-1", "chat-1", "db-1"):
        site.lab.heal(name)
    result = site.run()
    assert result.code == 0, result.screen
