"""Change a node: several acts in turn by one command, each with a line in the node's audit log.

One round trip instead of two for each act, and the line is there also when our connection ends meanwhile.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.host import Host

from roles.node import audit, remote


@dataclass(frozen=True)
class Act:
    """One thing to do on a node."""

    script: str
    """POSIX shell. Another exit code than 0 ends the command: later acts are not done."""
    what: str = ""
    """What stands in the audit log, beside whether it went well; empty: nothing does."""
    more: Mapping[str, object] = field(default_factory=dict)
    """What belongs to it there: names, hashes, counts. Never a secret."""


@dataclass(frozen=True)
class Ended:
    """How a command of several acts ended. `repr` hides the output."""

    ok: bool
    """All were done."""
    failed: int | None
    """Place of the act that failed; None when none did, or when that is not known (the connection ended)."""
    stdout: str = field(repr=False)
    """Standard output of all of them."""
    stderr: str = field(repr=False)
    """Standard error of all of them, or why the command could not be run."""


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


def do(host: Host, *acts: Act, stdin: str = "", note: str | None = None) -> Ended:
    """Do `acts` one after the other, as root when the site says `sudo`; print nothing of it.

    Args:
        acts: what is to be done; visible in the node's process list, so no secret may be in it.
        stdin: fed to them, each reads its part; may hold secrets.
        note: if given, a progress line with this text every fifteen seconds.
    """
    got = remote.run(host, _script(acts), stdin=stdin, note=note)
    lines = got.stderr.splitlines()
    for line in lines:
        if line.startswith(_UNWRITTEN):  # a log that cannot be written (a full disk) ends no run
            host.log(f"not written into {audit.LOG}: {line.removeprefix(_UNWRITTEN)}")
    stderr = "\n".join(line for line in lines if not line.startswith(_UNWRITTEN))
    last = re.search(r"\n?act (\d+)\Z", got.stdout)
    stdout = got.stdout[: last.start()] if last else got.stdout
    return Ended(got.ok, int(last[1]) if last and not got.ok else None, stdout, stderr)


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
