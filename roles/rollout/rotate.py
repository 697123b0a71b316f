"""New webhook tokens for the whole site."""

from __future__ import annotations

from dataclasses import replace

from pyinfra import logger
from pyinfra import state as pyinfra_state

from roles.gitlab.render import config_file
from roles.mailroom import record, tokens
from roles.mailroom.tokens import Tokens
from roles.node import remote
from roles.node.facts import NodeState
from roles.rollout.plan import plan
from roles.rollout.run import Run, decide, survey
from roles.site.errors import SecretError


def begin() -> Run:
    """The run of this process: made once, the same for every node.

    Raises:
        RefusedError: with every reason at once; nothing was touched.
    """
    return _run.get()


def _begin() -> Run:
    made: list[Tokens] = []

    def look() -> Run:
        run = survey(pyinfra_state.inventory.state)
        if _other_work(run):
            return run
        try:
            made[:] = made or [tokens.new(run.site)]
        except SecretError:
            return run
        return _with(run, made[0])

    return decide(look, _refusals)


def _other_work(run: Run) -> bool:
    """More is to be done than to start a reader that somebody stopped."""
    return bool(run.tokens.keep) or any(node.converge for node in run.plan.nodes.values())


def _refusals(run: Run) -> list[str]:
    if not run.site.webhook_mailboxes:
        return ["no mailbox is delivered by webhook: there is no token to rotate"]
    if run.tokens.replace:
        return []
    if _other_work(run):
        known = {name: state for name, state in run.states.items() if isinstance(state, NodeState)}
        configured = record.latest(run.states) is not None and not run.tokens.keep
        cut_off = any(run.tokens_differ(name, state) for name, state in known.items())
        cut_off = cut_off or not any(node.readers for node in run.plan.nodes.values())
        if configured and cut_off:
            logger.info("    an earlier run did not come to its end: it is finished now, with the tokens that are kept")
            return []
        return ["the site is not as its file says. Run deploys/site.py first, then rotate"]
    return [
        "a token that is not kept in a !file cannot be replaced by us. Put a new one (base64 of 32 random bytes) where "
        "the site file looks for it, and run deploys/site.py: it stops the reader, gives every Rails node the new one, "
        "and starts it again"
    ]


def _with(run: Run, new: Tokens) -> Run:
    """The same run, with new tokens."""
    site = run.site
    reader = site.mail.reader if site.mail else None
    files = {name: config_file(site, name, name == reader, new.values) for name in site.gitlab_nodes}
    limit = {str(host.name) for host in run.state.inventory if run.state.is_host_in_limit(host)}
    planned = plan(site, run.states, files, new.values, limit)
    return replace(run, tokens=new, files=files, plan=planned)


_run = remote.Once(_begin)
