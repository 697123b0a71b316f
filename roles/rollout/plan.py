"""What one run has to do on which node, decided for the whole site at once. Pure: states in, plan out.

The rules behind it:

* On every node but the reader mail_room is off, and was seen off, before it is switched on anywhere.
* mail_room counts any HTTP answer as delivered (a 401, or the 502 of a node that restarts, loses the mail for good). So
  while anything changes on a node that takes its posts, nobody reads; mails wait in the mailbox meanwhile.
* The reader comes last, and is switched on only after the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from roles.gitlab import facts as gitlab
from roles.mailroom import facts as mailroom
from roles.mailroom.guard import GUARD, TIMER, stands
from roles.node.bundle import File
from roles.node.facts import NodeState
from roles.node.plan import FileChange, changes
from roles.site.models import Site
from roles.site.secret import Secret

MIN_FREE_KIB = 100 * 1024
"""Least free space in /etc, /var and /opt, in KiB, below which nothing is started (reconfigure writes there)."""


@dataclass(frozen=True)
class NodePlan:
    """What has to be done on one node."""

    install: bool
    """The package is absent and the site says to install it."""
    changes: tuple[FileChange, ...]
    """Files that differ from what they must finally be."""
    include: bool
    """The `from_file` line has to be put right (mode `include`)."""
    reconfigure: bool
    """`gitlab-ctl reconfigure` has to run: an input changes, or an earlier run did not finish."""
    readers: tuple[int, ...]
    """Process ids of the mail_rooms found running."""
    kept_up: bool = False
    """runit starts mail_room when it dies; so it may run in a moment, though no process was found."""
    quiet: tuple[FileChange, ...] = ()
    """Files that differ, and that GitLab does not read: record and guard of the mail reader."""
    drained: bool = False
    """It was taken out of the load balancer, and not put back."""
    guard: bool = False
    """The guard's units have to be started."""
    upgrade: str | None = None
    """The version that is installed, when it is to be another one."""

    @property
    def converge(self) -> bool:
        """True when configuration or package are not as declared."""
        return self.install or bool(self.upgrade) or bool(self.changes) or self.include or self.reconfigure

    @property
    def notes(self) -> bool:
        """True when record or guard of the mail reader are not as declared."""
        return bool(self.quiet) or self.guard


@dataclass(frozen=True)
class SitePlan:
    """What has to be done, in which order."""

    nodes: Mapping[str, NodePlan]
    """By node name."""
    reader: str | None
    """The node that is to read mail; None when the site has no mail."""
    stop: Mapping[str, str]
    """Nodes on which mail_room has to be stopped now, and why."""
    start: bool
    """mail_room has to be (re)started on the reader at the end, after the checks."""
    refused: tuple[str, ...] = field(default=())
    """Why nothing may be done at all, each with its cure."""

    @property
    def work(self) -> bool:
        """False when the site is as declared."""
        nodes = self.nodes.values()
        return bool(self.stop) or self.start or any(node.converge or node.drained or node.notes for node in nodes)

    def first(self, name: str) -> bool:
        """True for a node to converge before the reader."""
        return name != self.reader and name in self.nodes and self.nodes[name].converge

    def upgrades(self, name: str) -> bool:
        """True for a node that gets another version of the package."""
        return name in self.nodes and self.nodes[name].upgrade is not None

    @property
    def installing(self) -> set[str]:
        """Nodes that get the package."""
        return {name for name, node in self.nodes.items() if node.install}

    def summary(self) -> dict[str, list[str]]:
        """What would be done on each node, as lines for an operator."""
        out: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            lines = []
            if node.install:
                lines.append("install the GitLab package")
            if node.upgrade:
                lines.append(f"take GitLab from {node.upgrade} to the version of the site file")
            if name in self.stop:
                lines.append(f"stop mail_room ({self.stop[name]})")
            lines += [change.summary() for change in node.changes]
            if node.include:
                lines.append(f"keep exactly one from_file line in {gitlab.GITLAB_RB}")
            if node.reconfigure:
                lines.append("gitlab-ctl reconfigure")
            if node.drained:
                lines.append("put it back into the load balancer when it is healthy")
            lines += [change.summary() for change in node.quiet]
            if node.guard:
                lines.append(f"start {TIMER}")
            if self.start and name == self.reader:
                lines.append("check tokens, routes, mailboxes and clocks, then start mail_room")
            if lines:
                out[name] = lines
        return out


def plan(
    site: Site,
    states: Mapping[str, NodeState | str],
    files: Mapping[str, File],
    tokens: Mapping[str, Secret],
    limit: set[str],
    quiet: Mapping[str, tuple[File, ...]] | None = None,
    upgrade: bool = False,
) -> SitePlan:
    """Decide what to do.

    Args:
        site: as declared.
        states: what was found; a string is the reason why a node could not be read.
        files: the configuration file that each node must finally have.
        tokens: the tokens all Rails nodes must use.
        limit: the nodes that this run may change (`--limit`); all are looked at anyway.
        quiet: by node: record and guard of the mail reader.
        upgrade: nodes with another version of GitLab get that of the site file, instead of being refused.
    """
    refused: list[str] = []
    nodes: dict[str, NodePlan] = {}
    reader = site.mail.reader if site.mail else None
    for name in site.gitlab_nodes:
        state = states[name]
        if isinstance(state, str):
            refused.append(
                f"{name} could not be looked at ({state}). It might be reading mail, so nothing is changed anywhere. "
                "Bring it back, or take it out of the site file once it is switched off for good. If it is the reader "
                f"and off for certain: deploys/mailroom_move.py --data to=NODE --data fenced={name}"
            )
            continue
        nodes[name] = node = _node(site, name, state, files[name], tokens, (quiet or {}).get(name, ()))
        installed = gitlab.version(state)
        if upgrade and installed not in (None, site.gitlab.version):
            nodes[name] = node = replace(node, upgrade=installed, reconfigure=True)
        refused += _refusals(site, name, state, node)
        going_on = gitlab.upgrade(state)
        if going_on and going_on.open and not upgrade:
            refused.append(
                f"an upgrade from {going_on.old} to {going_on.new} has not come to its end ({going_on.node}: "
                f"{going_on.phase}). deploys/gitlab_upgrade.py goes on with it"
            )
    rails_changing = any(node.converge for name, node in nodes.items() if site.nodes[name].rails)
    stop = _stops(nodes, reader, rails_changing)
    start = reader in nodes and (rails_changing or len(nodes[reader].readers) != 1 if reader else False)
    outside = [
        name for name, node in nodes.items() if name not in limit and (node.converge or node.quiet or name in stop)
    ]
    if outside and (start or stop):
        refused.append(
            f"{', '.join(outside)} must change too before mail can be read safely, but --limit or --exclude "
            "leaves it out. Run without it."
        )
    if start and reader not in limit:
        start = False
    return SitePlan(nodes, reader, stop, start, tuple(refused))


def _node(
    site: Site, name: str, state: NodeState, file: File, tokens: Mapping[str, Secret], quiet: tuple[File, ...]
) -> NodePlan:
    installed = gitlab.version(state) is not None
    differing = tuple(changes((file,), state))
    include = site.gitlab.config == "include" and not gitlab.include(state).as_declared
    other_token = tokens_differ(site, name, state, tokens)
    return NodePlan(
        install=not installed,
        changes=differing,
        include=include,
        reconfigure=bool(differing) or include or other_token or not gitlab.reconfigured(state),
        readers=tuple(mailroom.readers(state)),
        kept_up=mailroom.kept_up(state),
        drained=gitlab.drained(state),
        quiet=(noted := tuple(changes(quiet, state))),
        guard=bool(quiet) and (not stands(state) or any(change.file.path in GUARD for change in noted)),
    )


def tokens_differ(site: Site, name: str, state: NodeState, tokens: Mapping[str, Secret]) -> bool:
    """Whether a Rails node uses another token than the declared one, for any mailbox type."""
    return site.nodes[name].rails and any(
        mailroom.token_hash(state, kind) != mailroom.hash_of(token) for kind, token in tokens.items()
    )


def _stops(nodes: Mapping[str, NodePlan], reader: str | None, rails_changing: bool) -> dict[str, str]:
    stop = {}
    for name, node in nodes.items():
        if not node.readers and not node.kept_up:
            continue
        if name != reader:
            stop[name] = f"{reader} is the reader" if reader else "the site file has no mail"
        elif not node.readers:
            stop[name] = "it is being started again, and is not tried yet"
        elif len(node.readers) > 1:
            stop[name] = f"{len(node.readers)} are running"
        elif rails_changing:
            stop[name] = "nobody reads while a Rails node changes"
    return stop


def _refusals(site: Site, name: str, state: NodeState, node: NodePlan) -> list[str]:
    refused = [f"{name}: {change.refused}" for change in node.changes if change.refused]
    installed = gitlab.version(state)
    declared = site.gitlab.version
    if installed is None and not site.gitlab.package.install:
        refused.append(
            f"{name}: the GitLab package is not installed. Install gitlab-{site.gitlab.edition} {declared}, "
            "or say gitlab.package.install: true in the site file."
        )
    elif installed not in (None, declared) and not node.upgrade:
        refused.append(
            f"{name}: GitLab {installed} is installed, the site file says {declared}. Set gitlab.version to what is "
            "installed; or upgrade: deploys/gitlab_upgrade.py."
        )
    if site.gitlab.config == "include":
        refused += [f"{name}: {problem}" for problem in gitlab.include(state).problems]
    free = state.answer("gitlab.free_kib")
    if node.converge and free.isdigit() and int(free) < MIN_FREE_KIB:
        refused.append(
            f"{name}: only {int(free) // 1024} MiB are free in /etc, /var or /opt; at least "
            f"{MIN_FREE_KIB // 1024} MiB are needed. Make room, then run again."
        )
    return refused
