"""One run over the site: look at every node once, decide for all of them together, and act in steps.

pyinfra loads a deploy file once per node, at the same time; the run is made by whichever node comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra import state as pyinfra_state
from pyinfra.api.state import State

from roles.gitlab import facts as gitlab
from roles.gitlab.render import GITLAB_RB, config_file
from roles.mailroom import deploy as mailroom
from roles.mailroom import facts as mail_facts
from roles.mailroom import tokens as mail_tokens
from roles.node import remote
from roles.node.bundle import Bundle, File
from roles.node.facts import NodeState
from roles.rollout.diff import show
from roles.rollout.outcome import outcome
from roles.rollout.plan import SitePlan, plan, tokens_differ
from roles.site.current import current
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
    def work(self) -> bool:
        """False when everything is as declared: then there are no steps."""
        return self.plan.work or bool(self.tokens.keep)

    def summary(self) -> dict[str, list[str]]:
        """What is done where, as lines for an operator; `(here)` is the machine that the run is started on."""
        here = [
            f"keep the {kind} token, {self.tokens.origin[kind]}, in {path}" for kind, path in self.tokens.keep.items()
        ]
        return ({"(here)": here} if here else {}) | self.plan.summary()

    def look(self) -> dict[str, NodeState | str]:
        """Look at every node afresh."""
        return remote.look_all(self.state, bundles(self.site, self.files))

    def look_at(self, name: str, file: File) -> NodeState:
        """Look at one node afresh, for `file`.

        Raises:
            StepError: when it cannot be read.
        """
        node = self.state.inventory.get_host(name)
        found = remote.look(self.state, node, bundles(self.site, {name: file})[name])
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
        outcome.end("changed", ", ".join(summary), part="gitlab", changes=summary)


def bundles(site: Site, files: Mapping[str, File]) -> dict[str, Bundle]:
    """What is asked of, and wanted on, every node."""
    asked = gitlab.questions(site.gitlab.config == "include") + mail_facts.questions()
    return {name: Bundle((file,), asked) for name, file in files.items()}


def begin() -> Run:
    """The run of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def survey(state: State) -> Run:
    """Look at the whole site and plan, without refusing or showing anything."""
    site = current()
    blank = {name: config_file(site, name, False, {}) for name in site.gitlab_nodes}
    states = remote.look_all(state, bundles(site, blank))
    hosts = {host.name: host for host in state.inventory}
    tokens = mail_tokens.decide(site, states, lambda node, kind: mailroom.fetch_token(hosts[node], kind))
    reader = site.mail.reader if site.mail else None
    files = {name: config_file(site, name, name == reader, tokens.values) for name in site.gitlab_nodes}
    limit = {host.name for host in state.inventory if state.is_host_in_limit(host)}
    return Run(site, state, states, tokens, files, plan(site, states, files, tokens.values, limit))


def _begin() -> Run:
    run = survey(state := pyinfra_state.inventory.state)
    if run.plan.refused:
        outcome.refused(list(run.plan.refused))
        raise RefusedError("nothing was touched:\n" + "\n".join(f"  - {reason}" for reason in run.plan.refused))
    if not run.work:
        outcome.end(
            "as declared", f"nothing to do on {len(run.site.gitlab_nodes)} GitLab nodes", part="gitlab", changes={}
        )
        return run
    summary = run.summary()
    for name, lines in summary.items():
        for line in lines:
            logger.info(f"    {name}: {line}")
    if state.config.DIFF or outcome.dry:
        _show_diff(run)
    outcome.begin("gitlab", changes=summary)
    if outcome.dry:
        outcome.end("would change", f"{', '.join(summary)} (--dry: nothing was touched)", part="gitlab")
    return run


def _show_diff(run: Run) -> None:
    """Show what changes in which file, with every secret masked."""
    hosts = {host.name: host for host in run.state.inventory}
    for name, node in run.plan.nodes.items():
        show(hosts[name], node.changes)
        if node.include:
            logger.info(f"    {name}: + from_file '{gitlab.MAIL_RB}' in {GITLAB_RB}")


_run = remote.Once(_begin)
