"""The steps that make a node Mattermost's server. Each raises `StepError` with cause and cure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pyinfra.api.host import Host

from roles.mattermost import application, facts, plugin, release, sign_on, slash
from roles.mattermost.render import HOME
from roles.mattermost.server import request
from roles.mattermost.settings import MattermostSettings
from roles.node import install, remote
from roles.node.act import Act, Failed, do
from roles.node.plan import changes
from roles.postgresql.facts import prove
from roles.proxy import deploy as proxy
from roles.rollout import packages
from roles.rollout.step import Action, step
from roles.site.errors import StepError
from roles.site.secret import scrub

if TYPE_CHECKING:
    from roles.rollout.mattermost import MattermostRun


def _step(run: MattermostRun, name: str, needed: bool, action: Action) -> None:
    if needed:
        step(name=name, action=action if run.here else None)


def install_packages(run: MattermostRun) -> None:
    """Step: nginx, psql and curl, from the node's own apt sources."""
    packages.install(run.node, run.here, run.plan.packages)


def prepare_node(run: MattermostRun) -> None:
    """Step: the server's account, and the folders it writes to."""
    _step(
        run, "Make Mattermost's account and folders", bool(run.plan.prepare), lambda host: prepare(run.settings, host)
    )


def bring_release(run: MattermostRun) -> None:
    """Step: the release, checked and unpacked beside the others."""
    _step(
        run,
        f"Bring Mattermost {run.settings.version}",
        run.plan.bring,
        lambda host: release.bring(run.site, host),
    )


def make_database(run: MattermostRun) -> None:
    """Step: role and database on the PostgreSQL server."""
    _step(run, "Make Mattermost's role and database", bool(run.plan.database), lambda host: run.make_database())


def register_application(run: MattermostRun) -> None:
    """Step: the OAuth application in GitLab; its id and secret are kept where the site file says."""
    _step(run, "Register Mattermost in GitLab", bool(run.plan.application), lambda host: register(run))


def configure_server(run: MattermostRun) -> None:
    """Step: environment, unit and certificate authority; the database is proven before the server is started."""
    _step(run, "Configure and start Mattermost", run.plan.start, lambda host: converge(run, host))


def get_certificate(run: MattermostRun) -> None:
    """Step: a certificate by ACME; certbot's own timer renews it from then on."""
    _step(run, "Get a certificate by ACME", bool(run.plan.certificate), lambda host: certify(run, host))


def configure_proxy(run: MattermostRun) -> None:
    """Step: nginx with HTTPS."""
    _step(run, "Put nginx with HTTPS before it", run.plan.load, lambda host: converge_proxy(run, host))


def make_administrator(run: MattermostRun) -> None:
    """Step: the first administrator, when there is no such account."""
    _step(run, "Make the first administrator", run.plan.admin, lambda host: make_admin(run, host))


def configure_plugin(run: MattermostRun) -> None:
    """Step: the GitLab plugin, with an OAuth application of its own."""
    _step(run, "Configure the GitLab plugin", bool(run.plan.plugin), lambda host: plugin.configure(run, host))


def configure_slash_commands(run: MattermostRun) -> None:
    """Step: slash commands on both sides, tried."""
    _step(run, "Configure slash commands", bool(run.plan.slash), lambda host: slash.configure(run, host))


def try_sign_on(run: MattermostRun) -> None:
    """Step: walk the way of a sign-on, and name the first step that fails."""
    _step(run, "Walk the way of a sign-on", run.settings.sign_on is not None, lambda host: walk(run, host))


def finish(run: MattermostRun) -> None:
    """Step: old releases go, and the run is at its end."""

    def act(host: Host) -> None:
        release.prune(host, list(run.plan.prune))
        run.finish()

    _step(run, "Finish", True, act)


_ACCOUNT = r"""
set -eu
user=$1 group=$2 uid=$3 gid=$4
getent group "$group" >/dev/null || groupadd --system ${gid:+--gid "$gid"} "$group"
getent passwd "$user" >/dev/null ||
  useradd --system ${uid:+--uid "$uid"} --gid "$group" --home-dir "$5" --no-create-home \
    --shell /usr/sbin/nologin "$user"
"""


def prepare(settings: MattermostSettings, host: Host) -> None:
    """Make the account and the folders."""
    account = settings.account
    words = (account.user, account.group, str(account.uid or ""), str(account.gid or ""), HOME)
    lines = [" ".join(shlex.quote(word) for word in ("sh", "-c", _ACCOUNT, "sh", *words)) + " || exit 1"]
    for path, (mode, owner) in facts.folders(settings).items():
        user, _, group = owner.partition(":")
        lines.append(f"install -d -m {mode} -o {user} -g {group} {path} || exit 1")
    got = remote.run(host, "\n".join(lines))
    if not got.ok:
        raise StepError(f"Mattermost's account or folders could not be made: {got.stderr.strip()}")


def register(run: MattermostRun) -> None:
    """Make or repair the OAuth application, and keep what GitLab gave."""
    application.repair(run.site, application.for_sign_on(run.site), run.rails)


# A restart ends when the server says that it is ready, or when it gave up.
_START = """\
systemctl daemon-reload && systemctl enable --quiet mattermost.service || exit 1
since=$(date '+%Y-%m-%d %H:%M:%S')
systemctl restart mattermost.service && exit 0
journalctl -u mattermost.service --since "$since" -n 25 --no-pager -o cat | grep -v '"level":"info"' | tail -n 8 >&2
exit 1"""


def converge(run: MattermostRun, host: Host) -> None:
    """Prove the database if that was not done yet, install the files, move the link, and start the server."""
    if not run.proven:
        prove(host, run.settings.database, run.database_password, run.database_ca)
    files = run.files()
    acts, content = install.act(changes(files, run.look_at(files)))
    if run.plan.switch:
        acts.append(release.switch(run.settings.version))
    acts.append(Act(_START, "mattermost restarted", {"version": run.settings.version}, _failed))
    do(host, *acts, stdin=content, note="the server starts (it migrates its database first)")


def _failed(got: Failed) -> str:
    lines = "\n".join(f"    {scrub(line)[:400]}" for line in got.said.splitlines()[-8:])
    return (
        f"Mattermost does not start. Its last words:\n{lines}\n  The whole is in `journalctl -u mattermost` on the "
        "node. systemd tries again every ten seconds; run again after the cure."
    )


def certify(run: MattermostRun, host: Host) -> None:
    """Let nginx answer at port 80, and have certbot get the certificate."""
    wanted = run.settings.proxy.acme
    assert wanted is not None
    files = run.proxy_files(https=False)  # without a certificate nginx could not read the whole site
    state = run.look_at(files)
    absent = all(found.absent for found in state.files.values())  # a site that is there answers the directory too
    proxy.apply(host, changes(files, state) if absent else [])
    proxy.certify(host, run.settings.host, wanted)


def converge_proxy(run: MattermostRun, host: Host) -> None:
    """Install nginx's site and make nginx use it."""
    files = run.proxy_files()
    proxy.apply(host, changes(files, run.look_at(files)))


def make_admin(run: MattermostRun, host: Host) -> None:
    """Make the declared administrator. An account of that name is left as it is."""
    wanted = run.settings.admin
    assert wanted is not None
    code, _ = request(host, "GET", f"/api/v4/users/username/{wanted.username}")
    if code == 200:
        return
    password = run.site.secret(wanted.password).reveal()
    user = {"username": wanted.username, "email": wanted.email, "password": password}
    code, answer = request(host, "POST", "/api/v4/users", user)
    if code != 201:
        why = scrub(str(answer.get("message", f"HTTP {code}")))
        raise StepError(f"the administrator {wanted.username} was not made: {why} Check mattermost.admin.")
    path = f"/api/v4/users/{answer['id']}"
    for method, rest, body in (
        ("PUT", "/roles", {"roles": "system_user system_admin"}),
        ("POST", "/email/verify/member", None),
    ):
        code, answer = request(host, method, path + rest, body)
        if code != 200:
            why = scrub(str(answer.get("message", f"HTTP {code}")))
            raise StepError(
                f"the account {wanted.username} was made but is no administrator yet: {why} On the node: "
                f"/opt/mattermost/bin/mmctl --local roles system-admin {wanted.username} (with "
                "MMCTL_LOCAL_SOCKET_PATH=/run/mattermost/local.socket)."
            )


def walk(run: MattermostRun, host: Host) -> None:
    """Walk the way of a sign-on."""
    wanted = application.for_sign_on(run.site)
    looks = run.plan.application or run.looks_at_application
    found = application.look(run.site, wanted, run.rails) if looks else None
    checks = sign_on.walk(run.site, host, application.credentials(run.site, wanted), found)
    failed = [check for check in checks if not check.ok]
    if failed:
        raise StepError(f"nobody can sign on through GitLab: {failed[0].sentence()} Everything else is in place.")
