"""What Mattermost's node is asked about itself, and what the answers mean."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from roles.mattermost.render import CURRENT, FINGERPRINT, FOLDER, HOME, LOGS, SOCKET, STARTED_WITH
from roles.mattermost.settings import MattermostSettings
from roles.node.bundle import Question
from roles.node.facts import NodeState
from roles.proxy.render import WEBROOT

PACKAGES = {"nginx": "nginx", "psql": "postgresql-client", "curl": "curl", "openssl": "openssl", "certbot": "certbot"}
"""Commands that the node needs (certbot for ACME alone), and the packages of Debian and Ubuntu that bring them."""
_WRITTEN = "/opt /etc /var/lib /var/log"


def api(path: str, *options: str) -> str:
    """Shell: ask the server over its local socket, as `mmctl --local` does; no login, root and its own user only."""
    words = ["curl", "--silent", "--max-time", "20", "--unix-socket", SOCKET, *options, f"http://localhost{path}"]
    return " ".join(shlex.quote(word) for word in words)


def folders(settings: MattermostSettings) -> dict[str, tuple[str, str]]:
    """Every folder that has to be there, with its mode and owner."""
    own = f"{settings.account.user}:{settings.account.group}"
    writable = (HOME, f"{HOME}/config", f"{HOME}/data", f"{HOME}/plugins", f"{HOME}/client-plugins", LOGS)
    out = {FOLDER: ("755", "root:root"), "/etc/nginx/pyinfra": ("755", "root:root")}
    if settings.proxy.acme:
        out[WEBROOT] = ("755", "root:root")
    return out | dict.fromkeys(writable, ("750", own))


def questions(settings: MattermostSettings) -> tuple[Question, ...]:
    """What the node is asked in every run."""
    account, admin = settings.account, settings.admin
    programs = " ".join(name for name in PACKAGES if name != "certbot" or settings.proxy.acme)
    asked = [
        Question("mattermost.absent", f"for p in {programs}; do command -v $p >/dev/null || echo $p; done"),
        Question(
            "mattermost.account",
            f"getent passwd {account.user} | cut -d: -f3,4; getent group {account.group} | cut -d: -f3",
        ),
        Question("mattermost.folders", f"stat -c '%n %a %U:%G' {' '.join(folders(settings))} 2>/dev/null; true"),
        Question(
            "mattermost.releases",
            f'for d in {CURRENT}-*; do [ -d "$d" ] && [ ! -h "$d" ] && '
            'case $d in *.part|*.old) ;; *) echo "$d $(cat "$d/.sha256" 2>/dev/null)";; esac; done; true',
        ),
        Question(
            "mattermost.current",
            f"if [ -h {CURRENT} ]; then readlink {CURRENT}; elif [ -e {CURRENT} ]; then echo folder; fi",
        ),
        Question(
            "mattermost.service",
            "systemctl show -p ActiveState -p UnitFileState -p NeedDaemonReload -p MainPID mattermost.service",
        ),
        Question("mattermost.machine", "uname -m"),
        Question("mattermost.started", f'[ "$(cat {STARTED_WITH})" = "$({FINGERPRINT})" ] && echo yes'),
        Question(
            "mattermost.free_kib", f"df -Pk {_WRITTEN} 2>/dev/null | awk 'NR > 1 {{print $4}}' | sort -n | head -n 1"
        ),
    ]
    if admin:
        path = f"/api/v4/users/username/{admin.username}"
        asked.append(Question("mattermost.admin", api(path, "--output", "/dev/null", "--write-out", "%{http_code}")))
    return tuple(asked)


def health_questions() -> tuple[Question, ...]:
    """What `verify` asks on top: the server's own tests of its database and its file store."""
    path = "/api/v4/system/ping?get_server_status=true&use_rest_semantics=true"
    return (
        Question("mattermost.ping", api(path)),
        Question("mattermost.version", f'{api("/api/v4/config/client?format=old")} | grep -o \'"Version":"[^"]*"\''),
    )


@dataclass(frozen=True)
class Service:
    """The systemd unit as found."""

    active: bool
    """The server runs, and said that it is ready."""
    enabled: bool
    """It is started at boot."""
    reload: bool
    """systemd has not read the unit since it changed."""


def service(state: NodeState) -> Service:
    """How the unit stands."""
    words = dict(line.split("=", 1) for line in state.answer("mattermost.service").splitlines() if "=" in line)
    return Service(
        words.get("ActiveState") == "active",
        words.get("UnitFileState") == "enabled",
        words.get("NeedDaemonReload") == "yes",
    )


def releases(state: NodeState) -> dict[str, str]:
    """The releases on the node: SHA-256 by folder; empty for one that is not ours."""
    pairs = (line.partition(" ") for line in state.answer("mattermost.releases").splitlines())
    return {path: sum_.strip() for path, _, sum_ in pairs}


def current(state: NodeState) -> str:
    """Where the link to the current release points; `folder` when a real folder is there, empty when nothing is."""
    return state.answer("mattermost.current")


def absent(state: NodeState) -> list[str]:
    """The packages that are missing."""
    return [PACKAGES[name] for name in state.answer("mattermost.absent").split() if name in PACKAGES]


def prepared(settings: MattermostSettings, state: NodeState) -> list[str]:
    """What of account and folders is not as declared, in words."""
    account = state.answer("mattermost.account").splitlines()
    out = [] if len(account) == 2 and ":" in account[0] else [f"make the account {settings.account.user}"]
    found = {line.split()[0]: tuple(line.split()[1:]) for line in state.answer("mattermost.folders").splitlines()}
    out += [f"make {path}" for path, wanted in folders(settings).items() if found.get(path) != wanted]
    return out


def started_as_declared(state: NodeState) -> bool:
    """The running server read what is on the node now."""
    return state.answer("mattermost.started") == "yes"


def has_admin(state: NodeState) -> bool:
    """There is an account with the declared administrator's name."""
    return state.answer("mattermost.admin") == "200"


def free_kib(state: NodeState) -> int | None:
    """Least free space where we and the server write, KiB."""
    text = state.answer("mattermost.free_kib")
    return int(text) if text.isdigit() else None


def ping(state: NodeState) -> dict[str, str]:
    """The server's answer about itself; empty when it gave none. `status`, `database_status`, `filestore_status`."""
    try:
        answer = json.loads(state.answer("mattermost.ping"))
    except json.JSONDecodeError:
        return {}
    return {str(key): str(value) for key, value in answer.items()} if isinstance(answer, dict) else {}


def version(state: NodeState) -> str:
    """Version of the running server; empty when it did not say."""
    return state.answer("mattermost.version").removeprefix('"Version":"').rstrip('"')


def account_conflicts(settings: MattermostSettings, state: NodeState) -> list[str]:
    """Why the account on the node cannot be the declared one."""
    lines = state.answer("mattermost.account").splitlines()
    wanted, out = settings.account, []
    found = lines[0].split(":")[0] if lines and ":" in lines[0] else None
    if wanted.uid is not None and found not in (None, str(wanted.uid)):
        out.append(f"user {wanted.user} has the number {found}, the site file says {wanted.uid}. Say what is there.")
    group = next((line for line in lines if ":" not in line), None)
    if wanted.gid is not None and group not in (None, str(wanted.gid)):
        out.append(f"group {wanted.group} has the number {group}, the site file says {wanted.gid}. Say what is there.")
    return out


def wrong_machine(settings: MattermostSettings, state: NodeState) -> str:
    """Why the release cannot run on this machine, by the name that upstream gives its tarballs; empty when it can."""
    built = re.search(r"-linux-(amd64|arm64)\.tar\.gz$", settings.release.source)
    machine = state.answer("mattermost.machine")
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    if built and machine and names.get(machine) != built.group(1):
        return (
            f"the release is for {built.group(1)}, this node is {machine}. Name the one for it; Mattermost is "
            "built for amd64 and arm64 alone."
        )
    return ""
