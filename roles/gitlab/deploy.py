"""Put a GitLab node's configuration in place and make GitLab use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyinfra import host
from pyinfra.api.host import Host
from pyinfra.operations import apt

from roles.gitlab import facts, gate
from roles.node import audit, install, remote
from roles.node.act import Act, Failed, do
from roles.node.facts import NodeState
from roles.node.plan import FileChange, changes
from roles.rollout.step import step
from roles.site.errors import StepError

if TYPE_CHECKING:
    from roles.rollout.run import Run

# The stamp is written only after a reconfigure that ended well and from what was there when it began, so a run that
# is killed anywhere is finished by the next one. The lock keeps two operators' reconfigures apart.
_SCRIPT = f"""\
set -u; umask 077; mkdir -p {facts.STATE_DIR} || exit 1
exec 9> {facts.STATE_DIR}/lock
flock -w 900 9 || {{ echo "another run has been reconfiguring this node for 15 minutes"; exit 1; }}
before=$({facts.FINGERPRINT})
log={facts.STATE_DIR}/reconfigure.log
FIRST gitlab-ctl reconfigure > $log 2>&1 9>&-; rc=$?
if [ $rc -ne 0 ]; then tail -n 30 $log; exit $rc; fi
THEN
[ "$before" = "$({facts.FINGERPRINT})" ] || {{ echo "someone else changed the configuration meanwhile"; exit 1; }}
echo "$before" > {facts.STAMP}.new && mv {facts.STAMP}.new {facts.STAMP}"""
_RECONFIGURE = _SCRIPT.replace("FIRST ", "").replace("THEN\n", "")
# Everything but Gitaly and Praefect, which replace themselves without a gap, and mail_room, which stays off; Consul
# first (GitLab's doc/update/zero_downtime.md). `sv` gives up waiting after seven seconds: the gate sees whether
# the node is healthy.
_RESTART = """\
cd /opt/gitlab/service || exit 1
for one in $(ls -d consul 2>/dev/null) $(ls | grep -vxE 'consul|gitaly|praefect|mailroom'); do
  gitlab-ctl restart $one >> $log 2>&1 9>&-
done"""
_UPGRADED = _SCRIPT.replace("FIRST", "SKIP_POST_DEPLOYMENT_MIGRATIONS=true").replace("THEN", _RESTART)


def install_package(run: Run) -> None:
    """Step: install the package where it is absent, from the node's own apt repositories."""
    if run.plan.installing:
        gitlab, name = run.site.gitlab, run.name
        apt.packages(
            name=f"Install {gitlab.package_name} {gitlab.package_version} where it is absent",
            packages=[f"{gitlab.package_name}={gitlab.package_version}"],
            update=True,
            _if=lambda: name in run.plan.installing,
        )


def configure_nodes(run: Run) -> None:
    """Steps: every node but the reader gets its configuration, and GitLab is reconfigured where an input changed.

    Stage by stage: a node that is not healthy afterwards ends the run, and those of later stages are as they were.
    """
    for batch in host.loop(run.stages):  # type: ignore[no-untyped-call]
        step(
            name=f"Configure {', '.join(batch)}",
            action=(lambda host: staged(run, host)) if run.name in batch else None,
        )


def configure_reader_with_mail_off(run: Run) -> None:
    """Step: the reader comes last, and mail_room stays off on it until the checks have passed."""
    here = run.name == run.plan.reader and run.plan.nodes[run.name].converge
    step(
        name="Configure the reader, mail_room still off",
        action=(lambda host: staged(run, host, reading=False)) if here else None,
    )


def staged(
    run: Run, host: Host, reading: bool | None = None, upgrade: Callable[[Run, Host], None] | None = None
) -> None:
    """Take a node out of the load balancer, change it, see it healthy, and put it back.

    One that needs no change is seen healthy too: an earlier run may have stopped at it.

    Args:
        reading: whether mail_room is to be on; default: as the site file says.
        upgrade: what changes the node, if it gets another version of the package.

    Raises:
        StepError: with cause and cure.
    """
    wanted, name = run.site.rollout, str(host.name)
    node = run.plan.nodes[name]
    if node.converge:
        if wanted and wanted.drain:
            remote.run(host, f"mkdir -p {facts.STATE_DIR}; touch {facts.DRAINED}")
            gate.call(wanted.drain, "drain", f"{name} was not changed.", run.site, host)
        if upgrade:
            upgrade(run, host)
        else:
            converge(run, host, reading)
    gate.gate(run, host, always=upgrade is not None)
    if node.drained or (node.converge and wanted and wanted.undrain):
        words = wanted.undrain if wanted else None
        gate.call(words, "undrain", f"{name} is healthy, but gets no traffic.", run.site, host)
        remote.run(host, f"rm -f {facts.DRAINED}")


def converge(
    run: Run, host: Host, reading: bool | None = None, upgraded: bool = False, state: NodeState | None = None
) -> None:
    """Put the node's configuration in place and make GitLab use it. Does nothing when all is in place.

    Args:
        reading: whether mail_room is to be on; default: as the site file says.
        upgraded: the package is another one now: post-deployment migrations are left for later, services restarted.
        state: the node as it was just found, with that configuration; default: it is looked at afresh.

    Raises:
        StepError: with cause and cure.
    """
    file = run.file(host.name, reading)
    state = state or run.look_at(host.name, file)
    differing = changes((file,), state)
    include = run.site.gitlab.config == "include" and not facts.include(state).as_declared
    reconfigure = differing or include or not facts.reconfigured(state) or run.tokens_differ(host.name, state)
    if include:
        install.put(host, differing)
        fix_include(host)
        differing = []
    if reconfigure:
        change(host, differing, upgraded)


def fix_include(host: Host) -> None:
    """Keep exactly one `from_file` line in the operator's `gitlab.rb`."""
    got = remote.run(host, facts.include_command("fix"))
    answer = {}
    if got.ok:
        answer = json.loads(got.stdout)
    if not got.ok or answer["error"] or answer["conflicts"]:
        conflicts = [
            f"{c['file']}:{c['line']} sets {c['key']} after the include line" for c in answer.get("conflicts", ())
        ]
        why = "; ".join([answer.get("error") or "", *conflicts]).strip("; ") or got.stderr.strip()[-300:]
        raise StepError(
            f"{facts.GITLAB_RB} was not changed: {why}. Put that right in {facts.GITLAB_RB}, then run again."
        )
    audit.note(host, f"one from_file line in {facts.GITLAB_RB}")


def change(host: Host, differing: list[FileChange], upgraded: bool = False) -> None:
    """Install what differs, run `gitlab-ctl reconfigure`, and remember that it ended well.

    Args:
        upgraded: the package is another one now.

    Raises:
        StepError: with the last lines of what failed.
    """
    installs, content = install.act(differing)
    reconfigure = Act(_UPGRADED if upgraded else _RECONFIGURE, "gitlab-ctl reconfigure", told=_failed)
    do(host, *installs, reconfigure, stdin=content, note="gitlab-ctl reconfigure is running")


def _failed(got: Failed) -> str:
    return (
        f"gitlab-ctl reconfigure failed. Its last lines:\n{got.lines}\n"
        f"  The whole is in {facts.STATE_DIR}/reconfigure.log on the node. Run again after the cure; "
        "the run goes on from here."
    )
