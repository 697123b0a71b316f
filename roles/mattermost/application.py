"""The OAuth application in GitLab that lets people sign on to Mattermost: found, made, repaired, its secret renewed.

Two ways lead there: GitLab's API with an administrator's token (python-gitlab), and `gitlab-rails runner` on a Rails
node. Only the second can mark the application as trusted (the API has no such field), so that nobody is asked to
authorise it.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gitlab
import requests
from pyinfra.api.host import Host

from roles.node import remote
from roles.postgresql.admin import BUNDLE
from roles.site import kept
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import FileRef, Secret, scrub

MARK = "pyinfra-gitlab:"
SCOPE = "read_user"
TIMEOUT = 30
"""Seconds that GitLab's API may take."""

Credentials = tuple[str, Secret]
"""Id and secret."""


@dataclass(frozen=True)
class Application:
    """The application as found, or as it is after a repair."""

    uid: str | None
    """Its id; None when there is none."""
    differs: tuple[str, ...]
    """What of it is not as declared."""
    secret_fits: bool | None
    """Whether the kept secret is its own; None: GitLab's API does not tell."""
    secret: Secret | None = None
    """Its secret, when it was made or renewed just now; GitLab shows it only then."""


def redirect_uris(site: Site) -> tuple[str, str]:
    """Where GitLab may send people back to (Mattermost's documentation, sso-gitlab)."""
    assert site.mattermost is not None
    return tuple(f"{site.mattermost.site_url}/{word}/gitlab/complete" for word in ("signup", "login"))  # type: ignore[return-value]


def credentials(site: Site) -> Credentials | None:
    """The kept credentials; None when there are none yet.

    Raises:
        StepError: they have not the form "ID SECRET".
    """
    assert site.mattermost is not None
    assert site.mattermost.sign_on is not None
    ref = site.mattermost.sign_on.credentials
    if isinstance(ref, FileRef):
        path = ref.path(site.dir)
        if not path.exists():
            return None
        words = path.read_text().split()  # fresh: this run may have written it
    else:
        words = site.secret(ref).reveal().split()
    if len(words) != 2:
        raise StepError("mattermost.sign_on.credentials: must be the application's id and its secret, two words.")
    return words[0], Secret(words[1])


def keep(site: Site, found: Credentials) -> None:
    """Keep new credentials where the site file says.

    Raises:
        StepError: they cannot be kept there.
    """
    path = path_of(site)
    try:
        kept.keep(path, Secret(f"{found[0]} {found[1].reveal()}"), replace=True)
    except OSError as error:
        raise StepError(
            f"the credentials of the OAuth application could not be kept in {path}: {error.strerror}."
        ) from error


def path_of(site: Site) -> Path:
    """The file of the credentials.

    Raises:
        StepError: the site file takes them from elsewhere, where we cannot keep new ones.
    """
    assert site.mattermost is not None
    assert site.mattermost.sign_on is not None
    ref = site.mattermost.sign_on.credentials
    if not isinstance(ref, FileRef):
        raise StepError(
            "GitLab refuses the credentials of mattermost.sign_on, and new ones can only be kept in a !file. Put the "
            "right ones where yours come from, or name a !file."
        )
    return ref.path(site.dir)


def look(site: Site, rails: Host) -> Application:
    """The application as it is.

    Args:
        rails: a Rails node.

    Raises:
        StepError: GitLab could not be asked, and why.
    """
    return _ask(site, rails, repair=False)


def repair(site: Site, rails: Host) -> Application:
    """Make the application, or put right what is not as declared; renew the secret when the kept one does not fit.

    Raises:
        StepError: GitLab refused, and why.
    """
    return _ask(site, rails, repair=True)


def _ask(site: Site, rails: Host, repair: bool) -> Application:
    assert site.mattermost is not None
    assert site.mattermost.sign_on is not None
    known = credentials(site)
    if site.mattermost.sign_on.api_token:
        return _through_api(site, known, repair)
    wanted = {
        "name": site.mattermost.sign_on.application,
        "redirect_uri": "\n".join(redirect_uris(site)),
        "scopes": SCOPE,
        "confidential": True,
        "trusted": True,
        "uid": known[0] if known else None,
        "secret": known[1].reveal() if known else None,
        "repair": repair,
    }
    return _through_runner(rails, wanted)


@cache
def _program() -> str:
    return Path(__file__).with_name("application.rb").read_text()


def _through_runner(rails: Host, wanted: dict[str, Any]) -> Application:
    # No value can break out of base64. The code goes through standard input: the secret is in no process list.
    data = base64.b64encode(json.dumps(wanted).encode()).decode()
    code = f"require 'json'; require 'base64'; wanted = JSON.parse(Base64.decode64('{data}'))\n{_program()}"
    got = remote.run(
        rails, "gitlab-rails runner -", stdin=code, note="gitlab-rails runner looks at the OAuth application"
    )
    lines = [line for line in got.stdout.splitlines() if line.startswith(MARK)]
    if not got.ok or not lines:
        why = scrub((got.stderr.strip().splitlines() or ["it printed nothing"])[0])
        raise StepError(f"gitlab-rails runner on {rails.name} could not look at the OAuth application: {why}")
    answer = json.loads(lines[-1].removeprefix(MARK))
    secret = answer.get("secret")
    return Application(
        answer.get("uid"),
        tuple(answer.get("differs", ())),
        bool(answer.get("secret_fits")),
        Secret(secret) if secret else None,
    )


def _through_api(site: Site, known: Credentials | None, repair: bool) -> Application:
    assert site.mattermost is not None
    wanted = site.mattermost.sign_on
    assert wanted is not None
    assert wanted.api_token is not None
    verify: bool | str = True
    if "REQUESTS_CA_BUNDLE" not in os.environ and Path(BUNDLE).exists():
        verify = BUNDLE  # what this machine trusts, rather than what came with a Python package
    api = gitlab.Gitlab(
        site.gitlab.external_url,
        private_token=site.secret(wanted.api_token).reveal(),
        ssl_verify=verify,
        timeout=TIMEOUT,
    )
    try:
        found = [one for one in api.applications.list(iterator=True) if one.application_name == wanted.application]
        mine = next((one for one in found if known and one.application_id == known[0]), found[0] if found else None)
        differs = [] if mine is None else _differs(site, mine)
        if not repair:
            return Application(mine.application_id if mine else None, tuple(differs), None)
        if mine is not None and differs:  # the API can make and remove applications, but not change one
            api.applications.delete(mine.id)
            mine = None
        if mine is None:
            made: Any = api.applications.create(
                {
                    "name": wanted.application,
                    "redirect_uri": "\n".join(redirect_uris(site)),
                    "scopes": SCOPE,
                    "confidential": True,
                }
            )
        else:
            made = api.http_post(f"/applications/{mine.id}/renew-secret")
    except (gitlab.GitlabError, requests.RequestException) as error:
        raise StepError(
            f"GitLab's API at {site.gitlab.external_url} did not answer as it should: {scrub(str(error))}. "
            "mattermost.sign_on.api_token must be an administrator's, with scope api."
        ) from None
    answer = made if isinstance(made, dict) else made.attributes
    return Application(str(answer["application_id"]), (), True, Secret(str(answer["secret"])))


def _differs(site: Site, found: Any) -> list[str]:
    differs = []
    if set(str(found.callback_url).split()) != set(redirect_uris(site)):
        differs.append("redirect_uri")
    if not found.confidential:
        differs.append("confidential")
    return differs
