"""Turn a site file into pyinfra's groups: all that an `inventory.py` has to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roles.rollout.guard import deploys, guard
from roles.site.current import use
from roles.site.load import load
from roles.site.models import Site

Group = list[tuple[str, dict[str, Any]]]
"""A pyinfra group: node names with their data."""


def pyinfra_groups(site_file: Path) -> dict[str, Group]:
    """Load the site file, check the flags of the run, and make the groups.

    Returns:
        `gitlab` (all its nodes), `rails` (those with Rails), `mail_reader` and `mattermost` and `mattermost_drill`
        (one node each, or none).
        Secrets are not in them.

    Raises:
        SiteFileError: with every problem of the site file.
        RefusedError: for flags under which the order across nodes would not hold.
    """
    guard()
    site = load(site_file)
    use(site)
    nodes = {name: _data(site, name) for name in site.nodes}
    spare = [site.drill_node] if site.drill_node and (not deploys or "drill.py" in deploys) else []
    groups = {
        "gitlab": list(site.gitlab_nodes),
        "rails": site.rails_nodes,
        "mail_reader": [site.mail.reader] if site.mail else [],
        "mattermost": [site.mattermost_node] if site.mattermost_node else [],
        "mattermost_drill": spare,  # it may be switched off between drills, and must not stop other runs
    }
    return {group: [(name, nodes[name]) for name in names] for group, names in groups.items()}


def _data(site: Site, name: str) -> dict[str, Any]:
    """pyinfra's connector data of one node (pyinfra 3.10, connectors/ssh.py)."""
    ssh = site.ssh
    data: dict[str, Any] = {
        "ssh_hostname": site.nodes[name].address,
        "ssh_user": ssh.user,
        "ssh_port": ssh.port,
        "_sudo": ssh.user != "root" if ssh.sudo is None else ssh.sudo,
    }
    if ssh.key:
        data["ssh_key"] = str(site.file(ssh.key))
    if ssh.known_hosts:
        data["ssh_known_hosts_file"] = str(site.file(ssh.known_hosts))
        data["ssh_strict_host_key_checking"] = "yes"
    return data
