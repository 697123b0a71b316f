"""The vocabulary of the node bundle: files that must be on a node, and questions asked of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """One file that must be on a node, byte for byte, with its owner and mode.

    `content` may hold secrets: it never appears in `repr`, and what an operator is shown is `display`.
    """

    path: str
    """Absolute path on the node."""
    content: bytes = field(repr=False)
    """The bytes the file must have."""
    display: str = field(repr=False, default="")
    """The same text with every secret masked: the only form that may be shown."""
    owner: str = "root"
    """Name of the owning user."""
    group: str = "root"
    """Name of the owning group."""
    mode: int = 0o600
    """Permission bits."""
    check: str | None = None
    """A shell command that gets the staged file's path as `$1` and must succeed before the file is
    moved into place (like `visudo -c`). Nothing is installed when it fails."""
    keep_first: str | None = None
    """Where to keep a copy of what an operator had at `path` before the first installation by us.
    The copy is made once and never overwritten. None: no copy."""

    @property
    def sha256(self) -> str:
        """SHA-256 of `content`, in hex."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Question:
    """A read-only shell snippet whose standard output a role wants to know.

    It runs as root inside the one command that reads a node, so it must be quick, must not write, and
    must never print a secret (pyinfra shows the output of facts at `-vvv`): print a hash instead.
    """

    key: str
    """Name under which the answer is found in `NodeState.answers`; letters, digits, `_`, `-`, `.`."""
    script: str
    """POSIX shell. Its exit code is kept beside its output."""


@dataclass(frozen=True)
class Bundle:
    """Everything that one run wants to know of, and put on, one node."""

    files: tuple[File, ...] = ()
    """Files that must be there."""
    questions: tuple[Question, ...] = ()
    """What the roles ask of the node."""
    watched: tuple[str, ...] = ()
    """Paths whose content a role wants to know as a hash (`NodeState.sums`), whoever wrote it."""

    def __add__(self, other: Bundle) -> Bundle:
        """Two roles' bundles for one node as one.

        Raises:
            ValueError: if both want the same path or ask under the same key.
        """
        both = Bundle(self.files + other.files, self.questions + other.questions, self.watched + other.watched)
        for kind, names in (
            ("file", [f.path for f in both.files]),
            ("question", [q.key for q in both.questions]),
        ):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"two roles want the same {kind}: {', '.join(sorted(twice))}")
        return both
