"""Another version of the GitLab package on a node, in the order of GitLab's doc/update/zero_downtime.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyinfra import host as current
from pyinfra.api.host import Host

from roles.gitlab import deploy, facts, path
from roles.gitlab.facts import BEGUN, DONE, MIGRATED, MIGRATING, Upgrade
from roles.gitlab.render import RUBY
from roles.node import remote
from roles.node.act import Act, Failed, do
from roles.rollout.stages import upgrade_stages
from roles.rollout.step import step
from roles.site.errors import StepError
from roles.site.models import Site

if TYPE_CHECKING:
    from roles.rollout.run import Run

STRICT = ((19, 0), (19, 2, 5))
"""From, and before: releases whose reconfigure takes mere leftovers of a bundled Mattermost for one in use."""
ROOM = 5 * 1024 * 1024
"""KiB that the package needs in /opt and in /var/cache/apt while old and new are both there (it unpacks to 3.5 GiB)."""
_OURS = "written by pyinfra-gitlab for the time of an upgrade"
_LOG = f"{facts.STATE_DIR}/upgrade.log"


def _write(host: Host, record: Upgrade) -> None:
    text = json.dumps(asdict(record))
    command = (
        f"umask 077; mkdir -p {facts.STATE_DIR} && cat > {facts.UPGRADE}.new && mv {facts.UPGRADE}.new {facts.UPGRADE}"
    )
    what = {"old": record.old, "new": record.new, "phase": record.phase}
    written = Act(
        command,
        "GitLab upgrade",
        what,
        told=lambda got: f"{facts.UPGRADE} could not be written: {got.said}. Nothing was upgraded.",
    )
    do(host, written, stdin=text)


@cache
def _program() -> str:
    return Path(__file__).with_name("preflight.rb").read_text()


def preflight(site: Site, host: Host, migrations: bool) -> list[str]:
    """What speaks against the upgrade of a node. Changes nothing.

    Args:
        migrations: ask the database too; one node is enough for that (Rails takes up to a minute to start).
    """
    words = [RUBY, "-e", _program(), site.gitlab.version, *(["migrations"] if migrations else [])]
    note = "check-config, and background migrations" if migrations else "check-config"
    got = remote.run(host, " ".join(shlex.quote(word) for word in words), note=note)
    try:
        answer = json.loads(got.stdout)
    except json.JSONDecodeError:
        return [f"{host.name}: it could not be asked: {(got.stderr.strip() or got.stdout.strip())[-300:]}"]
    return [f"{host.name}: {why}" for why in judge(site.gitlab.version, answer)]


def judge(new: str, answer: Mapping[str, Any]) -> list[str]:
    """What a node's answers to `preflight.rb` mean.

    A check-config that passes is no proof: it skips in silence without the node's attributes, and 18.11.0 to 18.11.6
    know nothing of what 19.0 refuses (omnibus-gitlab, files/gitlab-ctl-commands/check_config.rb, work item 9916).
    """
    out = []
    if answer["free"] < ROOM:
        out.append(f"only {answer['free'] // 1024} MiB are free for the package; {ROOM // 1024} MiB are needed")
    target, mattermost = path.number(new), answer["mattermost"]
    if not answer["node"]:
        out.append("the last `gitlab-ctl reconfigure` left nothing for check-config to read. Run deploys/site.py")
    if answer["check"]["rc"] != 0:
        out.append(f"gitlab-ctl check-config --version={new} refuses: {' | '.join(answer['check']['said'])}")
    if target >= (19,) and mattermost["used"]:
        out.append(
            "the Mattermost of the package is in use, and 19.0 has none. Move it to a server of its own first, and "
            "take every mattermost key out of the configuration"
        )
    elif STRICT[0] <= target < STRICT[1] and mattermost["left"]:
        out.append(
            f"/etc/gitlab/gitlab-secrets.json still holds salts of a bundled Mattermost, which the reconfigure of "
            f"{new} takes for one in use. Choose 19.2.5, 19.3.0 or later"
        )
    waiting = answer.get("migrations", {})
    if "error" in waiting:
        out.append(f"the database could not be asked for background migrations: {waiting['error']}")
    elif waiting.get("left"):
        more = waiting["left"]
        out.append(
            f"{len(more)} background migrations are not through, such as {more[0]}. Let them end (Admin > Monitoring > "
            "Background migrations), then run again"
        )
    return out


def fetch(run: Run) -> None:
    """Step: every node gets hold of the package before anything is changed anywhere."""

    def act(host: Host) -> None:
        wanted = run.site.gitlab
        words = f"{wanted.package_name}={wanted.package_version}"
        script = f"{_APT}apt-get update -q && apt-get {_OPTIONS} install --download-only {shlex.quote(words)}"
        got = remote.run(host, script, note="apt fetches the package")
        if not got.ok:
            said = (got.stderr.strip() or got.stdout.strip()).splitlines()[-1:] or ["no word"]
            raise StepError(
                f"{words} cannot be had from the node's apt repositories: {said[0]}. Nothing was changed. Is the "
                "version there (`apt-cache madison`), and is gitlab.package.revision right?"
            )

    step(name="Fetch the package", action=act if run.plan.upgrades(run.name) else None)


def remember(run: Run) -> None:
    """Step: the node that migrates the database remembers from where to where, before anything is changed."""
    record = run.upgrade
    here = record is not None and run.name == record.node
    step(name="Remember the upgrade", action=(lambda host: _write(host, record)) if here and record else None)


def stop_serving(run: Run) -> None:
    """Step (`downtime=yes`): nobody works with the database while more than one minor release is left out."""
    here = run.downtime and run.plan.upgrades(run.name) and run.site.nodes[run.name].rails

    def act(host: Host) -> None:
        got = remote.run(host, _STOP_SERVING, note="stopping puma and sidekiq")
        if not got.ok:
            raise StepError("puma is still running. Nothing was upgraded on this node.")

    step(name="Stop puma and sidekiq", action=act if here else None)


def serve_again(run: Run) -> None:
    """Step: on the way back, what was stopped on nodes that keep their version is started."""
    here = run.back and not run.plan.upgrades(run.name) and run.name in run.site.rails_nodes

    def act(host: Host) -> None:
        remote.run(host, "gitlab-ctl start puma; gitlab-ctl start sidekiq")  # the gate sees whether they run

    step(name="Start puma and sidekiq", action=act if here else None)


def upgrade_nodes(run: Run) -> None:
    """Steps: each node, seen healthy: what others build on, the one that migrates, the other ones, the reader."""
    for batch in current.loop(upgrade_stages(run.site)):  # type: ignore[no-untyped-call]
        here = run.name in batch
        step(
            name=f"Upgrade {', '.join(batch)} to {run.site.gitlab.version}",
            action=(lambda host: deploy.staged(run, host, upgrade=one)) if here else None,
        )


def one(run: Run, host: Host) -> None:
    """The package, the configuration, reconfigure, restarts. Each is done only where it was not.

    Raises:
        StepError: with cause and cure.
    """
    name, wanted = str(host.name), run.site.gitlab
    record = run.upgrade
    if run.plan.upgrades(name):
        words = shlex.quote(f"{wanted.package_name}={wanted.package_version}")
        script = _INSTALL.replace("PACKAGE", words).replace("NAME", wanted.package_name)
        do(host, Act(script, f"package {words}", told=_last(f"apt did not install {words}")), note="apt installs")
    migrates = record is not None and record.node == name and record.phase in (BEGUN, MIGRATING) and not run.back
    if migrates and record:
        _write(host, replace(record, phase=MIGRATING))
    deploy.converge(run, host, reading=False, upgraded=True)
    if migrates and record:
        run.upgrade = replace(record, phase=MIGRATED)
        _write(host, run.upgrade)


def _last(why: str) -> Callable[[Failed], str]:
    """`why`, and the last lines of what failed."""
    return lambda got: f"{why}. Its last lines:\n{got.lines}\n  Run again after the cure."


def finish(run: Run) -> None:
    """Step: when every node has the new version, the post-deployment migrations, on the node that has migrated."""
    record = run.upgrade
    here = record is not None and run.name == record.node

    def act(host: Host) -> None:
        assert record is not None
        if not run.back:
            what = "post-deployment migrations"
            do(host, Act(_MIGRATE, what, told=_last("gitlab-rake db:migrate failed")), note=what)
        run.upgrade = replace(record, phase=DONE)
        _write(host, run.upgrade)

    step(name="Post-deployment migrations", action=act if here else None)


# The lock is that of reconfigure: one of a run that was cut off may still be at it.
_MIGRATE = f"""\
exec 9> {facts.STATE_DIR}/lock
flock -w 900 9 || {{ echo "another run has been at work on this node for 15 minutes"; exit 1; }}
gitlab-rake db:migrate 2>&1 9>&-"""
_STOP_SERVING = "gitlab-ctl stop puma; gitlab-ctl stop sidekiq; ! pgrep -f '[p]uma [0-9]'"
_APT = "export DEBIAN_FRONTEND=noninteractive; "
_OPTIONS = (
    "-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold --allow-downgrades "
    "--allow-change-held-packages"
)
# Without the file the package would run a whole reconfigure by itself, with all migrations (zero_downtime.md). A dpkg
# that was cut off is finished first. The package is held: only this deploy takes it to another version.
_INSTALL = f"""\
{_APT}skip=/etc/gitlab/skip-auto-reconfigure
[ -e $skip ] || echo '{_OURS}' > $skip
umask 077; mkdir -p {facts.STATE_DIR}
{{ dpkg --configure -a && apt-get {_OPTIONS} install PACKAGE && apt-mark hold NAME; }} > {_LOG} 2>&1 < /dev/null; rc=$?
grep -qs '{_OURS}' $skip && rm -f $skip
[ $rc -eq 0 ] || tail -n 30 {_LOG}
exit $rc"""
