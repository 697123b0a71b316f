"""What a restore drill found, as it is kept: the drill, the backup it restored, its phases, its checks.

`passed` is not a field but follows from all the others, so no report can say more than its own checks do.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from roles.backup.words import duration, first_line, one_line
from roles.site.base import StrictModel, refuse
from roles.site.secret import scrub

CLOCK: Final = 60.0
"""Seconds that a backup may be younger than the drill: clocks of two nodes never agree wholly. Our own choice."""
LINE: Final = 300
"""Characters of a reason: it is told again in thirty later reports."""


def drill_time(drill: str) -> float:
    """Unix time in a drill's id such as `20261123T181530Z`.

    Raises:
        ValueError: it is not such an id, or there is no such time.
    """
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", drill):
        raise ValueError(f"{drill!r} is not the id of a drill, such as 20261123T181530Z")
    time = datetime.strptime(drill, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    if time < 0:
        raise ValueError(f"{drill!r} is before 1970")
    return time


def _drill(value: str) -> str:
    try:
        drill_time(value)
    except ValueError:
        raise refuse("is not the id of a drill", allowed="a UTC time such as 20261123T181530Z") from None
    return value


def _text(value: object) -> object:
    """What a node printed may hold secrets, and half characters that no file can."""
    if isinstance(value, str):
        return scrub(value.encode("utf-8", "backslashreplace").decode())
    return value


Text = Annotated[str, BeforeValidator(_text)]
"""Any text; known secrets are masked, a lone surrogate becomes its escape."""
DrillId = Annotated[str, AfterValidator(_drill)]
"""A UTC time such as `20261123T181530Z`; it is part of file names."""
Unix = Annotated[float, Field(ge=0, le=253402300000, allow_inf_nan=False)]
"""Seconds since 1970, before the year 10000."""
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""A length of time."""
Age = Annotated[float, Field(ge=-1e10, le=1e12, allow_inf_nan=False)]
"""Seconds between two clocks, so it may be negative."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things."""


class Phase(StrictModel):
    """One part of a drill, such as `fetch` or `restore the database`."""

    name: Text
    """What was done, in words for people."""
    started: Seconds
    """Seconds from the drill's start to the phase's."""
    seconds: Seconds
    """How long it took."""
    ok: bool
    """Whether it did what it must."""


class Result(StrictModel):
    """One check of the restored chat."""

    name: Text
    """What was looked at, in words for people."""
    expected: Text
    """What has to be."""
    found: Text
    """What is, whole; the page shows its beginning and its end."""
    ok: bool
    """Whether `found` is as it must be."""


class Backup(StrictModel):
    """The backup that was restored."""

    id: Text
    """Its id, such as `20261123T021500Z`."""
    time: Unix
    """When the dump's snapshot was taken."""
    bytes: Count
    """Its size."""
    files: Count
    """Number of uploaded files in it."""
    posts: Count
    """Number of posts in it."""
    mattermost: Text
    """Version of Mattermost that it is of."""
    postgresql: Text
    """Version of PostgreSQL that it was dumped from."""


class Earlier(StrictModel):
    """An earlier drill, as later reports list it."""

    drill: DrillId
    """Its id."""
    started: Unix
    """When it began."""
    passed: bool
    """Whether it passed; False for a report that cannot be read."""
    rto: Seconds | None
    """Seconds from its start until the restored chat answered; None when it never did."""
    rpo_found: Age | None
    """Age of its backup in seconds; None when there was none."""
    backup: Text
    """Id of its backup; empty when there was none."""
    reason: Text
    """Why it did not pass, in one line; empty when it did."""


class Report(StrictModel):
    """One restore drill from beginning to end."""

    format: Literal[1] = 1
    """Version of this form."""
    site: Text
    """The site's name."""
    drill: DrillId
    """The drill's id; the reports are named after it."""
    node: Text
    """The spare node that the backup was restored on."""
    started: Unix
    """When the drill began."""
    finished: Unix
    """When it ended, torn down."""
    error: Text = ""
    """Why it did not come to its end; empty when it did."""
    backup: Backup | None = None
    """What was restored; None when the drill did not get so far."""
    rpo_promised: Seconds
    """How old the newest backup may be at any time."""
    rpo_found: Age | None = None
    """Age of the backup when the drill began: the chat that would have been lost. None without a backup."""
    rto: Seconds | None = None
    """Seconds from the drill's start until the restored chat answered; None when it never did."""
    phases: tuple[Phase, ...] = ()
    """In the order in which they began."""
    checks: tuple[Result, ...] = ()
    """In the order in which they were made."""
    history: tuple[Earlier, ...] = ()
    """Earlier drills, newest first."""

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def broken(self) -> tuple[Phase, ...]:
        """The phases that failed."""
        return tuple(phase for phase in self.phases if not phase.ok)

    @property
    def passed(self) -> bool:
        """True only when nothing at all speaks against it."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why the drill did not pass, in one line: what is worst. Empty when it passed."""
        return one_line(self._reason(), LINE)

    def _reason(self) -> str:
        if self.error:
            return first_line(self.error) or "the drill did not come to its end"
        if self.broken:
            return f"phase “{self.broken[0].name}” failed"
        if self.failed:
            first = self.failed[0]
            return f"check “{first.name}”: expected {first.expected}, found {first.found}"
        if self.backup is None:
            return "no backup was restored"
        if self.rto is None:
            return "the restored chat never answered"
        if not self.checks:
            return "nothing was checked"
        if self.rpo_found is None:
            return "the age of the backup is not known"
        if self.rpo_found < -CLOCK:
            return f"the backup is {duration(-self.rpo_found)} younger than the drill: a clock is wrong"
        if self.rpo_found > self.rpo_promised:
            return f"the backup was {duration(self.rpo_found)} old; promised: at most {duration(self.rpo_promised)}"
        return ""
