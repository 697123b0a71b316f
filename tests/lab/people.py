"""A person with a browser and a chat client, in the lab's network: real HTTP and websocket clients, TLS verified.

usage: python -m tests.lab.people COMMAND    arguments as one JSON object on standard input, answer as JSON
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import ssl
import sys
import tempfile
from typing import Any
from urllib.parse import urljoin

import requests
import websocket

_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')


def _session(ca: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither this machine's proxies nor its certificate authorities
    session.verify = ca
    return session


def through_gitlab(url: str, ca: str, username: str, password: str) -> tuple[requests.Session, requests.Response]:
    """Sign on to Mattermost as a browser does: follow redirects, fill in the form, keep the cookies.

    Returns:
        The browser, and the page where it ended.
    """
    browser = _session(ca)
    page = browser.get(f"{url}/oauth/gitlab/login", timeout=30)
    if "user[login]" in page.text:
        form = {html.unescape(k): html.unescape(v) for k, v in _HIDDEN.findall(page.text)}
        form |= {"user[login]": username, "user[password]": password}
        page = browser.post(urljoin(page.url, "/users/sign_in"), data=form, timeout=30)
    if "Authorize" in page.text and _HIDDEN.search(page.text):  # the application is not trusted: GitLab asks
        forms = [one for one in page.text.split("<form")[1:] if 'name="_method"' not in one]  # the other one denies
        form = {html.unescape(k): html.unescape(v) for k, v in _HIDDEN.findall(forms[0])}
        page = browser.post(urljoin(page.url, "/oauth/authorize"), data=form, timeout=30)
    link = re.search(r'<a href="([^"]*)">Click here to redirect', page.text)
    if link:
        page = browser.get(html.unescape(link[1]), timeout=30)
    return browser, page


def sign_on(url: str, ca: str, username: str, password: str) -> dict[str, Any]:
    """Log in to Mattermost through GitLab.

    Returns:
        `me`: the user as Mattermost sees it afterwards; or `status` and `text` of the page where it ended.
    """
    browser, page = through_gitlab(url, ca, username, password)
    me = browser.get(f"{url}/api/v4/users/me", timeout=30)
    if me.status_code != 200:
        return {"status": page.status_code, "url": page.url, "text": page.text[:2000]}
    return {"me": me.json()}


def with_password(url: str, ca: str, username: str, password: str) -> requests.Session:
    """A client that is logged in with a password."""
    client = _session(ca)
    answer = client.post(f"{url}/api/v4/users/login", json={"login_id": username, "password": password}, timeout=30)
    answer.raise_for_status()
    client.headers["Authorization"] = f"Bearer {answer.headers['Token']}"
    client.cookies.clear()
    return client


def log_in(url: str, ca: str, username: str, password: str) -> dict[str, Any]:
    """Log in with a password."""
    return {"me": with_password(url, ca, username, password).get(f"{url}/api/v4/users/me", timeout=30).json()}


def upload(url: str, ca: str, username: str, password: str, size: int) -> dict[str, Any]:
    """Send a file of `size` bytes to a channel, get it back, and compare."""
    client = with_password(url, ca, username, password)

    def call(method: str, path: str, **more: Any) -> requests.Response:
        return client.request(method, f"{url}/api/v4{path}", timeout=300, **more)

    name = "t" + hashlib.sha256(str(size).encode()).hexdigest()[:10]
    team = call("POST", "/teams", json={"name": name, "display_name": name, "type": "O"}).json()
    team = call("GET", f"/teams/name/{name}").json() if "id" not in team or "status_code" in team else team
    channel = call("GET", f"/teams/{team['id']}/channels/name/town-square").json()
    with tempfile.TemporaryFile() as file:
        digest = hashlib.sha256()
        block = hashlib.sha256(b"x").digest() * 32768
        for _ in range(size // len(block)):
            file.write(block)
            digest.update(block)
        file.write(b"z" * (size % len(block)))
        digest.update(b"z" * (size % len(block)))
        file.seek(0)
        answer = call(
            "POST",
            f"/files?channel_id={channel['id']}&filename=big.bin",
            data=file,
            headers={"Content-Type": "application/octet-stream"},
        )
    if answer.status_code != 201:
        return {"status": answer.status_code, "text": answer.text[:500]}
    info = answer.json()["file_infos"][0]
    back = hashlib.sha256()
    for block in call("GET", f"/files/{info['id']}", stream=True).iter_content(1 << 20):
        back.update(block)
    return {"status": 201, "size": info["size"], "same": back.hexdigest() == digest.hexdigest()}


def hello(url: str, ca: str, username: str, password: str) -> dict[str, Any]:
    """Open a websocket and return the server's first event."""
    token = str(with_password(url, ca, username, password).headers["Authorization"])
    connection = websocket.create_connection(
        url.replace("https://", "wss://") + "/api/v4/websocket",
        header=[f"Authorization: {token}"],
        origin=url,
        sslopt={"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": ca},
        timeout=30,
    )
    try:
        return dict(json.loads(connection.recv()))
    finally:
        connection.close()


def slash(url: str, ca: str, username: str, password: str, team: str, typed: str) -> dict[str, Any]:
    """Type a slash command in the main channel of a team, after joining it, and return what came back."""
    client = with_password(url, ca, username, password)
    found = client.get(f"{url}/api/v4/teams/name/{team}", timeout=30).json()
    me = client.get(f"{url}/api/v4/users/me", timeout=30).json()
    member = {"team_id": found["id"], "user_id": me["id"]}
    client.post(f"{url}/api/v4/teams/{found['id']}/members", json=member, timeout=30)
    channel = client.get(f"{url}/api/v4/teams/{found['id']}/channels/name/town-square", timeout=30).json()
    asked = {"channel_id": channel["id"], "team_id": found["id"], "command": typed}
    return dict(client.post(f"{url}/api/v4/commands/execute", json=asked, timeout=30).json())


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.load(sys.stdin))))
