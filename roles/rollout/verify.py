"""Is the site what the file says? Read-only: a table for people, JSON for machines, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyinfra import logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host
from rich.console import Console
from rich.table import Table
from rich.text import Text

from roles.backup.checks import checks as backup_checks
from roles.gitlab.checks import configuration
from roles.mailroom import checks as mail
from roles.mailroom import deploy as mailroom
from roles.mailroom.recover import evidence_question
from roles.mattermost.checks import checks as mattermost_checks
from roles.node import remote
from roles.node.checks import Check, Verdict
from roles.rollout import backup, mattermost, recover
from roles.rollout.outcome import outcome
from roles.rollout.run import Run, survey
from roles.site.current import declared
from roles.site.errors import StepError
from roles.site.secret import scrub

_COLOURS = {Verdict.AS_DECLARED: "green", Verdict.DIFFERS: "red", Verdict.NOT_SEEN: "yellow"}


def checks(run: Run) -> list[Check]:
    """Every check of the site, node by node. Changes nothing."""
    site = run.site
    found: list[Check] = []
    for name in site.gitlab_nodes:
        state = run.states[name]
        found += configuration(site, name, state, run.files[name])
        found.append(mail.readers(site, name, state))
        if run.record and site.nodes[name].rails:
            found += mail.recorded(site, name, state, run.record)
    found += mail.fenced(run.record) if run.record else []
    if site.mail and site.mail.reader in run.states:
        reader = site.mail.reader
        state = run.states[reader]
        host = run.state.inventory.get_host(reader)
        answer, taken = (state, mail.taken(site, None, state)) if isinstance(state, str) else _reader(run, host)
        found += mail.tokens(site, run.states, run.tokens.values)
        found += mail.clocks(site, run.states)
        found += mail.probed(site, answer)
        found += mail.reading(site, state, answer)
        found.append(taken)
    return found


def _reader(run: Run, host: Host) -> tuple[Mapping[str, Any] | str, Check]:
    """What the reader can reach, and the mails that were taken and never reached GitLab: by one command."""
    try:
        look = recover.looking(run)
    except StepError as error:
        return mailroom.probe(run.site, host), mail.taken(run.site, None, str(error))
    asked = [mailroom.probe_question(run.site), look.question]
    probe, boxes = remote.several(host, asked, note="trying routes, looking into the mailboxes")
    try:
        taken = mail.taken(run.site, look.lost(boxes), "")
    except StepError as error:
        taken = mail.taken(run.site, None, str(error))
    return mailroom.probed(probe), taken


def table(found: list[Check], console: Console) -> None:
    """The checks as a table, one line each, the cures of what is wrong below it."""
    out = Table(header_style="bold")
    for title in ("node", "what", "declared", "found", ""):
        out.add_column(title, overflow="fold")
    for check in found:
        colour = _COLOURS[check.verdict]
        words = (check.node, check.subject, check.declared, check.found)
        # Text, not markup: what was found is foreign text
        out.add_row(*(Text(scrub(word)) for word in words), Text(check.verdict.value, style=colour))
    console.print(out)
    for check in found:
        if not check.ok:
            console.print(Text(scrub(f"{check.verdict.value}: {check.sentence()}"), style=_COLOURS[check.verdict]))


def _verify() -> list[Check]:
    asked = (evidence_question(declared()),) if declared().mail else ()
    run = survey(pyinfra_state.inventory.state, of_rails=asked)
    for kind, origin in run.tokens.origin.items():
        logger.info(f"    The {kind} token is not kept yet where the site file says ({origin})")
    found = checks(run)
    chat = mattermost.survey(pyinfra_state.inventory.state)
    if chat:
        found += mattermost_checks(chat)
    saved = backup.survey(pyinfra_state.inventory.state)
    if saved:
        found += backup_checks(saved)
    if not outcome.json:
        console = Console()
        if not console.is_terminal:
            console.width = 160
        table(found, console)
        for project, address in run.site.service_desk_addresses().items():
            console.print(Text(f"Service Desk of {project}: {address}"))
    wrong = [check for check in found if not check.ok]
    unseen = [check for check in wrong if check.verdict is Verdict.NOT_SEEN]
    verdict = "as declared" if not wrong else ("could not look" if unseen else "differs")
    reason = f"{len(found)} checks on {len(run.site.nodes)} nodes"
    if wrong:
        reason = f"{len(wrong)} of {reason} ({len(unseen)} could not be looked at)"
    outcome.end(verdict, reason, checks=[check.__dict__ for check in found])
    return found


_once = remote.Once(_verify)


def verify() -> list[Check]:
    """Look at the whole site once, show it, and set the verdict of the run."""
    return _once.get()
