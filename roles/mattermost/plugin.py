"""The GitLab plugin: its bundle, its OAuth application, its settings.

The bundle goes into the file store, `plugins/ID.tar.gz`, from where the server installs it when it starts ("Syncing
plugins from the file store", channels/app/plugin.go); folders unpacked by hand are not supported from 11.0 on.
"""

from __future__ import annotations

import json
import secrets
import shlex
import time
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra.api.host import Host

from roles.mattermost import application, release, server
from roles.mattermost.render import CONFIG, HOME
from roles.mattermost.settings import PLUGIN, GitlabPluginSettings
from roles.node import remote
from roles.site.errors import StepError
from roles.site.secret import SecretRef

if TYPE_CHECKING:
    from roles.rollout.mattermost import MattermostRun

STORE = f"{HOME}/data/plugins"
"""Where the local file store keeps bundles."""
BUNDLE = f"{STORE}/{PLUGIN}.tar.gz"
"""The plugin's bundle."""
KEYS = ("encryptionkey", "webhooksecret")
"""Settings that are made once and stay the server's own."""
PATIENCE = 60.0
"""Seconds that the plugin may take to become active."""


def settings(run: MattermostRun) -> dict[str, Any] | None:
    """The plugin's settings as declared; None before there are credentials."""
    wanted = run.settings.gitlab_plugin
    assert wanted is not None
    known = application.credentials(run.site, application.for_plugin(run.site))
    if known is None:
        return None
    out = {
        "gitlaburl": run.site.gitlab.external_url.rstrip("/"),
        "gitlaboauthclientid": known[0],
        "gitlaboauthclientsecret": known[1].reveal(),
    }
    for key, value in wanted.settings.items():
        out[key.lower()] = run.site.secret(value).reveal() if isinstance(value, SecretRef) else value
    return out


def _kept(host: Host) -> dict[str, Any]:
    """The section `PluginSettings` of the server's config.json; over its API secrets are masked.

    Raises:
        StepError: it cannot be read.
    """
    got = remote.run(host, f"cat {CONFIG}")
    try:
        found = json.loads(got.stdout)["PluginSettings"]
    except (ValueError, KeyError):
        raise StepError(f"{CONFIG} cannot be read: {got.stderr.strip() or 'it is not whole'}") from None
    return dict(found)


def _active(host: Host) -> bool:
    _, answer = server.request(host, "GET", "/api/v4/plugins")
    return any(one.get("id") == PLUGIN for one in answer.get("active", ())) if isinstance(answer, dict) else False


def _brought(run: MattermostRun, wanted: GitlabPluginSettings) -> bool:
    got = remote.run(run.server, f"sha256sum < {BUNDLE}")
    return got.stdout.split()[:1] == [wanted.sum(run.site.dir)]


def look(run: MattermostRun) -> list[str]:
    """What is not as declared, in words; empty when all is."""
    wanted = run.settings.gitlab_plugin
    if wanted is None:
        return []
    declared = settings(run)
    if declared is None:
        return ["it has no OAuth application yet"]
    out = [] if _brought(run, wanted) else ["its bundle is another"]
    if run.looks_at_application:
        try:
            found = application.look(run.site, application.for_plugin(run.site), run.rails)
            if found.uid != declared["gitlaboauthclientid"] or found.differs or found.secret_fits is False:
                out.append("its OAuth application is another")
        except StepError as error:
            out.append(str(error))
    kept = _kept(run.server)["Plugins"].get(PLUGIN, {})
    differ = [key for key, value in declared.items() if kept.get(key) != value]
    differ += [key for key in KEYS if key not in declared and not kept.get(key)]
    if differ:
        out.append(f"its settings {', '.join(differ)} differ")
    if not out and not _active(run.server):
        out.append("it is not active")
    return out


def configure(run: MattermostRun, host: Host) -> None:
    """Make it so.

    Raises:
        StepError: with cause and cure.
    """
    wanted = run.settings.gitlab_plugin
    assert wanted is not None
    if settings(run) is None or run.looks_at_application:
        application.repair(run.site, application.for_plugin(run.site), run.rails)
    declared = settings(run)
    assert declared is not None
    if not _brought(run, wanted):
        _bring(run, host, wanted)
        got = remote.run(host, "systemctl restart mattermost.service", note="the server starts with the plugin")
        if not got.ok:
            raise StepError("Mattermost does not start with the plugin: see `journalctl -u mattermost` on the node.")
    # A patch replaces both maps as a whole, so everything that is in them goes along.
    kept = _kept(host)
    mine = kept["Plugins"].get(PLUGIN, {})
    made = {key: mine.get(key) or secrets.token_hex(16) for key in KEYS}
    patch = {
        "Plugins": {**kept["Plugins"], PLUGIN: {**mine, **made, **declared}},
        "PluginStates": {**kept["PluginStates"], PLUGIN: {"Enable": True}},
    }
    server.demand(host, "PUT", "/api/v4/config/patch", {"PluginSettings": patch}, what="the plugin's settings")
    deadline = time.monotonic() + PATIENCE
    while not _active(host):
        if time.monotonic() > deadline:
            raise StepError(
                "the GitLab plugin does not become active: see `journalctl -u mattermost` on the node. "
                "PluginSettings.Enable must be true, and RequirePluginSignature false."
            )
        gevent.sleep(1)


def _bring(run: MattermostRun, host: Host, wanted: GitlabPluginSettings) -> None:
    staged = f"{HOME}/.plugin.download"
    account = run.settings.account
    owner = f"-o {account.user} -g {account.group}"
    script = f"""\
fail() {{ echo "$1" >&2; exit 1; }}
[ "$(sha256sum < {staged})" = "{wanted.sum(run.site.dir)}  -" ] || fail "its SHA-256 is another"
tar -tzf {staged} | grep -q plugin.json || fail "there is no plugin.json in it"
install -d -m 750 {owner} {STORE} && install -m 640 {owner} {staged} {BUNDLE}.new && mv -f {BUNDLE}.new {BUNDLE}"""
    try:
        release.fetch(run.site, host, wanted, staged)
        got = remote.run(host, script)
        if not got.ok:
            raise StepError(f"the plugin's bundle was not installed: {got.stderr.strip()}. Nothing was changed.")
    finally:
        remote.run(host, f"rm -f -- {shlex.quote(staged)}")
