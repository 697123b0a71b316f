"""Start a unit on a node, and tell an operator how far it is. It does not need us: a cut line does not end it."""

from __future__ import annotations

import re
import time

import gevent
from pyinfra.api.host import Host

from roles.node import remote
from roles.site.errors import StepError
from roles.site.secret import scrub

EVERY = 20.0
"""Seconds between lines of progress within one phase."""
_SHOW = (
    "systemctl show -p ActiveState -p Result {unit}; "
    "sed 's/^/phase=/' /run/mattermost-backup.progress 2>/dev/null; true"
)
_PATIENCE = 10


def follow(host: Host, unit: str) -> None:
    """Start a oneshot unit and wait for its end, telling each phase.

    Raises:
        StepError: it failed, in its own words; it runs already; or the line to the node was cut (it then goes on).
    """
    if _look(host, unit)[0] in ("activating", "active", "deactivating"):
        raise StepError(
            f"{unit} runs already on {host.name} (journalctl -fu {unit}). Wait for its end, then run again."
        )
    since = remote.run(host, "date +%s").stdout.strip()
    got = remote.run(host, f"systemctl reset-failed {unit} 2>/dev/null; systemctl start --no-block {unit}")
    if not got.ok:
        raise StepError(f"{unit} does not start: {got.stderr.strip()}")
    started = told = time.monotonic()
    before, unseen = "", 0
    while True:
        active, result, phase = _look(host, unit)
        now = time.monotonic()
        unseen = 0 if active else unseen + 1
        if unseen > _PATIENCE:
            raise StepError(f"the line to {host.name} was cut; {unit} goes on there (journalctl -fu {unit})")
        if phase and (phase != before or now - told > EVERY):
            host.log(f"{phase} ({now - started:.0f} s)")
            before, told = phase, now
        if active in ("inactive", "failed"):
            break
        gevent.sleep(0.5)
    if active == "failed" or result != "success":
        raise StepError(_why(host, unit, since))


def _look(host: Host, unit: str) -> tuple[str, str, str]:
    lines = remote.run(host, _SHOW.format(unit=unit)).stdout.splitlines()
    words = dict(line.split("=", 1) for line in lines if "=" in line)
    return words.get("ActiveState", ""), words.get("Result", ""), words.get("phase", "")


def _why(host: Host, unit: str, since: str) -> str:
    """The program's last words: its own sentence, else whatever systemd says of it."""
    script = f"journalctl -u {unit} --since @{since or 0} --no-pager -o cat | tail -n 40"
    lines = [scrub(line) for line in remote.run(host, script).stdout.splitlines()]
    own = [re.sub(r"^mattermost-backup \w+: ", "", line) for line in lines if line.startswith("mattermost-backup ")]
    killed = next((line for line in lines if "Main process exited, code=killed" in line), "")
    said = (own[-1:] or [killed])[0] or (lines[-1:] or [""])[0]
    return said or f"{unit} failed: see `journalctl -u {unit}` on {host.name}"
