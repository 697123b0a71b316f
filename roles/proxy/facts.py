"""What a node is asked about nginx."""

from __future__ import annotations

from roles.node.bundle import Question
from roles.node.facts import NodeState
from roles.proxy.render import CERTIFICATE, CONFIG, KEY

STATE_DIR = "/var/lib/pyinfra-gitlab"
"""What we remember on a node (root only)."""
STAMP = f"{STATE_DIR}/nginx"
"""Holds the fingerprint of our files when nginx last read them because of us, without a complaint."""
FINGERPRINT = f"cat {CONFIG} {CERTIFICATE} {KEY} 2>/dev/null | sha256sum"
"""Shell: the fingerprint of our files."""


def questions() -> tuple[Question, ...]:
    """What the node is asked."""
    return (
        Question("proxy.ipv6", "[ -e /proc/net/if_inet6 ] && echo yes"),
        Question("proxy.loaded", f'[ "$(cat {STAMP})" = "$({FINGERPRINT})" ] && echo yes'),
        Question("proxy.active", "systemctl is-active nginx.service"),
    )


def ipv6(state: NodeState) -> bool:
    """The node's kernel has IPv6; without it `listen [::]` fails."""
    return state.answer("proxy.ipv6") == "yes"


def as_declared(state: NodeState) -> bool:
    """nginx runs, with our files as they are."""
    return state.answer("proxy.loaded") == "yes" and state.answer("proxy.active") == "active"
