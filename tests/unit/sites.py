"""Sites and node states for tests: small, valid, and easy to spoil."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from roles.gitlab import facts as gitlab_facts
from roles.gitlab.render import config_file
from roles.mailroom import facts as mail_facts
from roles.node.facts import Answer, FileState, NodeState
from roles.site.load import load
from roles.site.models import Site
from roles.site.secret import Secret

TOKENS = {
    "incoming_email": Secret(base64.b64encode(b"i" * 32).decode()),
    "service_desk_email": Secret(base64.b64encode(b"s" * 32).decode()),
}

SITE = """
site: test
nodes:
  app-1: {address: 10.0.0.1, roles: [application]}
  app-2: {address: 10.0.0.2, roles: [application]}
  gitaly-1: {address: 10.0.0.3, roles: [gitaly]}
gitlab:
  version: 18.11.11
  external_url: https://gitlab.example.com
  config: whole
mail:
  reader: app-1
  incoming_email:
    address: "in+%{key}@example.com"
    user: in@example.com
    password: !file secrets/in
    host: mail.example.com
  service_desk_email:
    address: "desk+%{key}@example.com"
    user: desk@example.com
    password: !file secrets/desk
    host: mail.example.com
  tokens:
    incoming_email: !file secrets/in_token
    service_desk_email: !file secrets/desk_token
"""


def write(folder: Path, text: str = SITE, tokens: bool = True) -> Path:
    """A site file with its secret files; returns its path."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    values = {"in": "password-of-in", "desk": "password-of-desk"}
    if tokens:
        values |= {"in_token": TOKENS["incoming_email"].reveal(), "desk_token": TOKENS["service_desk_email"].reveal()}
    for name, value in values.items():
        (secrets / name).write_text(value + "\n")
        (secrets / name).chmod(0o600)
    path = folder / "site.yml"
    path.write_text(text)
    return path


def site(folder: Path, text: str = SITE, tokens: bool = True) -> Site:
    """The site, loaded."""
    return load(write(folder, text, tokens))


def state(site: Site, name: str, *, reading: bool | None = None, **spoilt: str) -> NodeState:
    """A node as it is when all is as declared, unless spoilt.

    Args:
        reading: whether mail_room runs; default: as declared.
        spoilt: answers to replace, dots in their keys written as `__`.
    """
    reader = site.mail is not None and site.mail.reader == name
    file = config_file(site, name, reader, TOKENS if site.mail else {})
    rails = site.nodes[name].rails
    answers = {
        "gitlab.version": f"gitlab-ee {site.gitlab.version}",
        "gitlab.free_kib": "9000000",
        "mailroom.readers": "4711" if (reader if reading is None else reading) else "",
    }
    if rails:
        answers |= {f"mailroom.token.{kind}": mail_facts.hash_of(token) for kind, token in TOKENS.items()}
    answers |= {key.replace("__", "."): value for key, value in spoilt.items()}
    found = NodeState(
        clock=1_000_000.0,
        clock_error=0.01,
        files={file.path: FileState("regular file", 0o600, "root", "root", file.sha256)},
        sums={file.path: file.sha256},
        answers={key: Answer(text, 0) for key, text in answers.items()},
    )
    stamp = Answer(answers.get("gitlab.reconfigured", gitlab_facts.fingerprint(found)), 0)
    return replace(found, answers={**found.answers, "gitlab.reconfigured": stamp})
