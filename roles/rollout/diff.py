"""Show an operator what changes in which file, with every secret masked."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import logger
from pyinfra.api.host import Host

from roles.node import remote
from roles.node.diff import masked_diff
from roles.node.plan import FileChange


def show(host: Host, changes: Sequence[FileChange]) -> None:
    """Print the diff of each change on one node."""
    for change in changes:
        got = remote.run(host, f"cat -- {change.file.path}") if not change.found.absent else None
        old = got.stdout if got and got.ok else ""
        new = change.file.content.decode()
        public = set(change.file.display.splitlines())
        for line in masked_diff(change.file.path, old, change.file.display, new, public.__contains__):
            logger.info(f"    {host.name}: {line}")
