"""The steps by which exactly one node comes to read mail. Each raises `StepError` with cause and cure."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra.api.host import Host

from roles.gitlab.deploy import converge
from roles.mailroom import checks, facts, guard, record, tokens
from roles.mailroom.render import MAILBOXES
from roles.node import install, remote
from roles.node.act import Act, Failed, do
from roles.node.checks import Check
from roles.rollout.step import step
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import Secret

if TYPE_CHECKING:
    from roles.rollout.run import Run


ENDING = 20.0
"""Seconds that a mail_room that was told to stop may take to end; the package's runit gives it five."""


def stop_readers(run: Run) -> None:
    """Step: stop mail_room where it must not run now."""
    if run.plan.stop:
        step(
            name="Stop mail_room where it must not run now",
            action=stop if run.name in run.plan.stop else None,
        )


def see_readers_stopped(run: Run) -> None:
    """Step: see from the processes of all nodes that it is stopped, before anything else is done."""
    off = [name for name in run.site.gitlab_nodes if name != run.plan.reader or run.plan.start]
    step(
        name="See mail_room stopped",
        action=(lambda host: see_stopped(run, off)) if run.leads else None,
    )


def keep_tokens(run: Run) -> None:
    """Step: tokens that were adopted or made now are kept where the site file says, before any node gets them."""
    if run.tokens.keep:
        step(
            name="Keep the webhook tokens where the site file says",
            action=(lambda host: tokens.keep(run.tokens)) if run.leads else None,
        )


def record_reader(run: Run) -> None:
    """Step: every Rails node gets to know who reads from now on, and its guard."""
    if any(node.notes for node in run.plan.nodes.values()):
        here = run.name in run.plan.nodes and run.plan.nodes[run.name].notes
        step(name="Write down who reads mail", action=(lambda host: write_down(run, host)) if here else None)


def write_down(run: Run, host: Host) -> None:
    """Install record and guard, and start the guard's timer.

    Raises:
        StepError: with cause and cure.
    """
    assert run.record is not None
    node = run.plan.nodes[str(host.name)]
    installs, content = install.act(list(node.quiet))
    acts = [Act(f"install -d -m 755 {guard.FOLDER}", told=_unrecorded), *installs]
    if any(change.file.path == record.PATH for change in node.quiet):
        what = {"reader": run.record.reader, "serial": run.record.serial, "fenced": list(run.record.fenced)}
        acts.append(Act(":", "mail reader on record", what))
    if node.guard:
        acts.append(Act(_GUARD, told=_unrecorded))
    do(host, *acts, stdin=content)


def _unrecorded(got: Failed) -> str:
    return f"the record of the mail reader, or its guard, is not in place: {got.said}"


# A daemon-reload has systemd read all its units again, and run all its generators: a quarter of a second. It is needed
# only for units that it has read before, or has looked for in vain; others it reads when it is asked about them.
_GUARD = (
    f"systemctl enable --quiet --no-reload {guard.HOLD} {guard.TIMER} || exit 1\n"
    f"if systemctl show -p LoadState -p NeedDaemonReload {guard.HOLD} {guard.SERVICE} {guard.TIMER} | "
    "grep -qE '=(not-found|yes)$'; then systemctl daemon-reload || exit 1; fi\n"
    f"systemctl start {guard.TIMER}"
)


def check_before_reading(run: Run) -> None:
    """Step: tokens, routes, mailboxes and clocks are tried before mail_room may run."""
    step(
        name="Try tokens, routes, mailboxes and clocks from the reader",
        action=(lambda host: gate(run, host)) if run.starts_here else None,
    )


def try_new_reader(run: Run) -> None:
    """Step: everything that the new reader will need is tried from there, while the old one still reads."""

    def act(host: Host) -> None:
        # In an emergency the rest of the site may be worse; it is put right and tried before anybody reads.
        gate(run, host, "nothing was changed", urgent=bool(run.away))

    step(name="Try the new reader", action=act if run.starts_here and not run.plan.installing else None)


def see_first_poll(run: Run) -> None:
    """Step: wait for the new reader's first look into the mailbox."""
    step(
        name="See the first look into the mailbox", action=(lambda host: polled(run, host)) if run.starts_here else None
    )


def start_reader(run: Run) -> None:
    """Step: switch mail_room on, on the reader alone."""

    def act(host: Host) -> None:
        state = run.look_at(run.name, run.file(run.name))
        run.started = state.clock
        converge(run, host, state=state)
        start(run, host, facts.logged(state))

    step(name="Start mail_room on the reader", action=act if run.starts_here else None)


def see_one_reader(run: Run) -> None:
    """Step: see from the processes of all nodes that exactly the declared node reads."""
    step(
        name="See exactly one mail reader",
        action=(lambda host: see_one(run)) if run.leads else None,
    )


# `gitlab-ctl stop` first, so that runit does not start it again; what was started by hand gets a signal. One TERM only:
# at the first one mail_room hands over what it has fetched (it waits up to 60 s for that: mail_room/mailbox_watcher.rb,
# quit), at a second one it ends at once, and mails that are marked as read are never delivered.
_STOP = f"""\
own=$(cat {facts.SUPERVISED} 2>/dev/null)
[ -e {facts.SERVICE} ] && gitlab-ctl stop mailroom >/dev/null 2>&1
n=0
while pids=$({facts.READERS}); [ -n "$pids" ]; do
  n=$((n + 1))
  [ $n -eq 1 ] && for pid in $pids; do [ "$pid" = "$own" ] || kill -TERM $pid 2>/dev/null; done
  [ $n -eq 300 ] && kill -KILL $pids 2>/dev/null
  [ $n -ge 320 ] && {{ echo "mail_room is still running: process" $pids >&2; exit 1; }}
  sleep 0.25
done"""


def stop(host: Host) -> None:
    """Stop every mail_room on the node, whoever started it, and see that none is left (80 s at most)."""
    stopped = Act(
        _STOP,
        "mail_room stopped",
        told=lambda got: f"mail_room could not be stopped: {got.said}. Nothing was enabled anywhere.",
    )
    do(host, stopped, note="waiting for mail_room to end")


def see_stopped(run: Run, nodes: list[str]) -> None:
    """See from the processes that none of `nodes` reads, also those that this run does not change."""
    deadline = time.monotonic() + ENDING
    while True:
        reading = {}
        for name, state in run.ask(facts.WHO_READS).items():
            if name in nodes and isinstance(state, str):
                reading[name] = f"could not be looked at ({state})"
            elif name in nodes and not isinstance(state, str) and facts.readers(state):
                reading[name] = f"still reads (process {', '.join(map(str, facts.readers(state)))})"
        if not reading or time.monotonic() > deadline:
            break
        gevent.sleep(1)
    if reading:
        told = "; ".join(f"{name} {why}" for name, why in reading.items())
        raise StepError(f"{told}. Nothing is enabled until mail_room was seen stopped on all of them.")


def see_one(run: Run) -> None:
    """See that mail_room runs on the declared reader, once, and nowhere else; then the run is at its end."""
    wanted = {name: int(name == run.plan.reader) for name in run.site.gitlab_nodes}
    deadline = time.monotonic() + ENDING
    while True:
        found = {
            name: state if isinstance(state, str) else len(facts.readers(state))
            for name, state in run.ask(facts.WHO_READS).items()
        }
        wrong = {name: count for name, count in found.items() if count != wanted[name]}
        if not wrong or time.monotonic() > deadline:
            break
        gevent.sleep(1)
    if wrong and not (run.limited and set(wrong) == {run.plan.reader}):
        told = "; ".join(f"{name}: {count}" for name, count in wrong.items())
        raise StepError(f"the mail_rooms that run are not the declared ones ({told}). Run again.")
    run.finish()


def probe(site: Site, host: Host) -> Mapping[str, Any] | str:
    """Run the probe on the reader. A string is the reason why it could not be run."""
    return probed(remote.run(host, *probe_question(site), note="trying routes and mailboxes"))


def probe_question(site: Site) -> tuple[str, str]:
    """The command of the probe, and its standard input."""
    return checks.probe_command(), checks.probe_questions(site)


def probed(got: remote.Result) -> Mapping[str, Any] | str:
    """The answer of the probe."""
    if not got.ok:
        return (got.stderr.strip().splitlines() or ["the probe ended with an error"])[-1]
    try:
        answer: Mapping[str, Any] = json.loads(got.stdout)
    except json.JSONDecodeError:
        return "the probe's answer is not whole"
    return answer


def before_reading(run: Run, host: Host) -> list[Check]:
    """All that must be true before mail_room may run: tokens, clocks, routes, mailboxes. Looks afresh."""
    assert run.site.mail is not None
    probing = gevent.spawn(probe, run.site, host)
    states = run.ask(*facts.TOKENS)
    found = checks.tokens(run.site, states, run.tokens.values)
    found += checks.clocks(run.site, states)
    found += checks.probed(run.site, probing.get())
    return found


OFF = "mail_room stays off on every node (mails wait in the mailbox)"
"""The state after a gate that did not open."""


def gate(run: Run, host: Host, then: str = OFF, urgent: bool = False) -> None:
    """Refuse to start mail_room unless everything that it needs was seen to work.

    GitLab needs some seconds after a reconfigure before it answers, so routes that fail are tried again for a while.

    Args:
        then: the state of things when it does not open.
        urgent: look at mailboxes and clocks alone.

    Raises:
        StepError: with every check that failed.
    """
    deadline = time.monotonic() + run.patience
    told_at, pause = 0.0, 0.25
    while True:
        failed = [check for check in before_reading(run, host) if not check.ok]
        if urgent:
            failed = [check for check in failed if check.subject.endswith(("mailbox", "clock"))]
        if not failed:
            return
        waits = all(check.subject.startswith("POST ") for check in failed)  # only routes come up by waiting
        if not waits or time.monotonic() > deadline:
            break
        if time.monotonic() - told_at > 15:
            told_at = time.monotonic()
            host.log(f"not ready yet, {len(failed)} checks fail, such as {failed[0].subject}: {failed[0].found}")
        gevent.sleep(pause)
        pause = min(2 * pause, 4)  # each look logs in to the mailboxes
    told = "\n".join(f"  - {check.sentence()}" for check in failed)
    raise StepError(f"{then}, because mail could be lost:\n{told}")


# mail_room that cannot work dies and is started again every few seconds. It counts when it looked into every mailbox
# (each has a context of its own in the log), or, where the log is elsewhere, when one process lasts for 6 s.
_START = f"""\
gitlab-ctl start mailroom >/dev/null 2>&1
n=0; seen=
while [ $n -lt 120 ]; do
  pids=$({facts.READERS}); set -- $pids
  if [ $# -eq 1 ] && [ "$1" = "$seen" ]; then
    [ $n -ge $((since + 24)) ] && exit 0
    polled=$(tail -c +$((size + 1)) {facts.LOG} 2>/dev/null | grep -i '{facts.POLL}' | grep -o '"context":{{[^}}]*}}')
    [ "$(echo "$polled" | grep . | sort -u | wc -l)" -ge $mailboxes ] && [ "$({facts.READERS})" = "$seen" ] && exit 0
  else
    [ -n "$seen" ] && size=$({facts.LOGGED}) # that one died: what it has looked into does not count
    seen=${{1-}}; since=$n
  fi
  n=$((n + 1)); sleep 0.25
done
echo "mail_room does not stay up (see gitlab-ctl tail mailroom on the node)" >&2; exit 1"""


def start(run: Run, host: Host, logged: int) -> None:
    """Start mail_room and see that it looks into every mailbox, or that one process of it lasts for some seconds.

    Args:
        logged: size of its log in bytes, before anything that may have started it.
    """
    assert run.site.mail is not None
    mailboxes = sum(run.site.mail.mailbox(kind) is not None for kind in MAILBOXES)
    script = f"mailboxes={mailboxes} size={logged}\n{_START}"
    started = Act(
        script,
        "mail_room started",
        told=lambda got: f"{got.said}. Mails wait in the mailbox; run again after the cure.",
    )
    do(host, started, note="waiting for mail_room to stay up")


def polled(run: Run, host: Host) -> None:
    """Wait until mail_room has looked for mail since it was started.

    Raises:
        StepError: it did not, within a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = run.look_at(str(host.name), run.file(str(host.name)))
        poll = facts.last_poll(state)
        if poll and poll.time.timestamp() >= run.started:
            return
        gevent.sleep(1)
    raise StepError(
        "mail_room runs, but has not looked into the mailbox for a minute (gitlab-ctl tail mailroom). Mails wait in it."
    )


def fetch_token(host: Host, kind: str) -> Secret:
    """The token that a node uses, read privately.

    Raises:
        StepError: when it cannot be read.
    """
    got = remote.run(host, f"cat {facts.secret_file(kind)}")
    if not got.ok or not got.stdout.strip():
        raise StepError(f"the {kind} token of {host.name} could not be read: {got.stderr.strip()}")
    return Secret(got.stdout.strip())
