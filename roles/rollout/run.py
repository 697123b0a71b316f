"""One run over the site: look at every node once, decide for all of them together, and act in steps.

pyinfra loads a deploy file once per node, at the same time; the run is made by whichever node comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.state import State

from roles.gitlab import facts as gitlab
from roles.gitlab.render import GITLAB_RB, config_file
from roles.mailroom import deploy as mailroom
from roles.mailroom import facts as mail_facts
from roles.mailroom import guard as mail_guard
from roles.mailroom import record
from roles.mailroom import tokens as mail_tokens
from roles.mailroom.record import Fence, Record
from roles.node import audit, remote
from roles.node.bundle import Bundle, File, Question
from roles.node.facts import NodeState
from roles.rollout.diff import show
from roles.rollout.guard import strict
from roles.rollout.lock import lock
from roles.rollout.outcome import outcome
from roles.rollout.plan import SitePlan, plan, tokens_differ
from roles.rollout.stages import stages
from roles.site.current import current, declared, leave_out
from roles.site.errors import RefusedError, StepError
from roles.site.models import Site

PATIENCE = 90.0
"""Seconds for which the checks before reading are tried again; GitLab's puma takes that long to start."""


@dataclass
class Run:
    """What is known of the site in this run."""

    site: Site
    """As declared."""
    state: State
    """pyinfra's state."""
    states: Mapping[str, NodeState | str]
    """What was found on every node; a string is the reason why a node could not be read."""
    tokens: mail_tokens.Tokens
    """The webhook tokens."""
    files: Mapping[str, File]
    """The configuration file that every node must finally have."""
    plan: SitePlan
    """What is to be done."""
    record: Record | None = None
    """The reader on record, as it must be at the end; None without mail."""
    away: tuple[str, ...] = ()
    """Nodes that cannot be reached and are off by word of an operator. They are not in `site`."""
    started: float = 0.0
    """The reader's clock when mail_room was started there; seconds since 1970."""
    after: Callable[[], list[str]] | None = None
    """What else is done at the end, and to be told."""
    upgrade: gitlab.Upgrade | None = None
    """The upgrade that this run is to bring to its end."""
    back: bool = False
    """It goes back to the version that it began with."""
    downtime: bool = False
    """Nobody is served meanwhile."""
    patience: float = PATIENCE
    """Seconds for which the checks before reading are tried again."""

    @property
    def name(self) -> str:
        """Name of the node whose greenlet asks."""
        return str(host.name)

    @property
    def leads(self) -> bool:
        """True on the one node that takes the steps that are not any node's own."""
        return self.name == next(host.name for host in self.state.inventory if host in self.state.activated_hosts)

    @property
    def limited(self) -> bool:
        """True when `--limit` or `--exclude` leaves nodes out."""
        return any(not self.state.is_host_in_limit(host) for host in self.state.inventory)

    @property
    def starts_here(self) -> bool:
        """True on the reader when mail_room has to be started."""
        return self.plan.start and self.name == self.plan.reader

    @property
    def stages(self) -> list[list[str]]:
        """The nodes to change before the reader, stage by stage; none when none of them is to be changed."""
        nodes = self.plan.nodes
        if not any(node.converge or node.drained for name, node in nodes.items()):
            return []
        todo = stages(self.site)
        if self.site.rollout is None:
            todo = [[name for name in batch if self.plan.first(name)] for batch in todo]
        return [batch for batch in todo if batch]

    @property
    def work(self) -> bool:
        """False when everything is as declared: then there are no steps."""
        return self.plan.work or bool(self.tokens.keep) or self.upgrade is not None

    def summary(self) -> dict[str, list[str]]:
        """What is done where, as lines for an operator; `(here)` is the machine that the run is started on."""
        here = [
            f"keep the {kind} token, {self.tokens.origin[kind]}, in {path}" for kind, path in self.tokens.keep.items()
        ]
        out = ({"(here)": here} if here else {}) | self.plan.summary()
        if self.upgrade and not self.back:
            last = f"migrate the database (then GitLab goes back only with a backup of exactly {self.upgrade.old})"
            out[self.upgrade.node] = [*out.get(self.upgrade.node, []), last]
        return out

    def look(self) -> dict[str, NodeState | str]:
        """Look at every node afresh."""
        return remote.look_all(self.state, bundles(self.site, self.files, {}))

    def ask(self, *questions: Question) -> dict[str, NodeState | str]:
        """Look at every node afresh, for these answers and the clock alone."""
        return remote.look_all(self.state, dict.fromkeys(self.site.gitlab_nodes, Bundle((), questions)))

    def look_at(self, name: str, file: File) -> NodeState:
        """Look at one node afresh, for `file`.

        Raises:
            StepError: when it cannot be read.
        """
        node = self.state.inventory.get_host(name)
        found = remote.look(self.state, node, bundles(self.site, {name: file}, {})[name])
        if isinstance(found, str):
            raise StepError(f"the node could not be looked at: {found}. Run again.")
        return found

    def file(self, name: str, reading: bool | None = None) -> File:
        """The node's configuration; `reading` is whether mail_room is on, by default as the site file says."""
        if reading is None:
            return self.files[name]
        return config_file(self.site, name, reading, self.tokens.values)

    def tokens_differ(self, name: str, state: NodeState) -> bool:
        """Whether the tokens in use on a node are not the declared ones."""
        return tokens_differ(self.site, name, state, self.tokens.values)

    def finish(self) -> None:
        """The run is at its end and everything is as declared."""
        summary = self.summary()
        outcome.end("changed", ", ".join(summary), *self.told, part="gitlab", changes=summary)

    @property
    def told(self) -> list[str]:
        """What an operator has to know besides."""
        away = [f"{name} is fenced and was not reached; every run looks for it" for name in self.away]
        return away + (self.after() if self.after else [])


def bundles(
    site: Site, files: Mapping[str, File], quiet: Mapping[str, tuple[File, ...]], of_rails: tuple[Question, ...] = ()
) -> dict[str, Bundle]:
    """What is asked of, and wanted on, every node.

    Args:
        files: the configuration file of each node.
        quiet: record and guard of the mail reader, on those nodes that have them.
        of_rails: further questions to Rails nodes.
    """
    every = (*gitlab.questions(site.gitlab.config == "include"), record.question())
    reader = site.mail.reader if site.mail else None
    out = {}
    for name, file in files.items():
        rails = site.nodes[name].rails
        asked = every + mail_facts.questions(rails, name == reader)
        asked += (mail_guard.question(), *of_rails) if rails else ()
        out[name] = Bundle((file, *quiet.get(name, ())), asked, gitlab.WATCHED)
    return out


def begin() -> Run:
    """The run of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def survey(
    state: State,
    to: str | None = None,
    fenced: Iterable[str] = (),
    upgrade: bool = False,
    of_rails: tuple[Question, ...] = (),
) -> Run:
    """Look at the whole site and plan, without refusing or showing anything.

    Args:
        to: the node that is to read mail from now on, whatever the site file says.
        fenced: nodes that are off, by word of the operator of this run.
        upgrade: nodes with another version of GitLab are not refused.
        of_rails: further questions to Rails nodes.
    """
    site = declared()
    blank = {name: config_file(site, name, False, {}) for name in site.gitlab_nodes}
    states = remote.look_all(state, bundles(site, blank, _quiet(site, Record(0, "", "", "")), of_rails))
    known = record.latest(states)
    away = _away(states, known, fenced)
    leave_out(away)
    site = current()
    if site.mail and to:
        site = site.model_copy(update={"mail": site.mail.model_copy(update={"reader": to})})
    states = {name: states[name] for name in site.gitlab_nodes}
    wanted = _wanted(site, known, away, fenced) if site.mail else None
    quiet = _quiet(site, wanted)
    hosts = {host.name: host for host in state.inventory}
    tokens = mail_tokens.decide(site, states, lambda node, kind: mailroom.fetch_token(hosts[node], kind))
    reader = site.mail.reader if site.mail else None
    files = {name: config_file(site, name, name == reader, tokens.values) for name in site.gitlab_nodes}
    limit = {host.name for host in state.inventory if state.is_host_in_limit(host)}
    planned = plan(site, states, files, tokens.values, limit, quiet, upgrade)
    return Run(site, state, states, tokens, files, planned, wanted, tuple(sorted(away)))


def _quiet(site: Site, wanted: Record | None) -> dict[str, tuple[File, ...]]:
    """Record and guard of the mail reader, by node."""
    if wanted is None or site.mail is None:
        return {}
    return {name: (*record.files(site, wanted), *mail_guard.files(site, name)) for name in site.rails_nodes}


def _away(states: Mapping[str, NodeState | str], known: Record | None, fenced: Iterable[str]) -> set[str]:
    """Nodes to do without: they cannot be reached, and an operator has said, now or earlier, that they are off."""
    off = set(fenced) | set(known.fenced if known else ())
    return {name for name in off if isinstance(states.get(name), str)}


def _wanted(site: Site, known: Record | None, away: set[str], fenced: Iterable[str]) -> Record:
    """The record at the end of this run."""
    assert site.mail is not None
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    by, why = audit.run.by, audit.run.why
    if known is None:
        known = Record(0, "", now, by)
    kept = {name: known.fenced.get(name, Fence(now, by, why)) for name in sorted(away)}
    if known.reader != site.mail.reader:
        return known.changed(reader=site.mail.reader, since=now, by=by, fenced=kept)
    return known if kept == known.fenced else known.changed(fenced=kept)


def _begin() -> Run:
    return decide(lambda: survey(pyinfra_state.inventory.state), _old_file)


def _old_file(run: Run) -> list[str]:
    """Why the reader is not moved by the way: the site file may be older than the last move."""
    known = record.latest(run.states)
    if known is None or run.site.mail is None or known.reader == run.site.mail.reader:
        return []
    return [
        f"the mail reader on record is {known.reader} (since {known.since}, by {known.by}), the site file says "
        f"{run.site.mail.reader}. If the file is old, say reader: {known.reader} in it; to move the reader: "
        f"deploys/mailroom_move.py --data to={run.site.mail.reader}"
    ]


def decide(look: Callable[[], Run], refusals: Callable[[Run], list[str]]) -> Run:
    """Look, refuse or show what is to be done, and take the lock for it.

    Args:
        look: looks and plans.
        refusals: further reasons to refuse.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    run = look()
    state = run.state
    strict(state)
    if reasons := [*refusals(run), *run.plan.refused]:
        outcome.refused(reasons)
        raise RefusedError("nothing was touched:\n" + "\n".join(f"  - {reason}" for reason in reasons))
    if run.work and not lock.mine(state, run.site.gitlab_nodes):
        return decide(look, refusals)
    # pyinfra would call the run a failure for their sake.
    state.failed_hosts.difference_update([host for host in state.failed_hosts if host.name in run.away])
    if not run.work:
        told = [f"nothing to do on {len(run.site.gitlab_nodes)} GitLab nodes", *run.told]
        outcome.end("as declared", *told, part="gitlab", changes={})
        return run
    summary = run.summary()
    for name, lines in summary.items():
        for line in lines:
            logger.info(f"    {name}: {line}")
    if state.config.DIFF or outcome.dry:
        _show_diff(run)
    outcome.begin("gitlab", changes=summary)
    if outcome.dry:
        outcome.end("would change", f"{', '.join(summary)} (nothing was touched)", part="gitlab")
    return run


def _show_diff(run: Run) -> None:
    """Show what changes in which file, with every secret masked."""
    hosts = {host.name: host for host in run.state.inventory}
    for name, node in run.plan.nodes.items():
        show(hosts[name], node.changes)
        if node.include:
            logger.info(f"    {name}: + from_file '{gitlab.MAIL_RB}' in {GITLAB_RB}")


_run = remote.Once(_begin)
