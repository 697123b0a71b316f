"""Flags of pyinfra under which the order across nodes, or the exit code, would be a lie."""

from __future__ import annotations

from pathlib import Path

import click
from pyinfra import config, state
from pyinfra.api.state import State

from roles.node import audit
from roles.rollout.outcome import outcome
from roles.site.errors import RefusedError

deploys: list[str] = []
"""Names of the deploy files of this command."""
data: dict[str, str] = {}
"""What `--data KEY=VALUE` says."""
_CHANGES = {"why": "", "lock_wait": "0"}
TAKEN: dict[str, dict[str, str]] = {
    "site.py": _CHANGES,
    "gitlab.py": _CHANGES,
    "gitlab_upgrade.py": {**_CHANGES, "downtime": "no"},
    "mattermost.py": _CHANGES,
    "backup.py": _CHANGES,
    "restore.py": {**_CHANGES, "backup": "latest", "replace": "no", "dump": "", "files": ""},
    "drill.py": {**_CHANGES, "backup": "latest"},
    "mailroom_move.py": {**_CHANGES, "to": "", "fenced": "", "edit": "no"},
    "mailroom_rotate.py": _CHANGES,
    "mail_recover.py": {**_CHANGES, "deliver": "no", "unclear": "no", "message_id": ""},
    "unlock.py": {"break": "no", "why": ""},
    "history.py": {"last": "50"},
    "verify.py": {},
}
"""What the deploys take by `--data`, with what it is by default. Anything else is a slip, and refused."""
READ_ONLY = {"verify.py", "history.py"}
"""Deploys that go on without the nodes that cannot be reached, because they change nothing."""


def guard() -> None:
    """Refuse what cannot be safe, and make any failure stop the run. Called when the inventory is loaded.

    The inventory is the place because it is loaded before the first connection and whatever the working directory is
    (pyinfra reads `config.py` only from the working directory).

    Raises:
        RefusedError: for `--no-wait`, `--serial` and `--fail-percent`.
    """
    context = click.get_current_context(silent=True)
    if context is None or "operations" not in context.params:
        return
    given = context.params
    operations = [Path(str(word)) for word in given["operations"]]
    deploys[:] = [path.name for path in operations if path.suffix == ".py"]
    if not deploys:
        return
    outcome.arm()
    outcome.dry = any(given.get(flag) for flag in ("dry", "debug_facts", "debug_operations"))
    said = dict(str(word).partition("=")[::2] for word in given.get("data") or ())
    data.clear()
    data.update({key.strip(): value.strip() for key, value in said.items()})
    outcome.json = data.get("format") == "json"
    audit.run.deploys, audit.run.why = " ".join(deploys), data.get("why", "")
    reasons = _slips() + [
        f"{flag} is refused: {why}"
        for name, flag, why in (
            (
                "no_wait",
                "--no-wait",
                "nodes would not wait for each other, and pyinfra exits 0 when one fails",
            ),
            (
                "serial",
                "--serial",
                "pyinfra would take whole nodes in random order, starting before stopping",
            ),
            ("fail_percent", "--fail-percent", "a run must stop at the first node that fails"),
        )
        if given.get(name) not in (None, False)
    ]
    if reasons:
        outcome.refused(reasons)
        raise RefusedError("; ".join(reasons))
    if set(deploys) <= READ_ONLY:
        outcome.end("could not look", "no node could be reached")
    config.FAIL_PERCENT = 100 if set(deploys) <= set(TAKEN) else 0  # ours decide about absent nodes themselves
    config.lock_current_state()
    # Without -y pyinfra asks "continue?" after a failure and takes a plain Enter for yes.
    state.should_raise_failed_hosts = None


def strict(state: State) -> None:
    """From now on a node that fails ends the run. Until here nodes may be absent: what that means is for us to say."""
    if not set(deploys) <= READ_ONLY:
        state.config.FAIL_PERCENT = 0
        state.config.lock_current_state()


def option(deploy: str, key: str) -> str:
    """What `--data` says, or what it is by default."""
    return data.get(key) or TAKEN[deploy][key]


def seconds(key: str) -> float:
    """A number of seconds that `--data` says; 0 without. `_slips` has seen that it is one."""
    return float(data.get(key) or 0)


def _slips() -> list[str]:
    """Words of `--data` that a deploy does not know: a misspelt one must not be taken for silence."""
    out = []
    for name in deploys:
        if name in TAKEN:
            known = [*TAKEN[name], "format"]
            out += [
                f"--data {key}=... is unknown to {name}; it takes {', '.join(known)}"
                for key in data
                if key not in known
            ]
    for key in ("lock_wait", "last"):
        if key in data and not data[key].isdigit():
            out.append(f"--data {key}={data[key]}: a whole number is wanted")
    return out
