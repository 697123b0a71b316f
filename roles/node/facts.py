"""One question to a node: what is there? A single round trip for every role together.

pyinfra's ordinary file facts cost a round trip per file and are never cached (pyinfra 3.10, measured:
13-20 times the floor on 30 nodes; one batched fact: 2.1-2.3 times). So everything the roles want to
know goes into one POSIX shell script; its answer is one line of base64.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import shlex
from dataclasses import dataclass, field, replace

from pyinfra.api.facts import FactBase

from roles.node.bundle import Bundle

# Every program that is started costs a node about a millisecond, and 30 nodes may share a machine: so one stat and one
# sha256sum for all files, and one base64 for all that is said. `mark` is new each time: no answer can contain it.
_PROLOGUE = """\
LC_ALL=C; export LC_ALL
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
say() { printf '\\n%s %s\\n' "$mark" "$*"; }
files() {
  say files; stat -c '%n	%F	%a	%U	%G' -- "$@"
  all=$#; for path; do [ -f "$path" ] && set -- "$@" "$path"; done; shift $all
  say sums; [ $# -eq 0 ] || sha256sum -- "$@"
}
ask() { say ask "$1"; (eval "$2"); say rc $?; }
"""


@dataclass(frozen=True)
class FileState:
    """What is at a path on a node."""

    kind: str
    """`absent`, or the type as `stat -c %F` names it (`regular file`, `symbolic link`, ...)."""
    mode: int = 0
    """Permission bits."""
    owner: str = ""
    """User name, or `UNKNOWN` when the id has no name."""
    group: str = ""
    """Group name, or `UNKNOWN` when the id has no name."""
    sha256: str = ""
    """Hash of the content of a regular file, in hex; else `-`."""

    @property
    def absent(self) -> bool:
        """True when nothing is at the path."""
        return self.kind == "absent"

    @property
    def regular(self) -> bool:
        """True for an ordinary file (also an empty one), not for links, folders or devices."""
        return self.kind in ("regular file", "regular empty file")


@dataclass(frozen=True)
class Answer:
    """The answer to one :class:`~roles.node.bundle.Question`."""

    text: str
    """Standard output, without the last newlines."""
    rc: int
    """Exit code of the snippet."""


@dataclass(frozen=True)
class NodeState:
    """A node as it was found, at one moment."""

    clock: float
    """The node's clock, seconds since 1970."""
    clock_offset: float = 0.0
    """How far the node's clock is ahead of ours, in seconds (negative: behind)."""
    clock_error: float = float("inf")
    """Half the round trip: how wrong `clock_offset` may be, in seconds."""
    files: dict[str, FileState] = field(default_factory=dict)
    """State of every file of the bundle, by path."""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 in hex of what is read at the paths of the bundle, through links; without those that are absent."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Answers by key."""

    def answer(self, key: str) -> str:
        """Text of an answer, or an empty string when the question was not asked or failed."""
        got = self.answers.get(key)
        return got.text if got and got.rc == 0 else ""


class Look:
    """What to ask: the script for one bundle. A class so that pyinfra's logs show a short name."""

    def __init__(self, bundle: Bundle) -> None:
        self.paths = tuple(f.path for f in bundle.files)
        self.mark = f"--{secrets.token_hex(8)}"
        self.script = _script(bundle, self.mark)

    def __repr__(self) -> str:
        return f"{len(self.paths)} files"


def _script(bundle: Bundle, mark: str) -> str:
    lines = [f"{_PROLOGUE}mark={mark}; {{"]
    if paths := dict.fromkeys([*(file.path for file in bundle.files), *bundle.watched]):
        lines.append("files " + " ".join(map(shlex.quote, paths)))
    lines += [f"ask {q.key} {shlex.quote(q.script)}" for q in bundle.questions]
    lines.append('say clock "$(date +%s.%N)"; say end\n} </dev/null 2>/dev/null | base64 -w0')
    return "\n".join(lines)


class NodeFact(FactBase[NodeState | None]):
    """The state of a node for one :class:`Look`; None when the node could not be asked."""

    def command(self, look: Look) -> str:
        """The one shell command."""
        self.look = look
        return look.script

    def process(self, output: list[str]) -> NodeState | None:
        """Parse the script's line.

        Raises:
            ValueError: if its end is missing, so the answer is not whole.
        """
        return parse(self.look, output)


def parse(look: Look, output: list[str]) -> NodeState:
    """Turn the script's output into a :class:`NodeState`.

    Raises:
        ValueError: when the output was cut off or is not the script's.
    """
    try:
        said = base64.b64decode("".join(output), validate=True).decode("utf-8", "replace").replace("\0", "")
    except binascii.Error as error:
        raise ValueError("the node's answer is not whole") from error
    *parts, end = said.split(f"\n{look.mark} ")[1:] or [""]
    if end != "end\n":
        raise ValueError("the node's answer is not whole")
    clock = 0.0
    found: dict[str, FileState] = {}
    sums: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    for part in parts:
        head, _, text = part.partition("\n")
        word, _, rest = head.partition(" ")
        if word == "files":
            found = dict(_file(line) for line in text.splitlines())
        elif word == "sums":
            sums = {path: sum_ for sum_, _, path in (line.partition("  ") for line in text.splitlines())}
        elif word == "ask":
            key, asked = rest, text
        elif word == "rc":
            answers[key] = Answer(asked.rstrip("\n"), int(rest))
        elif word == "clock":
            clock = float(rest)
    files = {}
    for path in look.paths:
        one = found.get(path, FileState("absent"))
        files[path] = replace(one, sha256=sums.get(path, "unreadable")) if one.regular else one
    return NodeState(clock=clock, files=files, sums=sums, answers=answers)


def _file(line: str) -> tuple[str, FileState]:
    path, kind, mode, owner, group = line.split("\t")
    return path, FileState(kind, int(mode, 8), owner, group, "-")
