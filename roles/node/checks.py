"""One line of a verdict: what was declared, what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    AS_DECLARED = "as declared"
    """What was found is what the site file says."""
    DIFFERS = "differs"
    """It is not."""
    NOT_SEEN = "could not look"
    """It could not be found out; this is never a pass."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at on one node."""

    node: str
    """Name of the node."""
    subject: str
    """What was looked at, in the field's own words."""
    declared: str
    """What the site file says, or what has to be."""
    found: str
    """What is."""
    verdict: Verdict
    """The comparison of the two."""
    cure: str = ""
    """What an operator does about it; empty when nothing is wrong."""

    @property
    def ok(self) -> bool:
        """True only when it was seen to be as declared."""
        return self.verdict is Verdict.AS_DECLARED

    def sentence(self) -> str:
        """The check as one message with cause and cure."""
        text = f"{self.node}: {self.subject}: found {self.found}; must be {self.declared}."
        return f"{text} {self.cure}".rstrip()


def compare(node: str, subject: str, declared: str, found: str | None, ok: bool, cure: str = "") -> Check:
    """A check from its parts; `found=None` means that it could not be seen."""
    if found is None:
        return Check(node, subject, declared, "?", Verdict.NOT_SEEN, cure)
    verdict = Verdict.AS_DECLARED if ok else Verdict.DIFFERS
    return Check(node, subject, declared, found, verdict, "" if ok else cure)
