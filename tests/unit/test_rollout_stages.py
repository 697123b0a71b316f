"""Changes in stages: canary, batches, reader; each seen healthy. Real pyinfra, real deploys, simulated nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.rollout.stages import batches
from roles.site.errors import SiteFileError
from roles.site.load import load
from tests.unit import test_rollout_order
from tests.unit.simulated import World
from tests.unit.sites import SITE, write

NODES = ("app-1", "app-2", "app-3", "app-4", "gitaly-1")
ROLLOUT = """
rollout:
  canary: app-3
  batches: [1, 100%]
  timeout: 1
  drain: [sh, -c, "echo drain {node} >> calls"]
  undrain: [sh, -c, "echo undrain {node} >> calls"]
"""


class Site(test_rollout_order.Site):
    """Four application nodes, of which the first reads mail, and one for Gitaly."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.world = World(folder / "world.json", NODES)

    def declare(self, reader: str = "app-1") -> None:
        """Write the site file."""
        text = SITE.replace("gitlab:\n", ROLLOUT.lstrip() + "gitlab:\n", 1)
        extra = "".join(f"  app-{n}: {{address: 10.0.0.3{n}, roles: [application]}}\n" for n in (3, 4))
        write(self.folder, text.replace("nodes:\n", f"nodes:\n{extra}", 1))

    @property
    def calls(self) -> list[str]:
        """What the operator's own programs were called for since the last look."""
        file = self.folder / "calls"
        found = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    def change(self) -> None:
        """Something to put right on every node."""
        for node in self.world.nodes.values():
            node["files"]["/etc/gitlab/gitlab.rb"] += "# another version\n"
        self.world.save()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Configured, and then changed by somebody on every node."""
    site = Site(tmp_path)
    code, last = site.run()
    assert code == 0, last
    assert site.calls
    site.change()
    return site


def changed(site: Site) -> list[str]:
    """The nodes in the order in which they were reconfigured."""
    return [name for name, act in site.world.log if act == "reconfigure, mail_room off"]


def test_canary_then_batches_then_the_reader(site: Site) -> None:
    code, last = site.run()
    assert code == 0, last
    order = changed(site)
    assert order[0] == "app-3"
    assert order[-1] == "app-1"
    others = [n for n in site.did("install") if n not in site.did("install", "app-3")]
    assert site.did("health", "app-3")[0] < min(others)
    calls = site.calls
    assert calls[:2] == ["drain app-3", "undrain app-3"]
    assert calls[-2:] == ["drain app-1", "undrain app-1"]
    assert site.readers == ["app-1"]
    assert site.run()[1].endswith("nothing to do on 5 GitLab nodes")
    assert site.calls == []


def test_a_sick_canary_stops_the_rollout_and_the_same_command_goes_on(site: Site) -> None:
    site.world.nodes["app-3"]["sick"] = "/-/readiness: 503"
    site.world.save()
    code, last = site.run()
    assert code == 1
    assert "app-3: not healthy after 1 s: /-/readiness: 503" in last
    assert "nodes after this one are as they were" in last
    assert changed(site) == ["app-3"]
    assert site.calls == ["drain app-3"], "it gets no traffic"
    code, _ = site.run()
    assert code == 1
    assert changed(site) == [], "it is still sick: nothing else is touched"
    site.world.nodes["app-3"]["sick"] = ""
    site.world.save()
    code, last = site.run()
    assert code == 0, last
    assert "app-3" not in changed(site)
    assert site.calls[0] == "undrain app-3"
    assert site.readers == ["app-1"]


def test_a_node_that_cannot_be_drained_is_not_changed(site: Site) -> None:
    file = site.folder / "site.yml"
    file.write_text(file.read_text().replace('"echo drain {node} >> calls"', '"echo no such backend >&2; exit 3"'))
    code, last = site.run()
    assert code == 1
    assert "rollout.drain ended with 3: no such backend. app-3 was not changed." in last
    assert changed(site) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("canary: app-3", "canary: app-1", "is the mail reader, which comes last"),
        ("canary: app-3", "canary: app-9", "is not a GitLab node of this site"),
        ("batches: [1, 100%]", "batches: [0]", "batches"),
        ("batches: [1, 100%]", "batches: [101%]", "batches"),
        ("batches: [1, 100%]", "batches: []", "batches"),
    ],
)
def test_stages_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    file = Site(tmp_path).folder / "site.yml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(SiteFileError, match=why):
        load(file)


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=30),
    st.lists(st.integers(1, 9) | st.integers(1, 100).map("{}%".format), min_size=1, max_size=5),
)
def test_every_node_is_in_exactly_one_batch(nodes: list[str], sizes: list[int | str]) -> None:
    found = batches(nodes, sizes, len(nodes))
    assert [name for batch in found for name in batch] == nodes
    assert all(found)
    if isinstance(sizes[0], int) and nodes:
        assert len(found[0]) == min(sizes[0], len(nodes))
