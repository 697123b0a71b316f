"""Rules between Mattermost's keys, on the site file's plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509

from roles.gitlab.settings import DRILL_ROLE, MATTERMOST_ROLE, RAILS_ROLES
from roles.mattermost import keys
from roles.mattermost.settings import APT
from roles.proxy import certificate
from roles.site.errors import SecretError
from roles.site.found import Found, get, items
from roles.site.secret import SecretRef
from roles.site.yaml import KeyPath as Loc

if TYPE_CHECKING:
    from roles.site.models import Site

MADE: tuple[Loc, ...] = (("mattermost", "sign_on", "credentials"), ("mattermost", "gitlab_plugin", "credentials"))
"""Where the site file says where OAuth credentials are kept; their files may be absent before the first run."""
SUMS: tuple[Loc, ...] = (("mattermost", "release", "sha256"), ("mattermost", "gitlab_plugin", "sha256"))
"""References that are no secrets."""

OURS = {
    "ServiceSettings.SiteURL": "mattermost.site_url",
    "ServiceSettings.ListenAddress": "nothing: nginx on the same node is the only one to ask it",
    "ServiceSettings.EnableLocalMode": "nothing: mmctl --local always works",
    "ServiceSettings.LocalModeSocketLocation": "nothing: mmctl --local always works",
    "SqlSettings.DriverName": "mattermost.database",
    "SqlSettings.DataSource": "mattermost.database",
    "FileSettings.Directory": "nothing: it is /var/lib/mattermost/data/",
    "LogSettings.FileLocation": "nothing: it is /var/log/mattermost",
    "PluginSettings.Directory": "nothing: it is /var/lib/mattermost/plugins",
    "PluginSettings.ClientDirectory": "nothing: it is /var/lib/mattermost/client-plugins",
}
"""Keys that follow from other keys of the site file, and where to say them."""

SECRETS = re.compile(r"(password|splitkey|secret|secretkey|salt|encryptkey|apikey|token|secretaccesskey)$", re.I)
"""Ends of the names of keys that hold secrets; `...Location` and the like end otherwise."""


UNSAYABLE = ("SqlSettings.DataSourceReplicas", "SqlSettings.DataSourceSearchReplicas")
"""Keys that hold passwords inside of a list."""
_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")


def check(data: Mapping[str, Any]) -> Iterator[Found]:
    """Every broken rule."""
    yield from _nodes(data)
    if isinstance(get(data, "mattermost"), Mapping):
        for rule in (_certificate, _release, _edition, _settings, _mail, _environment, _through, _integrations, _rails):
            yield from rule(data)


def _version(data: Mapping[str, Any]) -> tuple[int, ...]:
    text = str(get(data, "mattermost", "version"))
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d+\.\d+\.\d+", text) else ()


def _setting(data: Mapping[str, Any], section: str, key: str) -> Any:
    return get(data, "mattermost", "settings", section, key)


def _nodes(data: Mapping[str, Any]) -> Iterator[Found]:
    roles = {name: get(node, "roles") for name, node in items(data, "nodes")}
    ours = [name for name, words in roles.items() if isinstance(words, list) and MATTERMOST_ROLE in words]
    for name, words in roles.items():
        own = [word for word in (MATTERMOST_ROLE, DRILL_ROLE) if isinstance(words, list) and word in words]
        if own and len(words) > 1:
            allowed = f"roles: [{own[0]}] on a node of its own"
            yield Found(("nodes", name, "roles"), f"{own[0]} is not a role beside others", str(words), allowed)
    if get(data, "mattermost") is None and ours:
        yield Found(("nodes", ours[0], "roles"), "there is no mattermost in this file", "", "a section mattermost")
    elif get(data, "mattermost") is not None and len(ours) != 1:
        message = "needs exactly one node with the role mattermost (several need a licence for high availability)"
        yield Found(("mattermost",), message, ", ".join(ours) or "no such node", "roles: [mattermost] on one node")


def _certificate(data: Mapping[str, Any]) -> Iterator[Found]:
    proxy = get(data, "mattermost", "proxy")
    if isinstance(proxy, Mapping):
        given = [key for key in ("certificate", "key", "acme") if proxy.get(key) is not None]
        if given not in (["certificate", "key"], ["acme"]):
            found = ", ".join(given) or "none of them"
            yield Found(("mattermost", "proxy"), "has not one certificate", found, "certificate and key, or acme")


def _release(data: Mapping[str, Any]) -> Iterator[Found]:
    release, edition = get(data, "mattermost", "release"), get(data, "mattermost", "edition") or "team"
    if not isinstance(release, Mapping):
        return
    if (release.get("source") == APT) == ("sha256" in release):
        apt = release.get("source") == APT
        allowed = "no sha256: apt checks the package's signature" if apt else "a sha256"
        yield Found(("mattermost", "release"), "is not checked as it should be", str(release.get("source")), allowed)
    if release.get("source") == APT and edition == "team":
        loc: Loc = ("mattermost", "release", "source")
        yield Found(loc, "has no Team Edition", "edition team", "edition entry or enterprise, or a tarball")


def _edition(data: Mapping[str, Any]) -> Iterator[Found]:
    edition, version = get(data, "mattermost", "edition") or "team", _version(data)
    sign_on = get(data, "mattermost", "sign_on")
    if sign_on is not None and edition == "team" and version >= (11,):
        yield Found(
            ("mattermost", "sign_on"),
            "the Team Edition has no GitLab sign-on from 11.0 on (Mattermost's changelog of v11.0)",
            f"edition team, version {get(data, 'mattermost', 'version')}",
            "edition entry (10,000 visible messages) or enterprise (a licence), version 10.11 at most, or no sign_on",
        )
    if _setting(data, "ClusterSettings", "Enable") is True:
        loc: Loc = ("mattermost", "settings", "ClusterSettings", "Enable")
        if edition != "enterprise":
            yield Found(loc, "high availability needs a licence", f"edition {edition}", "edition enterprise")
        if _setting(data, "EmailSettings", "EnableEmailBatching") is True:
            loc = ("mattermost", "settings", "EmailSettings", "EnableEmailBatching")
            yield Found(loc, "does not work with high availability", "true", "false, or no ClusterSettings.Enable")


def _settings(data: Mapping[str, Any]) -> Iterator[Found]:
    for section, values in items(data, "mattermost", "settings"):
        loc: Loc = ("mattermost", "settings", section)
        if section == "GitLabSettings":
            yield Found(loc, "is set by this program", "", "mattermost.sign_on")
        elif isinstance(values, Mapping) and values:
            yield from _section(loc, section, values, _version(data))
        else:
            yield Found(loc, "holds no settings", repr(values), "the section's keys and values")
    size = _setting(data, "FileSettings", "MaxFileSize")
    if isinstance(size, int) and size < 0:
        loc = ("mattermost", "settings", "FileSettings", "MaxFileSize")
        yield Found(loc, "is no size", str(size), "bytes")


def _section(loc: Loc, prefix: str, values: Mapping[str, Any], version: tuple[int, ...]) -> Iterator[Found]:
    for key, value in values.items():
        here, name = (*loc, str(key)), f"{prefix}.{key}"
        known = keys.catalogue().get(name)
        if isinstance(value, Mapping) and not known and any(other.startswith(f"{name}.") for other in keys.catalogue()):
            yield from _section(here, name, value, version)
        elif name in UNSAYABLE:
            message = "holds passwords, and a list of the environment cannot take them from references"
            yield Found(here, message, "", "the System Console (a licensed feature)")
        elif name in OURS:
            yield Found(here, "is set by this program", "", OURS[name])
        elif isinstance(value, SecretRef):
            told = keys.problem(name, "text", version)
            if told:
                yield Found(here, told[0], "a secret reference", told[1])
        else:
            told = keys.problem(name, value, version)
            yield from _map(here, value)
            secret = isinstance(value, str) and value and SECRETS.search(str(key))
            if told:
                shown = "a mapping or a list" if isinstance(value, Mapping | list) else repr(value)
                yield Found(here, told[0], "" if secret else shown, told[1])
            elif secret:
                message = "a secret must be a reference, never the value itself"
                yield Found(here, message, "a literal (not shown)", "!env NAME, !file PATH or !command LINE")


def _map(loc: Loc, value: Any) -> Iterator[Found]:
    """Literals in a key of type map whose own keys are names of secrets; and what no environment can have."""
    for place, leaf in _leaves(loc, value):
        if isinstance(leaf, str) and _CONTROL.search(leaf):
            yield Found(place, "holds a control character, which systemd lets no environment have", "(not shown)")
        elif isinstance(value, Mapping) and isinstance(leaf, str) and leaf and SECRETS.search(str(place[-1])):
            message = "a secret must be a reference, never the value itself"
            yield Found(place, message, "a literal (not shown)", "!env NAME, !file PATH or !command LINE")


def _mail(data: Mapping[str, Any]) -> Iterator[Found]:
    """Mattermost sends credentials over TLS alone (smtp-email.rst of its documentation)."""
    mail = get(data, "mattermost", "settings", "EmailSettings")
    if not isinstance(mail, Mapping):
        return
    security = mail.get("ConnectionSecurity", "")
    loc: Loc = ("mattermost", "settings", "EmailSettings", "ConnectionSecurity")
    if security not in ("", "TLS", "STARTTLS"):
        yield Found(loc, "is none of the allowed words", repr(security), "TLS, STARTTLS or nothing")
    elif not security and (mail.get("SMTPUsername") or mail.get("SMTPPassword")):
        message = "a user name and password for SMTP are sent over TLS alone"
        yield Found(loc if "ConnectionSecurity" in mail else loc[:-1], message, repr(security), "TLS or STARTTLS")


def _environment(data: Mapping[str, Any]) -> Iterator[Found]:
    ours = {keys.variable(name): told for name, told in OURS.items()} | {"MM_CONFIG": "nothing: it is set here"}
    said = {
        keys.variable(".".join(map(str, loc[2:]))): ".".join(map(str, loc))
        for loc, _ in _leaves(("mattermost", "settings"), get(data, "mattermost", "settings"))
    }
    for name, value in items(data, "mattermost", "environment"):
        loc: Loc = ("mattermost", "environment", name)
        # The server takes mm_... for MM_... too (config/environment.go).
        upper = name.upper() if name.upper().startswith("MM_") else name
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield Found(loc, "is no name of an environment variable", repr(name), "letters, digits and _")
        elif upper in ours or upper.startswith("MM_GITLABSETTINGS_"):
            yield Found(loc, "is set by this program", "", ours.get(upper, "mattermost.sign_on"))
        elif upper in said:
            yield Found(loc, f"is said by {said[upper]} too", name, "one of them")
        elif isinstance(value, str) and _CONTROL.search(value):
            yield Found(loc, "holds a control character, which systemd lets no environment have", "(not shown)")
        elif isinstance(value, str) and value and SECRETS.search(name):
            message = "a secret must be a reference, never the value itself"
            yield Found(loc, message, "a literal (not shown)", "!env NAME, !file PATH or !command LINE")


def _rails(data: Mapping[str, Any]) -> Iterator[Found]:
    """Sign-on and the plugin ask a Rails node."""
    for key in ("sign_on", "gitlab_plugin", "slash_commands"):
        roles = [get(node, "roles") or [] for _, node in items(data, "nodes")]
        if get(data, "mattermost", key) and all(words and not RAILS_ROLES & set(words) for words in roles):
            yield Found(("mattermost", key), "needs a node with Rails in this site", "none", "roles: [application]")


def _integrations(data: Mapping[str, Any]) -> Iterator[Found]:
    if get(data, "mattermost", "gitlab_plugin") is not None and _setting(data, "FileSettings", "DriverName") not in (
        None,
        "local",
    ):
        message = "is brought by the local file store"
        yield Found(("mattermost", "gitlab_plugin"), message, "FileSettings.DriverName", "the System Console, with S3")
    for key in ("Plugins", "PluginStates"):
        if get(data, "mattermost", "gitlab_plugin") is not None and _setting(data, "PluginSettings", key) is not None:
            loc: Loc = ("mattermost", "settings", "PluginSettings", key)
            message = "would hide what gitlab_plugin puts into config.json, because the environment wins as a whole"
            yield Found(loc, message, "", "the System Console for the other plugins")
    if get(data, "mattermost", "slash_commands") and get(data, "mattermost", "admin") is None:
        yield Found(("mattermost", "slash_commands"), "belong to somebody", "no administrator", "mattermost.admin")
    commands: dict[tuple[str, str], str] = {}
    for project, command in items(data, "mattermost", "slash_commands"):
        here = (str(get(command, "team")), str(get(command, "trigger")))
        if here in commands:
            loc = ("mattermost", "slash_commands", project)
            yield Found(loc, f"is the command of {commands[here]} already", f"/{here[1]}", "another trigger or team")
        commands.setdefault(here, project)
    for key, value in items(data, "mattermost", "gitlab_plugin", "settings"):
        if isinstance(value, str) and value and SECRETS.search(key):
            loc = ("mattermost", "gitlab_plugin", "settings", key)
            message = "a secret must be a reference, never the value itself"
            yield Found(loc, message, "a literal (not shown)", "!env NAME, !file PATH or !command LINE")


def _through(data: Mapping[str, Any]) -> Iterator[Found]:
    name = get(data, "mattermost", "database", "admin", "through")
    nodes = [node for node, _ in items(data, "nodes")]
    if name is not None and name not in nodes:
        loc: Loc = ("mattermost", "database", "admin", "through")
        yield Found(loc, "is not a node of this site", repr(name), "one of: " + ", ".join(nodes))


def check_files(site: Site) -> Iterator[Found]:
    """What the section names outside of the site file: files, the certificate, secrets that have a form."""
    wanted = site.mattermost
    if wanted is None:
        return
    named: list[tuple[Loc, str | None]] = [
        (("mattermost", "database", "ca"), wanted.database.ca),
        (("mattermost", "proxy", "certificate"), wanted.proxy.certificate),
        (("mattermost", "release", "source"), wanted.release.file),
        (("mattermost", "gitlab_plugin", "source"), wanted.gitlab_plugin.file if wanted.gitlab_plugin else None),
    ]
    if wanted.backup and wanted.backup.ssh:
        named.append((("mattermost", "backup", "ssh", "known_hosts"), wanted.backup.ssh.known_hosts))
    if wanted.drill:
        named.append((("mattermost", "drill", "database", "ca"), wanted.drill.database.ca))
    missing = [(loc, name) for loc, name in named if name and not site.file(name).is_file()]
    for loc, name in missing:
        yield Found(loc, "there is no such file", str(site.file(str(name))), "an existing file")
    for name, download in (("release", wanted.release), ("gitlab_plugin", wanted.gitlab_plugin)):
        try:
            if download and download.source != APT:
                download.sum(site.dir)
        except SecretError as error:
            yield Found(("mattermost", name, "sha256"), str(error))
    if wanted.proxy.certificate and wanted.proxy.key and not any(loc[1] == "proxy" for loc, _ in missing):
        pem = site.file(wanted.proxy.certificate).read_bytes()
        key = _reveal(site, wanted.proxy.key).encode()
        for told in certificate.problems(pem, key, wanted.host, datetime.now(UTC)) if key else ():
            yield Found(("mattermost", "proxy", "certificate"), told)
    if wanted.database.ca and site.file(wanted.database.ca).is_file():
        try:
            x509.load_pem_x509_certificates(site.file(wanted.database.ca).read_bytes())
        except ValueError:
            found = str(site.file(wanted.database.ca))
            yield Found(
                ("mattermost", "database", "ca"), "holds no certificate in PEM", found, "-----BEGIN CERTIFICATE-----"
            )
    for place, ref in _environment_secrets(site):
        if _CONTROL.search(_reveal(site, ref)):
            yield Found(place, "holds a control character, which systemd lets no environment have", "(not shown)")
    password: Loc = ("mattermost", "database", "password")
    if re.search(r"[\0\r\n]", _reveal(site, wanted.database.password)):
        yield Found(password, "holds a line end or NUL", "(not shown)", "one line")


def _reveal(site: Site, ref: SecretRef) -> str:
    """A secret; empty when it cannot be had, which is told already."""
    try:
        return site.secret(ref).reveal()
    except SecretError:
        return ""


def _environment_secrets(site: Site) -> Iterator[tuple[Loc, SecretRef]]:
    assert site.mattermost is not None
    for name, value in site.mattermost.environment.items():
        if isinstance(value, SecretRef):
            yield ("mattermost", "environment", name), value
    for loc, value in _leaves(("mattermost", "settings"), site.mattermost.settings):
        if isinstance(value, SecretRef):
            yield loc, value


def _leaves(loc: Loc, value: Any) -> Iterator[tuple[Loc, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves((*loc, str(key)), inner)
    else:
        yield loc, value
