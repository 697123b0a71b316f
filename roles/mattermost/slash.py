"""Slash commands for GitLab projects: a command in Mattermost, and its token in the project's integration in GitLab."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pyinfra.api.host import Host

from roles.mattermost import server
from roles.mattermost.gitlab import api, run_ruby
from roles.mattermost.settings import SlashCommandSettings
from roles.node import remote
from roles.site.errors import StepError

if TYPE_CHECKING:
    from roles.rollout.mattermost import MattermostRun

INTEGRATION = "mattermost-slash-commands"
"""Name of the integration in GitLab's API (lib/api/helpers/integrations_helpers.rb)."""


def url(run: MattermostRun, project: str) -> str:
    """Where Mattermost posts the command to."""
    base = run.site.gitlab.external_url.rstrip("/")
    return f"{base}/api/v4/projects/{quote(project, safe='')}/integrations/mattermost_slash_commands/trigger"


def look(run: MattermostRun) -> list[str]:
    """What is not as declared, in words; empty when all is."""
    out = []
    for project, wanted in run.settings.slash_commands.items():
        found = _find(run.server, wanted)
        if found is None or found.get("url") != url(run, project):
            out.append(f"/{wanted.trigger} in team {wanted.team} is not there for {project}")
        elif not _taken(run, project, str(found.get("token"))):
            out.append(f"GitLab does not take /{wanted.trigger} for {project}")
    return out


def _find(host: Host, wanted: SlashCommandSettings) -> dict[str, Any] | None:
    """The command of that word in that team."""
    code, team = server.request(host, "GET", f"/api/v4/teams/name/{wanted.team}")
    if code != 200:
        return None
    _, commands = server.request(host, "GET", f"/api/v4/commands?team_id={team['id']}&custom_only=true")
    mine = [one for one in commands if one.get("trigger") == wanted.trigger] if isinstance(commands, list) else []
    return dict(mine[0]) if mine else None


def _taken(run: MattermostRun, project: str, token: str) -> bool:
    """GitLab takes the token, asked as Mattermost asks; to a stranger it only says how to connect."""
    words = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20"]
    words += ["--data", "@-", "--", url(run, project)]
    body = f"token={token}&team_id=none&team_domain=none&user_id=none&user_name=pyinfra-gitlab&command=%2Fx&text=help"
    got = remote.run(run.server, " ".join(shlex.quote(word) for word in words), stdin=body)
    return got.stdout.strip() in ("200", "201")


def configure(run: MattermostRun, host: Host) -> None:
    """Make team and command where they are absent, give GitLab the token, and try it.

    Raises:
        StepError: with cause and cure.
    """
    for project, wanted in run.settings.slash_commands.items():
        command = _command(run, host, project, wanted)
        if _taken(run, project, command["token"]):
            continue
        _tell_gitlab(run, project, command["token"])
        if not _taken(run, project, command["token"]):
            raise StepError(
                f"GitLab does not take /{wanted.trigger} at {url(run, project)}: can this node reach it, and is the "
                "integration allowed for the project (Settings > Integrations)?"
            )


def _command(run: MattermostRun, host: Host, project: str, wanted: SlashCommandSettings) -> dict[str, Any]:
    admin = run.settings.admin
    assert admin is not None
    code, team = server.request(host, "GET", f"/api/v4/teams/name/{wanted.team}")
    if code == 404:
        made = {"name": wanted.team, "display_name": wanted.team, "type": "I"}
        team = server.demand(host, "POST", "/api/v4/teams", made, what=f"the team {wanted.team} was not made")
    user = server.demand(host, "GET", f"/api/v4/users/username/{admin.username}", what="the administrator")
    found = _find(host, wanted)
    declared = {
        "team_id": team["id"],
        "creator_id": user["id"],
        "trigger": wanted.trigger,
        "method": "P",
        "url": url(run, project),
        "display_name": f"GitLab {project}",
        "auto_complete": True,
        "auto_complete_hint": "help",
        "auto_complete_desc": f"Work with {project} in GitLab",
    }
    what = f"the command /{wanted.trigger}"
    if found is None:
        return dict(server.demand(host, "POST", "/api/v4/commands", declared, what=what))
    if found.get("url") == declared["url"]:
        return found
    return dict(server.demand(host, "PUT", f"/api/v4/commands/{found['id']}", {**found, **declared}, what=what))


def _tell_gitlab(run: MattermostRun, project: str, token: str) -> None:
    if run.settings.sign_on and run.settings.sign_on.api_token:
        with api(run.site) as gitlab:
            gitlab.projects.get(project, lazy=False).integrations.update(INTEGRATION, {"token": token})
        return
    asked = {"project": project, "token": token}
    if not run_ruby(run.rails, Path(__file__).with_name("integration.rb"), asked, f"the project {project}")["found"]:
        raise StepError(f"there is no project {project} in GitLab. Correct mattermost.slash_commands.")
