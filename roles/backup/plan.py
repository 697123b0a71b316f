"""What a run has to do so that backups are taken. Pure: state in, plan out."""

from __future__ import annotations

from dataclasses import dataclass

from roles.backup import facts
from roles.node.bundle import File
from roles.node.facts import NodeState
from roles.node.plan import FileChange, changes


@dataclass(frozen=True)
class BackupPlan:
    """What is to be done, in this order."""

    packages: tuple[str, ...] = ()
    """Packages to install."""
    prepare: tuple[str, ...] = ()
    """Folders to make, in words."""
    changes: tuple[FileChange, ...] = ()
    """Files that differ."""
    repository: bool = False
    """It is not known to exist: it is looked for, and made if there is none."""
    units: tuple[str, ...] = ()
    """Timers to start, and what else systemd has to read."""
    take: bool = False
    """A backup is taken now."""

    @property
    def configure(self) -> bool:
        """Something has to be put right before a backup can be taken."""
        return bool(self.prepare or self.changes or self.repository or self.units)

    @property
    def refused(self) -> tuple[str, ...]:
        """Why nothing may be done at all, each with its cure."""
        return tuple(change.refused for change in self.changes if change.refused)

    def summary(self) -> list[str]:
        """What is to be done, as lines for an operator."""
        lines = [f"install {', '.join(self.packages)}"] if self.packages else []
        lines += self.prepare
        lines += [change.summary() for change in self.changes]
        if self.repository:
            lines.append("look for the repository of the backups, and make it if there is none")
        lines += [f"start {name}" for name in self.units]
        if self.take:
            lines.append("take a backup, and read it back")
        return lines


def plan(state: NodeState, files: tuple[File, ...], repository: str, take: bool) -> BackupPlan:
    """Decide what to do.

    Args:
        state: the node as found.
        files: what must be there.
        repository: SHA-256 of its name.
        take: a backup is asked for.
    """
    differing = tuple(changes(files, state))
    return BackupPlan(
        packages=tuple(facts.absent(state)),
        prepare=tuple(facts.prepared(state)),
        changes=differing,
        repository=state.answer("backup.made") != repository,
        units=tuple(facts.units(state)),
        take=take,
    )
