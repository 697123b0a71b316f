"""Whether a node may be called done: its services run, it is ready, and nobody sees more errors than before."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra.api.host import Host

from roles.gitlab.render import RUBY
from roles.mailroom.render import node_url
from roles.node import remote
from roles.rollout.settings import ErrorRateSettings, RolloutSettings
from roles.site.errors import StepError
from roles.site.models import Site

if TYPE_CHECKING:
    from roles.rollout.run import Run

EVERY = 15.0
"""Seconds between two lines of progress."""


@cache
def _program() -> str:
    return Path(__file__).with_name("health.rb").read_text()


def unhealthy(site: Site, host: Host) -> str:
    """What is wrong with a node's GitLab, in words; empty when nothing is."""
    name = str(host.name)
    url = node_url(site, name)[0] if site.nodes[name].rails else ""
    command = " ".join(shlex.quote(word) for word in (RUBY, "-e", _program(), *([url] if url else [])))
    got = remote.run(host, command)
    try:
        answer: dict[str, Any] = json.loads(got.stdout)
    except json.JSONDecodeError:
        return f"it could not be asked: {got.stderr.strip()[-300:]}"
    if answer["down"]:
        return "; ".join(answer["down"])
    if not answer["services"]:
        return "gitlab-ctl status names no service"
    ready = answer.get("readiness")
    if ready is None:
        return ""
    if "error" in ready:
        return f"/-/readiness: {ready['error']}"
    if ready["code"] != 200 or ready["failed"]:
        return f"/-/readiness: {ready['code']}" + (f", {', '.join(ready['failed'])} failed" if ready["failed"] else "")
    return ""


def error_rate(settings: ErrorRateSettings, name: str, address: str) -> str:
    """What Prometheus has against a node; empty when nothing."""
    query = settings.query.replace("{node}", name).replace("{address}", address)
    url = f"{settings.url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            found = json.load(answer)["data"]["result"]
        values = [float(one["value"][1]) for one in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"Prometheus could not be asked ({error})"
    worst = max(values, default=0.0)
    return f"{query} is {worst:g}, more than {settings.most:g}" if worst > settings.most else ""


def gate(run: Run, host: Host, always: bool = False) -> None:
    """Wait until a node is healthy, and see it stay so; without `rollout` in the site file only when `always` is set.

    Raises:
        StepError: it is not, after `rollout.timeout` seconds.
    """
    wanted = run.site.rollout or (RolloutSettings() if always else None)
    if wanted is None:
        return
    started, told = time.monotonic(), 0.0
    well: float | None = None
    while True:
        why = _wrong(run.site, wanted, host)
        now = time.monotonic()
        if why:
            well = None
            if now - started > wanted.timeout:
                raise StepError(
                    f"not healthy after {wanted.timeout} s: {why}. The rollout stops here, the nodes after this one "
                    "are as they were. Put it right and run the same command: it goes on from here."
                )
        else:
            well = now if well is None else well
            if now - well >= wanted.settle:
                return
        if now - told > EVERY:
            told = now
            host.log(f"waits {now - started:.0f} s for: {why or f'{wanted.settle} s without trouble'}")
        gevent.sleep(min(2, max(wanted.timeout / 10, 0.2)))


def _wrong(site: Site, wanted: RolloutSettings, host: Host) -> str:
    name = str(host.name)
    why = unhealthy(site, host)
    if not why and wanted.error_rate:
        why = error_rate(wanted.error_rate, name, site.nodes[name].address)
    return why


def call(words: list[str] | None, what: str, then: str, site: Site, host: Host) -> None:
    """Run an operator's program for a node on this machine.

    Args:
        words: the program and its arguments; None: nothing is done.
        what: `drain` or `undrain`.
        then: the state of things when it fails.

    Raises:
        StepError: it failed, with its last line.
    """
    if not words:
        return
    name = str(host.name)
    command = [word.replace("{node}", name).replace("{address}", site.nodes[name].address) for word in words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=site.dir)
    except (OSError, subprocess.SubprocessError) as error:
        raise StepError(f"rollout.{what} could not be run: {error}. {then}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no word"]
        raise StepError(f"rollout.{what} ended with {done.returncode}: {said[0]}. {then}")
    host.log(f"{what}ed")
