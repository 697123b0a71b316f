"""Whether nginx serves HTTPS as declared. Asked by `verify`; changes nothing."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

from pyinfra.api.host import Host

from roles.node import remote
from roles.node.bundle import File
from roles.node.checks import Check, compare
from roles.node.facts import NodeState
from roles.node.plan import changes
from roles.proxy import certificate, facts
from roles.proxy.render import CERTIFICATE

ACME_DAYS = 25
"""Days before its end at which certbot, which renews from 30 on and tries twice a day, should long have done it."""
CURE = "Run deploys/mattermost.py."


def question(name: str, port: int) -> str:
    """The command that tells what the node serves over TLS. Arguments: as for `checks`."""
    words = f"-connect 127.0.0.1:{port} -servername {shlex.quote(name)} -showcerts"
    return f"timeout 20 openssl s_client {words} </dev/null 2>/dev/null"


def checks(
    host: Host, name: str, port: int, files: tuple[File, ...], state: NodeState, got: remote.Result
) -> list[Check]:
    """nginx's files, whether it has read them, what it serves over TLS, and how long that is valid.

    Args:
        name: the host name that people type.
        port: of HTTPS.
        files: as they must be.
        got: the answer to `question`.
    """
    out = []
    for file in files:
        differing = changes((file,), state)
        found = differing[0].summary() if differing else "the same"
        out.append(compare(host.name, file.path, "as the site file says", found, not differing, CURE))
    fresh = facts.as_declared(state)
    found = "runs with these files" if fresh else "does not run, or has not read them"
    out.append(compare(host.name, "nginx", "runs with these files", found, fresh, f"{CURE} See `nginx -t`."))
    declared = next((file.content for file in files if file.path == CERTIFICATE), None)
    out.append(_served(host, name, port, declared, got))
    return out


def _served(host: Host, name: str, port: int, declared: bytes | None, got: remote.Result) -> Check:
    """What is served over TLS. `declared` is the file's; None when certbot has it."""
    served = certificate.certificates(got.stdout.encode())
    days = certificate.WARN_DAYS if declared else ACME_DAYS
    what = "the declared one" if declared else f"one for {name}"
    subject, wanted = f"certificate at port {port}", f"{what}, valid for {days} days more"
    if not served:
        return compare(host.name, subject, wanted, "no TLS answer", False, f"{CURE} See `journalctl -u nginx`.")
    if declared and [one.split() for one in served] != [one.split() for one in certificate.certificates(declared)]:
        return compare(host.name, subject, wanted, "another certificate, or another chain", False, CURE)
    if other := certificate.host_problems(served[0], name):
        return compare(host.name, subject, wanted, other[0], False, CURE)
    end = certificate.not_after(served[0])
    left = certificate.days_left(end, datetime.now(UTC))
    cure = "Renew it, put it where mattermost.proxy.certificate says, and run deploys/mattermost.py."
    if not declared:
        cure = "certbot should have renewed it: see `systemctl list-timers` and /var/log/letsencrypt/ on the node."
    found = f"{what}, valid until {end:%Y-%m-%d} ({left} days)"
    return compare(host.name, subject, wanted, found, left >= days, cure)
