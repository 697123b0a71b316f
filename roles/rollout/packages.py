"""The step that installs packages, the same for every role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.operations import apt

_PATIENCE = "-o DPkg::Lock::Timeout=300"
"""Seconds that apt waits for another program that installs, such as unattended-upgrades (apt-get(8) of apt 1.9.11)."""


def install(node: str, here: bool, packages: Sequence[str]) -> None:
    """Step: packages, from the node's own apt sources; nothing when there are none to install.

    Args:
        node: its name.
        here: True in its greenlet.
        packages: their names.
    """
    if packages:
        name = f"Install {', '.join(packages)} on {node}"
        apt.packages(name=name, packages=list(packages), update=True, extra_install_args=_PATIENCE, _if=lambda: here)
