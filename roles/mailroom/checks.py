"""What must be true before mail_room may read, and whether it is. Asked by the gate and by `verify`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from roles.gitlab.render import RUBY
from roles.mailroom import facts, guard, record
from roles.mailroom.record import Record
from roles.mailroom.recover import Fate, Mail
from roles.mailroom.render import MAILBOXES, node_url
from roles.node.checks import Check, Verdict, compare
from roles.node.facts import NodeState
from roles.site.models import Site
from roles.site.secret import Secret

AHEAD = 0.25
"""Seconds by which the reader's clock may be ahead of a Rails node's. mail_room puts its own time into each push and
Rails refuses any that lies in the future (verify_iat in lib/gitlab/jwt_authenticatable.rb); refused mail is lost."""
BEHIND = 240.0
"""Seconds by which it may be behind: Rails refuses a push older than five minutes; a minute is left for the way."""
STUCK_AFTER = 600
"""Seconds after which an unread mail counts as stuck (mail_room polls at least every idle_timeout, default 60)."""


@cache
def probe_program() -> str:
    """The program that the reader runs for us (`probe.rb`)."""
    return Path(__file__).with_name("probe.rb").read_text()


def probe_questions(site: Site) -> str:
    """Standard input for the probe, as JSON. Holds the mailbox passwords."""
    assert site.mail is not None
    routes = []
    for kind in site.webhook_mailboxes:
        route = f"/api/v4/internal/mail_room/{kind}"
        for node in site.rails_nodes:
            base, connect = node_url(site, node)
            routes.append({"name": f"{node} {kind}", "url": base + route, "connect": connect})
        base = (site.gitlab.internal_api_url or site.gitlab.external_url).rstrip("/")
        routes.append({"name": f"mail_room's way {kind}", "url": base + route, "connect": None})
        for entry in routes:
            entry.setdefault("secret_file", facts.secret_file(kind))
    mailboxes = {}
    for kind in MAILBOXES:
        box = site.mail.mailbox(kind)
        if box is None:
            continue
        mailboxes[kind] = {
            "host": box.host,
            "port": box.port,
            "ssl": box.ssl,
            "start_tls": box.start_tls,
            "user": box.user,
            "password": site.secret(box.password).reveal(),
            "mailbox_name": box.mailbox_name,
            "stuck_after": STUCK_AFTER,
        }
    return json.dumps({"routes": routes, "mailboxes": mailboxes})


def probe_command() -> str:
    """Shell command of the probe; it feeds on :func:`probe_questions`."""
    program = probe_program().replace("'", "'\\''")
    return f"{RUBY} -e '{program}'"


def tokens(site: Site, states: Mapping[str, NodeState | str], declared: Mapping[str, Secret]) -> list[Check]:
    """Every Rails node uses the declared token of every mailbox type. Values are compared as hashes."""
    out = []
    for kind, token in declared.items():
        for node in site.rails_nodes:
            state = states[node]
            found = None
            ok = False
            if not isinstance(state, str):
                got = facts.token_hash(state, kind)
                ok = got == facts.hash_of(token)
                found = "the same" if ok else ("another token" if got else "no token")
            cure = "Run deploys/site.py: it gives every Rails node the same token while nobody reads."
            out.append(compare(node, f"{kind} token", "the same on all Rails nodes", found, ok, cure))
    return out


def clocks(site: Site, states: Mapping[str, NodeState | str]) -> list[Check]:
    """The reader's clock against that of every Rails node."""
    assert site.mail is not None
    out = []
    reader = states[site.mail.reader]
    for node in site.rails_nodes:
        state = states[node]
        if node == site.mail.reader:
            continue
        found, ok = None, False
        if not isinstance(state, str) and not isinstance(reader, str):
            ahead = reader.clock_offset - state.clock_offset
            error = reader.clock_error + state.clock_error
            ok = ahead - error <= AHEAD and -ahead - error <= BEHIND
            found = (
                None
                if error == math.inf
                else f"reader {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'} (±{error:.1f})"
            )
        declared = f"reader at most {AHEAD} s ahead, {BEHIND:.0f} s behind"
        cure = f"Let NTP set the clocks of {node} and {site.mail.reader} (chrony or systemd-timesyncd), then run again."
        out.append(compare(node, "clock", declared, found, ok, cure))
    return out


def probed(site: Site, answer: Mapping[str, Any] | str) -> list[Check]:
    """The probe's answer as checks: each route on each Rails node, and each mailbox.

    Args:
        answer: what `probe.rb` printed, or why it could not be run.
    """
    assert site.mail is not None
    reader = site.mail.reader
    if isinstance(answer, str):
        return [Check(reader, "probe from the reader", "possible", answer, Verdict.NOT_SEEN, "See the error.")]
    out = [_route(site, name, got) for name, got in answer["routes"].items()]
    out += [_mailbox(site, reader, kind, got) for kind, got in answer["mailboxes"].items()]
    return out


def _route(site: Site, name: str, got: Mapping[str, Any]) -> Check:
    node, _, kind = name.rpartition(" ")
    route = f"POST /api/v4/internal/mail_room/{kind}"
    if node not in site.nodes:  # the way mail_room itself takes, through the load balancer if there is one
        node = site.mail.reader if site.mail else node
        route += " on mail_room's own way"
    declared = "401 with a wrong token, 200 with the shared one"
    if "error" in got:
        cure = f"The reader must reach this address: check DNS, firewall, certificates, and that {node} serves."
        return compare(node, route, declared, str(got["error"]), False, cure)
    if got["wrong"] != 401:
        cures = {
            200: "This is not GitLab's API, or it checks nothing. Check external_url, internal_api_url and nodes.url.",
            500: f"Its token file is probably not base64 of 32 bytes: see `gitlab-ctl tail puma` on {node}.",
            404: "This address is not GitLab's API. Check external_url, internal_api_url and nodes.url.",
        }
        cure = cures.get(
            got["wrong"], f"GitLab does not serve on {node}: `gitlab-ctl status` and `gitlab-ctl tail puma`."
        )
        return compare(node, route, declared, f"{got['wrong']} with a wrong token", False, cure)
    cure = (
        f"{node} refuses the reader's token, and mail pushed to it would be lost. If the tokens are the same, "
        "its puma still has an old one in memory (`gitlab-ctl restart puma`) or its clock is off."
    )
    return compare(node, route, declared, f"401, then {got['right']}", got["right"] == 200, cure)


def _mailbox(site: Site, node: str, kind: str, got: Mapping[str, Any]) -> Check:
    box = site.mail.mailbox(kind) if site.mail else None
    assert box is not None
    where = f"{box.user} at {box.host}:{box.port}, folder {box.mailbox_name}"
    if got["ok"]:
        return compare(node, f"{kind} mailbox", where, "logged in, folder there", True)
    cures = {
        "connect": f"Check host, port, ssl, start_tls of mail.{kind}, the firewall, and {node}'s trust.",
        "login": f"Check user and password of mail.{kind}.",
        "folder": f"Check mailbox_name of mail.{kind}: there is no such folder.",
    }
    return compare(node, f"{kind} mailbox", where, f"{got['step']} failed: {got['error']}", False, cures[got["step"]])


def readers(site: Site, node: str, state: NodeState | str) -> Check:
    """How many mail_rooms run on a node, counted from its processes."""
    wanted = int(site.mail is not None and site.mail.reader == node)
    declared = "1 (the reader)" if wanted else "0"
    if isinstance(state, str):
        return compare(node, "mail_room processes", declared, None, False, state)
    running = facts.readers(state)
    found = f"{len(running)}" + (f" (process {', '.join(map(str, running))})" if running else "")
    cure = "Run deploys/site.py: it stops what must not run and starts the reader after its checks."
    return compare(node, "mail_room processes", declared, found, len(running) == wanted, cure)


def recorded(site: Site, node: str, state: NodeState | str, wanted: Record) -> list[Check]:
    """Who reads, as a Rails node has it on record, and whether its guard stands."""
    if isinstance(state, str):
        return []
    found = record.of(state)
    same = found is not None and (found.serial, found.reader) == (wanted.serial, wanted.reader)
    told = f"{found.reader}, since {found.since}" if found else "no record"
    declared = site.mail.reader if site.mail else ""
    cure = "Run deploys/site.py. If it refuses: the site file names another reader than the last move."
    stands = guard.stands(state)
    return [
        compare(node, "mail reader on record", declared, told, same and wanted.reader == declared, cure),
        compare(node, "mail guard", "timer runs", "timer runs" if stands else "it does not", stands, cure),
    ]


def fenced(wanted: Record) -> list[Check]:
    """Nodes that are off by word of an operator: until each was seen stopped, it might come back and read."""
    return [
        compare(
            name,
            "fenced node",
            "seen with mail_room off",
            f"not seen since {fence.since} ({fence.by}{': ' if fence.why else ''}{fence.why})",
            False,
            f"Bring {name} back and run deploys/site.py; or take it out of the site file when it is gone for good.",
        )
        for name, fence in wanted.fenced.items()
    ]


def taken(site: Site, mails: Sequence[Mail] | None, why: str) -> Check:
    """Mails that mail_room took out of the mailboxes, and that GitLab never got.

    Args:
        mails: those without a sign that GitLab has them; None: nobody could look, because of `why`.
    """
    assert site.mail is not None
    node, subject = site.mail.reader, "mails taken without delivery"
    if mails is None:
        return compare(node, subject, "none", None, False, why)
    gone = [mail for mail in mails if mail.fate in (Fate.LOST, Fate.UNCLEAR)]
    found = f"{len(gone)}, such as {gone[0].sentence()}" if gone else "none"
    cure = "deploys/mail_recover.py lists them; with --data deliver=yes it hands them back."
    return compare(node, subject, "none", found, not gone, cure)


def reading(site: Site, state: NodeState | str, answer: Mapping[str, Any] | str) -> list[Check]:
    """How the reader does: its last look into the mailboxes, its last push, and mails that nobody takes.

    Args:
        state: the reader as found.
        answer: what `probe.rb` printed, or why it could not be run.
    """
    assert site.mail is not None
    node = site.mail.reader
    out = []
    boxes = [box for kind in MAILBOXES if (box := site.mail.mailbox(kind))]
    idle = max(box.idle_timeout for box in boxes)
    if not isinstance(state, str):
        poll, push = facts.last_poll(state), facts.last_push(state)
        age = state.clock - poll.time.timestamp() if poll else None
        # One idle period, and as much again for the mail server and a restart.
        declared = f"at most {2 * idle + 60} s ago"
        cure = "See `gitlab-ctl tail mailroom` on the node (it may show passwords)."
        found = f"{age:.0f} s ago" if age is not None else "never"
        out.append(compare(node, "last poll", declared, found, age is not None and age <= 2 * idle + 60, cure))
        cure = (
            "That mail was not taken by GitLab, but mail_room counts it as delivered: look for it in the mailbox "
            f"(\\Seen or \\Deleted), its Message-ID is in {facts.LOG}."
        )
        found = f"{push.status_code} at {push.time:%Y-%m-%d %H:%M:%S}" if push else "none yet"
        out.append(compare(node, "last push", "answered 200", found, push is None or push.status_code == 200, cure))
    if not isinstance(answer, str):
        for kind, got in answer["mailboxes"].items():
            stuck = got.get("stuck") if got["ok"] else None
            cure = "Nobody takes them: see the other lines, then `gitlab-ctl tail mailroom` on the reader."
            seen = None if stuck is None else f"{stuck} ({got['unseen']} unread)"
            declared = f"none older than {STUCK_AFTER // 60} min"
            out.append(compare(node, f"{kind} stuck mails", declared, seen, stuck == 0, cure))
    return out
