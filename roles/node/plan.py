"""Compare a bundle with what is on the node. Pure: no I/O, no pyinfra."""

from __future__ import annotations

from dataclasses import dataclass

from roles.node.bundle import File
from roles.node.facts import FileState, NodeState


@dataclass(frozen=True)
class FileChange:
    """A file that is not as declared, and how it differs."""

    file: File
    """The file as it must be."""
    found: FileState
    """What is there now."""

    @property
    def content_differs(self) -> bool:
        """True when the bytes differ (or the file is not there)."""
        return self.found.sha256 != self.file.sha256

    @property
    def refused(self) -> str | None:
        """Why this must not be changed by us (cause and cure), or None."""
        if self.found.absent or self.found.regular:
            return None
        return (
            f"{self.file.path} is a {self.found.kind} on the node; "
            "replacing it could break whoever made it. Move it away, then run again."
        )

    def summary(self) -> str:
        """One line for the operator: what would change, without content."""
        if self.found.absent:
            return f"create {self.file.path} ({self._want})"
        what = []
        if self.content_differs:
            what.append("content")
        if self.found.mode != self.file.mode:
            what.append(f"mode {self.found.mode:04o} -> {self.file.mode:04o}")
        if (self.found.owner, self.found.group) != (self.file.owner, self.file.group):
            what.append(f"owner {self.found.owner}:{self.found.group} -> {self.file.owner}:{self.file.group}")
        return f"change {self.file.path} ({', '.join(what)})"

    @property
    def _want(self) -> str:
        return f"{self.file.owner}:{self.file.group} {self.file.mode:04o}"


def changes(files: tuple[File, ...], state: NodeState) -> list[FileChange]:
    """The files that differ from what is declared, in the bundle's order."""
    out = []
    for file in files:
        found = state.files[file.path]
        same = (found.regular, found.sha256, found.mode, found.owner, found.group) == (
            True,
            file.sha256,
            file.mode,
            file.owner,
            file.group,
        )
        if not same:
            out.append(FileChange(file, found))
    return out
