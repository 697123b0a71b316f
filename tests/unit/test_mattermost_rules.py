"""Every mistake in the section `mattermost` is told with line, key, what was found, what is allowed; all at once."""

from __future__ import annotations

import json

import pytest

from roles.mattermost import keys
from roles.mattermost.rules import OURS
from roles.site.errors import SiteFileError
from roles.site.load import load
from tests.unit import chat_sites
from tests.unit.certificates import self_signed
from tests.unit.chat_sites import ADMIN, API, MAIL, SIGN_ON, SITE, changed, problems, settings

ENVIRONMENT = "  environment:\n"
ENTERPRISE = ("  release:", "  edition: enterprise\n  release:")
V9, V11 = ("version: 10.11.8", "version: 9.9.1"), ("version: 10.11.8", "version: 11.4.0")
CLUSTER = settings("ClusterSettings.Enable: true")
BATCHES = CLUSTER + "    EmailSettings:\n      EnableEmailBatching: true\n"


def test_valid_sites_load(tmp_path):
    for more in (
        "",
        SIGN_ON,
        API,
        ADMIN,
        MAIL,
        ENVIRONMENT + "    HTTPS_PROXY: http://proxy:3128\n",
        API + ADMIN + MAIL,
    ):
        site = chat_sites.site(tmp_path, SITE + more)
        assert site.mattermost_node == "chat-1"
        assert list(site.gitlab_nodes) == ["gitlab-1", "gitaly-1"]


def test_defaults(tmp_path):
    wanted = chat_sites.wanted(chat_sites.site(tmp_path))
    assert (wanted.edition, wanted.number, wanted.host, wanted.port) == ("team", (10, 11, 8), "chat.example.com", 443)
    assert (wanted.database.port, wanted.database.name, wanted.database.user) == (5432, "mattermost", "mmuser")
    assert wanted.database.sslmode == "verify-full"
    assert (wanted.account.user, wanted.account.group, wanted.proxy.hsts) == ("mattermost", "mattermost", True)


MISTAKES = {
    # name: (changes, appended, key, parts of what is said)
    "no node": (
        [("roles: [mattermost]", "roles: [gitaly]")], "", "mattermost",
        ["exactly one node with the role mattermost", "no such node", "roles: [mattermost] on one node"],
    ),
    "two nodes": (
        [("roles: [gitaly]", "roles: [mattermost]")], "", "mattermost",
        ["exactly one node", "gitaly-1, chat-1", "licence"],
    ),
    "beside another role": (
        [("[mattermost]", "[mattermost, gitaly]")], "", "nodes.chat-1.roles",
        ["not a role beside others", "['mattermost', 'gitaly']", "a node of its own"],
    ),
    "team and sign-on from 11": (
        [V11], SIGN_ON, "mattermost.sign_on",
        ["no GitLab sign-on from 11.0", "edition team, version 11.4.0", "entry", "enterprise", "10.11 at most"],
    ),
    "high availability without a licence": (
        [], CLUSTER, "mattermost.settings.ClusterSettings.Enable",
        ["needs a licence", "edition team", "edition enterprise"],
    ),
    "high availability in entry": (
        [("  release:", "  edition: entry\n  release:")], CLUSTER, "mattermost.settings.ClusterSettings.Enable",
        ["needs a licence", "edition entry"],
    ),
    "high availability and e-mail batching": (
        [ENTERPRISE], BATCHES, "mattermost.settings.EmailSettings.EnableEmailBatching",
        ["does not work with high availability", "true", "no ClusterSettings.Enable"],
    ),
    "edition": (
        [("  release:", "  edition: cloud\n  release:")], "", "mattermost.edition", ["'cloud'", "team", "enterprise"],
    ),
    "version with a v": ([("10.11.8", "v10.11.8")], "", "mattermost.version", ["'v10.11.8'", "three numbers"]),
    "unknown key of the section": (
        [("  site_url", "  siteurl: x\n  site_url")], "", "mattermost.siteurl",
        ["unknown key", 'did you mean "site_url"?'],
    ),
    "unknown setting": (
        [], settings("EmailSettings.SMTPSever: x"), "mattermost.settings.EmailSettings.SMTPSever",
        ["no key of Mattermost 9.9 to 11.4", "did you mean EmailSettings.SMTPServer?", "MM_SECTION_KEY"],
    ),
    "unknown section": (
        [], settings("EmialSettings.SMTPServer: x"), "mattermost.settings.EmialSettings.SMTPServer",
        ["did you mean EmailSettings.SMTPServer?"],
    ),
    "nothing near": (
        [], settings("Zzz.Qqq: x"), "mattermost.settings.Zzz.Qqq", ["is no key of Mattermost 9.9 to 11.4; found: 'x'"],
    ),
    "setting of another case": (
        [], settings("ServiceSettings.enablelinkpreviews: true"),
        "mattermost.settings.ServiceSettings.enablelinkpreviews", ["no key of Mattermost"],
    ),
    "deep unknown setting": (
        [V11], settings("AutoTranslationSettings.LibreTranslate: {Url: x}"),
        "mattermost.settings.AutoTranslationSettings.LibreTranslate.Url",
        ["did you mean AutoTranslationSettings.LibreTranslate.URL?"],
    ),
    "text for a number": (
        [], settings('FileSettings.MaxFileSize: "5"'), "mattermost.settings.FileSettings.MaxFileSize",
        ["wrong type", "'5'", "a whole number"],
    ),
    "truth for a number": (
        [], settings("FileSettings.MaxFileSize: true"), "mattermost.settings.FileSettings.MaxFileSize",
        ["wrong type", "True", "a whole number"],
    ),
    "float for a number": (
        [], settings("FileSettings.MaxFileSize: 1.5"), "mattermost.settings.FileSettings.MaxFileSize", ["wrong type"],
    ),
    "number for a text": (
        [], settings("EmailSettings.SMTPPort: 587"), "mattermost.settings.EmailSettings.SMTPPort",
        ["wrong type", "587", "text"],
    ),
    "text for a truth": (
        [], settings('ServiceSettings.EnableLinkPreviews: "true"'),
        "mattermost.settings.ServiceSettings.EnableLinkPreviews", ["wrong type", "true or false"],
    ),
    "number for a truth": (
        [], settings("ServiceSettings.EnableLinkPreviews: 1"),
        "mattermost.settings.ServiceSettings.EnableLinkPreviews", ["wrong type", "true or false"],
    ),
    "nothing for a text": (
        [], settings("TeamSettings.SiteName:"), "mattermost.settings.TeamSettings.SiteName", ["wrong type", "None"],
    ),
    "text for a list": (
        [], settings("DisplaySettings.CustomURLSchemes: git"),
        "mattermost.settings.DisplaySettings.CustomURLSchemes", ["wrong type", "a list of texts"],
    ),
    "empty list": (
        [], settings("DisplaySettings.CustomURLSchemes: []"),
        "mattermost.settings.DisplaySettings.CustomURLSchemes", ["cannot be said in the environment", "not empty"],
    ),
    "list with a space": (
        [], settings("DisplaySettings.CustomURLSchemes: [git, 'a b']"),
        "mattermost.settings.DisplaySettings.CustomURLSchemes", ["cannot be said in the environment"],
    ),
    "list with a number": (
        [], settings("DisplaySettings.CustomURLSchemes: [1]"),
        "mattermost.settings.DisplaySettings.CustomURLSchemes", ["cannot be said in the environment"],
    ),
    "list for a mapping": (
        [], settings("PluginSettings.PluginStates: [a]"), "mattermost.settings.PluginSettings.PluginStates",
        ["wrong type", "a mapping"],
    ),
    "a secret for a number": (
        [], settings("FileSettings.MaxFileSize: !file secrets/smtp"), "mattermost.settings.FileSettings.MaxFileSize",
        ["wrong type", "a secret reference", "a whole number"],
    ),
    "a key of 11.4 in 9.9": (
        [V9], settings("CacheSettings.CacheType: lru"), "mattermost.settings.CacheSettings.CacheType",
        ["does not exist yet in Mattermost 9.9"],
    ),
    "a key of 9.9 in 11.4": (
        [V11], settings("BleveSettings.BatchSize: 5"), "mattermost.settings.BleveSettings.BatchSize",
        ["does not exist any more in Mattermost 11.4"],
    ),
    "GitLabSettings": (
        [], settings("GitLabSettings.Enable: true"), "mattermost.settings.GitLabSettings",
        ["is set by this program", "mattermost.sign_on"],
    ),
    "ConnectionSecurity": (
        [], settings("EmailSettings.ConnectionSecurity: SSL"), "mattermost.settings.EmailSettings.ConnectionSecurity",
        ["none of the allowed words", "'SSL'", "TLS, STARTTLS or nothing"],
    ),
    "a user without TLS": (
        [], settings("EmailSettings.SMTPUsername: me"), "mattermost.settings.EmailSettings",
        ["are sent over TLS alone", "TLS or STARTTLS"],
    ),
    "a password without TLS": (
        [], settings("EmailSettings.SMTPPassword: !file secrets/smtp"), "mattermost.settings.EmailSettings",
        ["are sent over TLS alone"],
    ),
    "a user with TLS switched off": (
        [], settings("EmailSettings.SMTPUsername: me") + '      ConnectionSecurity: ""\n',
        "mattermost.settings.EmailSettings.ConnectionSecurity", ["are sent over TLS alone", "''"],
    ),
    "a variable with a hyphen": (
        [], ENVIRONMENT + "    HTTPS-PROXY: x\n", "mattermost.environment.HTTPS-PROXY",
        ["no name of an environment variable", "'HTTPS-PROXY'", "letters, digits and _"],
    ),
    "a variable with a digit first": ([], ENVIRONMENT + "    1A: x\n", "mattermost.environment.1A", ["no name"]),
    "a variable that breaks out": (
        [], ENVIRONMENT + '    "A=1\\nB": x\n', "mattermost.environment.A=1\nB", ["no name of an environment variable"],
    ),
    "our variable": (
        [], ENVIRONMENT + "    MM_SQLSETTINGS_DATASOURCE: x\n", "mattermost.environment.MM_SQLSETTINGS_DATASOURCE",
        ["is set by this program", "mattermost.database"],
    ),
    "MM_CONFIG": (
        [], ENVIRONMENT + "    MM_CONFIG: x\n", "mattermost.environment.MM_CONFIG", ["is set by this program"],
    ),
    "a variable of sign-on": (
        [], ENVIRONMENT + "    MM_GITLABSETTINGS_ID: x\n", "mattermost.environment.MM_GITLABSETTINGS_ID",
        ["is set by this program", "mattermost.sign_on"],
    ),
    "through": (
        [("    password: !file secrets/db", "    password: !file secrets/db\n    admin: {user: dba, "
          "password: !file secrets/dba, through: chat-9}")], "", "mattermost.database.admin.through",
        ["is not a node of this site", "'chat-9'", "gitlab-1, gitaly-1, chat-1"],
    ),
    "sslmode of GitLab's documentation": (
        [("    password: !file secrets/db", "    password: !file secrets/db\n    sslmode: required")], "",
        "mattermost.database.sslmode", ["'required'", "disable, require, verify-ca, verify-full", "write require"],
    ),
    "sslmode of libpq alone": (
        [("    password: !file secrets/db", "    password: !file secrets/db\n    sslmode: prefer")], "",
        "mattermost.database.sslmode", ["'prefer'", "require"],
    ),
    "name of the database": (
        [("    host: db", "    name: Matter-Most\n    host: db")], "", "mattermost.database.name",
        ["'Matter-Most'", "small letters"],
    ),
    "http": (
        [("https://chat", "http://chat")], "", "mattermost.site_url", ["must be https", "https://HOST[:PORT]"],
    ),
    "path": (
        [("https://chat.example.com", "https://chat.example.com/chat")], "", "mattermost.site_url",
        ["has a path", "https://HOST[:PORT]"],
    ),
    "no URL": ([("https://chat.example.com", "chat.example.com")], "", "mattermost.site_url", ["http"]),
    "credentials in the URL": (
        [("https://chat.", "https://me:pw@chat.")], "", "mattermost.site_url", ["must not contain a user name"],
    ),
    "sha256": (
        [(chat_sites.SHA256, "AB" * 32)], "", "mattermost.release.sha256", ["no SHA-256", "64 hex digits", "sha256sum"],
    ),
    "short sha256": ([(chat_sites.SHA256, "ab" * 31)], "", "mattermost.release.sha256", ["no SHA-256"]),
    "sha256 from a variable": (
        [(chat_sites.SHA256, "!env SUM")], "", "mattermost.release.sha256", ["no SHA-256", "!file PATH"],
    ),
    "source": (
        [("https://releases.example.com/", "ftp://releases.example.com/")], "", "mattermost.release.source",
        ["a URL or a file here"],
    ),
    "keep": ([("keep: 2", "keep: 0")], "", "mattermost.release.keep", ["0"]),
    "no certificate": (
        [("    certificate: chat.pem\n    key: !file secrets/key", "    hsts: true")], "", "mattermost.proxy",
        ["has not one certificate", "none of them", "certificate and key, or acme"],
    ),
    "a certificate without its key": (
        [("    key: !file secrets/key\n", "")], "", "mattermost.proxy",
        ["has not one certificate", "found: certificate"],
    ),
    "two certificates": (
        [("    certificate", "    acme: {}\n    certificate")], "", "mattermost.proxy",
        ["certificate, key, acme", "certificate and key, or acme"],
    ),
    "name of the administrator": (
        [], ADMIN.replace("username: admin", "username: Ad"), "mattermost.admin.username", ["'Ad'", "3 to 64"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_is_told_once(tmp_path, name):
    changes, more, key, parts = MISTAKES[name]
    (problem,) = problems(tmp_path, changed(*changes, more=more))
    assert problem.key == key
    for part in parts:
        assert part in str(problem), str(problem)
    assert problem.allowed or "exist" in problem.message or "unknown key" in problem.message


def test_the_line_is_that_of_the_key(tmp_path):
    (problem,) = problems(tmp_path, SITE + settings("EmailSettings.SMTPSever: x"))
    lines = (tmp_path / "site.yml").read_text().splitlines()
    assert lines[problem.line - 1].strip() == "SMTPSever: x"


def test_a_node_without_a_section(tmp_path):
    (problem,) = problems(tmp_path, SITE[: SITE.index("mattermost:\n  version")])
    assert problem.key == "nodes.chat-1.roles"
    assert "there is no mattermost in this file" in problem.message
    assert problem.allowed == "a section mattermost"


@pytest.mark.parametrize("name", OURS)
def test_what_we_set_cannot_be_set_twice(tmp_path, name):
    section, _, key = name.partition(".")
    (problem,) = problems(tmp_path, SITE + settings(f"{section}.{key}: x"))
    assert problem.key == f"mattermost.settings.{name}"
    assert (problem.message, problem.allowed) == ("is set by this program", OURS[name])
    (problem,) = problems(tmp_path, f"{SITE}{ENVIRONMENT}    {keys.variable(name)}: x\n")
    assert problem.key == f"mattermost.environment.{keys.variable(name)}"
    assert (problem.message, problem.allowed) == ("is set by this program", OURS[name])


SECRET_KEYS = [
    "EmailSettings.SMTPPassword", "ElasticsearchSettings.Password", "FileSettings.AmazonS3SecretAccessKey",
    "FileSettings.PublicLinkSalt", "LdapSettings.BindPassword", "GoogleSettings.Secret", "OpenIdSettings.Secret",
    "SqlSettings.AtRestEncryptKey",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_a_literal_where_a_secret_belongs_is_refused_and_not_shown(tmp_path, name):
    tls = "      ConnectionSecurity: TLS\n" if name.startswith("Email") else ""
    (problem,) = problems(tmp_path, f"{SITE}{settings(f'{name}: hunter2-literal')}{tls}")
    assert problem.key == f"mattermost.settings.{name}"
    assert "must be a reference" in problem.message
    assert problem.allowed == "!env NAME, !file PATH or !command LINE"
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_a_reference_there_or_nothing_is_fine(tmp_path, name):
    tls = "      ConnectionSecurity: TLS\n" if name.startswith("Email") else ""
    for value in ("!file secrets/smtp", '""'):
        assert chat_sites.site(tmp_path, f"{SITE}{settings(f'{name}: {value}')}{tls}")


@pytest.mark.parametrize("name", ["SMTPPasword", "Password"])
def test_a_literal_of_an_unknown_secret_key_is_not_shown(tmp_path, name):
    (problem,) = problems(tmp_path, SITE + settings(f"EmailSettings.{name}x: hunter2-a", f"LdapSettings.{name}: x"))[:1]
    assert "no key of Mattermost" in problem.message
    found = problems(tmp_path, SITE + settings("EmailSettings.Password: hunter2-b"))
    assert "hunter2" not in str(found[0])


@pytest.mark.parametrize("name", ["MM_FOOSETTINGS_TOKEN", "MY_SECRET", "mm_x_password", "AWS_SECRETACCESSKEY"])
def test_a_literal_secret_in_the_environment(tmp_path, name):
    (problem,) = problems(tmp_path, f"{SITE}{ENVIRONMENT}    {name}: hunter2-literal\n")
    assert problem.key == f"mattermost.environment.{name}"
    assert "must be a reference" in problem.message
    assert "hunter2" not in str(problem)
    assert chat_sites.site(tmp_path, f"{SITE}{ENVIRONMENT}    {name}: !file secrets/smtp\n")


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("password: !file secrets/db", "mattermost.database.password"),
        ("key: !file secrets/key", "mattermost.proxy.key"),
        ("credentials: !file secrets/oauth", "mattermost.sign_on.credentials"),
        ("api_token: !file secrets/token", "mattermost.sign_on.api_token"),
        ("password: !file secrets/admin", "mattermost.admin.password"),
    ],
)
def test_our_own_keys_take_references_alone(tmp_path, old, key):
    text = (SITE + API + ADMIN).replace(old, f"{old.partition(' ')[0]} hunter2-literal", 1)
    (problem,) = problems(tmp_path, text)
    assert problem.key == key
    assert "literal stands where a secret belongs" in problem.message
    assert "!env NAME" in problem.allowed
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ([ENTERPRISE], CLUSTER),
        ([ENTERPRISE, V11], SIGN_ON),
        ([("  release:", "  edition: entry\n  release:"), V11], SIGN_ON),
        ([("version: 10.11.8", "version: 10.12.0")], SIGN_ON),
        ([V11], settings("CacheSettings.CacheType: lru")),
        ([V9], settings("BleveSettings.BatchSize: 5")),
        ([("version: 10.11.8", "version: 10.5.0")], settings("BleveSettings.BatchSize: 5")),
        ([("version: 10.11.8", "version: 10.5.0")], settings("CacheSettings.CacheType: lru")),
        ([], settings("EmailSettings.EnableEmailBatching: true")),
        ([], settings("EmailSettings.ConnectionSecurity: TLS") + "      SMTPUsername: me\n"),
        ([], settings("DisplaySettings.CustomURLSchemes: [git, smb]")),
        ([], settings("PluginSettings.PluginStates: {com.example.x: {Enable: true}}")),
        ([V11], settings("AutoTranslationSettings.LibreTranslate: {URL: x}")),
        ([], settings("FileSettings.MaxFileSize: 0")),
        ([("https://chat.example.com", "https://chat.example.com/")], ""),
        ([("https://chat.example.com", "https://chat.example.com:8443")], ""),
        ([("    certificate: chat.pem\n    key: !file secrets/key", "    acme: {}")], ""),
    ],
)
def test_what_is_allowed(tmp_path, changes, more):
    assert chat_sites.site(tmp_path, changed(*changes, more=more))


def test_all_mistakes_come_at_once(tmp_path):
    text = changed(
        ("https://chat.example.com", "http://chat.example.com"),
        V11,
        ("    host: db.example.com", "    host: db.example.com\n    sslmode: required"),
        ("keep: 2", "keep: 99"),
        more=SIGN_ON
        + settings("EmailSettings.SMTPUsername: me", "FileSettings.MaxFileSize: x", "ServiceSettings.SiteURL: y")
        + ENVIRONMENT
        + "    A-B: c\n",
    )
    found = problems(tmp_path, text)
    assert sorted(problem.key for problem in found) == [
        "mattermost.database.sslmode", "mattermost.environment.A-B", "mattermost.release.keep",
        "mattermost.settings.EmailSettings", "mattermost.settings.FileSettings.MaxFileSize",
        "mattermost.settings.ServiceSettings.SiteURL", "mattermost.sign_on", "mattermost.site_url",
    ]  # fmt: skip
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)


# --- the catalogue ---


def test_every_key_takes_a_value_of_its_type_and_no_other():
    values = {"string": "x", "bool": True, "int": 5, "list": ["x"], "map": {"x": 1}}
    for key in keys.catalogue().values():
        version = (9, 9, 0) if key.only == "older" else (11, 4, 0)
        for kind, value in values.items():
            told = keys.problem(key.name, value, version)
            assert (told is None) == (kind == key.type), (key, kind, told)


def test_every_key_has_a_variable_of_its_own():
    names = [keys.variable(name) for name in keys.catalogue()]
    assert len(set(names)) == len(names)
    assert all(name.startswith("MM_") and name.isupper() and name.replace("_", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (0, "0"), (-5, "-5"), ("a b", "a b"), (["a", "b"], "a b"),
     ({"ü": {"b": True}}, '{"ü": {"b": true}}')],
)  # fmt: skip
def test_how_a_value_is_said(value, text):
    assert keys.text(value) == text
    assert not isinstance(value, dict) or json.loads(keys.text(value)) == value


# --- files and secrets ---


def test_files_that_are_not_there_are_told_together(tmp_path):
    text = changed(
        ("https://releases.example.com/mattermost.tar.gz", "no.tar.gz"),
        ("certificate: chat.pem", "certificate: no.pem"),
        ("    host: db", "    ca: no-ca.pem\n    host: db"),
        (chat_sites.SHA256, "!file no.sha256"),
    )
    found = {problem.key: problem for problem in problems(tmp_path, text)}
    assert sorted(found) == [
        "mattermost.database.ca", "mattermost.proxy.certificate", "mattermost.release.sha256",
        "mattermost.release.source",
    ]  # fmt: skip
    assert found["mattermost.database.ca"].found == str(tmp_path / "no-ca.pem")
    assert found["mattermost.database.ca"].message == "there is no such file"
    assert "No such file" in found["mattermost.release.sha256"].message


@pytest.mark.parametrize("text", [f"{'cd' * 32}\n", f"{'cd' * 32}  mattermost.tar.gz\n", f"\n {'cd' * 32}\n"])
def test_the_sum_in_a_file(tmp_path, text):
    (tmp_path / "sum").write_text(text)
    site = chat_sites.site(tmp_path, changed((chat_sites.SHA256, "!file sum")))
    assert chat_sites.wanted(site).release.sum(site.dir) == "cd" * 32


@pytest.mark.parametrize("data", [b"", b"\n", b"abc\n", b"CD" * 32, b"cd" * 33, b"tar.gz " + b"cd" * 32, b"\xff\xfe\n"])
def test_a_file_without_a_sum(tmp_path, data):
    (tmp_path / "sum").write_bytes(data)
    (problem,) = problems(tmp_path, changed((chat_sites.SHA256, "!file sum")))
    assert problem.key == "mattermost.release.sha256"
    assert "no SHA-256" in problem.message or "cannot be read" in problem.message


@pytest.mark.parametrize(
    ("host", "days", "told"),
    [("other.example.com", 90, "not for chat.example.com but for 'other.example.com'"),
     ("chat.example.com", -1, "expired")],
)  # fmt: skip
def test_a_certificate_that_does_not_fit(tmp_path, host, days, told):
    pem, key = self_signed(host, days)
    path = chat_sites.write(tmp_path, key=key)
    (tmp_path / "chat.pem").write_text(pem)
    with pytest.raises(SiteFileError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.key == "mattermost.proxy.certificate"
    assert told in problem.message


def test_another_key_than_the_certificates(tmp_path):
    _, key = self_signed("chat.example.com")
    (problem,) = problems(tmp_path, SITE, key=key)
    assert "private key does not belong to the certificate" in problem.message
    assert "PRIVATE KEY" not in str(problem)


@pytest.mark.parametrize("sign", ["\n", "\r", "\0"])
def test_a_password_of_the_database_is_one_line(tmp_path, sign):
    (problem,) = problems(tmp_path, SITE, db=f"hunter2{sign}hunter3")
    assert problem.key == "mattermost.database.password"
    assert "line end or NUL" in problem.message
    assert "hunter" not in str(problem)


@pytest.mark.parametrize("sign", [chr(n) for n in (*range(9), 11, 12, 13, *range(14, 32), 127)])
def test_no_secret_of_the_environment_holds_a_control_character(tmp_path, sign):
    text = f"{SITE}{MAIL}{ENVIRONMENT}    OTHER: !file secrets/admin\n"
    found = problems(tmp_path, text, smtp=f"hunter2{sign}hunter3", admin=f"{sign}hunter4")
    assert [problem.key for problem in found] == [
        "mattermost.settings.EmailSettings.SMTPPassword", "mattermost.environment.OTHER",
    ]  # fmt: skip
    assert all("control character" in problem.message and "hunter" not in str(problem) for problem in found)


@pytest.mark.parametrize("value", ["a\tb", "a\nb", "ünïcode 한국어 \u2028", " $`\"\\'"])
def test_odd_secrets_that_are_fine(tmp_path, value):
    assert chat_sites.site(tmp_path, SITE + MAIL, smtp=value)


def test_credentials_that_do_not_exist_yet_are_fine(tmp_path):
    assert chat_sites.site(tmp_path, SITE + SIGN_ON, oauth=None)


@pytest.mark.parametrize(
    ("name", "key"),
    [("db", "mattermost.database.password"), ("token", "mattermost.sign_on.api_token"),
     ("admin", "mattermost.admin.password"),
     ("smtp", "mattermost.settings.EmailSettings.SMTPPassword"), ("key", "mattermost.proxy.key")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["absent", "empty", "mode"])
def test_a_secret_that_cannot_be_had_is_told_with_its_key(tmp_path, request, name, key, how):
    path = chat_sites.write(tmp_path, SITE + API + ADMIN + MAIL, **{name: None if how == "absent" else ""})
    if how == "mode":
        (tmp_path / "secrets" / name).write_text("x\n")
        (tmp_path / "secrets" / name).chmod(0o644)
    with pytest.raises(SiteFileError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert problem.line > 0


# --- what is wrong in these rules ---


@pytest.mark.parametrize("text", ["10.11", "10"])
def test_a_version_of_fewer_numbers(tmp_path, text):
    (problem,) = problems(tmp_path, changed(("10.11.8", text)))
    assert problem.key == "mattermost.version"
    assert text in problem.found


def test_a_number_in_the_environment(tmp_path):
    (problem,) = problems(tmp_path, f"{SITE}{ENVIRONMENT}    GOGC: 50\n")
    assert problem.key == "mattermost.environment.GOGC"


def refused(folder, text, key=None):
    """The mistake is told; with which words is not of interest."""
    try:
        chat_sites.site(folder, text)
    except SiteFileError as error:
        return key is None or key in {problem.key for problem in error.problems}
    return False


@pytest.mark.parametrize("name", ["mm_sqlsettings_datasource", "Mm_ServiceSettings_SiteURL", "mm_gitlabsettings_id"])
def test_our_variables_in_small_letters(tmp_path, name):
    assert refused(tmp_path, f"{SITE}{ENVIRONMENT}    {name}: x\n")


@pytest.mark.parametrize(
    "more",
    [ENVIRONMENT + '    OTHER: "a\\ab"\n', settings('TeamSettings.SiteName: "a\\eb"')],
    ids=["variable", "setting"],
)
def test_no_literal_of_the_environment_holds_a_control_character(tmp_path, more):
    assert refused(tmp_path, SITE + more)


@pytest.mark.parametrize("line", ["EmailSettings.SMTPServer: {}", "NoSuchSettings.NoSuchKey: {}"])
def test_an_empty_mapping_is_no_value(tmp_path, line):
    assert refused(tmp_path, SITE + settings(line))


@pytest.mark.parametrize("key", ["secret", "webhooksecret", "gitlaboauthclientsecret", "apitoken"])
def test_a_literal_secret_of_a_plugin(tmp_path, key):
    assert refused(tmp_path, SITE + settings(f"PluginSettings.Plugins: {{com.example.x: {{{key}: hunter2}}}}"))


@pytest.mark.parametrize(
    "line",
    [
        "ServiceSettings.SplitKey: hunter2-literal",
        "SqlSettings.DataSourceReplicas: ['postgres://mm:hunter2@replica/mm']",
    ],
)
def test_a_literal_of_other_keys_that_hold_secrets(tmp_path, line):
    assert refused(tmp_path, SITE + settings(line))


def test_a_number_that_is_too_large(tmp_path):
    assert refused(tmp_path, SITE + settings("TeamSettings.MaxUsersPerTeam: 99999999999999999999"))


def test_a_negative_size(tmp_path):
    assert refused(tmp_path, SITE + settings("FileSettings.MaxFileSize: -1"))


def test_sign_on_needs_a_rails_node(tmp_path):
    assert refused(tmp_path, changed(("roles: [application]", "roles: [gitaly]"), more=SIGN_ON))


@pytest.mark.parametrize("data", [b"\x30\x82\xff\xfe", b"no certificate\n"])
def test_an_authority_that_is_no_pem(tmp_path, data):
    path = chat_sites.write(tmp_path, changed(("    host: db", "    ca: ca.pem\n    host: db")))
    (tmp_path / "ca.pem").write_bytes(data)
    with pytest.raises(SiteFileError):
        load(path)


def test_a_version_of_the_wrong_form_is_no_old_one(tmp_path):
    text = changed(("version: 10.11.8", "version: latest"), more=settings("CacheSettings.CacheType: lru"))
    assert [problem.key for problem in problems(tmp_path, text)] == ["mattermost.version"]


def test_a_key_that_is_said_twice(tmp_path):
    text = f"{SITE}{settings('TeamSettings.SiteName: a')}{ENVIRONMENT}    MM_TEAMSETTINGS_SITENAME: b\n"
    assert refused(tmp_path, text)


# --- where a release comes from ---

URL = "    source: https://releases.example.com/mattermost.tar.gz\n"


@pytest.mark.parametrize(
    ("source", "edition", "key"),
    [
        ("    source: apt\n", "entry", None),
        ("    source: apt\n", "team", "mattermost.release.source"),
        (f"    source: apt\n    sha256: {'a' * 64}\n", "entry", "mattermost.release"),
        (URL, "entry", "mattermost.release"),
        (f"{URL}    sha256: {'a' * 64}\n", "entry", None),
    ],
)
def test_a_release_is_checked_in_one_way(tmp_path, source, edition, key):
    start, end = SITE.index("    source:"), SITE.index("    keep: 2")
    text = SITE[:start] + source + SITE[end:] + f"  edition: {edition}\n"
    assert refused(tmp_path, text, key) == (key is not None)


# --- plugin and slash commands ---

PLUGIN = """\
  gitlab_plugin:
    source: https://releases.example.com/plugin.tar.gz
    sha256: "{sum}"
    credentials: !file secrets/plugin
""".format(sum="a" * 64)
SLASH = "  slash_commands:\n    g/p: {team: t1, trigger: x}\n"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (ADMIN + PLUGIN + SLASH, None),
        (SLASH, "mattermost.slash_commands"),
        (ADMIN + SLASH + "    g/q: {team: t1, trigger: x}\n", "mattermost.slash_commands.g/q"),
        (ADMIN + SLASH + "    g/q: {team: t2, trigger: x}\n", None),
        (PLUGIN + "    settings: {webhooksecret: hunter2}\n", "mattermost.gitlab_plugin.settings.webhooksecret"),
        (PLUGIN + settings("FileSettings.DriverName: amazons3"), "mattermost.gitlab_plugin"),
        (PLUGIN + settings("PluginSettings.PluginStates: {a: {}}"), "mattermost.settings.PluginSettings.PluginStates"),
    ],
)
def test_plugin_and_slash_commands(tmp_path, more, key):
    assert refused(tmp_path, SITE + more, key) == (key is not None)


def test_a_secret_with_a_control_character_is_not_shown(tmp_path):
    found = problems(tmp_path, SITE + settings('EmailSettings.SMTPPassword: "hunter2\\x01"'))
    assert found
    assert "hunter2" not in " ".join(map(str, found))
