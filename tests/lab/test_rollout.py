"""A change in stages: a canary that it breaks stops it, the others serve, and it goes on after the cure."""

from __future__ import annotations

import pytest

from tests.lab.site import LabSite

pytestmark = pytest.mark.lab
REUSE = True

STAGES = """\
rollout:
  canary: gitlab-3
  batches: [1]
  timeout: 8
  settle: 1
  drain: [sh, -c, "echo drain {node} {address} >> calls"]
  undrain: [sh, -c, "echo undrain {node} {address} >> calls"]

gitlab:
"""
NODE = "{address: 198.18.0.13, roles: [application]}"
BROKEN = NODE[:-1] + ", settings: {gitlab_rails: {monitoring_whitelist: [192.0.2.1/32]}}}"
"""A setting under which the load balancer and everybody else gets 404 from the node's health routes."""


def fingerprints(site: LabSite) -> dict[str, str]:
    """Of every node's configuration."""
    nodes = ("gitlab-1", "gitlab-2", "gitlab-3", "gitaly-1")
    return {name: site.lab.sh(name, "sha256sum /etc/gitlab/gitlab.rb").stdout.split()[0] for name in nodes}


def serves(site: LabSite) -> bool:
    """Whether people get GitLab's pages through the load balancer, ten times in a row."""
    page = "https://gitlab.lab.test/users/sign_in"
    command = f"for n in 1 2 3 4 5 6 7 8 9 10; do curl -sfo /dev/null {page} || exit 1; done"
    return site.lab.sh("chat-1", command, check=False).returncode == 0


def test_a_canary_that_breaks_stops_the_rollout(site: LabSite) -> None:
    calls = site.folder / "calls"
    before = fingerprints(site)
    change = ("monitoring_whitelist: [127.0.0.0/8,", "monitoring_whitelist: [127.0.0.0/8, 192.0.2.7/32,")
    site.edit(("\ngitlab:\n", f"\n{STAGES}"), (NODE, BROKEN), change)
    result = site.run()
    assert result.code == 1
    assert "gitlab-3: not healthy after 8 s: /-/readiness: 404" in result.last_line
    assert "waits " in result.screen, "it tells what it waits for"
    after = fingerprints(site)
    assert [name for name in before if before[name] != after[name]] == ["gitlab-3"]
    assert calls.read_text() == "drain gitlab-3 198.18.0.13\n"
    assert serves(site)

    again = site.run()
    assert again.code == 1, "the same command does not go past it"
    assert fingerprints(site) == after

    site.edit(("\ngitlab:\n", f"\n{STAGES}"), change)
    calls.unlink()
    fixed = site.ok()
    assert "Configure gitlab-3" in fixed.screen
    lines = [line.split()[:2] for line in calls.read_text().splitlines()]
    assert lines[:2] == [["drain", "gitlab-3"], ["undrain", "gitlab-3"]]
    assert lines[-2:] == [["drain", "gitlab-1"], ["undrain", "gitlab-1"]], "the reader is last"
    assert len(lines) == 8
    site.sound()
    assert site.ok().last_line.startswith("pyinfra-gitlab: as declared")
