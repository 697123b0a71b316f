"""What the tests of the stand-in's OAuth provider are driven with: its application under puma, and a browser."""

from __future__ import annotations

import html
import http.cookiejar
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from tests.lab.gitlab_standin.test_standin import RAILS, Node

CALLBACK = "http://mattermost.lab/signup/gitlab/complete"


def password(username: str) -> str:
    return f"password-of-{username}-in-the-lab"


@dataclass
class Answer:
    status: int
    headers: Message
    text: str

    def json(self) -> dict[str, object]:
        return json.loads(self.text)

    @property
    def location(self) -> str:
        return self.headers["location"]

    def field(self, name: str) -> str:
        """The value of a hidden field."""
        match = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', self.text)
        assert match, self.text
        return html.unescape(match[1])

    def fields(self) -> dict[str, str]:
        """The hidden fields of the last form of the page."""
        form = self.text.rpartition("<form")[2]
        found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form)
        return {html.unescape(name): html.unescape(value) for name, value in found}

    def target(self) -> dict[str, str]:
        """The query of the application's address, where a 302 or GitLab's page "Redirecting" sends the browser."""
        link = re.search(r'<a href="([^"]*)">Click here to redirect', self.text)
        uri = html.unescape(link[1]) if link else self.location
        assert uri.startswith(f"{CALLBACK}?"), uri
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(uri).query))


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class Browser:
    """Keeps cookies, follows no redirect, and asks one of `ports` after the other, as behind a round robin balancer."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(_Stay, urllib.request.HTTPCookieProcessor(self.jar))

    def request(
        self, method: str, path: str, data: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        self.ports.append(self.ports.pop(0))
        body = urllib.parse.urlencode(data).encode() if data is not None else None
        url = f"http://127.0.0.1:{self.ports[0]}{path}"
        request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
        try:
            with self.opener.open(request, timeout=10) as reply:
                return Answer(reply.status, reply.headers, reply.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, **data: str) -> Answer:
        return self.request("POST", path, data)

    def sign_in(self, username: str, secret: str | None = None) -> Answer:
        form = self.get("/users/sign_in")
        login = {"user[login]": username, "user[password]": secret or password(username)}
        return self.post("/users/sign_in", authenticity_token=form.field("authenticity_token"), **login)

    def authorize(self, client_id: str, **changes: str) -> Answer:
        """An empty value leaves its parameter out."""
        query = {"response_type": "code", "client_id": client_id, "redirect_uri": CALLBACK, "scope": "read_user"}
        query |= {"state": "s&1", **changes}
        return self.get(f"/oauth/authorize?{urllib.parse.urlencode({k: v for k, v in query.items() if v})}")

    def token(self, app: App, code: str, **changes: str) -> Answer:
        data = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
        return self.post("/oauth/token", **{**data, "client_id": app.uid, "client_secret": app.secret, **changes})


@dataclass
class App:
    """An OAuth application."""

    uid: str
    secret: str


class Gitlab:
    """One GitLab of two web servers that have nothing in common but the folder."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ports: list[int] = []

    def runner(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`gitlab-rails runner`; '-' reads `code` from standard input."""
        command = arguments or (code,)
        return self.node.ruby(
            str(self.node.root / "opt/gitlab/bin/gitlab-rails"), "runner", *command, stdin=code if arguments else None
        )

    def ruby(self, code: str) -> list[str]:
        """What the code prints; it has to work."""
        result = self.runner(code)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    def app(self, name: str, **attributes: str) -> App:
        """A new application; the attributes are Ruby."""
        given = {"redirect_uri": f"'{CALLBACK}'", "scopes": "'read_user'", "trusted": "true", **attributes}
        words = ", ".join(f"{key}: {value}" for key, value in given.items())
        made = self.ruby(
            f"a = Authn::OauthApplication.create!(name: '{name}', {words}); puts a.uid, a.plaintext_secret"
        )
        return App(*made)

    def personal_token(self, username: str, scopes: str = "['api']") -> str:
        return self.ruby(
            f"puts User.find_by_username('{username}').personal_access_tokens"
            f".create!(name: 'test', scopes: {scopes}, expires_at: 30.days.from_now).token"
        )[0]

    @property
    def state(self) -> Path:
        return self.node.root / "var/opt/gitlab/standin-shared/state.json"

    def browser(self, *ports: int) -> Browser:
        return Browser(*(ports or self.ports))

    def code(self, app: App, **changes: str) -> str:
        """A new code for alice, of a trusted application."""
        browser = self.browser()
        browser.sign_in("alice")
        return browser.authorize(app.uid, **changes).target()["code"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("puma does not listen")


@contextmanager
def running(root: Path) -> Iterator[Gitlab]:
    """Two web servers of one GitLab."""
    node = Node(root)
    node.ok("external_url 'http://gitlab.lab'\n")
    gitlab = Gitlab(node)
    servers = []
    try:
        for _ in range(2):
            port = _free_port()
            command = [shutil.which("puma") or "puma", "--threads", "1:4", "--bind", f"tcp://127.0.0.1:{port}"]
            server = subprocess.Popen(
                [*command, str(root / RAILS / "config.ru")],
                cwd=root / RAILS,
                env={**os.environ, "STANDIN_ROOT": str(root)},
                stdout=subprocess.DEVNULL,
            )
            servers.append(server)
            _wait(port, server)
            gitlab.ports.append(port)
        yield gitlab
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=20)
