"""Flags of pyinfra under which the order across nodes, or the exit code, would be a lie."""

from __future__ import annotations

from pathlib import Path

import click
from pyinfra import config, state

from roles.rollout.outcome import outcome
from roles.site.errors import RefusedError

deploys: list[str] = []
"""Names of the deploy files of this command."""
READ_ONLY = {"verify.py"}
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
    outcome.dry = bool(given.get("dry"))
    outcome.json = any(word.replace(" ", "") == "format=json" for word in given.get("data") or ())
    reasons = [
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
    config.FAIL_PERCENT = 100 if set(deploys) <= READ_ONLY else 0
    config.lock_current_state()
    # Without -y pyinfra asks "continue?" after a failure and takes a plain Enter for yes.
    state.should_raise_failed_hosts = None
