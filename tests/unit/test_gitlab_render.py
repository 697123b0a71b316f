"""The configuration of every node: who says what, and that real Ruby reads back exactly what the site file says."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roles.gitlab.render import GITLAB_RB, KEPT, MAIL_RB, config_file
from roles.gitlab.settings import RAILS_ROLES, ROLES
from roles.site import secret
from roles.site.errors import SiteFileError
from roles.site.rules import names_secret
from tests.unit import sites
from tests.unit.test_gitlab_ruby import NASTY

EVALUATE = """\
require 'json'
class Config < BasicObject
  def method_missing(name, *args)
    @keys ||= {}
    args.empty? ? @keys[name.to_s] ||= {} : @keys[name.to_s] = args.first
  end
  def read(text) = instance_eval(text, 'gitlab.rb', 1)
  def keys = @keys
end
def utf8(value)
  case value
  when Hash then value.to_h { |k, v| [utf8(k), utf8(v)] }
  when Array then value.map { |v| utf8(v) }
  when String then value.dup.force_encoding('UTF-8')
  else value
  end
end
while (head = $stdin.gets) do
  size, encoding = head.split
  config = Config.new
  begin
    config.read($stdin.read(size.to_i).force_encoding(encoding))
    puts JSON.generate(utf8(config.keys))
  rescue Exception => error
    puts JSON.generate(error: error.message)
  end
  $stdout.flush
end
"""
TEXTS = {name: value.reveal() for name, value in sites.TOKENS.items()}
RAILS = {"application", "sidekiq", "postgres", "patroni", "geo_primary", "geo_secondary"}


class Ruby:
    """One Ruby process that evaluates whole files as GitLab does, and answers with what they set."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(["ruby", "-W0", "-e", EVALUATE], stdin=pipe, stdout=pipe)

    def evaluate(self, content: bytes, encoding: str = "US-ASCII") -> dict:
        self.process.stdin.write(f"{len(content)} {encoding}\n".encode() + content)
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def ruby():
    process = Ruby()
    yield process
    process.process.kill()
    process.process.wait()


@pytest.fixture(scope="module", autouse=True)
def _forget_secrets():
    """Made-up passwords must not be masked in the output of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_known", set())
        patch.setattr(secret, "_pattern", None)
        yield


def text(*, mode="whole", nodes="", gitlab="", mail=True) -> str:
    """A site file: more nodes, more lines under `gitlab`, with or without mail."""
    out = sites.SITE.replace("  config: whole\n", f"  config: {mode}\n{gitlab}").replace(
        "gitlab:\n", f"{nodes}gitlab:\n", 1
    )
    return out if mail else out[: out.index("mail:\n")]


def mailbox(kind: str, name: str, reader: bool) -> dict:
    keys = {"enabled": True, "address": f"{name}+%{{key}}@example.com", "delivery_method": "webhook"}
    if reader:
        keys |= {
            "inbox_method": "imap", "email": f"{name}@example.com", "password": f"password-of-{name}",
            "host": "mail.example.com", "port": 993, "ssl": True, "start_tls": False, "mailbox_name": "inbox",
            "idle_timeout": 60,
        }  # fmt: skip
        if kind == "incoming_email":
            keys |= {"delete_after_delivery": True, "expunge_deleted": False}
    return {f"{kind}_{key}": value for key, value in keys.items()}


def mail_settings(rails: bool, reader: bool, reading: bool) -> dict:
    """What the mail part must evaluate to: exactly this and nothing else."""
    if not rails:
        return {"mailroom": {"enable": reading}}
    boxes = mailbox("incoming_email", "in", reader) | mailbox("service_desk_email", "desk", reader)
    tokens = {f"{kind}_auth_token": value for kind, value in TEXTS.items()}
    # app-1, which reads mail, is also the first of the file, and so migrates the database
    return {"gitlab_rails": {"auto_migrate": reader, **boxes}, "mailroom": {**tokens, "enable": reading}}


def test_the_roles_with_rails_are_these():
    assert set(RAILS_ROLES) == RAILS


@pytest.mark.parametrize("mode", ["whole", "include"])
@pytest.mark.parametrize("role", [*ROLES, None])
def test_every_role_in_every_mode(ruby, tmp_path, role, mode):
    other = f"  other: {{address: 10.0.0.9, roles: [{role or ''}]}}\n"
    version = ("18.11.11", "19.0.0") if role == "backup" else ("", "")
    site = sites.site(tmp_path, text(mode=mode, nodes=other).replace(*version))
    file = config_file(site, "other", False, sites.TOKENS)
    whole = {"external_url": "https://gitlab.example.com"} | ({"roles": [f"{role}_role"]} if role else {})
    expected = mail_settings(rails=role in RAILS or role is None, reader=False, reading=False)
    assert ruby.evaluate(file.content) == (whole if mode == "whole" else {}) | expected
    assert "mailroom['enable'] = false\n" in file.content.decode()
    assert "password-of" not in file.content.decode()


@pytest.mark.parametrize("mode", ["whole", "include"])
@pytest.mark.parametrize("reading", [True, False])
def test_the_reader_alone_has_the_mailboxes(ruby, tmp_path, mode, reading):
    site = sites.site(tmp_path, text(mode=mode))
    got = ruby.evaluate(config_file(site, "app-1", reading, sites.TOKENS).content)
    assert {key: got[key] for key in ("gitlab_rails", "mailroom")} == mail_settings(True, True, reading)


@pytest.mark.parametrize("mode", ["whole", "include"])
def test_a_site_without_mail_still_says_that_mail_room_is_off(ruby, tmp_path, mode):
    site = sites.site(tmp_path, text(mode=mode, mail=False))
    for node in site.nodes:
        got = ruby.evaluate(config_file(site, node, False, {}).content)
        assert got["mailroom"] == {"enable": False}, node
        assert got.get("gitlab_rails") == {"app-1": {"auto_migrate": True}, "app-2": {"auto_migrate": False}}.get(node)


@pytest.mark.parametrize(
    ("canary", "extra", "wanted"),
    [
        ("", "", "app-1"),
        ("app-2", "", "app-2"),
        ("gitaly-1", "", "app-1"),
        ("", "  app-0: {address: 10.0.0.9, roles: [sidekiq]}\n", "app-1"),
        ("app-0", "  app-0: {address: 10.0.0.9, roles: [sidekiq]}\n", "app-1"),
    ],
)
def test_exactly_one_node_migrates(ruby, tmp_path, canary, extra, wanted):
    """It serves the application; it is the canary if that does, and else the first of the file."""
    declared = sites.SITE.replace("nodes:\n", f"nodes:\n{extra}", 1)
    declared = declared.replace("gitlab:\n", f"rollout: {{canary: {canary}}}\ngitlab:\n", 1) if canary else declared
    site = sites.site(tmp_path, declared)
    got = {node: ruby.evaluate(config_file(site, node, False, sites.TOKENS).content) for node in site.nodes}
    said = {node: found["gitlab_rails"]["auto_migrate"] for node, found in got.items() if "gitlab_rails" in found}
    assert said == {node: node == wanted for node in site.rails_nodes}


def test_internal_api_url_only_when_given_and_only_with_rails(ruby, tmp_path):
    given_url = text(gitlab="  internal_api_url: http://10.0.0.1:8080/gitlab\n")
    site = sites.site(tmp_path, given_url)
    got = {node: ruby.evaluate(config_file(site, node, False, {}).content) for node in site.nodes}
    assert got["app-1"]["gitlab_rails"]["internal_api_url"] == "http://10.0.0.1:8080/gitlab"
    assert got["app-2"]["gitlab_rails"]["internal_api_url"] == "http://10.0.0.1:8080/gitlab"
    assert "gitlab_rails" not in got["gitaly-1"]
    site = sites.site(tmp_path)
    assert b"internal_api_url" not in config_file(site, "app-1", True, sites.TOKENS).content


def test_sidekiq_delivery_is_said_and_needs_no_token(ruby, tmp_path):
    site = sites.site(tmp_path, sites.SITE.replace("    user: in@", "    delivery_method: sidekiq\n    user: in@"))
    tokens = {kind: sites.TOKENS[kind] for kind in site.webhook_mailboxes}
    got = ruby.evaluate(config_file(site, "app-2", False, tokens).content)
    assert got["gitlab_rails"]["incoming_email_delivery_method"] == "sidekiq"
    assert got["mailroom"] == {"service_desk_email_auth_token": TEXTS["service_desk_email"], "enable": False}


def test_settings_and_extra_ruby_come_before_our_keys(ruby, tmp_path):
    more = """\
  settings:
    nginx: {listen_port: 80, enable: false, none: null, ratio: 0.5, tiny: 1.0e-07, "a'b": x, "\\u00e9": y}
    gitlab_rails: {db: {a: [1, [two, "3"], {b: null}]}, smtp_password: !file secrets/in, env: {}}
  extra_ruby: |
    # ü
    registry_external_url 'http://r.example.com'
    mailroom.merge!('enable' => true, 'mine' => 1)
"""
    own = "  other: {address: 10.0.0.9, settings: {nginx: {listen_port: 81}, puma: {worker_processes: 2}}}\n"
    site = sites.site(tmp_path, text(nodes=own, gitlab=more))
    nginx = {"listen_port": 80, "enable": False, "none": None, "ratio": 0.5, "tiny": 1e-07, "a'b": "x", "é": "y"}
    rails = {"db": {"a": [1, ["two", "3"], {"b": None}]}, "smtp_password": "password-of-in", "env": {}}
    got = {node: ruby.evaluate(config_file(site, node, False, {}).content, "UTF-8") for node in site.nodes}
    assert got["gitaly-1"] == {
        "external_url": "https://gitlab.example.com", "roles": ["gitaly_role"], "nginx": nginx, "gitlab_rails": rails,
        "registry_external_url": "http://r.example.com", "mailroom": {"enable": False, "mine": 1},
    }  # fmt: skip
    assert got["other"]["nginx"] == nginx | {"listen_port": 81}
    assert got["other"]["puma"] == {"worker_processes": 2}
    written = config_file(site, "app-1", True, sites.TOKENS).content.decode()
    order = [
        "\nexternal_url '",
        "nginx['listen_port']",
        "registry_",
        "['incoming_email_enabled']",
        "mailroom['enable']",
    ]
    places = [written.rindex(part) for part in order]
    assert places == sorted(places)
    assert written.endswith("mailroom['enable'] = true\n")


@pytest.mark.parametrize(("mode", "path", "kept"), [("whole", GITLAB_RB, KEPT), ("include", MAIL_RB, None)])
def test_the_file_is_private_and_shown_masked(tmp_path, mode, path, kept):
    site = sites.site(tmp_path, text(mode=mode))
    file = config_file(site, "app-1", True, sites.TOKENS)
    assert (file.path, file.mode, file.owner, file.group, file.keep_first) == (path, 0o600, "root", "root", kept)
    shown, secrets = file.display, ("password-of-in", "password-of-desk", *TEXTS.values())
    for value in secrets:
        assert value in file.content.decode()
        shown = shown.replace("'********'", f"'{value}'", 1) if value not in shown else pytest.fail(value)
    assert len(shown.splitlines()) == len(file.content.decode().splitlines())
    masked = [line for line in file.display.splitlines() if "'********'" in line]
    assert len(masked) == len(secrets)
    assert set(file.display.splitlines()) - set(masked) <= set(file.content.decode().splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


def yaml(value: str) -> str:
    """`value` as a YAML scalar that says every sign."""
    return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in value) + '"'


def refused(place: str, value: str) -> bool:
    """Whether the site file must not be accepted: what gitlab.yml cannot hold, and literals for secrets."""
    if place == "key":
        return names_secret(value)
    if place in ("user", "password"):
        kept = value.isprintable() and all(ord(c) <= 0xFFFF for c in value) and not re.search("#[{$@]", value)
        return not kept or not value or (place == "user" and len(value) > 255)
    return place == "secret" and not value


def everywhere(test):
    for value in NASTY:
        for place in ("value", "user", "password"):
            test = example(place, value)(test)
    return test


@settings(max_examples=150, deadline=None)
@everywhere
@given(st.sampled_from(["value", "key", "user", "password", "secret"]), st.text(max_size=200))
def test_any_text_anywhere_is_read_back_or_refused(ruby, folder, place, value):
    nginx = {"value": {"x": value}, "key": {value: 1}, "secret": {"x": [value]}}.get(place, {})
    written = {"value": f"x: {yaml(value)}", "key": f"? {yaml(value)} : 1", "secret": "x: [!file text]"}.get(place, "")
    declared = text(gitlab=f"  settings: {{nginx: {{{written}}}}}\n")
    if place == "user":
        declared = declared.replace("user: in@example.com", f"user: {yaml(value)}")
    if place == "password":
        declared = declared.replace("!file secrets/in\n", "!file text\n")
    # One line end at the end of a secret's file does not belong to the value.
    (folder / "text").write_bytes(value.encode() + (b"" if value.endswith("\r") else b"\n"))
    (folder / "text").chmod(0o600)
    if refused(place, value):
        with pytest.raises(SiteFileError):
            sites.site(folder, declared)
        return
    site = sites.site(folder, declared)
    expected = {"external_url": "https://gitlab.example.com", "roles": ["application_role"]}
    expected |= mail_settings(True, True, True) | ({"nginx": nginx} if nginx else {})
    if place in ("user", "password"):
        expected["gitlab_rails"]["incoming_email_email" if place == "user" else "incoming_email_password"] = value
    assert ruby.evaluate(config_file(site, "app-1", True, sites.TOKENS).content) == expected


@pytest.mark.parametrize(
    "gitlab",
    [r'settings: {nginx: {x: "\ud83d\ude00"}}', r'settings: {nginx: {"\ud800": 1}}', r'extra_ruby: "# \ud800"'],
)
def test_a_lone_surrogate_is_a_problem_of_the_site_file(tmp_path, gitlab):
    with pytest.raises(SiteFileError):
        config_file(sites.site(tmp_path, text(gitlab=f"  {gitlab}\n")), "app-1", True, sites.TOKENS)


HIDING = {
    "^D ends a program": r'"x = 1\n\x04"', "^Z ends a program": r'"x = 1\n\x1a"', "NUL ends a program": r'"x = 1\n\0"',
    "__END__ with CRLF": r'"x = 1\n__END__\r\ny"', "a local variable": '"mailroom = {}"',
    "one of a list": '"nginx, mailroom = {}, {}"', "an unfinished line": '"false &&"',
}  # fmt: skip


@pytest.mark.parametrize("why", HIDING)
def test_extra_ruby_cannot_hide_our_keys(ruby, tmp_path, why):
    try:
        site = sites.site(tmp_path, text(gitlab=f"  extra_ruby: {HIDING[why]}\n"))
    except SiteFileError:
        return
    content = config_file(site, "gitaly-1", False, sites.TOKENS).content
    checked = subprocess.run(["ruby", "-c", "-"], input=content, capture_output=True, check=False)
    if checked.returncode == 0:
        assert ruby.evaluate(content).get("mailroom") == {"enable": False}
