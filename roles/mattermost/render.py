"""The server's environment, its systemd unit, and the database's certificate authority. Pure: a site in, files out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.mattermost import keys
from roles.mattermost.settings import MattermostSettings
from roles.node.bundle import File
from roles.site.models import Site
from roles.site.secret import MASK, Secret, SecretRef

CURRENT = "/opt/mattermost"
"""A link to the release in use, `/opt/mattermost-X.Y.Z`."""
HOME = "/var/lib/mattermost"
"""What the server writes: config/config.json, data/, plugins/, client-plugins/."""
LOGS = "/var/log/mattermost"
"""Its logs."""
FOLDER = "/etc/mattermost"
"""What we write."""
ENVIRONMENT = f"{FOLDER}/environment"
"""The server's environment, for systemd; holds secrets."""
CA = f"{FOLDER}/database-ca.crt"
"""The certificate authority of the database."""
UNIT = "/etc/systemd/system/mattermost.service"
"""The unit."""
CONFIG = f"{HOME}/config/config.json"
"""The server's own configuration: what the System Console changes, and the keys it made once (salts)."""
SOCKET = "/run/mattermost/local.socket"
"""Where `mmctl --local` talks to the server. Not in /var/tmp as by default: the unit has a private one."""
LISTEN = "127.0.0.1:8065"
"""Where nginx finds the server."""
STARTED_WITH = "/run/mattermost/started-with"
"""The fingerprint of what the running server was started with; gone when it does not run."""
FINGERPRINT = f"{{ cat {ENVIRONMENT} {CA} {UNIT}; readlink {CURRENT}; cat {CURRENT}/.sha256; }} 2>/dev/null | sha256sum"
"""Shell: the fingerprint of everything of ours that the server reads when it starts."""

Variable = tuple[str, str | Secret]
"""Name and value of an environment variable."""

_INTERNAL = "MM_SERVICESETTINGS_ALLOWEDUNTRUSTEDINTERNALCONNECTIONS"
_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "mattermost"


@cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)


def files(site: Site, credentials: tuple[str, Secret] | None) -> tuple[File, ...]:
    """All that belongs into `/etc` of Mattermost's node.

    Args:
        site: the whole site.
        credentials: id and secret of the OAuth application; None before there is one, or without sign-on.
    """
    wanted = _wanted(site)
    variables = environment(site, credentials)
    head = f"# Written by pyinfra-gitlab for site {site.site}. Changes made here are overwritten by the next run.\n"
    text, display = (head + "".join(assignment(*pair, reveal) for pair in variables) for reveal in (True, False))
    unit = (
        _templates()
        .get_template("mattermost.service.j2")
        .render(
            site=site.site,
            user=wanted.account.user,
            group=wanted.account.group,
            current=CURRENT,
            environment=ENVIRONMENT,
            fingerprint=FINGERPRINT,
            started_with=STARTED_WITH,
            home=HOME,
            logs=LOGS,
        )
    )
    out = [
        File(ENVIRONMENT, text.encode(), display, mode=0o600),
        File(UNIT, unit.encode(), unit, mode=0o644),
    ]
    if wanted.database.ca:
        pem = site.file(wanted.database.ca).read_text()
        out.append(File(CA, pem.encode(), pem, mode=0o644))
    return tuple(out)


def _wanted(site: Site) -> MattermostSettings:
    assert site.mattermost is not None
    return site.mattermost


def environment(site: Site, credentials: tuple[str, Secret] | None) -> list[Variable]:
    """The server's environment: it wins over config.json, and the System Console cannot change it."""
    wanted = _wanted(site)
    out: dict[str, str | Secret] = {
        "MM_CONFIG": CONFIG,
        "MM_SERVICESETTINGS_SITEURL": wanted.site_url,
        "MM_SERVICESETTINGS_LISTENADDRESS": LISTEN,
        "MM_SERVICESETTINGS_ENABLELOCALMODE": "true",
        "MM_SERVICESETTINGS_LOCALMODESOCKETLOCATION": SOCKET,
        # Ours to set: nginx is the only one who asks, and without this the server logs 127.0.0.1 for everybody.
        "MM_SERVICESETTINGS_TRUSTEDPROXYIPHEADER": "X-Real-IP",
        "MM_SQLSETTINGS_DRIVERNAME": "postgres",
        "MM_SQLSETTINGS_DATASOURCE": datasource(site),
        "MM_FILESETTINGS_DIRECTORY": f"{HOME}/data/",
        "MM_LOGSETTINGS_FILELOCATION": LOGS,
        "MM_PLUGINSETTINGS_DIRECTORY": f"{HOME}/plugins",
        "MM_PLUGINSETTINGS_CLIENTDIRECTORY": f"{HOME}/client-plugins",
    }
    if wanted.number[0] < 11:  # gone in 11.0
        out["MM_NOTIFICATIONLOGSETTINGS_FILELOCATION"] = LOGS
    if wanted.sign_on and credentials:
        out |= _sign_on(site.gitlab.external_url.rstrip("/"), *credentials)
    for name, value in _flat(wanted.settings):
        out[keys.variable(name)] = _value(site, value)
    for name, word in wanted.environment.items():
        out[name] = site.secret(word) if isinstance(word, SecretRef) else word
    if wanted.sign_on:  # plugins and webhooks may reach GitLab, also at a private address
        host = str(urlsplit(site.gitlab.external_url).hostname)
        given = out.get(_INTERNAL, "")
        allowed = (given.reveal() if isinstance(given, Secret) else given).split()
        out[_INTERNAL] = " ".join(allowed if host in allowed else [*allowed, host])
    return list(out.items())


def _value(site: Site, value: Any) -> str | Secret:
    """A setting as text; a map with a secret in it is a secret as a whole."""
    if isinstance(value, SecretRef):
        return site.secret(value)
    found: list[Secret] = []

    def resolve(one: Any) -> Any:
        if isinstance(one, SecretRef):
            found.append(site.secret(one))
            return found[-1].reveal()
        if isinstance(one, Mapping):
            return {key: resolve(inner) for key, inner in one.items()}
        return [resolve(inner) for inner in one] if isinstance(one, list) else one

    text = keys.text(resolve(value))
    return Secret(text) if found else text


def _sign_on(gitlab: str, application: str, secret: Secret) -> dict[str, str | Secret]:
    """Sign-on with GitLab. The scope is `read_user`: with `openid` the Team Edition answers 501 (issue #17499), and
    GitLab's documentation still shows /api/v3/user, which is gone."""
    return {
        "MM_GITLABSETTINGS_ENABLE": "true",
        "MM_GITLABSETTINGS_ID": application,
        "MM_GITLABSETTINGS_SECRET": secret,
        "MM_GITLABSETTINGS_SCOPE": "read_user",
        "MM_GITLABSETTINGS_AUTHENDPOINT": f"{gitlab}/oauth/authorize",
        "MM_GITLABSETTINGS_TOKENENDPOINT": f"{gitlab}/oauth/token",
        "MM_GITLABSETTINGS_USERAPIENDPOINT": f"{gitlab}/api/v4/user",
    }


def datasource(site: Site) -> Secret:
    """The datasource, as a URL for lib/pq. Held as a secret because the password is in it."""
    database = _wanted(site).database
    host = f"[{database.host}]" if ":" in database.host else database.host
    password = quote(site.secret(database.password).reveal(), safe="")
    options = f"sslmode={database.sslmode}&connect_timeout=10"
    if database.ca and database.sslmode.startswith("verify"):
        options += f"&sslrootcert={CA}"
    return Secret(f"postgres://{database.user}:{password}@{host}:{database.port}/{database.name}?{options}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        known = keys.catalogue().get(name)
        if isinstance(value, Mapping) and not (known and known.type == "map"):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def assignment(name: str, value: str | Secret, reveal: bool) -> str:
    """One variable as a line of an EnvironmentFile (systemd.exec(5)): in double quotes `"`, `\\`, `` ` `` and `$` are
    escaped, and a value may go over several lines."""
    text = value.reveal() if isinstance(value, Secret) else value
    if isinstance(value, Secret) and not reveal:  # line for line the same shape
        text = "\n".join([MASK] * len(f"x{text}x".splitlines()))
    for sign in '\\"`$':
        text = text.replace(sign, f"\\{sign}")
    return f'{name}="{text}"\n'
