"""Find mails that were lost on the way to GitLab, and hand them back to the reader."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import gevent
from pyinfra import logger
from pyinfra import state as pyinfra_state
from pyinfra.api.host import Host

from roles.mailroom import recover as mails
from roles.mailroom.recover import Fate, Mail
from roles.node import audit, remote
from roles.node.facts import NodeState
from roles.rollout.guard import option, strict
from roles.rollout.lock import lock
from roles.rollout.outcome import outcome
from roles.rollout.run import Run, survey
from roles.rollout.step import step
from roles.site.errors import RefusedError, StepError

DEPLOY = "mail_recover.py"
"""Name of the deploy, whose `--data` is read."""

_SHOWN = 50


def begin() -> Run | None:
    """The run of this process; None when nothing is handed back.

    Raises:
        RefusedError: it cannot be told, or must not be done now.
    """
    return _run.get()


def _begin() -> Run | None:
    run = survey(pyinfra_state.inventory.state)
    strict(run.state)
    deliver = option(DEPLOY, "deliver") == "yes"
    reasons = list(run.plan.refused)
    if run.site.mail is None:
        reasons.append("the site file has no mail section")
    elif deliver and (run.tokens.keep or any(node.converge for node in run.plan.nodes.values())):
        reasons.append("the site is not as its file says. Run deploys/site.py first: mails must not be lost again")
    if not reasons:
        try:
            found = [mail for mail, _ in _look(run)]
        except StepError as error:
            reasons.append(str(error))
    if reasons:
        outcome.refused(reasons)
        raise RefusedError("nothing was touched:\n" + "\n".join(f"  - {reason}" for reason in reasons))
    known = [mail for mail in found if mail.fate is not Fate.UNKNOWN]  # those may be all mails of many years
    for mail in known[:_SHOWN]:
        logger.info(f"    {mail.sentence()}")
    if len(known) > _SHOWN:
        logger.info(f"    ... and {len(known) - _SHOWN} more; --data format=json tells all")
    chosen = _chosen(found)
    told = [_count(found)]
    details = {"mails": [{**mail.__dict__, "fate": mail.fate.value} for mail in found]}
    if not deliver or not chosen or outcome.dry:
        wrong = any(mail.fate in (Fate.LOST, Fate.UNCLEAR) for mail in found)
        verdict = "would change" if deliver and chosen else ("differs" if wrong else "as declared")
        outcome.end(verdict, *told, *_hint(found, deliver), part="mails", **details)
        return None
    if not lock.mine(run.state, run.site.gitlab_nodes):
        return _begin()
    assert run.site.mail is not None
    reader = run.site.mail.reader
    plan = replace(run.plan, stop={reader: "no mail may be on its way"}, start=True)
    outcome.begin("mails", **details)
    return replace(run, plan=plan)


def _state(run: Run, name: str) -> NodeState:
    found = run.states[name]
    assert isinstance(found, NodeState)
    return found


def _chosen(found: Iterable[Mail]) -> list[Mail]:
    """The mails that are to be handed back."""
    fates = {Fate.LOST} | ({Fate.UNCLEAR} if option(DEPLOY, "unclear") == "yes" else set())
    named = option(DEPLOY, "message_id").strip("<>")
    return [mail for mail in found if mail.fate in fates or (named and mail.message_id == named)]


def _count(found: list[Mail]) -> str:
    numbers = {fate: sum(mail.fate is fate for mail in found) for fate in Fate}
    words = ", ".join(f"{number} {fate.value}" for fate, number in numbers.items() if number)
    return f"mails that were taken without a sign that GitLab has them: {words or 'none'}"


def _hint(found: list[Mail], deliver: bool) -> list[str]:
    fates = {mail.fate for mail in found}
    out = []
    if Fate.LOST in fates and not deliver:
        out.append("--data deliver=yes hands back what is lost")
    if Fate.UNCLEAR in fates:
        out.append("with unclear=yes also what GitLab may have already")
    return out


@dataclass(frozen=True)
class Looking:
    """What mail_room's logs say, and the question to the mailboxes that follows from it."""

    run: Run
    """The run."""
    evidence: dict[str, dict[str, Any]]
    """What the logs say, by mailbox type."""

    @property
    def question(self) -> tuple[str, str]:
        """The command for the reader, and its standard input."""
        kinds = {kind: {"taken": mails.taken(found)} for kind, found in self.evidence.items()}
        return mails.command(), mails.questions(self.run.site, kinds)

    def lost(self, got: remote.Result) -> list[Mail]:
        """Every mail that was taken without a sign that GitLab has it.

        Args:
            got: the answer to `question`.

        Raises:
            StepError: a log or a mailbox could not be read.
        """
        return [mail for mail, _ in _judged(self, got)]


def looking(run: Run) -> Looking:
    """Read the logs.

    Raises:
        StepError: one could not be read.
    """
    return Looking(run, _asked(run) or _logs(run))


def _look(run: Run, reading: bool = True) -> list[tuple[Mail, int]]:
    """The mails, each with its mailbox's UIDVALIDITY."""
    assert run.site.mail is not None
    look = looking(run)
    got = remote.run(
        run.state.inventory.get_host(run.site.mail.reader), *look.question, note="looking into the mailboxes"
    )
    return _judged(look, got, reading)


def _judged(look: Looking, got: remote.Result, reading: bool = True) -> list[tuple[Mail, int]]:
    run, evidence = look.run, look.evidence
    assert run.site.mail is not None
    reader = run.state.inventory.get_host(run.site.mail.reader)
    found = _json(reader, got, "the mailboxes")
    for kind, told in found.items():
        if "error" in told:
            raise StepError(f"{reader.name}: the mailbox {kind} could not be read: {told['error']}")
    if reading and any(told["mails"] for told in found.values()):
        # mail_room goes on meanwhile: what it took after the logs were read is in them now.
        evidence = _logs(run)
    now = _state(run, run.site.mail.reader).clock
    return [
        (mail, int(told["validity"]))
        for kind, told in found.items()
        for mail in mails.judge(kind, told, evidence[kind], now, reading)
    ]


def _asked(run: Run) -> dict[str, dict[str, Any]] | None:
    """The same from the look at all nodes, if they were asked in it."""
    states = [run.states[name] for name in run.site.rails_nodes]
    if any(isinstance(state, str) or "mailroom.evidence" not in state.answers for state in states):
        return None
    texts = [state.answer("mailroom.evidence") for state in states if not isinstance(state, str)]
    try:
        return mails.merged(json.loads(text) for text in texts if text)
    except ValueError:
        return None


def _logs(run: Run) -> dict[str, dict[str, Any]]:
    """What mail_room's logs on all Rails nodes say."""
    hosts = [run.state.inventory.get_host(name) for name in run.site.rails_nodes]
    asked = mails.evidence_questions(run.site)
    jobs = [gevent.spawn(remote.run, host, mails.evidence_command(), stdin=asked) for host in hosts]
    gevent.joinall(jobs)
    answers = [_json(host, job.get(), "mail_room's logs") for host, job in zip(hosts, jobs, strict=True)]
    return mails.merged(answer for answer in answers if answer)


def _json(host: Host, got: remote.Result, what: str) -> Any:
    if not got.stdout.strip() and got.ok:
        return {}
    try:
        return json.loads(got.stdout)
    except json.JSONDecodeError:
        why = (got.stderr.strip().splitlines() or ["no answer"])[-1]
        raise StepError(f"{host.name}: {what} could not be read: {why}") from None


def hand_back(run: Run) -> None:
    """Step: look again, now that nobody reads, and clear the marks of what is to be delivered."""
    assert run.site.mail is not None

    def act(host: Host) -> None:
        found = _look(run, reading=False)
        chosen = set(_chosen(mail for mail, _ in found))
        words = {
            kind: {
                "give_back": [mail.uid for mail, _ in found if mail in chosen and mail.kind == kind],
                "validity": next(validity for mail, validity in found if mail.kind == kind),
            }
            for kind in {mail.kind for mail in chosen}
        }
        got = remote.run(host, mails.command(), stdin=mails.questions(run.site, words))
        told = _json(host, got, "the mailboxes") if words else {}
        wrong = [f"{kind}: {answer['error']}" for kind, answer in told.items() if "error" in answer]
        if wrong:
            raise StepError(f"not everything was handed back: {'; '.join(wrong)}. Run again.")
        for kind, answer in told.items():
            audit.note(host, "mails handed back", kind=kind, number=answer["given"], uids=words[kind]["give_back"])
        number = sum(answer["given"] for answer in told.values())
        run.after = lambda: [f"{number} mails were handed back to {host.name}"]
        outcome.end("changed", part="mails")

    step(name="Hand the mails back", action=act if run.starts_here else None)


_run = remote.Once(_begin)
