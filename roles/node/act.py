"""Change a node: several acts in turn by one command, each with a line in the node's audit log.

One round trip instead of two for each act, and the line is there also when our connection ends meanwhile.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.host import Host

from roles.node import audit, remote
from roles.site.errors import StepError


@dataclass(frozen=True)
class Failed:
    """How an act failed. `repr` hides what was said."""

    stdout: str = field(repr=False)
    """Standard output of it and of the acts before it."""
    said: str = field(repr=False)
    """Standard error of it and of the acts before it, or why the command could not be run; trimmed."""

    @property
    def lines(self) -> str:
        """The last thirty lines of standard output, or of standard error where that is empty; indented."""
        return "\n".join(f"    {line}" for line in (self.stdout.strip() or self.said).splitlines()[-30:])


@dataclass(frozen=True)
class Act:
    """One thing to do on a node."""

    script: str
    """POSIX shell. Another exit code than 0 ends the command: later acts are not done."""
    what: str = ""
    """What stands in the audit log, beside whether it went well; empty: nothing does."""
    more: Mapping[str, object] = field(default_factory=dict)
    """What belongs to it there: names, hashes, counts. Never a secret."""
    told: Callable[[Failed], str] = field(default=lambda got: got.said)
    """What an operator is told when it failed: cause and cure."""


_UNWRITTEN = "not in the audit log: "
_LINE = 'did() { note "$2" || printf \'%s\\n\' "' + _UNWRITTEN + '$1" >&2; }'
_ACT = """\
# act {number}
(
{script}
)
rc=$?
if [ $rc -ne 0 ]; then {bad}printf '\\nact {number}'; exit $rc; fi
{good}"""


def do(host: Host, *acts: Act, stdin: str = "", note: str | None = None) -> None:
    """Do `acts` one after the other, as root when the site says `sudo`; print nothing of it.

    Args:
        acts: what is to be done; visible in the node's process list, so no secret may be in it.
        stdin: fed to them, each reads its part; may hold secrets.
        note: if given, a progress line with this text every fifteen seconds.

    Raises:
        StepError: in the words of the act that failed; of the last one, when the connection ended.
    """
    got = remote.run(host, _script(acts), stdin=stdin, note=note)
    lines = got.stderr.splitlines()
    for line in lines:
        if line.startswith(_UNWRITTEN):  # a log that cannot be written (a full disk) ends no run
            host.log(f"not written into {audit.LOG}: {line.removeprefix(_UNWRITTEN)}")
    if got.ok:
        return
    stderr = "\n".join(line for line in lines if not line.startswith(_UNWRITTEN))
    last = re.search(r"\n?act (\d+)\Z", got.stdout)
    stdout = got.stdout[: last.start()] if last else got.stdout
    raise StepError(acts[int(last[1]) if last else -1].told(Failed(stdout, stderr.strip())))


def _script(acts: Sequence[Act]) -> str:
    lines = [audit.NOTE, _LINE]
    for number, act in enumerate(acts):
        good, bad = (
            " ".join(("did", *map(shlex.quote, (act.what, audit.line(act.what, **act.more, ok=ok)))))
            if act.what
            else ""
            for ok in (True, False)
        )
        lines.append(_ACT.format(number=number, script=act.script, good=good, bad=f"{bad}; " if bad else ""))
    return "\n".join(lines)
