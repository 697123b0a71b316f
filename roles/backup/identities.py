"""Whether the people of a copy are the same people in GitLab: Mattermost knows them by GitLab's user id alone.

A copy beside a GitLab with other ids logs people in as somebody else (mattermost issue #2363).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gitlab
from pyinfra.api.host import Host

from roles.backup.report import Result
from roles.mattermost.gitlab import api, run_ruby
from roles.site.errors import StepError
from roles.site.models import Site

NAME = "sign-on identities, in GitLab"
"""Name of the check."""
_PROGRAM = Path(__file__).with_name("identities.rb")
_SHOWN = 5


def check(site: Site, rails: Host, identities: Sequence[Mapping[str, str]]) -> Result:
    """Ask GitLab about everybody who signs on through it.

    Args:
        site: the site.
        rails: a Rails node, for when there is no token.
        identities: `username`, `email`, `authdata` of each, as Mattermost has them.
    """
    expected = f"{len(identities)} people, each with their own id in GitLab"
    ids = sorted({int(one["authdata"]) for one in identities if one["authdata"].isdigit()})
    try:
        found = _ask(site, rails, ids) if ids else {}
    except StepError as error:
        return Result(name=NAME, expected=expected, found=f"GitLab could not be asked: {error}", ok=False)
    wrong = [problem for one in identities if (problem := _problem(one, found))]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    told = "; ".join(wrong[:_SHOWN]) + more
    return Result(name=NAME, expected=expected, found=told or expected, ok=not wrong)


def _problem(one: Mapping[str, str], found: Mapping[int, tuple[str, str]]) -> str:
    """Why this is not the same person; a name or an address may have changed since, but not both."""
    who = f"{one['username']} ({one['authdata']})"
    if not one["authdata"].isdigit():
        return f"{who} has no id of GitLab's"
    there = found.get(int(one["authdata"]))
    if there is None:
        return f"{who} is nobody in GitLab"
    same = {one["username"].lower(), one["email"].lower()} & {word.lower() for word in there}
    return "" if same else f"{who} is {there[0]} in GitLab"


def _ask(site: Site, rails: Host, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    chat = site.mattermost
    if chat and chat.sign_on and chat.sign_on.api_token:
        found = {}
        with api(site) as client:
            for number in ids:
                try:
                    user = client.users.get(number)
                except gitlab.GitlabGetError as error:
                    if error.response_code != 404:
                        raise
                    continue
                found[number] = (str(user.username), str(getattr(user, "email", "") or ""))
        return found
    answer = run_ruby(rails, _PROGRAM, {"ids": list(ids)}, "who signs on")
    return {int(number): (str(name), str(email)) for number, name, email in answer["users"]}
