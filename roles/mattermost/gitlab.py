"""Two ways to GitLab's own data: its API with an administrator's token, and `gitlab-rails runner` on a Rails node."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyinfra.api.host import Host

from roles.node import remote
from roles.postgresql.libpq import BUNDLE
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import scrub

if TYPE_CHECKING:
    import gitlab

MARK = "pyinfra-gitlab:"
TIMEOUT = 30
"""Seconds that GitLab's API may take."""


@cache
def _text(program: Path) -> str:
    return program.read_text()


def run_ruby(rails: Host, program: Path, wanted: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Run a program with `gitlab-rails runner`.

    Args:
        rails: a Rails node.
        program: its file here; it prints one line of JSON after `MARK`.
        wanted: what it finds as the Hash `wanted`; may hold secrets.
        subject: what it looks at, for messages.

    Raises:
        StepError: it failed, and why.
    """
    # No value can break out of base64. The code goes through standard input: secrets are in no process list.
    data = base64.b64encode(json.dumps(wanted).encode()).decode()
    code = f"require 'json'; require 'base64'; wanted = JSON.parse(Base64.decode64('{data}'))\n{_text(program)}"
    got = remote.run(rails, "gitlab-rails runner -", stdin=code, note=f"gitlab-rails runner looks at {subject}")
    lines = [line for line in got.stdout.splitlines() if line.startswith(MARK)]
    if not got.ok or not lines:
        why = scrub((got.stderr.strip().splitlines() or ["it printed nothing"])[0])
        raise StepError(f"gitlab-rails runner on {rails.name} could not look at {subject}: {why}")
    try:
        answer: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    except json.JSONDecodeError:
        raise StepError(f"gitlab-rails runner on {rails.name}: its answer is not whole. Run again.") from None
    return answer


@contextmanager
def api(site: Site) -> Iterator[gitlab.Gitlab]:
    """GitLab's API, with `mattermost.sign_on.api_token`.

    Raises:
        StepError: for whatever goes wrong with it inside the context.
    """
    import gitlab  # only here: it takes longer to load than a node to answer
    import requests

    assert site.mattermost is not None
    assert site.mattermost.sign_on is not None
    assert site.mattermost.sign_on.api_token is not None
    verify: bool | str = True
    if "REQUESTS_CA_BUNDLE" not in os.environ and Path(BUNDLE).exists():
        verify = BUNDLE  # what this machine trusts, rather than what came with a Python package
    token = site.secret(site.mattermost.sign_on.api_token).reveal()
    try:
        yield gitlab.Gitlab(site.gitlab.external_url, private_token=token, ssl_verify=verify, timeout=TIMEOUT)
    except (gitlab.GitlabError, requests.RequestException) as error:
        raise StepError(
            f"GitLab's API at {site.gitlab.external_url} did not answer as it should: {scrub(str(error))}. "
            "mattermost.sign_on.api_token must be an administrator's, with scope api."
        ) from None
