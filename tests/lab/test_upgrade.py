"""Another version of GitLab: node by node, with mail flowing, migrations on one node; what must not be is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.lab.site import NODES, LabSite
from tests.lab.storm import Readers, Storm, arrived
from tests.lab.test_move import start

pytestmark = pytest.mark.lab

OLD, NEW = "18.10.5", "18.11.11"
ROLLOUT = "\nrollout: {canary: gitlab-2, timeout: 30}\ngitlab:\n"


def say(site: LabSite, version: str) -> None:
    """Write the site file with this version of GitLab."""
    site.edit(("version: 18.11.11", f"version: {version}"), ("\ngitlab:\n", ROLLOUT))


def upgraded(site: LabSite, *words: str) -> Any:
    """Run the deploy."""
    return site.run(*(part for word in words for part in ("--data", word)), deploy="gitlab_upgrade")


def versions(site: LabSite) -> dict[str, str]:
    """What is installed where."""
    show = "dpkg-query -Wf '${Version}' gitlab-ee"
    return {name: site.lab.sh(name, show).stdout.removesuffix("-ee.0") for name in NODES}


def schema(site: LabSite) -> dict[str, Any]:
    """How far the database is, and who took it there."""
    found: dict[str, Any] = json.loads((site.lab.folder / "shared" / "schema.json").read_text())
    return found


def migrated(site: LabSite) -> list[tuple[str, str, list[str]]]:
    """Every migration there was: version, node, what."""
    return [(one["version"], one["node"].split(".")[0], one["done"]) for one in schema(site)["log"]]


@pytest.fixture(scope="module")
def old(fresh: LabSite) -> LabSite:
    """The lab's site, with the version before."""
    say(fresh, OLD)
    fresh.ok()
    assert set(versions(fresh).values()) == {OLD}
    assert migrated(fresh) == [(OLD, "gitlab-2", ["regular", "post"])]
    return fresh


@pytest.mark.parametrize(
    ("version", "deploy", "why"),
    [
        (NEW, "site", f"gitlab-1: GitLab {OLD} is installed, the site file says {NEW}."),
        (NEW, "site", "or upgrade: deploys/gitlab_upgrade.py."),
        ("19.0.5", "gitlab_upgrade", "18.10.5 to 19.0.5: go to 18.11.9 or a later 18.11 first"),
        ("18.9.2", "gitlab_upgrade", "is newer than 18.9.2. GitLab does not go back"),
        ("18.10.6", "gitlab_upgrade", "gitlab-ee=18.10.6-ee.0 cannot be had from the node's apt repositories"),
    ],
)
def test_what_must_not_be_is_not_begun(old: LabSite, version: str, deploy: str, why: str) -> None:
    say(old, version)
    result = old.run(deploy=deploy)
    assert result.code == 1
    assert why in result.screen
    assert set(versions(old).values()) == {OLD}
    assert old.readers()["gitlab-1"] == 1


def test_background_migrations_come_to_their_end_first(old: LabSite) -> None:
    say(old, NEW)
    file = old.lab.folder / "shared" / "schema.json"
    file.write_text(json.dumps({**schema(old), "background": ["BackfillX on events"]}))
    result = upgraded(old)
    assert result.code == 1
    assert "gitlab-2: 1 background migrations are not through, such as BackfillX on events." in result.screen
    file.write_text(json.dumps({**schema(old), "background": []}))


def test_dry_says_what_would_be_done(old: LabSite) -> None:
    say(old, NEW)
    result = old.run("--dry", deploy="gitlab_upgrade")
    assert result.code == 0, result.screen
    assert f"gitaly-1: take GitLab from {OLD} to the version of the site file" in result.screen
    assert (
        f"gitlab-2: migrate the database (then GitLab goes back only with a backup of exactly {OLD})" in result.screen
    )
    assert set(versions(old).values()) == {OLD}


def test_it_goes_back_while_the_database_is_as_it_was(old: LabSite) -> None:
    """gitaly-1 has the new version when gitlab-2 cannot take it."""
    say(old, NEW)
    folder = "/opt/gitlab/embedded/service"
    old.lab.sh("gitlab-2", f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}")
    try:
        result = upgraded(old)
    finally:
        old.lab.sh("gitlab-2", f"umount {folder}")
    assert result.code == 1
    assert "apt did not install gitlab-ee=18.11.11-ee.0" in result.screen
    assert "Read-only file system" in result.screen
    assert versions(old)["gitaly-1"] == NEW
    assert versions(old)["gitlab-3"] == OLD
    assert sum(old.readers().values()) == 0, "mail waits"
    assert old.lab.sh("gitlab-2", "ls /etc/gitlab").stdout.count("skip-auto-reconfigure") == 0

    stopped = old.run()
    assert stopped.code == 1
    assert f"an upgrade from {OLD} to {NEW} has not come to its end (gitlab-2: begun)" in stopped.screen
    assert old.verify().check("gitlab-2", "last upgrade of GitLab")["verdict"] == "differs"

    say(old, OLD)
    back = upgraded(old)
    assert back.code == 0, back.screen
    assert set(versions(old).values()) == {OLD}
    assert migrated(old) == [(OLD, "gitlab-2", ["regular", "post"])]
    assert old.readers()["gitlab-1"] == 1
    assert old.run().last_line.startswith("pyinfra-gitlab: as declared")
    old.sound(seconds=30)


def test_with_mail_flowing_and_killed_half_way(old: LabSite) -> None:
    say(old, NEW)
    with Readers(old.lab) as readers, Storm(old.lab, seed=7, rate=2) as storm:
        killed = start(old, deploy="gitlab_upgrade")
        deadline = time.monotonic() + 120
        while schema(old)["regular"] != NEW and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert schema(old)["post"] == OLD, "these come when every node has the new version"

        say(old, OLD)
        refused = upgraded(old)
        assert refused.code == 1
        assert f"the database has been migrated for {NEW}" in refused.screen

        say(old, NEW)
        again = upgraded(old, "lock_wait=60")
        assert again.code == 0, again.screen
    assert set(versions(old).values()) == {NEW}
    assert migrated(old)[1:] == [(NEW, "gitlab-2", ["regular"]), (NEW, "gitlab-2", ["post"])]
    assert arrived(old, storm.sent) == ([], {})
    assert readers.two == []
    for name in NODES:
        assert old.lab.sh(name, "apt-mark showhold").stdout == "gitlab-ee\n"
        assert "skip-auto-reconfigure" not in old.lab.sh(name, "ls /etc/gitlab").stdout
    assert upgraded(old).last_line.startswith("pyinfra-gitlab: as declared")
    assert old.run().last_line.startswith("pyinfra-gitlab: as declared")
    old.sound(seconds=30)


def test_nineteen_is_refused_where_it_would_fail_half_way(old: LabSite) -> None:
    """check-config of 18.11 is content, and the reconfigure of 19.0 would not be."""
    say(old, "19.0.5")
    for name in NODES:
        old.lab.sh(name, "gitlab-ctl check-config --version=19.0.5")
    result = upgraded(old)
    assert result.code == 1
    assert (
        "still holds salts of a bundled Mattermost, which the reconfigure of 19.0.5 takes for one in use"
        in result.screen
    )
    assert set(versions(old).values()) == {NEW}
