"""Site files for tests: a small valid one, changed at one place, and what loading it says."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from roles.site.errors import Problem, SiteFileError
from roles.site.load import load
from roles.site.models import Site

TOKEN = base64.b64encode(bytes(range(32))).decode()
"""A well-formed webhook token."""

VALID = """\
site: test
nodes:
  gitlab-1: {address: 198.18.0.11, roles: [application]}
  gitlab-2: {address: 198.18.0.12}
  gitaly-1: {address: 198.18.0.21, roles: [gitaly]}
gitlab:
  version: 18.11.11
  external_url: http://gitlab.example.com
  internal_api_url: http://internal.example.com
  config: whole
  settings:
    nginx: {listen_port: 80}
  extra_ruby: |
    registry_external_url 'http://registry.example.com'
mail:
  reader: gitlab-1
  incoming_email:
    address: "incoming+%{key}@example.com"
    user: incoming@example.com
    password: !env TEST_INCOMING_PASSWORD
    host: imap.example.com
    idle_timeout: 60
    delivery_method: webhook
  service_desk_email:
    address: "contact+%{key}@example.com"
    user: contact@example.com
    password: !env TEST_CONTACT_PASSWORD
    host: imap.example.com
  tokens:
    incoming_email: !file incoming_token
    service_desk_email: !file service_desk_token
service_desk:
  projects:
    mygroup/myproject: {suffix: support}
"""
"""A site file without a mistake. Its token files do not exist, which is allowed."""

PASSWORDS = {"TEST_INCOMING_PASSWORD": "hunter2-incoming", "TEST_CONTACT_PASSWORD": "hunter2-contact"}
"""The environment variables that `VALID` refers to."""


class SiteFiles:
    """Writes site files into a folder and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "site.yml"

    def load(self, text: str = VALID) -> Site:
        """Load this text as a site file."""
        self.path.write_text(text, encoding="utf-8")
        return load(self.path)

    def changed(self, *changes: tuple[str, str]) -> str:
        """`VALID` with each first text replaced by the second one. Each must stand in it."""
        text = VALID
        for old, new in changes:
            assert old in text, f"{old!r} is not in the valid site file"
            text = text.replace(old, new, 1)
        return text

    def problems(self, text: str) -> tuple[Problem, ...]:
        """What is wrong with this text; fails when nothing is."""
        with pytest.raises(SiteFileError) as caught:
            self.load(text)
        return caught.value.problems

    def line(self, part: str) -> int:
        """The line on which a text stands in the file written last."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return next(number for number, line in enumerate(lines, 1) if part in line)
