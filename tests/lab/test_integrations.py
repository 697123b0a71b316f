"""The GitLab plugin and slash commands. The plugin's bundle is the lab's own (there is none of the real one here): what
is proven is how it is brought, configured and enabled, not what the real one does with it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from roles.mattermost.settings import PLUGIN
from tests.lab.site import LabSite
from tests.lab.test_mattermost import admin

pytestmark = pytest.mark.lab

CONFIG = "/var/lib/mattermost/config/config.json"


def bundle(path: Path, version: str = "1.10.0") -> str:
    """A plugin with the real one's id; returns its SHA-256."""
    manifest = {"id": PLUGIN, "name": "GitLab", "version": version, "webapp": {"bundle_path": "webapp/main.js"}}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("plugin.json", json.dumps(manifest)), ("webapp/main.js", "// nothing\n")):
            info = tarfile.TarInfo(f"{PLUGIN}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def integrated(fresh: LabSite) -> LabSite:
    """The site with plugin and slash command."""
    path = fresh.folder / "plugin.tar.gz"
    fresh.write(
        fresh.original
        + f"""\
  gitlab_plugin:
    source: {path}
    sha256: {bundle(path)}
    credentials: !file secrets/mattermost_gitlab_plugin
    settings: {{gitlabgroup: mygroup, EnablePrivateRepo: true}}
  slash_commands:
    mygroup/myproject: {{team: engineering, trigger: myproject}}
"""
    )
    fresh.ok()
    return fresh


def kept(site: LabSite) -> dict[str, object]:
    """The plugin's settings in the server's config.json."""
    settings = json.loads(site.lab.sh("chat-1", f"cat {CONFIG}").stdout)["PluginSettings"]
    return dict(settings["Plugins"][PLUGIN])


def test_a_second_run_performs_no_operation(integrated: LabSite) -> None:
    assert "nothing to do for Mattermost" in integrated.ok().last_line
    assert "nothing to do for Mattermost" in integrated.ok(deploy="mattermost").last_line


def test_the_server_reports_the_plugin(integrated: LabSite) -> None:
    socket = "MMCTL_LOCAL_SOCKET_PATH=/run/mattermost/local.socket"
    shown = integrated.lab.sh("chat-1", f"{socket} /opt/mattermost/bin/mmctl --local plugin list").stdout
    assert f"{PLUGIN}: GitLab, Version: 1.10.0" in shown.partition("disabled")[0]
    found = kept(integrated)
    uid, secret = (integrated.folder / "secrets" / "mattermost_gitlab_plugin").read_text().split()
    assert (found["gitlaboauthclientid"], found["gitlaboauthclientsecret"]) == (uid, secret)
    assert (found["gitlaburl"], found["gitlabgroup"]) == ("https://gitlab.lab.test", "mygroup")
    assert len(str(found["encryptionkey"])) == len(str(found["webhooksecret"])) == 32
    code = f"puts Authn::OauthApplication.find_by(uid: '{uid}').redirect_uri"
    uri = integrated.lab.sh("gitlab-1", "gitlab-rails runner -", stdin=code).stdout.strip()
    assert uri == f"https://chat.lab.test/plugins/{PLUGIN}/oauth/complete"


def test_verify_sees_another_setting_and_a_run_puts_it_right(integrated: LabSite) -> None:
    assert integrated.verify().check("chat-1", "GitLab plugin")["verdict"] == "as declared"
    before = kept(integrated)
    others = {"other.plugin": {"key": "theirs"}}
    changed = {**before, "gitlabgroup": "other", "theirs": "kept"}
    patch = json.dumps({"PluginSettings": {"Plugins": {PLUGIN: changed, **others}}})
    script = "curl -s --unix-socket /run/mattermost/local.socket -X PUT --data @- http://x/api/v4/config/patch"
    integrated.lab.sh("chat-1", script, stdin=patch)
    found = integrated.verify().check("chat-1", "GitLab plugin")
    assert "gitlabgroup" in found["found"]
    integrated.ok(deploy="mattermost")
    assert kept(integrated) == {**before, "theirs": "kept"}, "the keys that were made once, and others' settings, stay"
    settings = json.loads(integrated.lab.sh("chat-1", f"cat {CONFIG}").stdout)["PluginSettings"]["Plugins"]
    assert settings["other.plugin"] == {"key": "theirs"}


def test_another_bundle_is_brought(integrated: LabSite) -> None:
    path = integrated.folder / "plugin.tar.gz"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    new = bundle(path, "1.11.0")
    text = (integrated.folder / "site.yml").read_text()
    integrated.write(text.replace(old, "a" * 64))
    refused = integrated.run(deploy="mattermost")
    assert f"has SHA-256 {new}, declared is aaaa" in refused.last_line
    integrated.write(text.replace(old, new))
    assert "its bundle is another" in integrated.ok(deploy="mattermost").screen
    shown = integrated.lab.sh("chat-1", "curl -s --unix-socket /run/mattermost/local.socket http://x/api/v4/plugins")
    assert [one["version"] for one in json.loads(shown.stdout)["active"]] == ["1.11.0"]


def test_people_use_the_slash_command(integrated: LabSite) -> None:
    answer = admin(integrated, "slash", team="engineering", typed="/myproject issue show 1")
    assert "issue show 1" in answer["text"]


def test_a_token_that_gitlab_does_not_take_is_named_and_healed(integrated: LabSite) -> None:
    code = (
        "integration = Project.find_by_full_path('mygroup/myproject').mattermost_slash_commands_integration\n"
        "integration.token = 'other'; integration.save!"
    )
    integrated.lab.sh("gitlab-2", "gitlab-rails runner -", stdin=code)
    found = integrated.verify().check("chat-1", "slash commands")
    assert found["found"] == "GitLab does not take /myproject for mygroup/myproject"
    integrated.ok()
    assert integrated.verify().check("chat-1", "slash commands")["verdict"] == "as declared"
