"""What the server is told: its environment as systemd reads it, the datasource as lib/pq does, and the unit."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

from roles.mattermost import render
from roles.mattermost.render import (
    CA,
    ENVIRONMENT,
    FINGERPRINT,
    STARTED_WITH,
    UNIT,
    assignment,
    datasource,
    environment,
)
from roles.site import secret
from roles.site.secret import MASK, Secret
from tests.unit import chat_sites
from tests.unit.chat_sites import MAIL, SECRET, SIGN_ON, SITE, UID, changed, settings
from tests.unit.test_gitlab_ruby import NASTY

INTERNAL = "MM_SERVICESETTINGS_ALLOWEDUNTRUSTEDINTERNALCONNECTIONS"
VERIFY = "sslmode=verify-full&connect_timeout=10"


@pytest.fixture(scope="module", autouse=True)
def _forget_secrets():
    """Made-up secrets must not be masked in the output of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_known", set())
        patch.setattr(secret, "_pattern", None)
        yield


def read(text: str) -> dict[str, str]:
    """An EnvironmentFile as systemd.exec(5) says: lines `NAME=VALUE`, `#` and `;` are comments; in double quotes a
    backslash makes `"`, `\\`, `` ` `` and `$` plain, joins lines before a line end, and else stands for itself."""
    out: dict[str, str] = {}
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if text[at:end].strip() == "" or text[at] in "#;":
            at = end + 1
            continue
        name, equals, _ = text[at:end].partition("=")
        assert equals, f"no assignment: {text[at:end]!r}"
        at += len(name) + 1
        assert text[at] == '"', "only the quoting that we write"
        value, at = [], at + 1
        while text[at] != '"':
            if text[at] != "\\":
                value.append(text[at])
            else:
                at += 1
                if text[at] in '"\\`$':
                    value.append(text[at])
                elif text[at] != "\n":
                    value.append("\\" + text[at])
            at += 1
        assert text[at + 1 : at + 2] in ("\n", ""), "nothing behind the closing quote"
        assert name not in out, f"{name} stands twice"
        out[name] = "".join(value)
        at += 2
    return out


def shown(variables) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in variables}


def told(folder, text=SITE, signed=None, **secrets) -> dict[str, str]:
    site = chat_sites.site(folder, text, **secrets)
    return shown(environment(site, signed))


# --- one variable ---


def _nasty(test):
    for value in NASTY:
        if not any((ord(sign) < 32 and sign not in "\t\n") or ord(sign) == 127 for sign in value):
            test = example(value)(test)
    for value in ("\\\n", "\\\\\n", 'a\\"', "$(id) ${HOME} `id`", "'\"'", "%h %%", "# no comment", "a\n; b\n#c\nX=y\n"):
        test = example(value)(test)
    return test


@how(max_examples=500, deadline=None)
@_nasty
@given(st.text(st.one_of(st.sampled_from("\\\"`$\n\t'#;= %"), st.characters(exclude_categories=("Cc", "Cs")))))
def test_any_text_is_read_back(value):
    around = assignment("A", "1", True), assignment("B", value, True), assignment("C", Secret("2"), True)
    assert read("".join(around)) == {"A": "1", "B": value, "C": "2"}


@how(max_examples=200, deadline=None)
@given(st.text(st.one_of(st.sampled_from('\\"`$\n ab'), st.characters(exclude_categories=("Cc", "Cs"))), min_size=1))
def test_what_is_shown_of_a_secret_tells_nothing_of_it(value):
    display = assignment("B", Secret(value), False)
    assert set(read(display)["B"]) <= {"*", "\n"}
    assert read(display)["B"].replace("\n", "") == MASK * len(read(display)["B"].split("\n"))


@pytest.mark.parametrize("value", ["a", "a\nb", "a\n\nb", "a\\\nb"])
def test_what_is_shown_has_as_many_lines(value):
    display, real = assignment("B", Secret(value), False), assignment("B", Secret(value), True)
    assert display.count("\n") == real.count("\n")


@pytest.mark.parametrize("value", ["a\n", "a\n\n", "\n"])
def test_what_is_shown_has_as_many_lines_at_the_end_too(value):
    display, real = assignment("B", Secret(value), False), assignment("B", Secret(value), True)
    assert len(display.splitlines()) == len(real.splitlines())


# --- the environment ---

PLAIN = {
    "MM_CONFIG": "/var/lib/mattermost/config/config.json",
    "MM_SERVICESETTINGS_SITEURL": "https://chat.example.com",
    "MM_SERVICESETTINGS_LISTENADDRESS": "127.0.0.1:8065",
    "MM_SERVICESETTINGS_ENABLELOCALMODE": "true",
    "MM_SERVICESETTINGS_LOCALMODESOCKETLOCATION": "/run/mattermost/local.socket",
    "MM_SERVICESETTINGS_TRUSTEDPROXYIPHEADER": "X-Real-IP",
    "MM_SQLSETTINGS_DRIVERNAME": "postgres",
    "MM_SQLSETTINGS_DATASOURCE": f"postgres://mmuser:password-of-mmuser@db.example.com:5432/mattermost?{VERIFY}",
    "MM_FILESETTINGS_DIRECTORY": "/var/lib/mattermost/data/",
    "MM_LOGSETTINGS_FILELOCATION": "/var/log/mattermost",
    "MM_PLUGINSETTINGS_DIRECTORY": "/var/lib/mattermost/plugins",
    "MM_PLUGINSETTINGS_CLIENTDIRECTORY": "/var/lib/mattermost/client-plugins",
    "MM_NOTIFICATIONLOGSETTINGS_FILELOCATION": "/var/log/mattermost",
}
GITLAB = {
    "MM_GITLABSETTINGS_ENABLE": "true",
    "MM_GITLABSETTINGS_ID": UID,
    "MM_GITLABSETTINGS_SECRET": SECRET,
    "MM_GITLABSETTINGS_SCOPE": "read_user",
    "MM_GITLABSETTINGS_AUTHENDPOINT": "https://gitlab.example.com/oauth/authorize",
    "MM_GITLABSETTINGS_TOKENENDPOINT": "https://gitlab.example.com/oauth/token",
    "MM_GITLABSETTINGS_USERAPIENDPOINT": "https://gitlab.example.com/api/v4/user",
}


def test_a_plain_site(tmp_path):
    assert told(tmp_path) == PLAIN


@pytest.mark.parametrize(
    ("version", "there"), [("9.9.1", True), ("10.99.0", True), ("11.0.0", False), ("11.4.0", False)]
)
def test_what_is_gone_in_11(tmp_path, version, there):
    name = "MM_NOTIFICATIONLOGSETTINGS_FILELOCATION"
    expected = PLAIN if there else {key: value for key, value in PLAIN.items() if key != name}
    assert told(tmp_path, changed(("10.11.8", version))) == expected


def test_sign_on(tmp_path):
    got = told(tmp_path, SITE + SIGN_ON, chat_sites.credentials())
    assert got == PLAIN | GITLAB | {INTERNAL: "gitlab.example.com"}


def test_sign_on_before_there_is_an_application(tmp_path):
    assert told(tmp_path, SITE + SIGN_ON, None) == PLAIN | {INTERNAL: "gitlab.example.com"}


def test_credentials_without_sign_on_are_not_told(tmp_path):
    assert told(tmp_path, SITE, chat_sites.credentials()) == PLAIN


def test_gitlab_below_a_path_and_at_a_port(tmp_path):
    text = changed(("https://gitlab.example.com", "https://example.com:8443/gitlab/"), more=SIGN_ON)
    got = told(tmp_path, text, chat_sites.credentials())
    assert got["MM_GITLABSETTINGS_TOKENENDPOINT"] == "https://example.com:8443/gitlab/oauth/token"
    assert got[INTERNAL] == "example.com"


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        ("10.0.0.0/8 jira.example.com", "10.0.0.0/8 jira.example.com gitlab.example.com"),
        ("gitlab.example.com 10.0.0.0/8", "gitlab.example.com 10.0.0.0/8"),
        ("xgitlab.example.com", "xgitlab.example.com gitlab.example.com"),
        ("", "gitlab.example.com"),
    ],
)
@pytest.mark.parametrize("place", ["settings", "environment"])
def test_the_operators_own_connections_stay(tmp_path, own, merged, place):
    more = settings(f'ServiceSettings.AllowedUntrustedInternalConnections: "{own}"')
    if place == "environment":
        more = f'  environment:\n    {INTERNAL}: "{own}"\n'
    assert told(tmp_path, SITE + SIGN_ON + more)[INTERNAL] == merged
    assert told(tmp_path, SITE + more)[INTERNAL] == own


def test_connections_that_come_from_a_reference_stay(tmp_path):
    more = settings("ServiceSettings.AllowedUntrustedInternalConnections: !file secrets/smtp")
    got = told(tmp_path, SITE + SIGN_ON + more, smtp="10.1.2.0/24")
    assert got[INTERNAL] == "10.1.2.0/24 gitlab.example.com"


def test_settings_of_every_type(tmp_path):
    more = settings(
        "TeamSettings.SiteName: 'Chat \"x\" $y'",
        "FileSettings.MaxFileSize: 5",
        "ServiceSettings.EnableLinkPreviews: false",
        "DisplaySettings.CustomURLSchemes: [git, smb]",
        "PluginSettings.Plugins: {com.example.x: {Enable: true, n: [1, ü]}}",
        "MessageExportSettings.GlobalRelaySettings: {SMTPServerTimeout: 30}",
    )
    got = told(tmp_path, SITE + more)
    assert {name: value for name, value in got.items() if name not in PLAIN} == {
        "MM_TEAMSETTINGS_SITENAME": 'Chat "x" $y',
        "MM_FILESETTINGS_MAXFILESIZE": "5",
        "MM_SERVICESETTINGS_ENABLELINKPREVIEWS": "false",
        "MM_DISPLAYSETTINGS_CUSTOMURLSCHEMES": "git smb",
        "MM_PLUGINSETTINGS_PLUGINS": '{"com.example.x": {"Enable": true, "n": [1, "ü"]}}',
        "MM_MESSAGEEXPORTSETTINGS_GLOBALRELAYSETTINGS_SMTPSERVERTIMEOUT": "30",
    }
    assert {name: got[name] for name in PLAIN} == PLAIN


def test_secrets_in_settings_and_environment_stay_secrets(tmp_path):
    more = MAIL + "  environment:\n    OTHER: !file secrets/admin\n    HTTPS_PROXY: http://proxy:3128\n"
    got = dict(environment(chat_sites.site(tmp_path, SITE + more), None))
    assert got["MM_EMAILSETTINGS_SMTPPASSWORD"] == Secret("password-of-smtp")
    assert got["OTHER"] == Secret("password-of-admin")
    assert got["HTTPS_PROXY"] == "http://proxy:3128"
    assert isinstance(got["MM_SQLSETTINGS_DATASOURCE"], Secret)


def test_a_secret_of_a_plugin(tmp_path):
    got = told(tmp_path, SITE + settings("PluginSettings.Plugins: {com.example.x: {token: !file secrets/smtp}}"))
    assert json.loads(got["MM_PLUGINSETTINGS_PLUGINS"]) == {"com.example.x": {"token": "password-of-smtp"}}


# --- the datasource ---


@pytest.mark.parametrize(
    "password",
    [value for value in NASTY if value and not set(value) & set("\n\r\0") and len(value) < 1000]
    + ["p@ss:w/rd?x=y&z#f%41+ ", "/", "@", "[::1]", "%", "%zz", " lead", "한국어", "a:b@c/d"],
)
def test_any_password_is_read_back(tmp_path, password):
    site = chat_sites.site(tmp_path, SITE, db=password)
    url = urlsplit(datasource(site).reveal())
    assert unquote(url.password) == password
    assert (url.scheme, url.username, url.hostname, url.port) == ("postgres", "mmuser", "db.example.com", 5432)
    assert (url.path, url.fragment) == ("/mattermost", "")
    assert parse_qs(url.query, strict_parsing=True) == {"sslmode": ["verify-full"], "connect_timeout": ["10"]}
    assert "+" not in datasource(site).reveal(), "lib/pq reads it as itself"


@pytest.mark.parametrize("mode", ["disable", "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("given", [True, False])
def test_the_authority_only_where_it_is_looked_at(tmp_path, mode, given):
    ca = "    ca: ca.pem\n" if given else ""
    text = changed(("    host: db.example.com\n", f"    host: db.example.com\n    sslmode: {mode}\n{ca}"))
    site = chat_sites.site(tmp_path, text)
    query = parse_qs(urlsplit(datasource(site).reveal()).query)
    assert query["sslmode"] == [mode]
    assert query.get("sslrootcert") == ([CA] if given and mode.startswith("verify") else None)
    assert [file.path for file in render.files(site, None)] == [ENVIRONMENT, UNIT] + ([CA] if given else [])


@pytest.mark.parametrize(("host", "written"), [("2001:db8::1", "[2001:db8::1]"), ("10.0.0.4", "10.0.0.4")])
def test_the_host_as_an_address(tmp_path, host, written):
    text = changed(("host: db.example.com", f'host: "{host}"\n    port: 6543\n    name: chat\n    user: chatter'))
    url = datasource(chat_sites.site(tmp_path, text)).reveal()
    assert f"@{written}:6543/chat?" in url
    assert (urlsplit(url).hostname, urlsplit(url).port, urlsplit(url).username) == (host, 6543, "chatter")


# --- the files ---


@pytest.fixture
def whole(tmp_path):
    more = SIGN_ON + MAIL + "  environment:\n    OTHER: !file secrets/admin\n"
    text = changed(("    host: db", "    ca: ca.pem\n    host: db"), more=more)
    return chat_sites.site(tmp_path, text, admin="first-line\nsecond `$line\nthird", db='odd$"pass`word\\')


def test_the_environment_file(whole):
    file = render.files(whole, chat_sites.credentials())[0]
    assert (file.path, file.owner, file.group, file.mode) == (ENVIRONMENT, "root", "root", 0o600)
    text = file.content.decode()
    assert text.startswith("# Written by pyinfra-gitlab for site test.")
    assert read(text) == shown(environment(whole, chat_sites.credentials()))
    assert read(text)["OTHER"] == "first-line\nsecond `$line\nthird"


def test_what_is_shown_holds_no_secret(whole):
    for file in render.files(whole, chat_sites.credentials()):
        assert len(file.display.splitlines()) == len(file.content.decode().splitlines())
        for value in (SECRET, "first-line", "second", "third", "odd$", "password-of-smtp"):
            assert value not in file.display
    display = read(render.files(whole, chat_sites.credentials())[0].display)
    assert display["MM_EMAILSETTINGS_SMTPPASSWORD"] == display["MM_SQLSETTINGS_DATASOURCE"] == MASK
    assert display["MM_EMAILSETTINGS_SMTPSERVER"] == "smtp.example.com"
    assert display["OTHER"] == f"{MASK}\n{MASK}\n{MASK}"


def test_the_authority_is_as_given(whole):
    file = render.files(whole, None)[2]
    assert file.content == (whole.dir / "ca.pem").read_bytes()
    assert (file.path, file.mode, file.display) == (CA, 0o644, file.content.decode())


HARDENING = """
ProtectSystem=strict ProtectHome=yes PrivateTmp=yes PrivateDevices=yes NoNewPrivileges=yes CapabilityBoundingSet=
ProtectClock=yes ProtectControlGroups=yes ProtectHostname=yes ProtectKernelLogs=yes ProtectKernelModules=yes
ProtectKernelTunables=yes LockPersonality=yes RestrictNamespaces=yes RestrictRealtime=yes RestrictSUIDSGID=yes
SystemCallArchitectures=native UMask=0027 RuntimeDirectory=mattermost RuntimeDirectoryMode=0750
""".split()


def unit(site) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for line in render.files(site, None)[1].content.decode().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            out.setdefault(key, []).append(value)
    return out


def test_the_unit(tmp_path):
    text = SITE + "  account: {user: chat, group: chatters}\n"
    site = chat_sites.site(tmp_path, text)
    file = render.files(site, None)[1]
    assert (file.path, file.owner, file.mode, file.display) == (UNIT, "root", 0o644, file.content.decode())
    got = unit(site)
    for line in HARDENING:
        key, _, value = line.partition("=")
        assert got[key] == [value], line
    assert (got["User"], got["Group"], got["Type"]) == (["chat"], ["chatters"], ["notify"])
    assert got["EnvironmentFile"] == [ENVIRONMENT]
    assert got["ReadWritePaths"] == ["/var/lib/mattermost /var/log/mattermost"]
    assert got["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    assert got["ExecStart"] == ["/opt/mattermost/bin/mattermost"]
    assert got["WantedBy"] == ["multi-user.target"]
    assert "for site test." in file.display
    assert "{{" not in file.display


def test_the_fingerprint_is_written_as_root_before_the_start(tmp_path):
    (command,) = unit(chat_sites.site(tmp_path))["ExecStartPre"]
    assert command == f"+/bin/sh -c '{FINGERPRINT} > {STARTED_WITH}'"
    assert not set("'\"$%\\") & set(FINGERPRINT), "systemd and the shell read it alike"
    for path in (ENVIRONMENT, CA, UNIT, "/opt/mattermost/.sha256"):
        assert path in FINGERPRINT
    assert "readlink /opt/mattermost;" in FINGERPRINT


def test_the_same_site_gives_the_same_bytes(whole):
    once, again = (render.files(whole, chat_sites.credentials()) for _ in range(2))
    assert [file.content for file in once] == [file.content for file in again]
