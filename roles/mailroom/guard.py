"""The guard of the mail reader on a Rails node: its program, what it is told, and its units. Pure: site in, files out.

What it guarantees, and what not, is in the README ("When a reader dies").
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.gitlab.facts import LOCK
from roles.gitlab.render import RUBY
from roles.mailroom import facts, record
from roles.mailroom.render import node_url
from roles.node import audit
from roles.node.bundle import File, Question
from roles.node.facts import NodeState
from roles.site.models import Site

FOLDER = "/usr/local/lib/pyinfra-gitlab"
"""Folder of the program."""
PROGRAM = f"{FOLDER}/mail-guard.rb"
"""The program (`guard.rb`)."""
CONFIG = f"{FOLDER}/mail-guard.json"
"""What it is told; no secret is in it."""
TIMER = "pyinfra-mail-guard.timer"
"""Runs it every minute."""
HOLD = "pyinfra-mail-hold.service"
"""Before runit at boot: mail_room is not started until the guard has asked."""
SERVICE = "pyinfra-mail-guard.service"
"""One look."""
EVERY = 60
"""Seconds between two looks."""
SV = "/opt/gitlab/sv/mailroom"
"""runit's definition of the service."""
_UNITS = "/etc/systemd/system"
GUARD = (PROGRAM, CONFIG, *(f"{_UNITS}/{unit}" for unit in (SERVICE, TIMER, HOLD)))
"""Every file of the guard."""
_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "mailroom"


@cache
def _program() -> bytes:
    return Path(__file__).with_name("guard.rb").read_bytes()


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(_TEMPLATES)
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


def question() -> Question:
    """What every GitLab node is asked about the guard."""
    script = f"systemctl is-active {TIMER}; systemctl is-enabled {TIMER} {HOLD}; true"
    return Question("mailroom.guard", script)


def stands(state: NodeState) -> bool:
    """Whether the guard's timer runs, and comes back at boot."""
    return state.answer("mailroom.guard").split() == ["active", "enabled", "enabled"]


def files(site: Site, node: str) -> tuple[File, ...]:
    """The guard's files for a Rails node.

    Args:
        site: the site; the other Rails nodes are asked.
        node: name of the node.
    """
    others = []
    for name in site.rails_nodes:
        if name != node:
            url, connect = node_url(site, name)
            others.append({"name": name, "url": f"{url}/{record.MARKER.rpartition('/')[2]}", "connect": connect})
    told = {
        "node": node,
        "others": others,
        "mine": record.mark(site.site, node),
        "record": record.PATH,
        "readers": facts.READERS,
        "service": facts.SERVICE,
        "supervised": facts.SUPERVISED,
        "sv": SV,
        "state": "/run/pyinfra-mail-guard.json",
        "log": audit.LOG,
        "lock": LOCK,
    }
    words = {"site": site.site, "ruby": RUBY, "program": PROGRAM, "config": CONFIG, "sv": SV, "every": EVERY}
    out = [
        _file(PROGRAM, _program().decode(), 0o644),
        _file(CONFIG, json.dumps(told, indent=1) + "\n", 0o644),
    ]
    for unit in (SERVICE, TIMER, HOLD):
        out.append(_file(f"{_UNITS}/{unit}", _environment().get_template(f"{unit}.j2").render(words), 0o644))
    return tuple(out)


def _file(path: str, text: str, mode: int) -> File:
    return File(path, text.encode(), display=text, mode=mode)
