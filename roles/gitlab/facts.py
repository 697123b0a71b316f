"""What a GitLab node is asked about itself, and what the answers mean."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from roles.gitlab.render import GITLAB_RB, MAIL_RB, RUBY
from roles.mailroom.render import MAILBOXES
from roles.node.bundle import Question
from roles.node.facts import NodeState

MANIFEST = "/opt/gitlab/version-manifest.txt"
"""Its first line names the package and its version, on every distribution."""
STATE_DIR = "/var/lib/pyinfra-gitlab"
"""What we remember on a node (root only)."""
LOCK = f"{STATE_DIR}/site.lock"
"""Locked while a run changes the site (`roles.rollout.lock`); holds who it is."""
WRITTEN = "/etc /var /opt /etc/gitlab /var/opt/gitlab"
"""Folders that `gitlab-ctl reconfigure` and we write to; each may be a file system of its own."""
STAMP = f"{STATE_DIR}/reconfigured"
"""Holds the fingerprint of the configuration at the last `gitlab-ctl reconfigure` of ours that ended well."""
DRAINED = f"{STATE_DIR}/drained"
"""There from `rollout.drain` until `rollout.undrain`: whoever finds it puts the node back when it is healthy."""
UPGRADE = f"{STATE_DIR}/upgrade.json"
"""On the node that migrates the database: the last upgrade, and how far it came."""
WATCHED = (GITLAB_RB, MAIL_RB)
"""What reconfigure reads, of ours and of the operator's."""
FINGERPRINT = f"{{ head -n 1 {MANIFEST}; sha256sum {' '.join(WATCHED)}; }} 2>/dev/null | sha256sum | cut -d' ' -f1"
"""Shell: the fingerprint of everything that reconfigure reads, and of the version that reads it: after an upgrade it
has to run again. `fingerprint` makes the same of what was found on a node."""
NOT_INSTALLED = "not-installed"
"""What is answered instead of `include.rb`'s JSON on a node without the package."""

OUR_KEYS: tuple[tuple[str, str], ...] = (
    ("mailroom", "enable"),
    *(("mailroom", f"{kind}_auth_token") for kind in MAILBOXES),
    ("gitlab_rails", "auto_migrate"),
    ("gitlab_rails", "internal_api_url"),
    ("gitlab_rails", "mattermost_host"),
    *(
        ("gitlab_rails", f"{kind}_{key}")
        for kind in MAILBOXES
        for key in (
            "enabled",
            "address",
            "delivery_method",
            "inbox_method",
            "email",
            "password",
            "host",
            "port",
            "ssl",
            "start_tls",
            "mailbox_name",
            "idle_timeout",
            "delete_after_delivery",
            "expunge_deleted",
        )
    ),
)
"""The keys of `gitlab.rb` that belong to us, as (section, key)."""


@cache
def _include_program() -> str:
    return Path(__file__).with_name("include.rb").read_text()


def include_command(mode: str) -> str:
    """Shell that runs `include.rb` on a node.

    Args:
        mode: `check` (read-only) or `fix` (also writes the one line).
    """
    words = [RUBY, "-e", _include_program(), mode, MAIL_RB, GITLAB_RB, json.dumps(OUR_KEYS)]
    return " ".join(shlex.quote(word) for word in words)


def questions(include: bool) -> tuple[Question, ...]:
    """What every GitLab node is asked.

    Args:
        include: the site owns only `pyinfra-mail.rb`, so the operator's `gitlab.rb` is examined too.
    """
    asked = [
        Question("gitlab.version", f'IFS= read -r first < {MANIFEST} && printf "%s\\n" "$first"'),
        Question("gitlab.upgrade", f"[ -e {UPGRADE} ] && cat {UPGRADE}"),
        Question("gitlab.drained", f"[ -e {DRAINED} ] && echo yes"),
        Question("gitlab.reconfigured", f'read -r stamp < {STAMP} && echo "$stamp"'),
        Question(  # blocks that are free for others than root, and their size in bytes, as df(1) counts
            "gitlab.free_kib",
            f"stat -f -c '%a %S' {WRITTEN} | {{ least=; while read -r blocks size; do free=$((blocks * size / 1024)); "
            '[ "${least:-$free}" -lt "$free" ] || least=$free; done; echo "$least"; }',
        ),
    ]
    if include:
        script = f"if [ -x {RUBY} ]; then {include_command('check')}; else echo {NOT_INSTALLED}; fi"
        asked.append(Question("gitlab.include", script))
    return tuple(asked)


@dataclass(frozen=True)
class Include:
    """How our `from_file` line stands in the operator's `gitlab.rb`."""

    as_declared: bool
    """Exactly one line, and it is reached."""
    lines: int
    """How many such lines there are now."""
    problems: tuple[str, ...]
    """Why it cannot be put right by us; each names a line and a key, never a value."""


def version(state: NodeState) -> str | None:
    """Version of the installed package, such as `18.11.11`; None when it is not installed."""
    found = re.match(r"gitlab-(?:ee|ce|fips)?\s*v?([0-9][0-9.]*)", state.answer("gitlab.version"))
    return found.group(1).rstrip(".") if found else None


def fingerprint(state: NodeState) -> str:
    """`FINGERPRINT` of a node as it was found."""
    sums = (f"{state.sums[path]}  {path}\n" for path in WATCHED if path in state.sums)
    return hashlib.sha256("".join((state.answer("gitlab.version"), "\n", *sums)).encode()).hexdigest()


def reconfigured(state: NodeState) -> bool:
    """True when `gitlab-ctl reconfigure` ended well since the configuration last changed."""
    return state.answer("gitlab.reconfigured") == fingerprint(state)


def drained(state: NodeState) -> bool:
    """True when the node was taken out of the load balancer by us, and not put back yet."""
    return state.answer("gitlab.drained") == "yes"


BEGUN, MIGRATING, MIGRATED, DONE = "begun", "migrating", "migrated", "done"
"""How far an upgrade has come: the database is as it was; may be touched; has the regular migrations; all done."""


@dataclass(frozen=True)
class Upgrade:
    """An upgrade of the site, as the node that migrates the database remembers it."""

    old: str
    """The version that it began with."""
    new: str
    """The version that it leads to."""
    node: str
    """The node that migrates the database."""
    phase: str
    """How far it has come."""

    @property
    def open(self) -> bool:
        """It has not come to its end."""
        return self.phase != DONE


def upgrade(state: NodeState) -> Upgrade | None:
    """The last upgrade, if this node remembers one."""
    try:
        return Upgrade(**json.loads(state.answer("gitlab.upgrade")))
    except (ValueError, TypeError):
        return None


def include(state: NodeState) -> Include:
    """The answer of `include.rb`, read. On a node without the package nothing is known yet, and no problem either."""
    got = state.answers.get("gitlab.include")
    if got is None or got.text == NOT_INSTALLED:
        return Include(as_declared=False, lines=0, problems=())
    try:
        answer = json.loads(got.text)
        lines, as_declared, conflicts = int(answer["lines"]), bool(answer["as_declared"]), list(answer["conflicts"])
    except (ValueError, TypeError, KeyError):
        # What it said instead is not shown: it may hold the file's secrets.
        return Include(False, 0, (f"{GITLAB_RB} could not be examined: {RUBY} ended with {got.rc} and no answer",))
    problems = [answer["error"]] if answer["error"] else []
    problems += [
        f"{found['file']}:{found['line']} sets {found['key']} after the line that includes {MAIL_RB}, "
        "and would win over the site file. Remove it there (say it in the site file instead), "
        "or move it above the from_file line."
        for found in conflicts
    ]
    return Include(as_declared, lines, tuple(problems))
