"""Sites with Mattermost for tests: small, valid, and easy to spoil; and a node in the place of pyinfra's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roles.mattermost import facts, render
from roles.mattermost.settings import MattermostSettings
from roles.node.bundle import File
from roles.node.facts import Answer, FileState, NodeState
from roles.node.remote import Result
from roles.proxy import render as proxy
from roles.site.errors import Problem, SiteFileError
from roles.site.load import load
from roles.site.models import Site
from roles.site.secret import Secret
from tests.unit.certificates import self_signed

SHA256 = "ab" * 32
UID = "f" * 64
SECRET = "gloas-oauth-secret-of-mattermost"
SECRETS = {
    "db": "password-of-mmuser",
    "dba": "password-of-dba",
    "smtp": "password-of-smtp",
    "admin": "password-of-admin",
    "token": "glpat-token-of-admin",
    "oauth": f"{UID} {SECRET}",
}
"""What is in the folder `secrets`, by file."""

SITE = f"""
site: test
nodes:
  gitlab-1: {{address: 10.0.0.1, roles: [application]}}
  gitaly-1: {{address: 10.0.0.2, roles: [gitaly]}}
  chat-1: {{address: 10.0.0.9, roles: [mattermost]}}
gitlab:
  version: 18.11.11
  external_url: https://gitlab.example.com
mattermost:
  version: 10.11.8
  release:
    source: https://releases.example.com/mattermost.tar.gz
    sha256: {SHA256}
    keep: 2
  site_url: https://chat.example.com
  database:
    host: db.example.com
    password: !file secrets/db
  proxy:
    certificate: chat.pem
    key: !file secrets/key
"""
"""A site file without a mistake; the section of Mattermost is the last one, so more of it can be appended."""

SIGN_ON = """\
  sign_on:
    credentials: !file secrets/oauth
"""
API = f"{SIGN_ON}    api_token: !file secrets/token\n"
ADMIN = """\
  admin:
    username: admin
    email: admin@example.com
    password: !file secrets/admin
"""
MAIL = """\
  settings:
    EmailSettings:
      SMTPServer: smtp.example.com
      ConnectionSecurity: STARTTLS
      SMTPUsername: chat@example.com
      SMTPPassword: !file secrets/smtp
"""

_pair = functools.cache(self_signed)


def settings(*lines: str) -> str:
    """A block `settings` to append: each line as `Section.Key: value`."""
    out = ["  settings:"]
    for line in lines:
        section, _, rest = line.partition(".")
        out += [f"    {section}:", f"      {rest}"]
    return "\n".join(out) + "\n"


def changed(*changes: tuple[str, str], more: str = "") -> str:
    """`SITE` with each first text replaced by the second one, and something at its end."""
    text = SITE
    for old, new in changes:
        assert old in text, f"{old!r} is not in the valid site file"
        text = text.replace(old, new, 1)
    return text + more


def write(folder: Path, text: str = SITE, **secrets: str | None) -> Path:
    """A site file with the files that it names; `db="..."` replaces a secret, None leaves it out."""
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    pem, key = _pair("chat.example.com")
    for name, value in {**SECRETS, "key": key, **secrets}.items():
        path = folder / "secrets" / name
        if value is None:
            path.unlink(missing_ok=True)
            continue
        path.write_text(value + "\n", newline="")
        path.chmod(0o600)
    (folder / "chat.pem").write_text(pem)
    (folder / "ca.pem").write_text(pem)
    path = folder / "site.yml"
    path.write_text(text)
    return path


def site(folder: Path, text: str = SITE, **secrets: str | None) -> Site:
    """The site, loaded."""
    return load(write(folder, text, **secrets))


def problems(folder: Path, text: str, **secrets: str | None) -> tuple[Problem, ...]:
    """What is wrong with a site file; fails when nothing is."""
    path = write(folder, text, **secrets)
    with pytest.raises(SiteFileError) as caught:
        load(path)
    return caught.value.problems


def wanted(site: Site) -> MattermostSettings:
    """The section `mattermost`."""
    assert site.mattermost is not None
    return site.mattermost


def credentials() -> tuple[str, Secret]:
    """Those that are kept."""
    return UID, Secret(SECRET)


def files(site: Site) -> tuple[File, ...]:
    """The server's files as they must be."""
    return render.files(site, credentials() if wanted(site).sign_on else None)


def proxy_files(site: Site) -> tuple[File, ...]:
    """nginx's files as they must be."""
    declared = wanted(site)
    config = proxy.config_file(declared.host, declared.port, acme=declared.proxy.acme is not None)
    if declared.proxy.certificate is None or declared.proxy.key is None:
        return (config,)
    return (config, *proxy.pair(site.file(declared.proxy.certificate).read_bytes(), site.secret(declared.proxy.key)))


def state(site: Site, **spoilt: str | FileState) -> NodeState:
    """Mattermost's node as it is when all is as declared, unless spoilt.

    Args:
        spoilt: answers to replace, dots in their keys written as `__`; or `path=FileState(...)`, the path by the name
            of a constant of `render` or `proxy.render`, such as `UNIT`.
    """
    declared = wanted(site)
    current = f"{render.CURRENT}-{declared.version}"
    answers = {
        "mattermost.absent": "",
        "mattermost.account": "812:812\n812",
        "mattermost.folders": "\n".join(
            f"{path} {mode} {owner}" for path, (mode, owner) in facts.folders(declared).items()
        ),
        "mattermost.releases": f"{current} {declared.release.sum(site.dir)}",
        "mattermost.current": current,
        "mattermost.service": "MainPID=4711\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no",
        "mattermost.started": "yes",
        "mattermost.free_kib": "9000000",
        "mattermost.admin": "200",
        "proxy.ipv6": "yes",
        "proxy.loaded": "yes",
        "proxy.active": "active",
    }
    there = {
        file.path: FileState("regular file", file.mode, file.owner, file.group, file.sha256)
        for file in (*files(site), *proxy_files(site))
    }
    for name, value in spoilt.items():
        if isinstance(value, FileState):
            there[name] = value
        else:
            answers[name.replace("__", ".")] = value
    return NodeState(
        clock=1_000_000.0,
        clock_error=0.01,
        files=there,
        answers={key: Answer(text, 0) for key, text in answers.items()},
    )


def host(name: str = "chat-1") -> Any:
    """In the place of pyinfra's host, where only its name is looked at."""
    return SimpleNamespace(name=name, data={})


@dataclass
class Remote:
    """In the place of `roles.node.remote.run`: answers by a function, and remembers what was asked."""

    answer: Callable[[str, str], Result]
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Node, command and standard input."""

    def __call__(
        self, host: Any, command: str, stdin: str = "", note: str | None = None, every: float = 15.0
    ) -> Result:
        self.asked.append((host.name, command, stdin))
        return self.answer(command, stdin)
