"""The stand-in is an OAuth provider like GitLab: sign-in, codes, tokens, the API and `gitlab-rails runner`.

Real web servers (puma) and a real HTTP client; no root needed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import gitlab as python_gitlab
import pytest

from tests.lab.gitlab_standin.oauth_client import CALLBACK, App, Gitlab, password, running
from tests.lab.gitlab_standin.test_standin import Node


@pytest.fixture(scope="module")
def gitlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gitlab]:
    with running(tmp_path_factory.mktemp("gitlab") / "node") as gitlab:
        yield gitlab


@pytest.fixture(scope="module")
def trusted(gitlab: Gitlab) -> App:
    return gitlab.app("trusted")


@pytest.fixture(scope="module")
def asked(gitlab: Gitlab) -> App:
    """An application that the user is asked about."""
    return gitlab.app("asked", trusted="false")


@pytest.fixture(scope="module")
def api(gitlab: Gitlab) -> python_gitlab.Gitlab:
    return python_gitlab.Gitlab(f"http://127.0.0.1:{gitlab.ports[0]}", private_token=gitlab.personal_token("root"))


# --- signing in ----------------------------------------------------------------------------------


def test_the_folder_is_for_git_alone_and_survives(gitlab: Gitlab) -> None:
    assert gitlab.state.parent.stat().st_mode & 0o777 == 0o700
    gitlab.ruby("User.first")
    before = gitlab.state.read_bytes()
    assert gitlab.node.ctl("reconfigure").returncode == 0
    assert gitlab.state.read_bytes() == before


def test_a_node_without_rails_has_no_such_folder(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.ok("roles ['gitaly_role']\n")
    assert not (node.root / "var/opt/gitlab/standin-shared").exists()


def test_the_folder_may_be_another_one(gitlab: Gitlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_SHARED", str(tmp_path / "shared"))
    gitlab.ruby("User.first.update!(name: 'Somebody')")
    assert "Somebody" in (tmp_path / "shared/state.json").read_text()
    assert "Somebody" not in gitlab.state.read_text()


def test_writing_at_the_same_time_loses_nothing(gitlab: Gitlab) -> None:
    """Processes, as the nodes are: only the lock on the file keeps them apart."""
    code = (
        "40.times { |n| User.first.personal_access_tokens"
        ".create!(name: 'crowd', scopes: ['api'], expires_at: 2.days.from_now) }"
    )
    threads = [threading.Thread(target=gitlab.ruby, args=(code,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = gitlab.ruby("puts PersonalAccessToken.where(name: 'crowd').pluck(:id)")
    assert len(set(ids)) == 160


def test_the_whole_flow_over_two_servers(gitlab: Gitlab, trusted: App) -> None:
    """Each request goes to another server than the one before it."""
    browser = gitlab.browser()
    first = browser.authorize(trusted.uid)
    assert (first.status, first.location[-14:]) == (302, "/users/sign_in")
    assert "HttpOnly" in first.headers["set-cookie"]
    signed_in = browser.sign_in("alice")
    assert signed_in.status == 302
    assert "/oauth/authorize?response_type=code" in signed_in.location
    back = browser.get(signed_in.location.partition("/oauth")[1] + signed_in.location.partition("/oauth")[2])
    assert back.status == 200  # a page with a script, not a 302: as in GitLab
    assert back.target()["state"] == "s&1"
    answer = browser.token(trusted, back.target()["code"])
    assert answer.status == 200
    token = answer.json()
    assert (token["token_type"], token["expires_in"], token["scope"]) == ("Bearer", 7200, "read_user")
    assert isinstance(token["created_at"], int)
    user = gitlab.browser().get("/api/v4/user", Authorization=f"Bearer {token['access_token']}")
    assert user.status == 200
    fields = ("id", "username", "name", "email", "state")
    assert [user.json()[name] for name in fields] == [42, "alice", "Alice Liddell", "alice@lab.test", "active"]
    for secret in (token["access_token"], token["refresh_token"], trusted.secret):
        assert str(secret) not in gitlab.state.read_text()


def test_a_wrong_password_and_a_blocked_user(gitlab: Gitlab) -> None:
    wrong = gitlab.browser().sign_in("alice", "wrong")
    assert (wrong.status, "Invalid login or password." in wrong.text) == (200, True)
    blocked = gitlab.browser().sign_in("bob")
    assert (blocked.status, "Your account has been blocked." in blocked.text) == (200, True)
    assert 'name="user[password]"' in blocked.text
    assert "blocked" not in gitlab.browser().sign_in("bob", "wrong").text


def test_a_form_without_its_token_is_refused(gitlab: Gitlab) -> None:
    browser = gitlab.browser()
    browser.get("/users/sign_in")
    login = {"user[login]": "alice", "user[password]": password("alice")}
    assert browser.post("/users/sign_in", authenticity_token="x", **login).status == 422
    assert browser.get("/").location == "/users/sign_in"


def test_signing_in_changes_the_cookie_and_signing_out_ends_it(gitlab: Gitlab) -> None:
    browser = gitlab.browser()
    browser.get("/users/sign_in")
    (before,) = [cookie.value for cookie in browser.jar]
    browser.sign_in("alice@lab.test", password("alice"))
    (after,) = [cookie.value for cookie in browser.jar]
    assert before != after
    home = browser.get("/")
    assert "Signed in as alice" in home.text
    assert browser.post("/users/sign_out", **home.fields()).status == 302
    assert browser.get("/").status == 302


# --- /oauth/authorize ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"client_id": "nobody"}, "Client authentication failed due to unknown client"),
        ({"client_id": ""}, "Missing required parameter: client_id."),
        ({"redirect_uri": "http://evil.lab/"}, "The redirect URI included is not valid."),
        ({"redirect_uri": f"{CALLBACK}/more"}, "The redirect URI included is not valid."),
        ({"response_type": "token"}, "The authorization server does not support this response type."),
        ({"scope": "api"}, "The requested scope is invalid, unknown, or malformed."),
        ({"code_challenge": "x"}, "The code challenge method must be plain or S256."),
    ],
)
def test_what_cannot_be_authorized_is_a_page(gitlab: Gitlab, trusted: App, changes: dict[str, str], text: str) -> None:
    """Status 200, as GitLab's own specs have it. Only after signing in: before, the parameters are not looked at."""
    browser = gitlab.browser()
    assert browser.authorize(**{"client_id": trusted.uid, **changes}).status == 302
    browser.sign_in("alice")
    page = browser.authorize(**{"client_id": trusted.uid, **changes})
    assert (page.status, text in page.text) == (200, True)
    assert "code=" not in page.text


def test_without_a_scope_it_is_api_or_nothing(gitlab: Gitlab) -> None:
    browser = gitlab.browser()
    browser.sign_in("alice")
    wide, narrow = gitlab.app("wide", scopes="'api read_user'"), gitlab.app("narrow")
    code = browser.authorize(wide.uid, scope="").target()["code"]
    assert browser.token(wide, code).json()["scope"] == "api"
    assert "The requested scope is invalid" in browser.authorize(narrow.uid, scope="").text


def test_the_other_lines_of_the_redirect_uri(gitlab: Gitlab) -> None:
    app = gitlab.app("lines", redirect_uri=f'"http://mattermost.lab/login/gitlab/complete\\n{CALLBACK}"')
    assert gitlab.code(app)


def test_the_user_is_asked_once(gitlab: Gitlab, asked: App) -> None:
    browser = gitlab.browser()
    browser.sign_in("alice")
    form = browser.authorize(asked.uid)
    assert "Authorize asked to use your account?" in form.text
    denied = browser.post("/oauth/authorize", **{**form.fields(), "_method": "delete"})
    assert (denied.status, denied.target()["error"], denied.target()["state"]) == (302, "access_denied", "s&1")
    assert browser.post("/oauth/authorize", **{**form.fields(), "authenticity_token": ""}).status == 422
    allowed = browser.post("/oauth/authorize", **form.fields())
    assert (allowed.status, allowed.target()["state"]) == (302, "s&1")
    assert "Authorize asked" in browser.authorize(asked.uid).text
    assert browser.token(asked, allowed.target()["code"]).status == 200
    assert browser.authorize(asked.uid).target()["code"]


def test_a_bad_scope_in_the_form_goes_back_to_the_application(gitlab: Gitlab, asked: App) -> None:
    browser = gitlab.browser()
    browser.sign_in("root")
    form = browser.authorize(asked.uid).fields()
    answer = browser.post("/oauth/authorize", **{**form, "scope": "api"})
    assert (answer.status, answer.target()["error"]) == (302, "invalid_scope")
    assert browser.request("DELETE", "/oauth/authorize", form).target()["error"] == "access_denied"
    assert browser.post("/oauth/authorize", **{**form, "redirect_uri": "http://evil.lab/"}).status == 200


# --- /oauth/token --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"client_secret": "wrong", "code": "bogus"}, 401, "invalid_client"),
        ({"code": "bogus"}, 400, "invalid_grant"),
        ({"redirect_uri": "http://other.lab/"}, 400, "invalid_grant"),
        ({"redirect_uri": ""}, 400, "invalid_request"),
        ({"grant_type": "magic"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
    ],
)
def test_no_token(gitlab: Gitlab, trusted: App, changes: dict[str, str], status: int, error: str) -> None:
    code = gitlab.code(trusted)
    answer = gitlab.browser().token(trusted, **{"code": code, **changes})
    assert (answer.status, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]
    assert error in answer.headers["www-authenticate"]
    assert gitlab.browser().token(trusted, code).status == 200  # the code is still good


def test_a_code_works_once_for_its_own_application(gitlab: Gitlab, trusted: App, asked: App) -> None:
    code = gitlab.code(trusted)
    browser = gitlab.browser()
    assert browser.token(asked, code).json()["error"] == "invalid_grant"
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda port=port: answers.append(gitlab.browser(port).token(trusted, code).status))
        for port in gitlab.ports * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, *[400] * 7]


def _age(gitlab: Gitlab, table: str, seconds: int) -> None:
    """Makes the last row of a table older. (Nothing is kept in memory, so the servers notice.)"""
    gitlab.ruby(
        f"StandinApp::State.transaction {{ |d| r = d['{table}'].last;"
        f" r['created_at'] = (Time.parse(r['created_at']) - {seconds}).utc.iso8601(3) }}"
    )


@pytest.mark.parametrize(("seconds", "status"), [(590, 200), (601, 400)])
def test_a_code_is_good_for_ten_minutes(gitlab: Gitlab, trusted: App, seconds: int, status: int) -> None:
    code = gitlab.code(trusted)
    _age(gitlab, "oauth_access_grants", seconds)
    assert gitlab.browser().token(trusted, code).status == status


def test_http_basic(gitlab: Gitlab, trusted: App) -> None:
    data = {"grant_type": "authorization_code", "code": gitlab.code(trusted)}
    for secret, status in (("wrong", 401), (trusted.secret, 200)):
        basic = base64.b64encode(f"{trusted.uid}:{secret}".encode()).decode()
        answer = gitlab.browser().request(
            "POST", "/oauth/token", {**data, "redirect_uri": CALLBACK}, {"Authorization": f"Basic {basic}"}
        )
        assert answer.status == status


def test_pkce(gitlab: Gitlab, trusted: App) -> None:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"verifier").digest()).rstrip(b"=").decode()
    code = gitlab.code(trusted, code_challenge=challenge, code_challenge_method="S256")
    browser = gitlab.browser()
    assert browser.token(trusted, code).json()["error"] == "invalid_request"
    assert browser.token(trusted, code, code_verifier="other").json()["error"] == "invalid_grant"
    assert browser.token(trusted, code, code_verifier="verifier").status == 200


def test_refreshing(gitlab: Gitlab, trusted: App, asked: App) -> None:
    browser = gitlab.browser()
    old = browser.token(trusted, gitlab.code(trusted)).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": str(old["refresh_token"])}
    assert browser.token(trusted, "", **refresh, client_secret="wrong").json()["error"] == "invalid_client"
    assert browser.token(asked, "", **refresh).json()["error"] == "invalid_grant"
    new = browser.token(trusted, "", **refresh)
    assert new.status == 200
    assert browser.get("/api/v4/user", Authorization=f"Bearer {old['access_token']}").status == 200
    assert browser.get("/api/v4/user", Authorization=f"Bearer {new.json()['access_token']}").status == 200
    gone = browser.get("/api/v4/user", Authorization=f"Bearer {old['access_token']}")
    assert (gone.status, "Token was revoked" in gone.text) == (401, True)
    assert browser.token(trusted, "", **refresh).json()["error"] == "invalid_grant"


# --- the API -------------------------------------------------------------------------------------


def test_who_may_ask_who_he_is(gitlab: Gitlab, trusted: App) -> None:
    browser = gitlab.browser()
    for answer in (browser.get("/api/v4/user"), browser.get("/api/v4/user", Authorization="Bearer x")):
        assert (answer.status, answer.json()) == (401, {"message": "401 Unauthorized"})
    other = gitlab.personal_token("alice", "['read_repository']")
    refused = browser.get("/api/v4/user", PRIVATE_TOKEN=other)
    assert (refused.status, refused.json()["error"]) == (403, "insufficient_scope")
    mine = gitlab.personal_token("alice", "['read_user']")
    assert browser.get("/api/v4/user", PRIVATE_TOKEN=mine).json()["username"] == "alice"
    assert browser.get("/api/v4/user", Authorization=f"Bearer {mine}").json()["id"] == 42
    blocked = browser.get("/api/v4/user", PRIVATE_TOKEN=gitlab.personal_token("bob"))
    assert (blocked.status, "blocked" in blocked.text) == (403, True)


def test_an_access_token_ends_after_two_hours(gitlab: Gitlab, trusted: App) -> None:
    browser = gitlab.browser()
    token = browser.token(trusted, gitlab.code(trusted)).json()["access_token"]
    _age(gitlab, "oauth_access_tokens", 7201)
    answer = browser.get("/api/v4/user", Authorization=f"Bearer {token}")
    assert (answer.status, answer.json()["error"]) == (401, "invalid_token")


def test_users(api: python_gitlab.Gitlab) -> None:
    assert [user.id for user in api.users.list(username="Alice", get_all=True)] == [42]
    assert [user.username for user in api.users.list(search="o", get_all=True)] == ["bob", "alice", "root"][::2]
    assert api.users.get(42).email == "alice@lab.test"
    with pytest.raises(python_gitlab.GitlabGetError, match="404"):
        api.users.get(7)


def test_the_pages_of_a_list(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    assert len(api.users.list(per_page=1, get_all=True)) == 3
    second = gitlab.browser().get("/api/v4/users?per_page=2&page=2", PRIVATE_TOKEN=api.private_token or "")
    names = ("x-total", "x-total-pages", "x-page", "x-next-page", "x-prev-page")
    assert [second.headers[name] for name in names] == ["3", "2", "2", "", "1"]
    assert 'rel="next"' not in second.headers["link"]
    assert len(json.loads(second.text)) == 1


def test_the_version(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    assert api.version()[0] == "18.11.11-ee"
    assert gitlab.browser().get("/api/v4/version").status == 401


def test_the_life_of_an_application(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    made = api.applications.create({"name": "mattermost", "redirect_uri": CALLBACK, "scopes": "read_user openid"})
    assert made.application_name == "mattermost"
    assert (made.callback_url, made.confidential) == (CALLBACK, True)
    (listed,) = [each for each in api.applications.list(get_all=True) if each.id == made.id]
    assert listed.application_id == made.application_id
    assert "secret" not in listed.attributes
    app = App(made.application_id, made.secret)
    bogus = gitlab.browser().token(app, "bogus")
    assert bogus.json()["error"] == "invalid_grant"  # so the secret is right
    renewed = api.http_post(f"/applications/{made.id}/renew-secret")
    assert gitlab.browser().token(app, "bogus").json()["error"] == "invalid_client"
    app.secret = renewed["secret"]
    assert gitlab.browser().token(app, "bogus").json()["error"] == "invalid_grant"
    api.applications.delete(made.id)
    assert gitlab.browser().token(app, "bogus").json()["error"] == "invalid_client"
    with pytest.raises(python_gitlab.GitlabDeleteError, match="404 Application Not Found"):
        api.applications.delete(made.id)


def test_the_api_trusts_no_application(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    data = {"name": "sly", "redirect_uri": CALLBACK, "scopes": "api", "trusted": True}
    made = api.http_post("/applications", post_data=data)
    assert gitlab.ruby(f"p Authn::OauthApplication.find({made['id']}).trusted") == ["false"]


def test_all_applications_come_at_once(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    """As in GitLab (lib/api/applications.rb): this list has no pages, and page 2 of it is all of them again."""
    gitlab.app("one more")
    gitlab.app("and another")
    answer = gitlab.browser().get("/api/v4/applications?per_page=1&page=2", PRIVATE_TOKEN=api.private_token or "")
    assert len(json.loads(answer.text)) >= 2
    assert answer.headers["x-next-page"] is None


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"redirect_uri": "http://"}, {"message": {"redirect_uri": ["must be a valid URI."]}}),
        ({"redirect_uri": "javascript://x"}, {"message": {"redirect_uri": ["is forbidden by the server."]}}),
        ({"redirect_uri": "mattermost.lab"}, {"message": {"redirect_uri": ["must be an absolute URI."]}}),
        ({"redirect_uri": "http://a/#b"}, {"message": {"redirect_uri": ["cannot contain a fragment."]}}),
        ({"scopes": "api nonsense"}, {"message": {"scopes": ["doesn't match configured on the server."]}}),
        ({"scopes": ""}, {"error": "scopes is empty"}),
        ({"name": None}, {"error": "name is missing"}),
    ],
)
def test_an_invalid_application(
    gitlab: Gitlab, api: python_gitlab.Gitlab, changes: dict[str, str | None], answer: dict[str, object]
) -> None:
    data = {"name": "wrong", "redirect_uri": CALLBACK, "scopes": "api", **changes}
    sent = {name: value for name, value in data.items() if value is not None}
    token = {"PRIVATE-TOKEN": api.private_token or ""}
    refused = gitlab.browser().request("POST", "/api/v4/applications", sent, token)
    assert (refused.status, refused.json()) == (400, answer)


def test_only_an_administrator_manages_applications(gitlab: Gitlab) -> None:
    browser = gitlab.browser()
    refused = browser.get("/api/v4/applications", PRIVATE_TOKEN=gitlab.personal_token("alice"))
    assert (refused.status, refused.json()) == (403, {"message": "403 Forbidden"})
    narrow = browser.get("/api/v4/applications", PRIVATE_TOKEN=gitlab.personal_token("root", "['read_user']"))
    assert (narrow.status, narrow.json()["error"]) == (403, "insufficient_scope")
    assert browser.get("/api/v4/applications").status == 401


# --- gitlab-rails runner -------------------------------------------------------------------------


def test_the_runner_finds_changes_and_renews(gitlab: Gitlab) -> None:
    app = gitlab.app("by runner")
    find = "a = Doorkeeper::Application.find_by(name: 'by runner');"
    shown = f"{find} puts a.uid, a.scopes.to_s; p a.secret_matches?('{app.secret}'), a.plaintext_secret"
    assert gitlab.ruby(shown) == [app.uid, "read_user", "true", "nil"]
    assert gitlab.ruby(f"{find} a.update!(trusted: false, scopes: 'openid'); p a.reload.trusted?") == ["false"]
    secret = gitlab.ruby(f"{find} a.renew_secret; a.save!; puts a.plaintext_secret")[0]
    assert gitlab.browser().token(App(app.uid, secret), "bogus").json()["error"] == "invalid_grant"
    assert gitlab.browser().token(app, "bogus").json()["error"] == "invalid_client"
    assert gitlab.ruby("puts Authn::OauthApplication.where(name: 'by runner').first.uid") == [app.uid]
    gitlab.ruby(f"{find} a.destroy!")
    assert gitlab.ruby("p Authn::OauthApplication.find_by(name: 'by runner')") == ["nil"]


def test_the_runner_takes_a_file_and_standard_input(gitlab: Gitlab) -> None:
    script = gitlab.node.root / "script.rb"
    script.write_text("puts User.find_by(username: ARGV[0]).id")
    assert gitlab.runner("", str(script), "alice").stdout == "42\n"
    assert gitlab.runner("puts User.count", "-").stdout == "3\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "Authn::OauthApplication.create!(name: '', redirect_uri: 'http://', scopes: 'x')",
            "Validation failed: Name can't be blank, Redirect URI must be a valid URI., "
            "Scopes doesn't match configured on the server. (ActiveRecord::RecordInvalid)",
        ),
        (
            "User.first.personal_access_tokens.create!(name: 'x', scopes: ['api'])",
            "Validation failed: Expires at can't be blank (ActiveRecord::RecordInvalid)",
        ),
        ("Authn::OauthApplication.create!(nam: 'x')", "unknown attribute 'nam' for Authn::OauthApplication."),
        ("Issue.first", "uninitialized constant Issue (NameError)"),
        ("User.first.projects", "undefined method `projects'"),
        ("name", "undefined local variable or method `name'"),
    ],
)
def test_what_the_runner_refuses(gitlab: Gitlab, code: str, words: str) -> None:
    result = gitlab.runner(code, "-")
    assert result.returncode != 0
    assert words in result.stderr
    assert result.stdout == ""


def test_a_token_with_a_text_of_ones_own(gitlab: Gitlab) -> None:
    gitlab.ruby(
        "t = User.find_by(username: 'root').personal_access_tokens"
        ".build(name: 'mine', scopes: [:api], expires_at: 1.month.from_now); t.set_token('glpat-mine'); t.save!"
    )
    assert gitlab.browser().get("/api/v4/user", PRIVATE_TOKEN="glpat-mine").json()["is_admin"] is True
    assert "glpat-mine" not in gitlab.state.read_text()


def test_only_the_runner(gitlab: Gitlab) -> None:
    result = gitlab.node.ruby(str(gitlab.node.root / "opt/gitlab/bin/gitlab-rails"), "console")
    assert result.returncode == 1
    assert "STAND-IN" in result.stderr


# --- a project and its slash commands -------------------------------------------------------------


def test_slash_commands_of_a_project(gitlab: Gitlab, api: python_gitlab.Gitlab) -> None:
    project = api.projects.get("mygroup/myproject")
    assert (project.id, project.path_with_namespace) == (7, "mygroup/myproject")
    with pytest.raises(python_gitlab.GitlabGetError, match="404"):
        api.projects.get("mygroup/other")
    with pytest.raises(python_gitlab.GitlabGetError, match="404 Integration Not Found"):
        project.integrations.get("mattermost-slash-commands")
    project.integrations.update("mattermost-slash-commands", {"token": "by-api"})
    assert project.integrations.get("mattermost-slash-commands").slug == "mattermost-slash-commands"
    trigger = "/api/v4/projects/mygroup%2Fmyproject/integrations/mattermost_slash_commands/trigger"
    browser = gitlab.browser()
    assert browser.post(trigger, token="wrong", text="help").status == 404
    answer = browser.post(trigger, token="by-api", text="issue show 1")
    assert (answer.status, answer.json()["text"]) == (200, "mygroup/myproject was asked: issue show 1")
    code = (
        "project = Project.find_by_full_path('mygroup/myproject')\n"
        "one = project.find_or_initialize_integration('mattermost_slash_commands')\n"
        "one.assign_attributes(active: true, token: 'by-runner'); one.save!; p one.token"
    )
    assert gitlab.ruby(code)
    assert browser.post(trigger, token="by-api", text="help").status == 404
    assert browser.post(trigger, token="by-runner", text="help").status == 200
