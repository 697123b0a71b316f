"""One question to a node: what is there? A single round trip for every role together.

pyinfra's ordinary file facts cost a round trip per file and are never cached (pyinfra 3.10, measured:
13-20 times the floor on 30 nodes; one batched fact: 2.1-2.3 times). So everything the roles want to
know goes into one POSIX shell script; its answer is lines of tab-separated words with free text in base64.
"""

from __future__ import annotations

import base64
import binascii
import shlex
from dataclasses import dataclass, field

from pyinfra.api.facts import FactBase

from roles.node.bundle import Bundle

_PROLOGUE = """\
LC_ALL=C; export LC_ALL
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
file() {
  if [ -e "$2" ] || [ -h "$2" ]; then
    sum=-
    if [ -f "$2" ] && [ ! -h "$2" ]; then sum=$(sha256sum < "$2") || sum=unreadable; sum=${sum%% *}; fi
    printf 'file\\t%s\\t%s\\t%s\\n' "$1" "$(stat -c '%F\t%a\t%U\t%G' -- "$2")" "$sum"
  else printf 'file\\t%s\\tabsent\\n' "$1"; fi
}
ask() {
  out=$( (eval "$2") 2>/dev/null; echo "rc=$?")
  printf 'answer\\t%s\\t%s\\n' "$1" "$(printf %s "$out" | base64 -w0)"
}
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
        self.script = _script(bundle)

    def __repr__(self) -> str:
        return f"{len(self.paths)} files"


def _script(bundle: Bundle) -> str:
    lines = [_PROLOGUE]
    lines += [f"file {n} {shlex.quote(f.path)}" for n, f in enumerate(bundle.files)]
    lines += [f"ask {q.key} {shlex.quote(q.script)}" for q in bundle.questions]
    lines.append("printf 'clock\\t%s\\n' \"$(date +%s.%N)\"")
    return "\n".join(lines)


class NodeFact(FactBase[NodeState | None]):
    """The state of a node for one :class:`Look`; None when the node could not be asked."""

    def command(self, look: Look) -> str:
        """The one shell command."""
        self.paths = look.paths
        return look.script

    def process(self, output: list[str]) -> NodeState | None:
        """Parse the script's lines.

        Raises:
            ValueError: if the last line (the clock) is missing, so the answer is not whole.
        """
        return parse(self.paths, output)


def parse(paths: tuple[str, ...], output: list[str]) -> NodeState:
    """Turn the script's output lines into a :class:`NodeState`.

    Raises:
        ValueError: when the output was cut off or is not the script's.
    """
    files: dict[str, FileState] = {}
    answers: dict[str, Answer] = {}
    clock: float | None = None
    for line in output:
        word, _, rest = line.partition("\t")
        parts = rest.split("\t")
        if word == "file":
            path = paths[int(parts[0])]
            if parts[1] == "absent":
                files[path] = FileState("absent")
            else:
                kind, mode, owner, group, sha = parts[1:6]
                files[path] = FileState(kind, int(mode, 8), owner, group, sha)
        elif word == "answer":
            answers[parts[0]] = _answer(parts[1])
        elif word == "clock":
            clock = float(rest)
    if clock is None or set(files) != set(paths):
        raise ValueError("the node's answer is not whole")
    return NodeState(clock=clock, files=files, answers=answers)


def _answer(encoded: str) -> Answer:
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise ValueError("the node's answer is not whole") from error
    out, _, rc = text.rpartition("rc=")
    return Answer(out.rstrip("\n"), int(rc))
