"""What a node is asked about nginx."""

from __future__ import annotations

from roles.node.bundle import Question
from roles.node.facts import NodeState
from roles.proxy.render import CERTIFICATE, CONFIG, KEY, live
from roles.proxy.settings import ProxySettings

STATE_DIR = "/var/lib/pyinfra-gitlab"
"""What we remember on a node (root only)."""
STAMP = f"{STATE_DIR}/nginx"
"""Holds the fingerprint of our files when nginx last read them because of us, without a complaint."""
FINGERPRINT = f"cat {CONFIG} {CERTIFICATE} {KEY} 2>/dev/null | sha256sum"
"""Shell: the fingerprint of our files."""


def questions(settings: ProxySettings, host: str) -> tuple[Question, ...]:
    """What the node is asked.

    Args:
        host: the name that people type.
    """
    asked = []
    if settings.acme:
        pem, renewal = f"{live(host)}/fullchain.pem", f"/etc/letsencrypt/renewal/{host}.conf"
        asked = [
            Question("proxy.acme.valid", f"openssl x509 -in {pem} -noout -checkend 0 >/dev/null && echo yes"),
            Question("proxy.acme.directory", f"sed -n 's/^server = //p' {renewal}"),
        ]
    return (
        *asked,
        Question("proxy.ipv6", "[ -e /proc/net/if_inet6 ] && echo yes"),
        Question("proxy.loaded", f'[ "$(cat {STAMP})" = "$({FINGERPRINT})" ] && echo yes'),
        Question("proxy.active", "systemctl is-active nginx.service"),
    )


def certificate_needed(settings: ProxySettings, state: NodeState) -> str:
    """Why certbot has to get a certificate; empty when it has not."""
    if settings.acme is None:
        return ""
    directory = state.answer("proxy.acme.directory")
    if not directory:
        return "there is none yet"
    if directory != settings.acme.directory:
        return f"the one there is from {directory}"
    return "" if state.answer("proxy.acme.valid") == "yes" else "the one there has expired"


def ipv6(state: NodeState) -> bool:
    """The node's kernel has IPv6; without it `listen [::]` fails."""
    return state.answer("proxy.ipv6") == "yes"


def as_declared(state: NodeState) -> bool:
    """nginx runs, with our files as they are."""
    return state.answer("proxy.loaded") == "yes" and state.answer("proxy.active") == "active"
