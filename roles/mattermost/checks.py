"""Whether Mattermost is as declared. Asked by `verify`; changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from roles.mattermost import application, facts, keys, plugin, release, sign_on, slash
from roles.mattermost.plan import minimum_postgresql
from roles.mattermost.render import CURRENT, environment
from roles.node import remote
from roles.node.checks import Check, compare
from roles.node.facts import NodeState
from roles.node.plan import changes
from roles.postgresql.facts import proof, question
from roles.proxy import checks as proxy
from roles.site.errors import StepError
from roles.site.secret import Secret, SecretRef

if TYPE_CHECKING:
    from roles.rollout.mattermost import MattermostRun

CURE = "Run deploys/mattermost.py."
LOG = "See `journalctl -u mattermost` on the node."


def checks(run: MattermostRun) -> list[Check]:
    """Everything about Mattermost, in the order in which one thing stands on another."""
    if isinstance(run.found, str):
        cure = f"{run.found}. Bring it back, then look again."
        return [compare(run.node, "node", "reachable", None, False, cure)]
    mail = bool(_setting(run, "EmailSettings", "SMTPServer"))
    asked = [
        question(run.settings.database, run.database_password, run.database_ca),
        (facts.api("/api/v4/config"), ""),
        (proxy.question(run.settings.host, run.settings.port), ""),
        *([_hello(run)] if mail else []),
    ]
    database, config, served, *hello = remote.several(run.server, asked)
    out = [*_release(run, run.found), *_files(run, run.found), _database(run, database)]
    out += _server(run, run.found, config)
    out += proxy.checks(run.server, run.settings.host, run.settings.port, run.proxy_files(), run.found, served)
    if run.settings.admin:
        name, there = run.settings.admin.username, facts.has_admin(run.found)
        out.append(compare(run.node, "first administrator", name, name if there else "no such account", there, CURE))
    if run.settings.sign_on:
        out += _sign_on(run)
    if run.settings.gitlab_plugin and facts.service(run.found).active:
        wrong = "; ".join(plugin.look(run))
        out.append(compare(run.node, "GitLab plugin", "as the site file says", wrong or "the same", not wrong, CURE))
    if run.settings.slash_commands and facts.service(run.found).active:
        wrong = "; ".join(slash.look(run))
        out.append(compare(run.node, "slash commands", "taken by GitLab", wrong or "taken", not wrong, CURE))
    out += [_smtp(run, got) for got in hello]
    return out


def _release(run: MattermostRun, state: NodeState) -> list[Check]:
    target = release.folder(run.settings.version)
    current = facts.current(state)
    found = current.removeprefix(f"{CURRENT}-") or "not installed"
    same = facts.releases(state).get(target) == run.settings.identity(run.site.dir)
    if current == target and not same:
        found += ", of another SHA-256"
    return [compare(run.node, "Mattermost release", run.settings.version, found, current == target and same, CURE)]


def _files(run: MattermostRun, state: NodeState) -> list[Check]:
    out = []
    for file in run.files():
        differing = changes((file,), state)
        found = differing[0].summary() if differing else "the same"
        out.append(compare(run.node, file.path, "as the site file says", found, not differing, CURE))
    return out


def _database(run: MattermostRun, got: remote.Result) -> Check:
    wanted = run.settings.database
    least = minimum_postgresql(run.settings.number)
    subject = f"database {wanted.name} on {wanted.host} as {wanted.user}"
    declared = f"PostgreSQL {least} or newer, sslmode {wanted.sslmode}"
    try:
        seen = proof(got, run.server, wanted)
    except StepError as error:
        return compare(run.node, subject, declared, str(error), False, "")
    found = f"PostgreSQL {seen.major}, {seen.tls}"
    ok = seen.major >= least and (wanted.sslmode == "disable" or seen.tls != "none")
    return compare(run.node, subject, declared, found, ok, "Upgrade the server, or switch TLS on there.")


def _server(run: MattermostRun, state: NodeState, config: remote.Result) -> list[Check]:
    service, ping, version = facts.service(state), facts.ping(state), facts.version(state)
    running = "runs" if service.active else "does not run"
    found = f"{running}, {'enabled' if service.enabled else 'not enabled'}"
    ok = service.active and service.enabled
    out = [compare(run.node, "mattermost.service", "runs, enabled", found, ok, f"{CURE} {LOG}")]
    if not service.active:
        return out
    fresh = facts.started_as_declared(state)
    found = "read what is there now" if fresh else "started before the last change"
    out.append(compare(run.node, "the running server", "read what is there now", found, fresh, CURE))
    declared = run.settings.version
    out.append(compare(run.node, "version of the server", declared, version or None, version == declared, LOG))
    for subject, key, cure in (
        ("server status", "status", LOG),
        ("database, as the server tests it", "database_status", "Can it write there? A standby refuses."),
        ("file store, as the server tests it", "filestore_status", "Is its disk full, or its owner another?"),
    ):
        word = ping.get(key)
        out.append(compare(run.node, subject, "OK", word, word == "OK", f"{cure} {LOG}"))
    out.append(_drift(run, config))
    return out


def _setting(run: MattermostRun, section: str, key: str) -> Any:
    value = run.settings.settings.get(section, {}).get(key)
    return run.site.secret(value).reveal() if isinstance(value, SecretRef) else value


def _drift(run: MattermostRun, got: remote.Result) -> Check:
    """What the server uses, asked over its local socket, against what it is told."""
    subject, declared = "settings in use", "as the site file says"
    try:
        config = json.loads(got.stdout)
    except json.JSONDecodeError:
        return compare(run.node, subject, declared, None, False, LOG)
    told = dict(environment(run.site, run.credentials))
    different = [name for name, value in told.items() if name.startswith("MM_") and not _in_use(config, name, value)]
    found = f"{', '.join(different)} differ" if different else f"{len(told)} the same"
    cure = (
        "The server takes no value of the wrong type, and a drop-in of the unit may set others. "
        f"Restart it, or correct the site file. {LOG}"
    )
    return compare(run.node, subject, declared, found, not different, cure)


def _in_use(config: Any, variable: str, value: str | Secret) -> bool:
    """True also for what is no key of config.json, such as MM_CONFIG."""
    wanted = value.reveal() if isinstance(value, Secret) else value
    for name in keys.catalogue():
        if keys.variable(name) == variable:
            here = config
            for part in name.split("."):
                here = here.get(part) if isinstance(here, dict) else None
            return here is None or _masked(here) or keys.text(here) == wanted or here == _parsed(wanted)
    return True


def _masked(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.strip("*")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _sign_on(run: MattermostRun) -> list[Check]:
    found: application.Application | str
    try:
        wanted = application.for_sign_on(run.site)
        found = application.look(run.site, wanted, run.rails)
        known = application.credentials(run.site, wanted)
    except StepError as error:
        return [compare(run.node, "sign-on through GitLab", "works", None, False, str(error))]
    return sign_on.walk(run.site, run.server, known, found)


def _mail_server(run: MattermostRun) -> tuple[str, str]:
    """Name and port."""
    return _setting(run, "EmailSettings", "SMTPServer"), _setting(run, "EmailSettings", "SMTPPort") or "25"


def _hello(run: MattermostRun) -> tuple[str, str]:
    """Say hello to the mail server from the node, over TLS and with the password where they are declared."""
    server, port = _mail_server(run)
    security = _setting(run, "EmailSettings", "ConnectionSecurity") or ""
    scheme = "smtps" if security == "TLS" else "smtp"
    lines = [f'url = "{scheme}://{server}:{port}"', 'request = "NOOP"', "silent", "show-error", "max-time = 20"]
    if security:
        lines.append("ssl-reqd")
    user = _setting(run, "EmailSettings", "SMTPUsername")
    if user and _setting(run, "EmailSettings", "EnableSMTPAuth") is True:
        password = _setting(run, "EmailSettings", "SMTPPassword") or ""
        words = f"{user}:{password}".replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'user = "{words}"')
    return "curl --config - --output /dev/null", "\n".join(lines)


def _smtp(run: MattermostRun, got: remote.Result) -> Check:
    server, port = _mail_server(run)
    found = "it answers" if got.ok else got.stderr.strip().removeprefix("curl: ")
    cure = (
        "Check EmailSettings in mattermost.settings, the firewall, and that the node trusts the server's certificate."
    )
    return compare(run.node, f"mail through {server}:{port}", "it answers", found, got.ok, cure)
