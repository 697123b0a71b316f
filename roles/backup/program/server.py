"""The restored server, asked over HTTP: its local socket, and its own port while nobody else reaches it."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from . import database as db
from .config import Config, Failure
from .manifest import Check, check

PORT = 18065
"""Where the server listens while it is being checked; nginx asks 8065."""
TIMEOUT = 60
"""Seconds that one answer may take."""
MUTED = {
    "MM_SERVICESETTINGS_LISTENADDRESS": f"127.0.0.1:{PORT}",
    "MM_EMAILSETTINGS_SENDEMAILNOTIFICATIONS": "false",
    "MM_EMAILSETTINGS_ENABLEEMAILBATCHING": "false",
    "MM_EMAILSETTINGS_REQUIREEMAILVERIFICATION": "false",
    "MM_EMAILSETTINGS_SMTPSERVER": "127.0.0.1",
    "MM_EMAILSETTINGS_SMTPPORT": "9",
    "MM_EMAILSETTINGS_SENDPUSHNOTIFICATIONS": "false",
    "MM_EMAILSETTINGS_ENABLESIGNUPWITHEMAIL": "true",
    "MM_EMAILSETTINGS_ENABLESIGNINWITHUSERNAME": "true",
    "MM_SERVICESETTINGS_ENABLEINCOMINGWEBHOOKS": "false",
    "MM_SERVICESETTINGS_ENABLEOUTGOINGWEBHOOKS": "false",
    "MM_SERVICESETTINGS_ENABLECOMMANDS": "false",
    "MM_SERVICESETTINGS_ENABLELINKPREVIEWS": "false",
    "MM_JOBSETTINGS_RUNJOBS": "false",
    "MM_JOBSETTINGS_RUNSCHEDULER": "false",
    "MM_PLUGINSETTINGS_ENABLE": "false",
    "MM_GITLABSETTINGS_ENABLE": "false",
    "MM_LOGSETTINGS_ENABLEDIAGNOSTICS": "false",
    "MM_SERVICESETTINGS_ENABLESECURITYFIXALERT": "false",
}
"""What a copy must not do to real people, and where it listens: environment of the server while it is checked."""


class _Local(http.client.HTTPConnection):
    """HTTP over a local socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, token: str = ""
) -> tuple[int, bytes, Mapping[str, str]]:
    """One request: status (0: no answer), content, header."""
    header = {"Content-Type": "application/json"}
    if token:
        header["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, header)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    except (OSError, http.client.HTTPException):
        return 0, b"", {}
    finally:
        connection.close()


def local(config: Config, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """A request over the local socket, as `mmctl --local` makes them: status, JSON."""
    code, content, _ = ask(_Local(config.socket), method, f"/api/v4{path}", body)
    try:
        return code, json.loads(content)
    except ValueError:
        return code, {}


def healthy(config: Config, version: str, seconds: float = 120) -> list[Check]:
    """The server's own tests of itself; waits for it."""
    deadline = time.monotonic() + seconds
    words: dict[str, str] = {}
    path = "/system/ping?get_server_status=true&use_rest_semantics=true"
    while time.monotonic() < deadline:
        code, words = local(config, "GET", path)
        if code == 200:
            break
        time.sleep(0.3)
    _, told = local(config, "GET", "/config/client?format=old")
    return [
        check("server status", "OK", words.get("status", "no answer")),
        check("database, as the server tests it", "OK", words.get("database_status", "no answer")),
        check("file store, as the server tests it", "OK", words.get("filestore_status", "no answer")),
        check("version of the server", version, told.get("Version", "no answer")),
    ]


def muted(config: Config) -> list[Check]:
    """Whether the running copy is really silent: what it uses, not what it was told."""
    _, found = local(config, "GET", "/config")
    wanted = {
        "outgoing mail": ("EmailSettings", "SendEmailNotifications"),
        "push notifications": ("EmailSettings", "SendPushNotifications"),
        "outgoing webhooks": ("ServiceSettings", "EnableOutgoingWebhooks"),
        "incoming webhooks": ("ServiceSettings", "EnableIncomingWebhooks"),
        "jobs": ("JobSettings", "RunJobs"),
        "plugins": ("PluginSettings", "Enable"),
        "sign-on through GitLab": ("GitLabSettings", "Enable"),
    }
    out = []
    for name, (section, key) in wanted.items():
        value = found.get(section, {}).get(key) if isinstance(found, dict) else None
        out.append(check(name, "off", "no answer" if value is None else "ON" if value else "off"))
    return out


def used(config: Config, name: str, hashes: Mapping[str, str]) -> list[Check]:
    """Use the copy as people do: log in, read the newest post, get the newest files.

    Args:
        config: the configuration.
        name: of the database.
        hashes: SHA-256 by path below the file store, from the manifest.
    """
    password = secrets.token_urlsafe(24) + "aA1!"
    who = f"drill-{secrets.token_hex(4)}"
    user = {"username": who, "email": f"{who}@localhost.invalid", "password": password}
    code, made = local(config, "POST", "/users", user)
    if code != 201:
        return [check("log in", "an account for it", f"HTTP {code}: {made.get('message', '')}", False)]
    for path, body in (("/roles", {"roles": "system_user system_admin"}), ("/email/verify/member", None)):
        local(config, "PUT" if body else "POST", f"/users/{made['id']}{path}", body)

    def get(path: str, body: Any = None, token: str = "") -> tuple[int, bytes, Mapping[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT)
        return ask(connection, "POST" if body else "GET", f"/api/v4{path}", body, token)

    code, _, header = get("/users/login", {"login_id": who, "password": password})
    token = {key.lower(): value for key, value in header.items()}.get("token", "")
    out = [check("log in", "HTTP 200", f"HTTP {code}")]
    with db.connect(config, name) as connection:
        posts = connection.execute(
            "SELECT id, message, userid FROM posts WHERE deleteat = 0 AND type = '' ORDER BY createat DESC LIMIT 20"
        ).fetchall()
        infos = connection.execute(
            "SELECT f.id, f.path FROM fileinfo f JOIN posts p ON p.id = f.postid WHERE f.deleteat = 0 AND "
            "p.deleteat = 0 AND f.path <> '' ORDER BY f.createat DESC LIMIT 20"
        ).fetchall()
    wrong = []
    for key, message, author in posts:
        _, content, _ = get(f"/posts/{key}", token=token)
        try:
            told = json.loads(content)
        except ValueError:
            told = {}
        if (told.get("message"), told.get("user_id")) != (message, author):
            wrong.append(str(key))
    out.append(check("read the newest posts", f"{len(posts)} as in the database", _not(wrong, len(posts)), not wrong))
    wrong = []
    for key, path in infos:
        _, content, _ = get(f"/files/{key}", token=token)
        if hashlib.sha256(content).hexdigest() != hashes.get(str(path), "") and hashes:
            wrong.append(str(path))
    out.append(
        check("download the newest files", f"{len(infos)} as in the manifest", _not(wrong, len(infos)), not wrong)
    )
    return out


def _not(wrong: Sequence[str], number: int) -> str:
    return f"{len(wrong)} of {number} are not: {wrong[0]}" if wrong else f"{number} as they must be"


def demand_answer(config: Config) -> None:
    """See that the server answers.

    Raises:
        Failure: it does not.
    """
    if local(config, "GET", "/system/ping")[0] != 200:
        raise Failure("Mattermost does not answer. See `journalctl -u mattermost` on the node.")
