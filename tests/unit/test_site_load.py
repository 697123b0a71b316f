"""Every mistake in a site file is named with file, line, key, what was found and what is allowed; all at once."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from roles.site.errors import SiteFileError
from roles.site.load import load
from tests.unit.site_files import PASSWORDS, VALID, SiteFiles


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteFiles:
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    return SiteFiles(tmp_path)


def test_the_valid_file_loads(files: SiteFiles) -> None:
    site = files.load()
    assert site.rails_nodes == ["gitlab-1", "gitlab-2"]
    assert site.webhook_mailboxes == ["incoming_email", "service_desk_email"]
    assert site.dir == files.folder
    assert site.token("incoming_email") is None
    assert site.token_path("incoming_email") == files.folder / "incoming_token"
    assert site.mail is not None
    assert site.mail.incoming_email is not None
    assert site.secret(site.mail.incoming_email.password).reveal() == "hunter2-incoming"


MISTAKES = {
    # name: (old text, new text, line is where this stands, key, parts of what is said)
    "unknown key": (
        "    idle_timeout: 60", "    idle_timout: 60", "idle_timout:", "mail.incoming_email.idle_timout",
        ["unknown key", "mailbox_name", 'did you mean "idle_timeout"?'],
    ),
    "address without placeholder": (
        "incoming+%{key}@", "incoming@", "incoming@example.com", "mail.incoming_email.address",
        ["'incoming@example.com'", "+%{key} directly before @"],
    ),
    "address with placeholder elsewhere": (
        "incoming+%{key}@", "incoming+%{key}x@", "%{key}x@", "mail.incoming_email.address",
        ["incoming+%{key}x@example.com", "directly before @"],
    ),
    "address with two placeholders": (
        "incoming+%{key}@", "incoming+%{key}+%{key}@", "%{key}+%{key}", "mail.incoming_email.address",
        ["directly before @"],
    ),
    "local part too long": (
        "incoming+%{key}@", "i" * 32 + "+%{key}@", "iiii", "mail.incoming_email.address",
        ["i" * 32, "at most 31"],
    ),
    "one mailbox twice": (
        "user: contact@example.com", "user: incoming@example.com", "service_desk_email:",
        "mail.service_desk_email.user", ["incoming_email", "'incoming@example.com'", "another user"],
    ),
    "one address twice": (
        "contact+%{key}@", "incoming+%{key}@", "service_desk_email:", "mail.service_desk_email.address",
        ["incoming_email", "incoming+%{key}@example.com"],
    ),
    "reader is no node": (
        "reader: gitlab-1", "reader: gitlab-9", "reader:", "mail.reader",
        ["not a node", "'gitlab-9'", "one of: gitlab-1, gitlab-2"],
    ),
    "reader without Rails": (
        "reader: gitlab-1", "reader: gitaly-1", "reader:", "mail.reader",
        ["without Rails", "gitaly", "one of: gitlab-1, gitlab-2"],
    ),
    "idle_timeout too long": (
        "idle_timeout: 60", "idle_timeout: 1741", "idle_timeout:", "mail.incoming_email.idle_timeout",
        ["1741", "1740"],
    ),
    "idle_timeout of zero": (
        "idle_timeout: 60", "idle_timeout: 0", "idle_timeout:", "mail.incoming_email.idle_timeout", ["found: 0"],
    ),
    "number as text": (
        "idle_timeout: 60", 'idle_timeout: "60"', "idle_timeout:", "mail.incoming_email.idle_timeout",
        ["'60'", "integer"],
    ),
    "internal_api_url with slash": (
        "http://internal.example.com", "http://internal.example.com/", "internal_api_url:",
        "gitlab.internal_api_url", ["must not end in", "http://internal.example.com/"],
    ),
    "suffix": (
        "suffix: support", "suffix: Support-Team", "suffix:", "service_desk.projects.mygroup/myproject.suffix",
        ["Support-Team", "a-z, 0-9 and _"],
    ),
    "two suffixes with one address": (
        "    mygroup/myproject: {suffix: support}",
        "    mygroup/myproject: {suffix: support}\n    mygroup-myproject/x: {suffix: a}\n"
        "    mygroup/myproject-x: {suffix: a}",
        "mygroup/myproject-x", "service_desk.projects.mygroup/myproject-x.suffix", ["mygroup-myproject/x"],
    ),
    "project without group": (
        "mygroup/myproject", "myproject", "myproject:", "service_desk.projects.myproject", ["group/project"],
    ),
    "duplicate address": (
        "198.18.0.12", "198.18.0.11", "gitlab-2:", "nodes.gitlab-2.address", ["gitlab-1", "198.18.0.11"],
    ),
    "node name": (
        "gitlab-2:", "GitLab_2:", "GitLab_2:", "nodes.GitLab_2", ["GitLab_2", "small letters"],
    ),
    "address of a node": (
        "198.18.0.12", "198.18.0.300", "gitlab-2:", "nodes.gitlab-2.address", ["198.18.0.300", "host name or IP"],
    ),
    "role": (
        "roles: [gitaly]", "roles: [giataly]", "gitaly-1:", "nodes.gitaly-1.roles[0]", ["giataly", "application"],
    ),
    "role with its ending": (
        "roles: [gitaly]", "roles: [gitaly_role]", "gitaly-1:", "nodes.gitaly-1.roles[0]", ["gitaly_role"],
    ),
    "missing key": (
        "    host: imap.example.com\n    idle", "    idle", "  incoming_email:", "mail.incoming_email.host",
        ["is missing"],
    ),
    "version": (
        "version: 18.11.11", "version: 18.11", "version:", "gitlab.version", ["18.11", "string"],
    ),
    "external_url": (
        "external_url: http://gitlab.example.com", "external_url: gitlab.example.com", "external_url:",
        "gitlab.external_url", ["'gitlab.example.com'", "https://HOST"],
    ),
    "ssl and start_tls": (
        "    idle_timeout: 60", "    start_tls: true", "start_tls:", "mail.incoming_email.start_tls",
        ["ssl", "ssl: false"],
    ),
    "Service Desk delete_after_delivery": (
        "    user: contact@", "    delete_after_delivery: false\n    user: contact@", "delete_after",
        "mail.service_desk_email.delete_after_delivery", ["never renders"],
    ),
    "Service Desk expunge_deleted": (
        "    user: contact@", "    expunge_deleted: true\n    user: contact@", "expunge_",
        "mail.service_desk_email.expunge_deleted", ["never renders"],
    ),
    "token is missing": (
        "    service_desk_email: !file service_desk_token\n", "", "tokens:", "mail.tokens.service_desk_email",
        ["service_desk_email token", "!file PATH"],
    ),
    "mail without mailbox": (
        VALID[VALID.index("mail:\n") :], "mail: {reader: gitlab-1}\n", "mail:", "mail",
        ["no mailbox", "incoming_email"],
    ),
    "section of gitlab.rb": (
        "nginx: {listen_port", "ngnix: {listen_port", "ngnix", "gitlab.settings.ngnix", ['did you mean "nginx"?'],
    ),
    "literal secret": (
        "nginx: {listen_port: 80}", "gitlab_rails: {db: {main: {db_password: hunter2-literal}}}", "db_password",
        "gitlab.settings.gitlab_rails.db.main.db_password", ["reference", "!env NAME"],
    ),
    "literal secret as a number": (
        "nginx: {listen_port: 80}", "gitlab_rails: {smtp_password: 1234567}", "smtp_password",
        "gitlab.settings.gitlab_rails.smtp_password", ["not shown", "!env NAME"],
    ),
    "number that Ruby cannot write": (
        "nginx: {listen_port: 80}", "nginx: {x: .nan}", "nginx", "gitlab.settings.nginx.x", ["finite"],
    ),
    "our own key": (
        "nginx: {listen_port: 80}", "mailroom: {enable: true}", "mailroom", "gitlab.settings.mailroom.enable",
        ["set by this program"],
    ),
    "our own key of a node": (
        "{address: 198.18.0.12}", "{address: 198.18.0.12, settings: {mailroom: {enable: true}}}", "gitlab-2:",
        "nodes.gitlab-2.settings.mailroom.enable", ["set by this program"],
    ),
    "our own key in Ruby": (
        "    registry_external_url 'http://registry.example.com'", '    mailroom["enable"] = true', "extra_ruby",
        "gitlab.extra_ruby", ["line 1 of the block", "mailroom['enable']"],
    ),
    "literal secret in Ruby": (
        "    registry_external_url 'http://registry.example.com'",
        "    x = 1\n    gitlab_rails['smtp_password'] = 'hunter2-literal'", "extra_ruby",
        "gitlab.extra_ruby", ["line 2 of the block", "smtp_password"],
    ),
    "__END__ in Ruby": (
        "    registry_external_url 'http://registry.example.com'", "    x = 1\n    __END__", "extra_ruby",
        "gitlab.extra_ruby", ["__END__", "mail settings come later"],
    ),
    "role of a later version": (
        "roles: [gitaly]", "roles: [backup]", "gitaly-1:", "nodes.gitaly-1.roles[0]", ["backup", "GitLab 18.11.11"],
    ),
    "package of another version": (
        "  config: whole", "  config: whole\n  package: {revision: 18.11.1-ee.0}", "revision:",
        "gitlab.package.revision", ["18.11.1-ee.0", "begins with 18.11.11-"],
    ),
    "token without mailbox": (
        VALID[VALID.index("  service_desk_email:\n") :],
        "  tokens: {incoming_email: !file incoming_token, service_desk_email: !file service_desk_token}\n",
        "tokens:", "mail.tokens.service_desk_email", ["there is no mail.service_desk_email"],
    ),
    "login name by GitLab's own word": (
        "    user: contact@", "    email: x\n    user: contact@", "email: x", "mail.service_desk_email.email",
        ["is called user here"],
    ),
    "user that breaks gitlab.yml": (
        "user: incoming@example.com", "user: 'in#{coming}'", "user:", "mail.incoming_email.user",
        ["#{", "gitlab-rake gitlab:incoming_email:secret:edit"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(files: SiteFiles, name: str) -> None:
    old, new, where, key, told = MISTAKES[name]
    problems = files.problems(files.changed((old, new)))
    problem = next((p for p in problems if p.key == key), None)
    assert problem is not None, [str(p) for p in problems]
    assert problem.file == files.path
    shown = str(problem)
    assert shown.startswith(f"{files.path}:{problem.line}: {key}: ")
    lines = files.path.read_text().splitlines()
    expected = [number for number, line in enumerate(lines, 1) if where in line]
    assert problem.line in expected or lines[problem.line - 1].strip().startswith(key.rpartition(".")[2]), shown
    for part in told:
        assert part in shown
    assert "hunter2" not in shown
    unrelated = [str(p) for p in problems if p.key != key]
    assert not unrelated


@pytest.mark.parametrize(
    ("section", "key", "instead"),
    [
        ("gitlab_rails", "incoming_email_secret_file", "mail.tokens.incoming_email"),
        ("gitlab_rails", "incoming_email_gitlab_url", "gitlab.internal_api_url"),
        ("gitlab_rails", "service_desk_email_secret_file", "mail.tokens.service_desk_email"),
        ("gitlab_rails", "service_desk_email_gitlab_url", "gitlab.internal_api_url"),
        ("mailroom", "enabled", "mail.reader"),
    ],
)
def test_keys_that_only_the_documentation_knows(files: SiteFiles, section: str, key: str, instead: str) -> None:
    as_setting = files.changed(("nginx: {listen_port: 80}", f"{section}: {{{key}: x}}"))
    (problem,) = files.problems(as_setting)
    assert problem.key == f"gitlab.settings.{section}.{key}"
    assert "no version of the package" in str(problem)
    assert instead in str(problem)
    as_ruby = files.changed(("registry_external_url 'http://registry.example.com'", f"{section}['{key}'] = x"))
    (problem,) = files.problems(as_ruby)
    assert problem.key == "gitlab.extra_ruby"
    assert key in str(problem)
    assert instead in str(problem)


@pytest.mark.parametrize(
    "ruby", ["roles ['sidekiq_role']", "roles ['a', 'b']", "external_url 'http://x'", 'external_url("http://x")']
)
def test_words_of_the_site_file_are_refused_in_ruby(files: SiteFiles, ruby: str) -> None:
    (problem,) = files.problems(files.changed(("registry_external_url 'http://registry.example.com'", ruby)))
    assert problem.key == "gitlab.extra_ruby"


def test_sidekiq_delivery_depends_on_the_version(files: SiteFiles) -> None:
    change = ("delivery_method: webhook", "delivery_method: sidekiq")
    assert files.load(files.changed(change)).webhook_mailboxes == ["service_desk_email"]
    (problem,) = files.problems(files.changed(change, ("18.11.11", "19.0.0")))
    assert problem.key == "mail.incoming_email.delivery_method"
    assert "19.0" in problem.message
    assert problem.allowed == "webhook"


def test_other_settings_need_the_whole_mode(files: SiteFiles) -> None:
    problems = files.problems(files.changed(("config: whole", "config: include")))
    assert [p.key for p in problems] == ["gitlab.settings", "gitlab.extra_ruby"]
    assert all("config: whole" in p.message for p in problems)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("bm90IDMyIGJ5dGVz", "12 bytes"),
        (base64.b64encode(bytes(33)).decode(), "33 bytes"),
        ("!!!not-base64!!!", "16 characters"),
        (base64.urlsafe_b64encode(b"\xff" * 32).decode(), "44 characters"),
        (base64.b64encode(bytes(range(32))).decode().rstrip("="), "43 characters"),
        (base64.b64encode(bytes(range(32))).decode() + "\n", "45 characters"),
    ],
)
def test_tokens_are_base64_of_32_bytes(files: SiteFiles, value: str, told: str) -> None:
    (files.folder / "incoming_token").write_text(value + "\n")
    (files.folder / "incoming_token").chmod(0o600)
    (problem,) = files.problems(files.changed())
    assert problem.key == "mail.tokens.incoming_email"
    assert problem.line == files.line("incoming_token")
    assert told in problem.found
    assert "exactly 32 bytes" in problem.allowed
    assert value.strip() not in str(problem)


def test_a_missing_token_variable_is_an_error_but_a_missing_file_is_not(files: SiteFiles) -> None:
    (problem,) = files.problems(files.changed(("!file incoming_token", "!env TEST_NO_SUCH_TOKEN")))
    assert problem.key == "mail.tokens.incoming_email"
    assert "TEST_NO_SUCH_TOKEN is not set" in problem.message


@pytest.mark.parametrize("value", ["a#{b}c", "a#$b", "a#@b", "a\nb", "a\x85b"])
def test_passwords_that_gitlab_yml_cannot_hold(files: SiteFiles, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TEST_INCOMING_PASSWORD", value)
    (problem,) = files.problems(files.changed())
    assert problem.key == "mail.incoming_email.password"
    assert value not in str(problem)
    assert repr(value) not in str(problem)


def test_all_problems_at_once_in_the_order_of_lines(files: SiteFiles) -> None:
    text = files.changed(
        ("198.18.0.12", "198.18.0.11"),
        ("version: 18.11.11", "version: eighteen"),
        ("http://internal.example.com", "http://internal.example.com/"),
        ("reader: gitlab-1", "reader: gitaly-1"),
        ("    user: incoming@", "    usr: incoming@"),
        ("idle_timeout: 60", "idle_timeout: 9999"),
        ("suffix: support", "suffix: SUPPORT"),
    )
    problems = files.problems(text)
    assert {p.key for p in problems} == {
        "nodes.gitlab-2.address",
        "gitlab.version",
        "gitlab.internal_api_url",
        "mail.reader",
        "mail.incoming_email.usr",
        "mail.incoming_email.user",
        "mail.incoming_email.idle_timeout",
        "service_desk.projects.mygroup/myproject.suffix",
    }
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    error = SiteFileError(problems)
    assert "8 problems" in str(error)
    assert all(str(problem) in str(error) for problem in problems)


def test_a_literal_secret_is_refused_and_not_shown(files: SiteFiles) -> None:
    (problem,) = files.problems(files.changed(("!env TEST_INCOMING_PASSWORD", "hunter2-literal")))
    assert problem.key == "mail.incoming_email.password"
    assert "!env NAME" in problem.allowed
    assert "hunter2-literal" not in str(problem)


def test_service_desk_addresses(files: SiteFiles) -> None:
    # GitLab's documentation, "Configure a suffix for Service Desk alias email": contact+mygroup-myproject-support
    assert files.load().service_desk_addresses() == {
        "mygroup/myproject": "contact+mygroup-myproject-support@example.com"
    }
    long = "G_r.up/" + "x" * 70
    site = files.load(files.changed(("mygroup/myproject", long)))
    assert site.service_desk_addresses() == {long: f"contact+g-r-up-{'x' * 56}-support@example.com"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SiteFileError, match="No such file"):
        load(tmp_path / "nothing.yml")


def test_a_section_of_gitlab_documentation_is_let_through(files: SiteFiles) -> None:
    # prometheus_monitoring['enable'] = false stands in GitLab's own multi-node reference architectures
    site = files.load(files.changed(("nginx: {listen_port: 80}", "prometheus_monitoring: {enable: false}")))
    assert site.gitlab.settings["prometheus_monitoring"] == {"enable": False}
