"""The stand-in behaves like the real package where the product depends on it (facts/gitlab-mail.md).

Runs its Ruby below a temporary folder (STANDIN_ROOT): no root, nothing started, nothing outside touched.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path

import jwt
import pytest

from tests.lab.gitlab_standin.build import build, stage

TOKEN_A = base64.b64encode(b"a" * 32).decode()
TOKEN_B = base64.b64encode(b"b" * 32).decode()
TOKEN_C = base64.b64encode(b"c" * 32).decode()
MAIL = """
gitlab_rails['incoming_email_enabled'] = true
gitlab_rails['incoming_email_address'] = 'in+%{key}@example.com'
gitlab_rails['incoming_email_email'] = 'in@example.com'
gitlab_rails['incoming_email_password'] = 'secret'
gitlab_rails['incoming_email_host'] = 'mail.example.com'
"""
RAILS = "opt/gitlab/embedded/service/gitlab-rails"


class Node:
    """One node's file system below a temporary folder."""

    def __init__(self, root: Path, version: str = "18.11.11-ee.0") -> None:
        self.root = root
        stage(root, version)
        (root / "etc/gitlab").mkdir(parents=True)

    def ruby(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ruby", *arguments],
            env={**os.environ, "STANDIN_ROOT": str(self.root), "LC_ALL": "C"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.ruby(str(self.root / "opt/gitlab/bin/gitlab-ctl"), *arguments)

    def reconfigure(self, gitlab_rb: str) -> subprocess.CompletedProcess[str]:
        (self.root / "etc/gitlab/gitlab.rb").write_text(gitlab_rb)
        return self.ctl("reconfigure")

    def ok(self, gitlab_rb: str) -> str:
        result = self.reconfigure(gitlab_rb)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.endswith("gitlab Reconfigured!\n")
        return result.stdout

    def secrets(self) -> dict[str, dict[str, str | None]]:
        return json.loads((self.root / "etc/gitlab/gitlab-secrets.json").read_text())

    def token(self, kind: str = "incoming_email") -> str | None:
        return self.secrets()["mailroom"][f"{kind}_auth_token"]

    def write_secrets(self, **sections: dict[str, str]) -> None:
        (self.root / "etc/gitlab/gitlab-secrets.json").write_text(json.dumps(sections))

    def enabled(self, service: str) -> bool:
        return (self.root / "opt/gitlab/service" / service).is_symlink()

    def etc(self, name: str) -> Path:
        return self.root / "var/opt/gitlab/gitlab-rails/etc" / name

    def yaml(self) -> subprocess.CompletedProcess[str]:
        """gitlab.yml as Ruby's own YAML reads it, as JSON."""
        return self.ruby(
            "-ryaml", "-rjson", "-e", "puts YAML.load_file(ARGV[0], aliases: true).to_json", str(self.etc("gitlab.yml"))
        )

    def mailbox(self, kind: str = "incoming_email") -> dict[str, object]:
        return json.loads(self.yaml().stdout)["production"][kind]

    def mail_room_yml(self) -> list[dict[str, object]]:
        """What mail_room reads: the ERB of mail_room.yml, evaluated."""
        code = (
            "e = ERB.new(File.read(ARGV[0])); e.filename = ARGV[0];"
            "puts JSON.generate(YAML.load(e.result, permitted_classes: [Symbol])[:mailboxes])"
        )
        result = self.ruby("-rerb", "-ryaml", "-rjson", "-e", code, str(self.root / RAILS / "config/mail_room.yml"))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


# --- gitlab.rb -----------------------------------------------------------------------------------


def test_an_unknown_word_is_an_error(node: Node) -> None:
    result = node.reconfigure("gitlab_railz['incoming_email_enabled'] = true\n")
    assert result.returncode == 1
    last = result.stdout.splitlines()[-1]
    assert last.endswith(
        "FATAL: Mixlib::Config::UnknownConfigOptionError: Reading unsupported config value gitlab_railz."
    )
    assert "/etc/gitlab/gitlab.rb:1" in result.stdout


def test_grafana_is_such_a_word(node: Node) -> None:
    assert node.reconfigure("grafana['enable'] = false\n").returncode == 1


def test_an_unknown_key_is_silently_accepted(node: Node) -> None:
    node.ok("mailroom['enabled'] = false\ngitlab_rails['incoming_email_adress'] = 'x'\n" + MAIL)
    assert node.enabled("mailroom")


def test_symbols_and_strings_are_the_same_key(node: Node) -> None:
    node.ok("mailroom[:enable] = false\n" + MAIL)
    assert not node.enabled("mailroom")


@pytest.mark.parametrize("broken", ["mailroom['enable' = false", "raise 'my own mistake'", "x = nil.foo"])
def test_what_ruby_refuses_is_shown_at_the_end(node: Node, broken: str) -> None:
    result = node.reconfigure(broken)
    assert result.returncode == 1
    assert "FATAL: " in result.stdout.splitlines()[-1] or "syntax error" in result.stdout


def test_reading_an_absent_key_makes_it_non_nil(node: Node) -> None:
    node.ok("mailroom['enable'] ? 1 : 2\n" + MAIL)
    assert node.enabled("mailroom")  # {} is true
    node.ok("puts mailroom['incoming_email_auth_token'].inspect\nmailroom['enable'] = false")


def test_from_file(node: Node, tmp_path: Path) -> None:
    part = tmp_path / "part.rb"
    part.write_text(MAIL + "mailroom['enable'] = false\n")
    node.ok(f"external_url 'http://gitlab.example.com'\nfrom_file '{part}'\n")
    assert node.mailbox()["address"] == "in+%{key}@example.com"
    assert not node.enabled("mailroom")


def test_from_file_of_a_missing_file(node: Node) -> None:
    result = node.reconfigure("from_file '/nowhere.rb'\n")
    assert result.returncode == 1
    assert "IOError: Cannot open or read /nowhere.rb!" in result.stdout


def test_after_from_file_the_strict_mode_is_off(node: Node, tmp_path: Path) -> None:
    """As in the real package: the outer file's later typos are no longer named, and nested keys no longer spring up."""
    part = tmp_path / "part.rb"
    part.write_text("mailroom['enable'] = false\n")
    node.ok(f"from_file '{part}'\ngitlab_railz 'x'\n")
    result = node.reconfigure(f"from_file '{part}'\ngitlab_rails['env']['X'] = '1'\n")
    assert result.returncode == 1
    assert "NoMethodError" in result.stdout.splitlines()[-1]


# --- roles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "rails"),
    [
        (None, True),
        ("application_role", True),
        ("application-role", True),
        ("sidekiq_role", True),
        ("postgres_role", True),
        ("patroni_role", True),
        ("gitaly_role", False),
        ("pgbouncer_role", False),
        ("redis_master_role", False),
        ("redis_sentinel_role", False),
        ("consul_role", False),
        ("monitoring_role", False),
        ("pages_role", False),
    ],
)
def test_mail_room_starts_by_itself_on_every_role(node: Node, role: str | None, rails: bool) -> None:
    node.ok((f"roles ['{role}']\n" if role else "") + MAIL)
    assert node.enabled("mailroom")
    assert node.etc("gitlab.yml").exists() is rails
    assert node.etc("gitlab_incoming_email_secret").exists() is rails
    assert node.token() is not None


def test_a_role_as_a_string(node: Node) -> None:
    node.ok("roles 'gitaly_role'\n")
    assert node.enabled("gitaly")
    assert not node.enabled("puma")


def test_invalid_roles_are_named(node: Node) -> None:
    result = node.reconfigure("roles ['mailroom_role', 'application_role']\n")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].endswith(
        "RuntimeError: The following invalid roles have been set in 'roles': mailroom_role"
    )


def test_no_mail_no_mail_room(node: Node) -> None:
    node.ok("external_url 'http://gitlab.example.com'\n")
    assert not node.enabled("mailroom")
    assert node.enabled("puma")


def test_disabling_takes_the_link_away(node: Node) -> None:
    node.ok(MAIL)
    assert node.enabled("mailroom")
    node.ok(MAIL + "mailroom['enable'] = false\n")
    assert not node.enabled("mailroom")
    assert node.ctl("status", "mailroom").stdout == ""
    assert node.ctl("status", "mailroom").returncode == 0


# --- tokens --------------------------------------------------------------------------------------


def test_token_precedence(node: Node) -> None:
    mailroom = f"mailroom['incoming_email_auth_token'] = '{TOKEN_A}'\n"
    rails = f"gitlab_rails['incoming_email_auth_token'] = '{TOKEN_C}'\n"
    node.ok(MAIL)
    generated = node.token()
    assert generated is not None
    assert len(base64.b64decode(generated)) == 32
    node.ok(MAIL + rails)
    assert node.token() == generated  # gitlab_rails[...] cannot rotate
    node.write_secrets(mailroom={"incoming_email_auth_token": TOKEN_B})
    node.ok(MAIL + rails)
    assert node.token() == TOKEN_B
    node.ok(MAIL + rails + mailroom)
    assert node.token() == TOKEN_A
    (node.root / "etc/gitlab/gitlab-secrets.json").unlink()
    node.ok(MAIL + rails)
    assert node.token() == TOKEN_C


def test_tokens_differ_per_node(node: Node, tmp_path: Path) -> None:
    other = Node(tmp_path / "other")
    node.ok(MAIL)
    other.ok(MAIL)
    assert node.token() != other.token()


def test_a_token_only_for_what_is_on(node: Node) -> None:
    node.ok(MAIL)
    assert node.token("service_desk_email") is None
    assert not node.etc("gitlab_service_desk_email_secret").exists()


def test_no_token_for_sidekiq_delivery(node: Node) -> None:
    node.ok(MAIL + "gitlab_rails['incoming_email_delivery_method'] = 'sidekiq'\n")
    assert node.token() is None


def test_no_default_secrets_also_ignores_the_rails_key(node: Node) -> None:
    node.ok(
        MAIL + f"package['generate_default_secrets'] = false\ngitlab_rails['incoming_email_auth_token'] = '{TOKEN_C}'\n"
    )
    assert node.token() is None


def test_no_secrets_file(node: Node) -> None:
    node.ok(MAIL + "package['generate_secrets_json_file'] = false\n")
    assert not (node.root / "etc/gitlab/gitlab-secrets.json").exists()
    assert node.etc("gitlab_incoming_email_secret").exists()


def test_other_secrets_are_kept(node: Node) -> None:
    node.write_secrets(gitlab_rails={"db_key_base": "precious"}, nonsense={"a": "b"})
    node.ok(MAIL)
    assert node.secrets()["gitlab_rails"]["db_key_base"] == "precious"
    assert node.secrets()["gitlab_rails"]["secret_key_base"]
    assert "nonsense" not in node.secrets()
    assert (node.root / "etc/gitlab/gitlab-secrets.json").stat().st_mode & 0o777 == 0o600


def test_secret_file_and_links(node: Node) -> None:
    node.ok(MAIL)
    secret = node.etc("gitlab_incoming_email_secret")
    assert secret.read_text() == f"{node.token()}\n"
    assert secret.stat().st_mode & 0o777 == 0o644
    assert node.etc("gitlab.yml").stat().st_mode & 0o777 == 0o640
    assert (node.root / RAILS / ".gitlab_incoming_email_secret").resolve() == secret.resolve()
    working = node.root / "var/opt/gitlab/gitlab-rails/working/.gitlab_incoming_email_secret"
    assert working.resolve() == secret.resolve()


def test_generate_secrets(node: Node, tmp_path: Path) -> None:
    (node.root / "etc/gitlab/gitlab.rb").write_text(MAIL)
    target = tmp_path / "secrets.json"
    assert node.ctl("generate-secrets", "-f", str(target)).returncode == 0
    assert json.loads(target.read_text())["mailroom"]["incoming_email_auth_token"]
    assert not (node.root / "etc/gitlab/gitlab-secrets.json").exists()


# --- gitlab.yml and mail_room.yml ----------------------------------------------------------------


@pytest.mark.parametrize("value", ["#{x}", "#$x", "#@x"])
def test_interpolation_marks_break_gitlab_yml(node: Node, value: str) -> None:
    node.ok(MAIL + f"gitlab_rails['incoming_email_password'] = '{value}'\n")
    result = node.yaml()
    assert result.returncode != 0
    assert "Psych::SyntaxError" in result.stderr


@pytest.mark.parametrize("value", ['a"b', "a'b", "a\\b", "#a", "ünï-코드", "a: b", "%{key}", "\t"])
def test_other_specials_survive(node: Node, value: str) -> None:
    ruby = value.replace("\\", "\\\\").replace("'", "\\'")
    node.ok(MAIL + f"gitlab_rails['incoming_email_password'] = '{ruby}'\n")
    assert node.mailbox()["password"] == value
    assert node.mail_room_yml()[0]["password"] == value


def test_mail_room_yml_has_the_defaults(node: Node) -> None:
    node.ok("external_url 'http://gitlab.example.com/'\n" + MAIL)
    (box,) = node.mail_room_yml()
    assert box["port"] == 143
    assert box["ssl"] is False
    assert box["start_tls"] is False
    assert box["idle_timeout"] == 60
    assert box["name"] == "inbox"
    assert box["delete_after_delivery"] is True
    assert box["expunge_deleted"] is False
    assert box["delivery_options"] == {
        "delivery_url": "http://gitlab.example.com/api/v4/internal/mail_room/incoming_email",
        "content_type": "text/plain",
        "jwt_auth_header": "Gitlab-Mailroom-Api-Request",
        "jwt_issuer": "gitlab-mailroom",
        "jwt_algorithm": "HS256",
        "jwt_secret_path": ".gitlab_incoming_email_secret",
    }


def test_service_desk_cannot_keep_its_mail(node: Node) -> None:
    desk = MAIL.replace("incoming_email", "service_desk_email")
    node.ok(desk + "gitlab_rails['service_desk_email_delete_after_delivery'] = false\n")
    (box,) = node.mail_room_yml()
    assert box["delete_after_delivery"] is True
    node.ok(MAIL + "gitlab_rails['incoming_email_delete_after_delivery'] = false\n")
    assert node.mail_room_yml()[0]["delete_after_delivery"] is False


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ("gitlab_rails['incoming_email_gitlab_url'] = 'http://ignored'\n", "http://gitlab.example.com"),
        ("gitlab_rails['internal_api_url'] = 'http://lb:8080/x'\n", "http://lb:8080/x"),
        (
            "gitlab_workhorse['listen_network'] = 'tcp'\ngitlab_workhorse['listen_addr'] = '10.0.0.1:8181'\n",
            "http://10.0.0.1:8181",
        ),
    ],
)
def test_where_mail_room_posts_to(node: Node, settings: str, url: str) -> None:
    node.ok("external_url 'http://gitlab.example.com'\n" + MAIL + settings)
    assert node.mailbox()["gitlab_url"] == url


# --- reconfigure ---------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(node: Node) -> None:
    node.ok(MAIL)
    second = node.ok(MAIL)
    assert "Infra Phase complete, 0/" in second
    assert "action restart" not in second


def test_a_new_token_restarts_both(node: Node) -> None:
    node.ok(MAIL)
    output = node.ok(MAIL + f"mailroom['incoming_email_auth_token'] = '{TOKEN_A}'\n")
    assert "runit_service[puma] action restart" in output
    assert "runit_service[mailroom] action restart" in output


def test_the_log_has_what_the_screen_had(node: Node) -> None:
    output = node.ok(MAIL)
    logs = list((node.root / "var/log/gitlab/reconfigure").glob("*.log"))
    assert "".join(log.read_text() for log in logs) == output


@pytest.mark.parametrize(
    ("version", "setting", "code"),
    [
        ("19.3.0-ee.0", "mattermost['enable'] = true\n", 1),
        ("19.3.0-ee.0", "mattermost['enable'] = false\n", 0),
        ("19.0.1-ee.0", "mattermost['enable'] = false\n", 1),
        ("18.11.11-ee.0", "mattermost['enable'] = true\n", 0),
    ],
)
def test_mattermost_left_with_19(tmp_path: Path, version: str, setting: str, code: int) -> None:
    result = Node(tmp_path / "node", version).reconfigure(setting)
    assert result.returncode == code, result.stdout
    if code:
        assert result.stdout.splitlines()[-1].endswith(
            "Removed configurations found in gitlab.rb. Aborting reconfigure."
        )


def test_check_config(node: Node) -> None:
    skipped = node.ctl("check-config", "--version=19.0.0")
    assert skipped.returncode == 0
    assert "Skipping config check." in skipped.stdout
    node.ok("mattermost['enable'] = true\n")
    assert node.ctl("check-config", "--version=19.0.0").returncode == 1
    assert node.ctl("check-config").returncode == 0
    node.ok("mattermost['enable'] = false\n")
    assert node.ctl("check-config", "--version=19.0.0").returncode == 0
    node.reconfigure("raise 'x'\n")
    malformed = node.ctl("check-config", "--version=19.0.0")
    assert malformed.returncode == 1
    assert "Malformed configuration JSON file" in malformed.stdout


# --- the API's check -----------------------------------------------------------------------------


def post(
    node: Node, token: str | None, *, kind: str = "incoming_email", body: str = "Subject: x\n\nhello"
) -> tuple[int, int]:
    """(status, number of mails received since the start) of one push."""
    received = node.root / "received.jsonl"
    code = (
        "require ARGV[0] + '/lib/standin_app/mail_room_api';"
        "status, = StandinApp::MailRoomApi.new(received: ARGV[1]).post(ARGV[2], ARGV[3], $stdin.read);"
        "puts status"
    )
    arguments = [str(node.root / RAILS), str(received), kind, *([token] if token is not None else [])]
    result = node.ruby("-e", code, *arguments, stdin=body)
    assert result.returncode == 0, result.stderr
    return int(result.stdout), len(received.read_text().splitlines()) if received.exists() else 0


def signed(secret: bytes, **claims: object) -> str:
    payload = {"nonce": "0" * 24, "iat": int(time.time()), "iss": "gitlab-mailroom", **claims}
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, "HS256")


@pytest.fixture
def rails(node: Node) -> Node:
    node.ok(MAIL + f"mailroom['incoming_email_auth_token'] = '{TOKEN_A}'\n")
    return node


def test_a_good_token(rails: Node) -> None:
    assert post(rails, signed(b"a" * 32)) == (200, 1)


@pytest.mark.parametrize("body", ["", " \r\n\n"])
def test_an_empty_body_is_accepted_and_makes_nothing(rails: Node, body: str) -> None:
    assert post(rails, signed(b"a" * 32), body=body) == (200, 0)


@pytest.mark.parametrize(
    ("field", "mails"),
    [
        ("Auto-Submitted: auto-generated", 0),
        ("auto-submitted: auto-replied", 0),
        ("Auto-Submitted: no ", 1),
        ("X-Autoreply: yes", 0),
        ("X-Autoreply: no", 1),
    ],
)
def test_an_automatic_mail_is_accepted_and_makes_nothing(rails: Node, field: str, mails: int) -> None:
    assert post(rails, signed(b"a" * 32), body=f"{field}\r\nSubject: x\r\n\r\nhello") == (200, mails)


def test_the_header_counts_and_not_the_text(rails: Node) -> None:
    body = "Subject: x\r\n\r\nAuto-Submitted: auto-generated\r\n"
    assert post(rails, signed(b"a" * 32), body=body) == (200, 1)


@pytest.mark.parametrize(("seconds", "status"), [(-240, 200), (-310, 401), (2, 401)])
def test_how_old_a_token_may_be(rails: Node, seconds: int, status: int) -> None:
    """Five minutes back, nothing ahead: a reader whose clock is two seconds fast loses its mail."""
    assert post(rails, signed(b"a" * 32, iat=time.time() + seconds))[0] == status


@pytest.mark.parametrize(
    ("secret", "claims"),
    [
        (b"b" * 32, {}),
        (b"a" * 32, {"iat": int(time.time()) - 1000}),
        (b"a" * 32, {"iat": int(time.time()) + 1000}),
        (b"a" * 32, {"iat": None}),
        (b"a" * 32, {"iat": "now"}),
        (b"a" * 32, {"iss": "someone"}),
        (b"a" * 32, {"iss": None}),
        (b"a" * 32, {"exp": 1}),
    ],
)
def test_a_bad_token(rails: Node, secret: bytes, claims: dict[str, object]) -> None:
    assert post(rails, signed(secret, **claims)) == (401, 0)


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "a.b.c.d"])
def test_no_token(rails: Node, token: str | None) -> None:
    assert post(rails, token) == (401, 0)


def test_an_unsigned_token(rails: Node) -> None:
    unsigned = jwt.encode({"iat": int(time.time()), "iss": "gitlab-mailroom"}, None, "none")
    assert post(rails, unsigned) == (401, 0)


@pytest.mark.parametrize("kind", ["service_desk_email", "nonsense"])
def test_a_mailbox_that_is_not_on_here(rails: Node, kind: str) -> None:
    assert post(rails, signed(b"a" * 32), kind=kind) == (401, 0)


@pytest.mark.parametrize("content", ["!!!\n", base64.b64encode(b"a" * 31).decode() + "\n", ""])
def test_a_bad_secret_file_is_500_for_everyone(rails: Node, content: str) -> None:
    rails.etc("gitlab_incoming_email_secret").write_text(content)
    assert post(rails, None) == (500, 0)
    assert post(rails, signed(b"a" * 32)) == (500, 0)


def test_the_header_of_the_readers_addition(rails: Node) -> None:
    """The lab's addition to mail_room makes a token that the check accepts."""
    lib = rails.root / "opt/gitlab/embedded/standin/lib/standin/mail_room_jwt.rb"
    code = (
        "module MailRoom; module Delivery; class Postback; Options = Class.new; end; end;"
        "module Logger; Structured = Class.new; end; end; require ARGV[0];"
        "print Standin::MailRoomJwt.token({jwt_secret_path: ARGV[1], jwt_issuer: 'gitlab-mailroom'})"
    )
    result = rails.ruby("-e", code, str(lib), str(rails.etc("gitlab_incoming_email_secret")))
    assert result.returncode == 0, result.stderr
    assert post(rails, result.stdout) == (200, 1)


# --- encrypted settings --------------------------------------------------------------------------


def rake(node: Node, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return node.ruby(str(node.root / "opt/gitlab/bin/gitlab-rake"), *arguments, stdin=stdin)


def test_encrypted_settings_win_over_gitlab_yml(node: Node) -> None:
    node.ok(MAIL + f"gitlab_rails['encrypted_settings_path'] = '{node.root}/enc'\n")
    (node.root / "enc").mkdir()
    written = rake(node, "gitlab:incoming_email:secret:write", stdin="user: u2\npassword: 'p#{2}'\n")
    assert (written.returncode, written.stdout) == (0, "File encrypted and saved.\n")
    assert b"p#{2}" not in (node.root / "enc/incoming_email.yaml.enc").read_bytes()
    assert "password: 'p#{2}'" in rake(node, "gitlab:incoming_email:secret:show").stdout
    (box,) = node.mail_room_yml()
    assert (box["email"], box["password"]) == ("u2", "p#{2}")


def test_encrypted_settings_fail_with_code_0(node: Node) -> None:
    node.ok(MAIL + f"gitlab_rails['encrypted_settings_path'] = '{node.root}/enc'\n")
    failed = rake(node, "gitlab:incoming_email:secret:write", stdin="user: u2\n")
    assert failed.returncode == 0
    assert "does not exist" in failed.stderr
    assert failed.stdout == ""
    (node.root / "enc").mkdir()
    (node.root / "enc/incoming_email.yaml.enc").write_text("nonsense")
    shown = rake(node, "gitlab:incoming_email:secret:show")
    assert shown.returncode == 0
    assert "Couldn't decrypt" in shown.stderr


# --- the package ---------------------------------------------------------------------------------


def test_the_package_is_the_same_twice_and_says_what_it_is(tmp_path: Path) -> None:
    first, second = build(tmp_path / "1"), build(tmp_path / "2")
    assert first.name == "gitlab-ee_18.11.11-ee.0_amd64.deb"
    assert first.read_bytes() == second.read_bytes()
    control = subprocess.run(["dpkg-deb", "-f", str(first)], capture_output=True, text=True, check=True).stdout
    assert "Package: gitlab-ee\n" in control
    assert "STAND-IN" in control


@pytest.mark.parametrize("version", ["18.11", "18.11.11", "18.11.11-ee", "x"])
def test_a_version_that_cannot_be(tmp_path: Path, version: str) -> None:
    with pytest.raises(ValueError, match="not like the real package's"):
        build(tmp_path, version)


class TestMigrations:
    """One node migrates; the rest must be told not to."""

    @staticmethod
    def schema(node: Node) -> dict[str, object]:
        return json.loads((node.root / "var/opt/gitlab/standin-shared/schema.json").read_text())

    def test_reconfigure_migrates_once_per_version(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        assert "rails_migration[gitlab-rails] action migrate\n" in node.ok("")
        assert "rails_migration[gitlab-rails] action migrate (up to date)" in node.ok("")
        assert self.schema(node)["post"] == "18.11.11"

    def test_a_node_that_is_told_not_to_does_not(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        assert "rails_migration" not in node.ok("gitlab_rails['auto_migrate'] = false")
        assert not (tmp_path / "var/opt/gitlab/standin-shared/schema.json").exists()

    def test_post_deployment_migrations_can_be_left_for_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = Node(tmp_path, "18.10.5-ee.0")
        node.ok("")
        (tmp_path / RAILS / "VERSION").write_text("18.11.11-ee\n")
        monkeypatch.setenv("SKIP_POST_DEPLOYMENT_MIGRATIONS", "true")
        node.ok("")
        assert (self.schema(node)["regular"], self.schema(node)["post"]) == ("18.11.11", "18.10.5")
        monkeypatch.delenv("SKIP_POST_DEPLOYMENT_MIGRATIONS")
        assert "action migrate (up to date)" in node.ok(""), "reconfigure takes it for migrated"
        done = node.ruby(str(node.root / "opt/gitlab/bin/gitlab-rake"), "db:migrate")
        assert (done.returncode, done.stdout) == (0, "== post migrations of 18.11.11-ee: migrated\n")
        assert self.schema(node)["post"] == "18.11.11"

    def test_background_migrations_that_wait_stop_it(self, tmp_path: Path) -> None:
        node = Node(tmp_path, "18.10.5-ee.0")
        node.ok("")
        file = tmp_path / "var/opt/gitlab/standin-shared/schema.json"
        file.write_text(json.dumps({**self.schema(node), "background": ["BackfillX on events"]}))
        question = "SELECT job_class_name FROM batched_background_migrations WHERE status NOT IN (3, 6)"
        asked = (
            f'puts [ApplicationRecord, Ci::ApplicationRecord].flat_map {{ _1.connection.select_values("{question}") }}'
        )
        told = node.ruby(str(node.root / "opt/gitlab/bin/gitlab-rails"), "runner", asked)
        assert told.stdout.split("\n")[0] == "BackfillX on events", told.stderr
        (tmp_path / RAILS / "VERSION").write_text("18.11.11-ee\n")
        failed = node.reconfigure("")
        assert failed.returncode == 1
        assert "marked as 'finished', but it is 'active': BackfillX on events" in failed.stdout
