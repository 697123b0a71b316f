"""A restore drill: the last good backup on a spare node, proven whole, and torn down again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyinfra.api.host import Host

from roles.backup import identities, report, restore
from roles.backup.render import FOLDER, PROGRAM, SETTLE, STATE, UNITS
from roles.backup.report import Backup, Phase, Report, Result
from roles.backup.settings import seconds
from roles.gitlab.settings import MATTERMOST_ROLE
from roles.mattermost.render import ENVIRONMENT, HOME, UNIT
from roles.node import remote
from roles.node.bundle import Question
from roles.node.facts import NodeState
from roles.rollout import packages
from roles.rollout.step import step
from roles.site.errors import PyinfraGitlabError, StepError
from roles.site.models import Site

if TYPE_CHECKING:
    from roles.rollout.drill import DrillRun
    from roles.rollout.mattermost import MattermostRun

_ANSWERS = "start the server, muted"
"""The phase after which the restored chat answers."""
# Written by a process of the server's own unit, so that what the unit may not do, it may not do either.
_TRIED = "/run/mattermost/blocked.json"
NFT = Question("backup.nft", "command -v nft >/dev/null || echo nftables")
"""Whether the node has nftables."""
WALL = "pyinfra_drill"
"""nftables' table that cuts a copy off from the outside."""


def site_of(site: Site) -> Site:
    """The site as a drill has it: Mattermost on the spare node and the spare database, and nothing of GitLab's."""
    chat, spare = site.mattermost, site.drill_node
    assert chat is not None
    assert chat.drill is not None
    assert spare is not None
    nodes = {name: node for name, node in site.nodes.items() if name != site.mattermost_node}
    nodes[spare] = nodes[spare].model_copy(update={"roles": [MATTERMOST_ROLE]})
    update: dict[str, Any] = {
        "database": chat.drill.database,
        "sign_on": None,
        "admin": None,
        "gitlab_plugin": None,
        "slash_commands": {},
    }
    return site.model_copy(update={"nodes": nodes, "mattermost": chat.model_copy(update=update)})


def absent(state: NodeState) -> list[str]:
    """The packages that are missing for drills alone."""
    return state.answer(NFT.key).split()


def install_packages(run: DrillRun) -> None:
    """Step: what the spare node needs, from its own apt sources."""
    packages.install(run.node, run.here, run.packages)


def drill(run: DrillRun) -> None:
    """Step: the drill. Whatever happens, the copy is torn down and a report is written."""
    step(name="Drill", action=(lambda host: _drill(run, host)) if run.here else None)


def _drill(run: DrillRun, host: Host) -> None:
    started = time.time()
    told: dict[str, Any] = {}
    phases: list[Phase] = []
    checks: list[Result] = []
    error = ""
    try:
        with restore.lent(run.chat, host):
            try:
                if run.leftover:
                    with _phase(phases, started, "tear down what an earlier drill left"):
                        tear_down(run.chat, host)
                told = _copy(run, host, started, phases, checks)
            finally:
                with _phase(phases, started, "tear the copy down"):
                    tear_down(run.chat, host)
        error = str(told["error"])
    except PyinfraGitlabError as failure:
        error = str(failure)
    run.finish(_report(run, started, told, phases, checks, error))


def _copy(run: DrillRun, host: Host, started: float, phases: list[Phase], checks: list[Result]) -> dict[str, Any]:
    """Restore, and check the copy while it runs."""
    with _phase(phases, started, "make the node ready"):
        restore.ready(run.chat, host, timers=False)
        _wall_off(run, host)
        places = _reachable(run, host)
    if not places:
        raise StepError("nothing outside answers even root on the spare node: nobody can tell what the copy reaches")
    request = {**run.request, "drop_in": _drop_in(places), "unreachable": [name for name, _ in places]}
    offset = time.time() - started
    told = restore.perform(run.chat, host, request, failing=False)
    phases += [_moved(one, offset) for one in told["phases"]]
    checks += [Result(**one) for one in told["checks"]]
    if told["ok"] and run.site.mattermost and run.site.mattermost.sign_on:
        with _phase(phases, started, "ask GitLab who these people are"):
            checks.append(identities.check(run.site, run.rails, told["identities"]))
    return told


def _report(
    run: DrillRun,
    started: float,
    told: dict[str, Any],
    phases: Iterable[Phase],
    checks: Iterable[Result],
    error: str,
) -> Report:
    wanted = run.site.mattermost
    assert wanted is not None
    assert wanted.backup is not None
    known = told.get("backup") or {}
    backup = None
    if known.get("backup"):
        names = ("time", "bytes", "files", "posts", "mattermost", "postgresql")
        backup = Backup(id=known["backup"], **{name: known[name] for name in names})
    answered = next((one for one in phases if one.name == _ANSWERS and one.ok), None)
    return Report(
        site=run.site.site,
        drill=str(run.request["id"]),
        node=run.node,
        started=started,
        finished=time.time(),
        error=error,
        backup=backup,
        rpo_promised=seconds(wanted.backup.rpo),
        rpo_found=started - backup.time if backup else None,
        rto=answered.started + answered.seconds if answered else None,
        phases=tuple(phases),
        checks=tuple(checks),
        history=tuple(report.earlier(run.reports)),
    )


class _phase:
    """A phase of ours, put on the list with how it ended."""

    def __init__(self, phases: list[Phase], started: float, name: str) -> None:
        self.phases, self.started, self.name = phases, started, name

    def __enter__(self) -> None:
        self.began = time.time()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        begun = max(self.began - self.started, 0)
        took = max(time.time() - self.began, 0)
        self.phases.append(Phase(name=self.name, started=begun, seconds=took, ok=error is None))


def _moved(one: dict[str, Any], offset: float) -> Phase:
    return Phase(name=one["name"], started=one["started"] + offset, seconds=one["seconds"], ok=one["ok"])


def _outside(site: Site) -> list[tuple[str, str]]:
    """What the copy must not reach: names, and where they are (HOST:PORT)."""
    chat = site.mattermost
    assert chat is not None

    def place(url: str) -> str:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    out = [("GitLab", place(site.gitlab.external_url)), ("Mattermost itself", place(chat.site_url))]
    mail = chat.settings.get("EmailSettings", {})
    if isinstance(mail.get("SMTPServer"), str):
        out.append(("the mail server", f"{mail['SMTPServer']}:{mail.get('SMTPPort') or 25}"))
    return out


def _wall_off(run: DrillRun, host: Host) -> None:
    """From now on the server's account reaches itself, its database and the name servers alone (nftables; systemd's
    IPAddressDeny would do nothing where cgroups are those of version 1).

    Raises:
        StepError: the node does not find the database, or has no nftables.
    """
    wanted = run.chat.settings
    find = f"getent ahosts {wanted.database.host} | awk '{{print $1}}'; sed -n 's/^nameserver //p' /etc/resolv.conf"
    found = sorted(set(remote.run(host, find).stdout.split()))
    if not found:
        raise StepError(f"{host.name} does not find {wanted.database.host}. Check mattermost.drill.database, and DNS.")
    rules = [f"{'ip6' if ':' in one else 'ip'} daddr {one} accept" for one in found]
    lines = "\n".join(["oifname lo accept", *rules, "reject"])
    table = f"""\
table inet {WALL} {{
  chain copy {{
    {lines}
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    meta skuid "{wanted.account.user}" jump copy
  }}
}}
"""
    got = remote.run(host, f"nft delete table inet {WALL} 2>/dev/null; nft -f -", stdin=table)
    if not got.ok:
        raise StepError(f"{host.name} could not be walled off: {got.stderr.strip()}. A drill needs nftables.")


def _reachable(run: DrillRun, host: Host) -> list[tuple[str, str]]:
    """Of what the copy must not reach, that which root reaches: only with these can it be tried."""
    return [pair for pair in _outside(run.site) if remote.run(host, _knock(pair[1])).ok]


def _knock(place: str) -> str:
    return f"timeout 5 bash -c ': </dev/tcp/{place.replace(':', '/')}' 2>/dev/null"


def _drop_in(places: Iterable[tuple[str, str]]) -> list[str]:
    """A process of the server's own unit and account that tries what it must not reach."""
    tries = "; ".join(
        f's=\'not reached\'; {_knock(place)} && s=REACHED; printf \'%s"{name}": "%s"\' "$c" "$s"; c=,'
        for name, place in places
    )
    script = f"c=; {{ printf '{{'; {tries}; printf '}}'; }} > {_TRIED}"
    for sign, instead in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        script = script.replace(sign, instead)
    return [f'ExecStartPost=/bin/bash -c "{script}"']


def tear_down(chat: MattermostRun, host: Host) -> None:
    """Nothing of the copy stays on the spare node: no data, no secrets, no unit. Release and packages stay.

    Raises:
        StepError: something of it is left, and what to do.
    """
    got = remote.run(host, f"[ ! -x {PROGRAM} ] || [ ! -e {FOLDER}/config.json ] || {PROGRAM} settle", note="torn down")
    if not got.ok:
        raise StepError(
            f"the copy on {host.name} could not be torn down: {got.stderr.strip()}. Run there: {PROGRAM} settle; it "
            "holds real people's data."
        )
    units = f"{UNIT} {' '.join(UNITS)}"
    script = f"""\
systemctl disable --quiet {SETTLE} 2>/dev/null
systemctl stop mattermost.service 2>/dev/null
rm -rf -- {FOLDER} {STATE} {HOME} {ENVIRONMENT} {PROGRAM} {units} /var/cache/mattermost-backup /var/log/mattermost
nft delete table inet {WALL} 2>/dev/null
systemctl daemon-reload
systemctl reset-failed 2>/dev/null
! ls -d {FOLDER} {STATE} {HOME} {ENVIRONMENT} 2>/dev/null"""
    got = remote.run(host, script)
    if not got.ok:
        raise StepError(
            f"on {host.name} is left: {got.stdout.strip() or got.stderr.strip()}. Remove it: it holds secrets."
        )
