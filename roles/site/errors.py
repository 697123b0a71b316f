"""The errors of this product: a small tree, each message with the cause and the cure.

Everything derives from pyinfra's own `PyinfraError`, so that pyinfra reports it as one message instead of a traceback
(pyinfra 3.10.0, pyinfra_cli/cli.py: any other exception becomes "An internal exception occurred").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api.exceptions import PyinfraError


class PyinfraGitlabError(PyinfraError):
    """Base of all errors that this product raises on purpose."""


class SecretError(PyinfraGitlabError):
    """A secret reference could not be turned into its value. The message never contains (part of) a value."""


class SecretFileMissing(SecretError):
    """The file of a `!file` reference does not exist (yet)."""


class RefusedError(PyinfraGitlabError):
    """The run was refused before anything was done, because it could not be safe."""


class StepError(PyinfraGitlabError):
    """A step of a run failed on a node; the site still works and the same command finishes the job."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a site file."""

    file: Path
    """The site file, as the caller named it."""
    line: int
    """Line in the file, from 1; 0 when the problem belongs to no line."""
    key: str
    """Key path, such as `mail.incoming_email.address`; empty for the file as a whole."""
    message: str
    """What is wrong, in one sentence without the key."""
    found: str = ""
    """What stands there now, as it is to be shown; empty for a secret or where it does not help."""
    allowed: str = ""
    """What may stand there."""
    hint: str = ""
    """What to do: the nearest right name, or the way out."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        parts = [f"{self.message}"]
        if self.found:
            parts.append(f"found: {self.found}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.hint:
            parts.append(self.hint)
        return f"{place}: {self.key + ': ' if self.key else ''}{'; '.join(parts)}"


class SiteFileError(PyinfraGitlabError):
    """The site file is wrong. `problems` holds everything that was found, and `str()` shows all of it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda p: (str(p.file), p.line, p.key)))
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        return "\n".join(
            [f"The site file has {head}. Nothing was done.", *(f"  {problem}" for problem in self.problems)]
        )
