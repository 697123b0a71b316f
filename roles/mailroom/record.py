"""The reader on record: which node may read mail, kept on every Rails node.

The site file says who is *to* read; the record says who *does*, since the last move that came to its end. It makes a
run with an old site file refuse instead of moving the reader back, lets a node that was away find out that it is not
the reader any more (`guard.rb`), and remembers nodes that an operator has declared to be off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from roles.gitlab.facts import STATE_DIR
from roles.node.bundle import File, Question
from roles.node.facts import NodeState
from roles.site.models import Site

PATH = f"{STATE_DIR}/mail-reader.json"
"""The record on a Rails node, for root alone."""
MARKER = "/opt/gitlab/embedded/service/gitlab-rails/public/pyinfra-mail-reader.txt"
"""What the node tells other nodes: a hash of the reader's name. GitLab Workhorse serves files that are in `public` as
they are (workhorse/internal/upstream/routes.go, `static.ServeExisting`), so no service and no port is added."""


@dataclass(frozen=True)
class Fence:
    """A node that could not be reached, and that an operator has declared to be off."""

    since: str
    """When (UTC)."""
    by: str
    """Who."""
    why: str
    """Why, in the operator's words."""


@dataclass(frozen=True)
class Record:
    """Who reads mail."""

    serial: int
    """Counts the changes: of two records the higher one holds."""
    reader: str
    """Name of the node."""
    since: str
    """When it became the reader (UTC)."""
    by: str
    """Whose run it was."""
    fenced: Mapping[str, Fence] = field(default_factory=dict)
    """Nodes that are off, by word of an operator, and were not seen since."""

    def changed(self, **what: object) -> Record:
        """The next record."""
        return replace(self, serial=self.serial + 1, **what)  # type: ignore[arg-type]


def question() -> Question:
    """What every GitLab node is asked about the record."""
    return Question("mailroom.record", f"[ -e {PATH} ] && cat {PATH}")


def of(state: NodeState | str) -> Record | None:
    """The record that a node has; None when it has none that can be read."""
    if isinstance(state, str):
        return None
    try:
        found = json.loads(state.answer("mailroom.record"))
        fenced = {str(name): Fence(**one) for name, one in found.pop("fenced").items()}
        return Record(**found, fenced=fenced)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def latest(states: Mapping[str, NodeState | str]) -> Record | None:
    """The record that holds: the highest of all nodes. None on a site that was never configured."""
    return max((one for one in map(of, states.values()) if one), key=lambda one: one.serial, default=None)


def mark(site: str, reader: str) -> str:
    """What the marker says while `reader` is the reader: nothing about the site can be read from it."""
    return hashlib.sha256(f"mail reader of {site}: {reader}".encode()).hexdigest()


def files(site: Site, record: Record) -> tuple[File, ...]:
    """Record and marker, for a Rails node."""
    text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
    marker = mark(site.site, record.reader) + "\n"
    return (
        File(PATH, text.encode(), display=text),
        File(MARKER, marker.encode(), display=marker, mode=0o644),
    )
