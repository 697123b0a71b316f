"""The walk of a sign-on names the first step that fails and its cure; the OAuth application is found, made, repaired.

The walk runs against made-up answers of curl, and once against a real curl with a small GitLab. `application.rb` runs
in a real Ruby with a class in the place of GitLab's, the API way against a small HTTP server.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from roles.mattermost import application, sign_on
from roles.mattermost.application import Application
from roles.node.checks import Verdict
from roles.node.remote import Result
from roles.site.errors import StepError
from roles.site.secret import Secret
from tests.unit import chat_sites
from tests.unit.chat_sites import SECRET, UID

GITLAB, CHAT = "https://gitlab.example.com", "https://chat.example.com"
URIS = (f"{CHAT}/signup/gitlab/complete", f"{CHAT}/login/gitlab/complete")
NOW = 1_800_000_000
THERE = Application(UID, (), True)
KNOWN = (UID, Secret(SECRET))


def answer(status: int, body: str = "", **headers: str) -> str:
    """What `curl --include` prints."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return "\r\n".join(lines) + f"\r\n\r\n{body}"


def failed(rc: int, why: str) -> tuple[int, str]:
    return rc, f"curl: ({rc}) {why}\n"


def redirect(to=f"{GITLAB}/oauth/authorize", back=URIS[0], uid=UID) -> str:
    return answer(302, location=f"{to}?client_id={uid}&redirect_uri={quote(back, safe='')}&response_type=code&state=x")


DATE = formatdate(NOW, usegmt=True)
JSON = "application/json; charset=utf-8"
WELL = {
    "/oauth/authorize": answer(302, date=DATE, location=f"{GITLAB}/users/sign_in"),
    "/oauth/token": answer(400, json.dumps({"error": "invalid_grant"}), content_type=JSON),
    "/api/v4/user": answer(401, json.dumps({"message": "401 Unauthorized"}), content_type=JSON),
    "/oauth/gitlab/login": redirect(),
    "date": str(NOW),
}
STEPS = [
    "the way to gitlab.example.com (DNS, connection, TLS)",
    "clock",
    sign_on.WRONG_SECRET,
    sign_on.APPLICATION,
    "GET /api/v4/user with a wrong token",
    "the server's redirect to GitLab",
]


@pytest.fixture
def site(tmp_path):
    return chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON)


@pytest.fixture
def walk(site, monkeypatch):
    """Walk with some answers of the node replaced; what was asked is in `walk.run.asked`."""

    def go(found=THERE, known=KNOWN, site=site, **spoilt):
        answers = WELL | {key.replace("__", "/"): value for key, value in spoilt.items()}

        def act(command, stdin):
            if isinstance(answers["/oauth/authorize"], Result):
                return answers["/oauth/authorize"]
            lines = [answers["date"].strip()]
            for name, rest in re.findall(r"^ask (\w+) (.*)$", command, re.M):
                got = answers[next(key for key in WELL if key in rest)]
                rc, out, err = (0, got, "") if isinstance(got, str) else (got[0], "", got[1])
                packed = [base64.b64encode(part.encode()).decode() for part in (out, err)]
                lines.append("\t".join([name, str(rc), *packed]))
            return Result(True, "\n".join(lines) + "\n", "")

        go.run = chat_sites.Remote(act)
        monkeypatch.setattr("roles.mattermost.sign_on.remote.run", go.run)
        return sign_on.walk(site, chat_sites.host(), known, found)

    return go


def last(checks, subject):
    """The check that failed: of this subject, nothing behind it, all before it well."""
    assert [check.subject for check in checks] == STEPS[: STEPS.index(subject) + 1]
    assert all(check.ok for check in checks[:-1])
    assert not checks[-1].ok
    assert checks[-1].node == "chat-1"
    assert checks[-1].cure
    return checks[-1]


def test_all_is_well(walk):
    found = walk()
    assert [check.subject for check in found] == STEPS
    assert all(check.ok and check.cure == "" and check.node == "chat-1" for check in found)


def test_the_secret_is_in_no_command_and_in_no_check(walk):
    found = walk()
    assert [SECRET in stdin for _, _, stdin in walk.run.asked].count(True) == 1
    for node, command, stdin in walk.run.asked:
        assert node == "chat-1"
        assert SECRET not in command
        assert (SECRET in stdin) == (f"{GITLAB}/oauth/token" in command)
    assert SECRET not in repr(found)
    asked = next(parse_qs(stdin) for _, _, stdin in walk.run.asked if stdin)
    assert (asked["client_id"], asked["client_secret"]) == ([UID], [SECRET])
    assert asked["grant_type"] == ["authorization_code"]


def test_the_server_is_asked_as_nginx_asks_it(walk):
    walk()
    command = next(command for _, command, _ in walk.run.asked if "/oauth/gitlab/login" in command)
    assert "http://127.0.0.1:8065/oauth/gitlab/login" in command
    assert "'Host: chat.example.com'" in command
    assert "'X-Forwarded-Proto: https'" in command


@pytest.mark.parametrize(
    ("rc", "why", "cure"),
    [
        (5, "Could not resolve proxy: proxy", "proxy that the node uses"),
        (6, "Could not resolve host: gitlab.example.com", "DNS does not know this name"),
        (7, "Failed to connect to gitlab.example.com port 443", "Nothing listens there, or a firewall"),
        (28, "Connection timed out after 20001 milliseconds", "a firewall between this node and GitLab"),
        (35, "error:0A00010B:SSL routines::wrong version number", "is this the right port?"),
        (60, "SSL certificate problem: self-signed certificate", "update-ca-certificates"),
        (52, "Empty reply from server", "with curl and see"),
    ],
)
def test_gitlab_cannot_be_reached(walk, rc, why, cure):
    check = last(walk(__oauth__authorize=failed(rc, why)), STEPS[0])
    assert check.found == f"({rc}) {why}"
    assert cure in check.cure
    assert check.verdict is Verdict.DIFFERS


@pytest.mark.parametrize(
    "got", [Result(False, "", "the connection to chat-1 failed: EOF"), Result(False, "", ""), Result(True, "rc=", "")]
)
def test_the_node_cannot_be_asked(walk, got):
    check = last(walk(__oauth__authorize=got), STEPS[0])
    assert check.found == (got.stderr or "curl could not be run")


@pytest.mark.parametrize("off", [-60, 0, 60])
def test_clocks_that_are_near_enough(walk, off):
    found = walk(date=str(NOW + off))
    assert found[-1].ok
    assert found[1].found == f"{off:+.0f} s"


@pytest.mark.parametrize("off", [-61, 61, 86400])
def test_clocks_that_are_apart(walk, off):
    check = last(walk(date=f"{NOW + off}\n"), "clock")
    assert check.found == f"{off:+.0f} s"
    assert "NTP" in check.cure


@pytest.mark.parametrize("spoilt", [{"date": ""}, {"__oauth__authorize": answer(302, date="soon")}])
def test_a_clock_that_was_not_seen_is_no_pass(walk, spoilt):
    assert last(walk(**spoilt), "clock").verdict is Verdict.NOT_SEEN


def test_without_a_date_the_clock_is_left_out(walk):
    found = walk(__oauth__authorize=answer(200))
    assert [check.subject for check in found] == [step for step in STEPS if step != "clock"]


def test_there_are_no_credentials_yet(walk):
    check = last(walk(known=None), sign_on.WRONG_SECRET)
    assert check.found == "none"
    assert "deploys/mattermost.py" in check.cure


def test_gitlab_refuses_the_credentials(walk):
    refused = answer(401, json.dumps({"error": "invalid_client", "error_description": "…"}), content_type=JSON)
    check = last(walk(__oauth__token=refused), sign_on.WRONG_SECRET)
    assert check.found == "GitLab refuses them (invalid_client)"
    assert "renews its secret" in check.cure


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (answer(200, "<html>Welcome</html>", content_type="text/html"), "HTTP 200 without a reason"),
        (answer(404, "[]", content_type=JSON), "HTTP 404 without a reason"),
        (answer(502, "null", content_type=JSON), "HTTP 502 without a reason"),
        (answer(301, "", location="https://other.example.com"), "HTTP 301 without a reason"),
        (answer(400, '{"error": "unsupported"}', content_type=JSON), "unsupported"),
        (failed(7, "Failed to connect"), "(7) Failed to connect"),
    ],
)
def test_something_that_is_not_gitlab(walk, got, found):
    check = last(walk(__oauth__token=got), sign_on.WRONG_SECRET)
    assert check.found == found
    assert "does not answer as GitLab does" in check.cure


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (Application(None, (), None), "there is none of that name"),
        (Application(UID, ("redirect_uri",), True), "another redirect_uri"),
        (Application(UID, ("redirect_uri", "trusted"), True), "another redirect_uri, another trusted"),
    ],
)
def test_the_application_is_not_as_declared(walk, seen, found):
    check = last(walk(found=seen), sign_on.APPLICATION)
    assert check.found == found
    assert check.verdict is Verdict.DIFFERS
    assert "puts the application right" in check.cure
    assert all(uri in check.declared for uri in URIS)
    assert "trusted, scope read_user" in check.declared


def test_the_application_could_not_be_looked_at(walk):
    check = last(walk(found="gitlab-rails runner on gitlab-1 could not look"), sign_on.APPLICATION)
    assert check.verdict is Verdict.NOT_SEEN
    assert check.found == "gitlab-rails runner on gitlab-1 could not look"


def test_an_application_that_was_not_looked_at_is_left_out(walk):
    assert [check.subject for check in walk(found=None)] == [step for step in STEPS if step != sign_on.APPLICATION]


def test_through_the_api_nothing_is_claimed_that_it_does_not_tell(tmp_path, walk):
    api = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.API)
    check = last(walk(site=api, found=Application(UID, ("confidential",), None)), sign_on.APPLICATION)
    assert "trusted" not in check.declared
    assert "scope" not in check.declared


@pytest.mark.parametrize(
    ("got", "found", "cure"),
    [
        (answer(403, "{}", content_type=JSON), "HTTP 403", "IP restrictions"),
        (answer(429, "Retry later", content_type="text/plain"), "HTTP 429, no JSON", "rate"),
        (answer(404, "<html>", content_type="text/html"), "HTTP 404, no JSON", "gitlab.external_url"),
        (answer(401, "<html>", content_type="text/html"), "HTTP 401, no JSON", "not GitLab's API"),
        (answer(200, "{}", content_type=JSON), "HTTP 200", "not GitLab's API"),
        (failed(28, "Operation timed out"), "(28) Operation timed out", ""),
    ],
)
def test_the_user_api(walk, got, found, cure):
    check = last(walk(__api__v4__user=got), STEPS[4])
    assert check.found == found
    assert cure in check.cure


@pytest.mark.parametrize(
    ("got", "found", "cure"),
    [
        (redirect(back="http://chat.example.com/signup/gitlab/complete"), "http://chat", "what people type"),
        (redirect(back="https://old.example.com/signup/gitlab/complete"), "https://old", "what people type"),
        (redirect(back=""), f"{GITLAB}/oauth/authorize with ", "what people type"),
        (redirect(back=URIS[1]), URIS[1], "run deploys/mattermost.py"),
        (redirect(to="https://other.example.com/oauth/authorize"), "https://other.example.com", "other settings"),
        (redirect(to=f"{GITLAB}/oauth/token"), f"{GITLAB}/oauth/token", "other settings"),
        (redirect(uid="0" * 64), GITLAB, "other settings"),
        (answer(302, location=f"{CHAT}/error?type=oauth_missing_code"), "HTTP 302, no redirect to GitLab", "edition"),
        (answer(302), "HTTP 302, no redirect to GitLab", "edition"),
        (answer(200, "<html>"), "HTTP 200, no redirect to GitLab", "edition"),
        (answer(501, "{}"), "HTTP 501, no redirect to GitLab", "edition"),
        (failed(7, "Failed to connect to 127.0.0.1"), "(7) Failed to connect", "journalctl"),
    ],
)
def test_the_servers_redirect(walk, got, found, cure):
    check = last(walk(__oauth__gitlab__login=got), STEPS[5])
    assert found in check.found
    assert cure in check.cure
    assert URIS[0] in check.declared


def test_another_client_id_can_be_told_from_what_is_declared(walk):
    check = last(walk(__oauth__gitlab__login=redirect(uid="0" * 64)), STEPS[5])
    assert check.found != check.declared


def test_through_a_proxy_the_answer_is_that_behind_it(walk):
    assert all(check.ok for check in walk(__api__v4__user=answer(200) + WELL["/api/v4/user"]))


@pytest.mark.parametrize("version", ["HTTP/1.1 100 Continue", "HTTP/1.1 103 Early Hints"])
def test_what_comes_before_an_answer_is_no_answer(walk, version):
    assert all(check.ok for check in walk(__api__v4__user=f"{version}\r\n\r\n" + WELL["/api/v4/user"]))


def test_what_comes_before_an_answer_in_http2_is_no_answer(walk):
    hints = "HTTP/2 103 \r\nlink: </x.css>; rel=preload\r\n\r\n" + WELL["/oauth/authorize"].replace(
        "HTTP/1.1", "HTTP/2"
    )
    assert [check.subject for check in walk(__oauth__authorize=hints)] == STEPS


def test_an_echo_of_the_secret_is_masked(walk):
    echo = answer(400, json.dumps({"error": f"cannot read client_id={UID}&client_secret={SECRET}"}), content_type=JSON)
    check = last(walk(__oauth__token=echo), sign_on.WRONG_SECRET)
    assert SECRET not in check.sentence()


# --- a real curl, and a small GitLab ---


class Small(BaseHTTPRequestHandler):
    """GitLab's OAuth and API, and the chat server, as far as they are asked."""

    def log_message(self, *words):
        pass

    def reply(self, status, body="", **headers):
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/oauth/gitlab/login":
            at = f"http://{self.server.server_address[0]}:{self.server.server_port}/oauth/authorize"
            back = f"{self.headers['X-Forwarded-Proto']}://{self.headers['Host']}/signup/gitlab/complete"
            self.reply(302, location=f"{at}?client_id={UID}&redirect_uri={quote(back, safe='')}")
        elif url.path == "/api/v4/user":
            self.reply(401, '{"message": "401"}\n\nrc=7\n', content_type="application/json")
        else:
            self.reply(302, location="/users/sign_in")

    def do_POST(self):
        got = parse_qs(self.body())
        known = (got["client_id"], got["client_secret"]) == ([UID], [SECRET])
        self.reply(400, json.dumps({"error": "invalid_grant" if known else "invalid_client"}), content_type=JSON)


@pytest.fixture
def serve():
    """Start a server with this handler; its address."""
    running = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def local(host, command, stdin="", note=None, every=15.0):
    done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, text=True, check=False)
    return Result(done.returncode == 0, done.stdout, done.stderr)


@pytest.mark.parametrize("secret", [SECRET, "another-secret"])
def test_a_real_curl_walks_the_same_way(tmp_path, monkeypatch, serve, secret):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = serve(Small)
    here = f"127.0.0.1:{server.server_port}"
    monkeypatch.setattr("roles.mattermost.sign_on.remote.run", local)
    monkeypatch.setattr(sign_on, "LISTEN", here)
    text = chat_sites.changed(("https://gitlab.example.com", f"http://{here}"), more=chat_sites.SIGN_ON)
    checks = sign_on.walk(chat_sites.site(tmp_path, text), chat_sites.host(), (UID, Secret(secret)), None)
    if secret == SECRET:
        assert [check.sentence() for check in checks if not check.ok] == []
        assert len(checks) == 5
    else:
        assert [check.subject for check in checks if not check.ok] == [sign_on.WRONG_SECRET]
        assert checks[-1].found == "GitLab refuses them (invalid_client)"


def test_a_real_curl_with_nobody_there(tmp_path, monkeypatch, serve):
    server = serve(Small)
    port = server.server_port
    server.shutdown()
    server.server_close()
    monkeypatch.setattr("roles.mattermost.sign_on.remote.run", local)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    text = chat_sites.changed(("https://gitlab.example.com", f"http://127.0.0.1:{port}"), more=chat_sites.SIGN_ON)
    (check,) = sign_on.walk(chat_sites.site(tmp_path, text), chat_sites.host(), None, None)
    assert not check.ok
    assert "Nothing listens there" in check.cure
    assert str(port) in check.found


def look(site, host=None):
    return application.look(site, application.for_sign_on(site), host)


def repair(site, host=None):
    """Repair; what is kept afterwards."""
    application.repair(site, application.for_sign_on(site), host)
    return credentials(site)


def credentials(site):
    return application.credentials(site, application.for_sign_on(site))


# --- the credentials that are kept ---


def test_credentials_are_read_afresh(tmp_path, runner):
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=None)
    assert credentials(site) is None
    for number in ("1", "2"):
        runner(Result(True, f'pyinfra-gitlab:{{"uid": "id-{number}", "secret": "secret-{number}"}}', ""))
        assert repair(site, chat_sites.host("gitlab-1")) == (f"id-{number}", Secret(f"secret-{number}"))
    path = tmp_path / "secrets" / "oauth"
    assert path.read_text() == "id-2 secret-2\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["only-one", "one two three", "a\nb\nc", " "])
def test_credentials_of_another_form(tmp_path, text):
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=text)
    with pytest.raises(StepError, match="id and its secret, two words") as told:
        credentials(site)
    assert text.split()[-1:] == [] or text.split()[-1] not in str(told.value).split()


@pytest.mark.parametrize("text", ["id secret-word", "id\tsecret-word", "  id\n secret-word \n"])
def test_white_space_of_any_kind(tmp_path, text):
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=text)
    assert credentials(site) == ("id", Secret("secret-word"))


def test_new_credentials_can_only_be_kept_in_a_file(tmp_path, monkeypatch, runner):
    runner(Result(True, "pyinfra-gitlab:{}", ""))
    monkeypatch.setenv("TEST_OAUTH", f"{UID} {SECRET}")
    text = chat_sites.SITE + chat_sites.SIGN_ON.replace("!file secrets/oauth", "!env TEST_OAUTH")
    site = chat_sites.site(tmp_path, text)
    assert credentials(site) == (UID, Secret(SECRET))
    with pytest.raises(StepError, match="name a !file"):
        repair(site, chat_sites.host("gitlab-1"))
    assert runner.run.asked == [], "nothing is made in GitLab that could not be kept"


def test_where_they_cannot_be_kept_is_told(tmp_path, runner):
    runner(Result(True, 'pyinfra-gitlab:{"uid": "u", "secret": "gloas-not-kept"}', ""))
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=None)
    (tmp_path / "secrets" / "oauth").symlink_to("nowhere")
    with pytest.raises(StepError, match=r"cannot be kept in .*secrets/oauth: it is a link to nowhere\."):
        repair(site, chat_sites.host("gitlab-1"))


def test_gitlab_is_left_alone_when_nothing_can_be_kept(tmp_path, runner):
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=None)
    (tmp_path / "secrets" / "oauth").symlink_to("nowhere")
    runner(Result(True, 'pyinfra-gitlab:{"uid": "u", "secret": "gloas-not-kept"}', ""))
    with pytest.raises(StepError):
        repair(site, chat_sites.host("gitlab-1"))
    assert runner.run.asked == []


# --- gitlab-rails runner ---


@pytest.fixture
def runner(monkeypatch):
    """Answers of `gitlab-rails runner -` on gitlab-1."""

    def use(result):
        use.run = chat_sites.Remote(lambda command, stdin: result)
        monkeypatch.setattr("roles.node.remote.run", use.run)

    return use


def test_noise_before_the_mark_is_skipped(site, runner):
    line = json.dumps({"uid": UID, "differs": ["trusted"], "secret_fits": False})
    runner(Result(True, f"warning: json 2.9\n{{}}\npyinfra-gitlab:old\npyinfra-gitlab:{line}\nbye\n", "deprecated\n"))
    assert look(site, chat_sites.host("gitlab-1")) == Application(UID, ("trusted",), False, None)


def test_there_is_none(site, runner):
    runner(Result(True, 'pyinfra-gitlab:{"count":0}', ""))
    assert look(site, chat_sites.host("gitlab-1")) == Application(None, (), False, None)


def test_a_new_secret_is_a_secret_and_kept(site, runner):
    runner(Result(True, 'pyinfra-gitlab:{"count":0,"uid":"u","secret":"gloas-brand-new","made":true}', ""))
    assert repair(site, chat_sites.host("gitlab-1")) == ("u", Secret("gloas-brand-new"))
    assert "gloas-brand-new" not in repr(look(site, chat_sites.host("gitlab-1")))


def test_without_a_new_secret_the_kept_one_stays(site, runner):
    runner(Result(True, f'pyinfra-gitlab:{{"count":1,"uid":"{UID}","differs":["trusted"],"secret_fits":true}}', ""))
    assert repair(site, chat_sites.host("gitlab-1")) == (UID, Secret(SECRET))


@pytest.mark.parametrize("repairs", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_what_the_runner_is_told(tmp_path, runner, repairs, kept):
    oauth = chat_sites.SECRETS["oauth"] if kept else None
    site = chat_sites.site(tmp_path, chat_sites.SITE + chat_sites.SIGN_ON, oauth=oauth)
    runner(Result(True, "pyinfra-gitlab:{}", ""))
    (repair if repairs else look)(site, chat_sites.host("gitlab-1"))
    ((node, command, stdin),) = runner.run.asked
    assert (node, command) == ("gitlab-1", "gitlab-rails runner -")
    assert SECRET not in stdin, "it is base64, out of which nothing breaks"
    (data,) = re.findall(r"decode64\('([^']*)'\)", stdin)
    assert json.loads(base64.b64decode(data)) == {
        "name": "Mattermost", "redirect_uri": "\n".join(URIS), "scopes": "read_user", "confidential": True,
        "trusted": True, "uid": UID if kept else None, "secret": SECRET if kept else None, "repair": repairs,
    }  # fmt: skip
    assert stdin.endswith(Path(application.__file__).with_name("application.rb").read_text())


@pytest.mark.parametrize(
    ("got", "why"),
    [
        (Result(False, "", "/opt/x.rb:1: it broke (NameError)\n\tfrom y\n"), "/opt/x.rb:1: it broke (NameError)"),
        (Result(False, 'pyinfra-gitlab:{"uid":"x"}', "died at its end\n"), "died at its end"),
        (Result(False, "", ""), "it printed nothing"),
        (Result(True, "no mark\n pyinfra-gitlab:{}\n", ""), "it printed nothing"),
        (Result(False, "", f"undefined: {SECRET}"), "undefined: ********"),
    ],
)
def test_the_runner_fails(site, runner, got, why):
    runner(got)
    with pytest.raises(StepError) as told:
        look(site, chat_sites.host("gitlab-1"))
    assert str(told.value).endswith(f"gitlab-1 could not look at the OAuth application: {why}")


def test_an_answer_that_was_cut_off(site, runner):
    runner(Result(True, 'pyinfra-gitlab:{"uid":"ab', ""))
    with pytest.raises(StepError):
        look(site, chat_sites.host("gitlab-1"))


# --- application.rb in a real Ruby ---

STUB = """\
require 'json'
module Authn; end
class CLASSNAME
  FIELDS = %w[id uid name owner_id redirect_uri scopes confidential trusted secret]
  attr_accessor(*FIELDS)
  attr_reader :plaintext_secret
  def self.all = @all ||= []
  def self.where(conditions) = List.new(self, all.select { |o| conditions.all? { |k, v| o.public_send(k) == v } })
  class List
    def initialize(model, found) = (@model, @found = model, found)
    def to_a = @found.dup
    def new(attributes)
      defaults = { 'owner_id' => nil, 'scopes' => '', 'confidential' => true, 'trusted' => false }
      @model.new(defaults.merge(attributes))
    end
  end
  def initialize(attributes) = attributes.each { |k, v| public_send("#{k}=", v) }
  def update!(attributes)
    attributes.each { |k, v| public_send("#{k}=", v) }
    save!
  end
  def save!
    raise 'Redirect URI is invalid' if redirect_uri.include?('invalid')
    self.id ||= self.class.all.length + 1
    self.uid ||= "made-#{id}"
    renew_secret unless secret
    $saved += 1
    self.class.all << self unless self.class.all.include?(self)
  end
  def renew_secret = self.secret = @plaintext_secret = "renewed-#{uid}"
  def secret_matches?(text) = secret == text
end
$saved = 0
puts 'noise of the runner'
JSON.parse($stdin.gets).each { |one| CLASSNAME.all << CLASSNAME.new(one) }
at_exit do
  kept = CLASSNAME.all.map { |one| CLASSNAME::FIELDS.to_h { |name| [name, one.public_send(name)] } }
  puts "after:#{JSON.generate('saved' => $saved, 'kept' => kept)}"
end
"""
PROGRAM = Path(application.__file__).with_name("application.rb").read_text()
WANTED = {
    "name": "Mattermost", "redirect_uri": "\n".join(URIS), "scopes": "read_user", "confidential": True, "trusted": True,
    "uid": UID, "secret": SECRET,
}  # fmt: skip
MADE = {
    "id": 1, "uid": UID, "name": "Mattermost", "owner_id": None, "redirect_uri": "\n".join(URIS), "scopes": "read_user",
    "confidential": True, "trusted": True, "secret": SECRET,
}  # fmt: skip


def ruby(there, repair, model="Authn::OauthApplication", **wanted):
    """Run application.rb: its answer, how often something was saved, and what is there afterwards."""
    data = base64.b64encode(json.dumps(WANTED | {"repair": repair} | wanted).encode()).decode()
    given = f"require 'base64'\nwanted = JSON.parse(Base64.decode64('{data}'))"
    code = f"{STUB.replace('CLASSNAME', model)}\n{given}\n{PROGRAM}"
    if model.startswith("Doorkeeper"):
        code = f"module Doorkeeper; end\n{code}"
    done = subprocess.run(
        ["ruby", "-W0", "-e", code], input=json.dumps(there) + "\n", capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("pyinfra-gitlab:")]
    after = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("after:")).removeprefix("after:")
    )
    said = json.loads(lines[-1].removeprefix("pyinfra-gitlab:")) if lines else None
    assert (said is None) == (done.returncode != 0), done.stderr
    return said, after["saved"], after["kept"]


@pytest.mark.parametrize("model", ["Authn::OauthApplication", "Doorkeeper::Application"])
@pytest.mark.parametrize("repair", [True, False])
def test_as_declared_nothing_is_saved_and_the_secret_stays(model, repair):
    said, saved, kept = ruby([MADE], repair, model)
    assert said == {"count": 1, "uid": UID, "differs": [], "secret_fits": True}
    assert (saved, kept) == (0, [MADE])


def test_the_order_of_the_redirect_uris_does_not_matter():
    there = MADE | {"redirect_uri": " \n".join(reversed(URIS)) + "\n"}
    assert ruby([there], True)[:2] == ({"count": 1, "uid": UID, "differs": [], "secret_fits": True}, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("redirect_uri", URIS[0]),
        ("redirect_uri", "\n".join((*URIS, "https://evil.example.com/"))),
        ("redirect_uri", ""),
        ("scopes", "read_user openid"),
        ("scopes", "api"),
        ("confidential", False),
        ("trusted", False),
        ("trusted", None),
    ],
)
def test_what_differs_is_told_and_put_right_without_a_new_secret(key, value):
    there = MADE | {key: value}
    said, saved, kept = ruby([there], False)
    assert said == {"count": 1, "uid": UID, "differs": [key], "secret_fits": True}
    assert (saved, kept) == (0, [there]), "a look changes nothing"
    said, saved, kept = ruby([there], True)
    assert "secret" not in said
    assert (saved, kept) == (1, [MADE])


def test_none_is_made_only_in_a_repair():
    assert ruby([], False) == ({"count": 0}, 0, [])
    said, saved, (made,) = ruby([], True, uid=None, secret=None)
    assert said == {"count": 0, "uid": "made-1", "secret": "renewed-made-1", "made": True}
    assert saved == 1
    assert made == MADE | {"uid": "made-1", "secret": "renewed-made-1"}


@pytest.mark.parametrize(
    "wanted", [{"secret": "old"}, {"secret": None}, {"secret": ""}, {"uid": None}, {"uid": "other"}]
)
def test_a_secret_that_does_not_fit_is_renewed_and_nothing_else(wanted):
    said, saved, kept = ruby([MADE], False, **wanted)
    assert said == {"count": 1, "uid": UID, "differs": [], "secret_fits": False}
    assert (saved, kept) == (0, [MADE])
    said, saved, kept = ruby([MADE], True, **wanted)
    assert said["secret"] == f"renewed-{UID}"
    assert said["uid"] == UID
    assert (saved, kept) == (1, [MADE | {"secret": f"renewed-{UID}"}])


@pytest.mark.parametrize("other", [{"name": "mattermost"}, {"owner_id": 7}])
def test_the_application_of_somebody_else_is_not_ours(other):
    theirs = MADE | other | {"uid": "theirs", "secret": "secret-of-theirs"}
    said, _, kept = ruby([theirs], True)
    assert said["made"] is True
    assert kept[0] == theirs
    assert kept[1]["uid"] == "made-2"


def test_of_two_with_one_name_the_kept_id_tells_which():
    twin = MADE | {"id": 2, "uid": "twin", "secret": "secret-of-twin", "trusted": False}
    said, saved, kept = ruby([twin, MADE], True)
    assert said == {"count": 2, "uid": UID, "differs": [], "secret_fits": True}
    assert (saved, kept) == (0, [twin, MADE])
    said, _, kept = ruby([twin, MADE], True, uid="twin", secret="secret-of-twin")
    assert (said["uid"], said["differs"]) == ("twin", ["trusted"])
    assert kept == [twin | {"trusted": True}, MADE]


def test_what_gitlab_refuses_is_no_answer():
    assert ruby([], True, redirect_uri="https://invalid/") == (None, 0, [])


@pytest.mark.parametrize("name", ['it\'s #{raise} \\ "x"', "한국어", "'); exit!; ('", "a\nb"])
def test_no_name_breaks_out(name):
    said, _, (made,) = ruby([], True, name=name)
    assert said["made"] is True
    assert made["name"] == name


# --- GitLab's API ---


class Api(BaseHTTPRequestHandler):
    """/api/v4/applications as GitLab has it: list, create, delete, renew-secret; two on a page."""

    def log_message(self, *words):
        pass

    def reply(self, status, body=None, **headers):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        world = self.server.world
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}") if length else {}
        url = urlsplit(self.path)
        world["asked"].append((self.command, url.path))
        parts = url.path.removeprefix("/api/v4/applications").strip("/").split("/")
        apps = world["apps"]
        if self.headers.get("PRIVATE-TOKEN") != chat_sites.SECRETS["token"]:
            self.reply(401, {"message": "401 Unauthorized"})
        elif world.get("status"):
            self.reply(world["status"], {"message": f"{world['status']} said {chat_sites.SECRETS['token']}"})
        elif self.command == "GET":
            page = int(parse_qs(url.query).get("page", ["1"])[0])
            more = (
                {"Link": f'<{world["url"]}/api/v4/applications?page={page + 1}>; rel="next"'}
                if apps[page * 2 :]
                else {}
            )
            shown = [{key: app[key] for key in app if key != "secret"} for app in apps[page * 2 - 2 : page * 2]]
            self.reply(200, shown, **more)
        elif self.command == "DELETE":
            world["apps"] = [app for app in apps if str(app["id"]) != parts[0]]
            self.reply(204)
        elif parts[-1] == "renew-secret":
            app = next(app for app in apps if str(app["id"]) == parts[0])
            app["secret"] = "gloas-renewed-through-api"
            self.reply(201, app)
        else:
            app = api_app(
                id=99, application_id="made", application_name=body["name"], callback_url=body["redirect_uri"],
                confidential=body["confidential"], secret="gloas-made-through-api",
            )  # fmt: skip
            world["created"] = body
            apps.append(app)
            self.reply(201, app)

    do_GET = do_POST = do_DELETE = handle_any


def api_app(**more):
    return {
        "id": 1, "application_id": UID, "application_name": "Mattermost", "callback_url": "\n".join(URIS),
        "confidential": True, "secret": SECRET,
    } | more  # fmt: skip


OTHERS = [api_app(id=7, application_id="x", application_name="Grafana"), api_app(id=8, application_name="mattermost")]


@pytest.fixture
def api(tmp_path, serve, monkeypatch):
    """A site whose GitLab is a small server with these applications; and the server's world."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def start(*apps, known=True, **world):
        server = serve(Api)
        url = f"http://127.0.0.1:{server.server_port}"
        server.world = {"apps": list(apps), "asked": [], "url": url, **world}
        text = chat_sites.changed(("https://gitlab.example.com", url), more=chat_sites.API)
        return chat_sites.site(tmp_path, text, oauth=chat_sites.SECRETS["oauth"] if known else None), server.world

    return start


def changes(world):
    return [(method, path.removeprefix("/api/v4/applications")) for method, path in world["asked"] if method != "GET"]


def test_api_finds_it_on_any_page_and_does_not_claim_to_know_its_secret(api):
    site, world = api(*OTHERS, api_app())
    assert look(site) == Application(UID, (), None)
    assert len(world["asked"]) == 2
    assert changes(world) == []


def test_api_finds_none(api):
    site, world = api(*OTHERS)
    assert look(site) == Application(None, (), None)
    assert changes(world) == []


@pytest.mark.parametrize(
    ("spoilt", "differs"),
    [
        ({"callback_url": URIS[0]}, ("redirect_uri",)),
        ({"callback_url": "\n".join((*URIS, "https://evil.example.com"))}, ("redirect_uri",)),
        ({"confidential": False}, ("confidential",)),
        ({"callback_url": "", "confidential": False}, ("redirect_uri", "confidential")),
        ({"callback_url": " ".join(reversed(URIS))}, ()),
    ],
)
def test_api_what_differs(api, spoilt, differs):
    site, world = api(api_app(**spoilt))
    assert look(site) == Application(UID, differs, None)
    assert changes(world) == []


def test_api_the_kept_id_tells_which_of_two(api):
    site, _ = api(api_app(id=2, application_id="twin", callback_url=""), api_app())
    assert look(site) == Application(UID, (), None)


@pytest.mark.parametrize("known", [True, False])
def test_api_makes_what_is_absent(api, known):
    site, world = api(*OTHERS, known=known)
    assert repair(site) == ("made", Secret("gloas-made-through-api"))
    assert changes(world) == [("POST", "")]
    assert world["created"] == {
        "name": "Mattermost", "redirect_uri": "\n".join(URIS), "scopes": "read_user", "confidential": True,
    }  # fmt: skip


def test_api_makes_anew_what_differs_and_removes_that_one_alone(api):
    site, world = api(*OTHERS, api_app(id=5, callback_url=URIS[0]))
    assert repair(site) == ("made", Secret("gloas-made-through-api"))
    assert changes(world) == [("DELETE", "/5"), ("POST", "")]
    assert [app["id"] for app in world["apps"]] == [7, 8, 99]


def test_api_renews_the_secret_of_what_is_as_declared(api):
    site, world = api(api_app(id=5), known=False)
    assert repair(site) == (UID, Secret("gloas-renewed-through-api"))
    assert changes(world) == [("POST", "/5/renew-secret")]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("ask", [look, repair])
def test_api_refuses(api, monkeypatch, status, ask):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    site, world = api(api_app(), status=status)
    with pytest.raises(StepError) as told:
        ask(site)
    assert f"GitLab's API at {world['url']} did not answer as it should: {status}" in str(told.value)
    assert "must be an administrator's, with scope api" in str(told.value)
    assert chat_sites.SECRETS["token"] not in str(told.value)
    assert changes(world) == []


def test_api_nobody_there(api, serve):
    site, world = api()
    free = serve(Api)
    free.shutdown()
    free.server_close()
    text = (site.dir / "site.yml").read_text().replace(world["url"], f"http://127.0.0.1:{free.server_port}")
    with pytest.raises(StepError, match="did not answer as it should"):
        look(chat_sites.site(site.dir, text))
