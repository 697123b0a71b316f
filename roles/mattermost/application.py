"""The OAuth applications in GitLab that Mattermost needs: found, made, repaired, their secrets renewed.

Two ways lead there: GitLab's API with an administrator's token (python-gitlab), and `gitlab-rails runner` on a Rails
node. Only the second can mark an application as trusted (the API has no such field), so that nobody is asked to
authorise it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host

from roles.mattermost.gitlab import api, run_ruby
from roles.mattermost.settings import PLUGIN
from roles.site import kept
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import FileRef, Secret, SecretRef

Credentials = tuple[str, Secret]
"""Id and secret."""


@dataclass(frozen=True)
class Registration:
    """An application as it must be."""

    key: str
    """Where the site file says where its credentials are kept."""
    ref: SecretRef
    """The credentials."""
    name: str
    """Its name in GitLab."""
    redirect_uris: tuple[str, ...]
    """Where GitLab may send people back to."""
    scopes: str
    """What it may ask for, words with spaces between."""


@dataclass(frozen=True)
class Application:
    """An application as found, or as it is after a repair."""

    uid: str | None
    """Its id; None when there is none."""
    differs: tuple[str, ...]
    """What of it is not as declared."""
    secret_fits: bool | None
    """Whether the kept secret is its own; None: GitLab's API does not tell."""
    secret: Secret | None = None
    """Its secret, when it was made or renewed just now; GitLab shows it only then."""


def redirect_uris(site: Site) -> tuple[str, ...]:
    """Where GitLab may send people back to who sign on (Mattermost's documentation, sso-gitlab)."""
    assert site.mattermost is not None
    return tuple(f"{site.mattermost.site_url}/{word}/gitlab/complete" for word in ("signup", "login"))


def for_sign_on(site: Site) -> Registration:
    """The application for sign-on."""
    assert site.mattermost is not None
    wanted = site.mattermost.sign_on
    assert wanted is not None
    key = "mattermost.sign_on.credentials"
    return Registration(key, wanted.credentials, wanted.application, redirect_uris(site), "read_user")


def for_plugin(site: Site) -> Registration:
    """The application of the GitLab plugin (its documentation, "Register an OAuth application")."""
    assert site.mattermost is not None
    wanted = site.mattermost.gitlab_plugin
    assert wanted is not None
    uris = (f"{site.mattermost.site_url}/plugins/{PLUGIN}/oauth/complete",)
    key = "mattermost.gitlab_plugin.credentials"
    return Registration(key, wanted.credentials, wanted.application, uris, "api read_user")


def credentials(site: Site, wanted: Registration) -> Credentials | None:
    """The kept credentials; None when there are none yet.

    Raises:
        StepError: they have not the form "ID SECRET".
    """
    if isinstance(wanted.ref, FileRef):
        path = wanted.ref.path(site.dir)
        if not path.exists():
            return None
        words = path.read_text().split()  # fresh: this run may have written it
    else:
        words = site.secret(wanted.ref).reveal().split()
    if len(words) != 2:
        raise StepError(f"{wanted.key}: must be the application's id and its secret, two words.")
    return words[0], Secret(words[1])


def path_of(site: Site, wanted: Registration) -> Path:
    """The file of the credentials.

    Raises:
        StepError: the site file takes them from elsewhere, where we cannot keep new ones.
    """
    if not isinstance(wanted.ref, FileRef):
        raise StepError(
            f"GitLab refuses the credentials of {wanted.key}, and new ones can only be kept in a !file. Put the "
            "right ones where yours come from, or name a !file."
        )
    return wanted.ref.path(site.dir)


def look(site: Site, wanted: Registration, rails: Host) -> Application:
    """The application as it is.

    Args:
        rails: a Rails node.

    Raises:
        StepError: GitLab could not be asked, and why.
    """
    return _ask(site, wanted, rails, repair=False)


def repair(site: Site, wanted: Registration, rails: Host) -> None:
    """Make the application, or put right what is not as declared; renew the secret when the kept one does not fit.
    What GitLab gives is kept where the site file says.

    Raises:
        StepError: GitLab refused, or it cannot be kept, and why.
    """
    path = path_of(site, wanted)
    try:
        kept.check(path)
    except OSError as error:
        why = error.strerror
        raise StepError(
            f"the credentials of {wanted.name} cannot be kept in {path}: {why}. Nothing was changed."
        ) from error
    found = _ask(site, wanted, rails, repair=True)
    if found.secret is None or found.uid is None:
        return
    try:
        kept.keep(path, Secret(f"{found.uid} {found.secret.reveal()}"), replace=True)
    except OSError as error:
        raise StepError(f"the credentials of {wanted.name} could not be kept in {path}: {error.strerror}.") from error


def _ask(site: Site, wanted: Registration, rails: Host, repair: bool) -> Application:
    assert site.mattermost is not None
    known = credentials(site, wanted)
    if site.mattermost.sign_on and site.mattermost.sign_on.api_token:
        return _through_api(site, wanted, known, repair)
    asked = {
        "name": wanted.name,
        "redirect_uri": "\n".join(wanted.redirect_uris),
        "scopes": wanted.scopes,
        "confidential": True,
        "trusted": True,
        "uid": known[0] if known else None,
        "secret": known[1].reveal() if known else None,
        "repair": repair,
    }
    answer = run_ruby(rails, Path(__file__).with_name("application.rb"), asked, "the OAuth application")
    secret = answer.get("secret")
    return Application(
        answer.get("uid"),
        tuple(answer.get("differs", ())),
        bool(answer.get("secret_fits")),
        Secret(secret) if secret else None,
    )


def _through_api(site: Site, wanted: Registration, known: Credentials | None, repair: bool) -> Application:
    with api(site) as gitlab:
        found = [one for one in gitlab.applications.list(iterator=True) if one.application_name == wanted.name]
        mine = next((one for one in found if known and one.application_id == known[0]), found[0] if found else None)
        differs = [] if mine is None else _differs(wanted, mine)
        if not repair:
            return Application(mine.application_id if mine else None, tuple(differs), None)
        if mine is not None and differs:  # the API can make and remove applications, but not change one
            gitlab.applications.delete(mine.id)
            mine = None
        if mine is None:
            asked = {"name": wanted.name, "redirect_uri": "\n".join(wanted.redirect_uris), "scopes": wanted.scopes}
            made: Any = gitlab.applications.create({**asked, "confidential": True})
        else:
            made = gitlab.http_post(f"/applications/{mine.id}/renew-secret")
    answer = made if isinstance(made, dict) else made.attributes
    return Application(str(answer["application_id"]), (), True, Secret(str(answer["secret"])))


def _differs(wanted: Registration, found: Any) -> list[str]:
    differs = []
    if set(str(found.callback_url).split()) != set(wanted.redirect_uris):
        differs.append("redirect_uri")
    if not found.confidential:
        differs.append("confidential")
    return differs
