"""Render nginx's site for Mattermost, and the certificate and key beside it. Pure: settings in, files out."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.node.bundle import File
from roles.proxy.certificate import certificates
from roles.site.base import is_hostname
from roles.site.secret import MASK, Secret

CONFIG = "/etc/nginx/conf.d/mattermost.conf"
"""The site. Debian's and nginx.org's packages both read conf.d; sites-enabled is Debian's alone."""
KEPT = f"{CONFIG}.before-pyinfra"
"""Where an operator's own site is kept; nginx does not read it, since conf.d is read as `*.conf`."""
CERTIFICATE = "/etc/nginx/pyinfra/mattermost.crt"
"""The certificate and its intermediates. The folder must be there before the files are."""
KEY = "/etc/nginx/pyinfra/mattermost.key"
"""Its private key; nginx reads it as root, before it starts its workers."""
WEBROOT = "/var/www/pyinfra-acme"
"""Where certbot puts what an ACME directory asks for at port 80."""
UPSTREAM = "127.0.0.1:8065"
"""Where Mattermost listens."""
MAX_FILE_SIZE = 104857600
"""Bytes; Mattermost's default of `FileSettings.MaxFileSize`."""
OVERHEAD = 1024 * 1024
"""Bytes that a request may have beside the file in it: the rest of its multipart form. Our own choice."""

_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "proxy"
_WORD = re.compile(r"[A-Za-z0-9_.:/\[\]-]+")


def word(value: object) -> str:
    """A value as one word of nginx's configuration. There is no way to quote `$`, so odd characters are refused.

    Raises:
        ValueError: a character that nginx could read as more than text.
    """
    text = str(value)
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} cannot be written into nginx's configuration")
    return text


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is nginx's configuration; every value passes through the `word` filter
    )
    env.filters["word"] = word
    return env


def config_file(
    host: str,
    port: int = 443,
    *,
    max_file_size: int = MAX_FILE_SIZE,
    hsts: bool = True,
    ipv6: bool = True,
    acme: bool = False,
    https: bool = True,
) -> File:
    """nginx's site for Mattermost.

    Args:
        host: name or IP address of `mattermost.site_url` (checked there by `roles.site.base.url_checker`).
        port: its port.
        max_file_size: the server's `FileSettings.MaxFileSize`, bytes.
        hsts: tell browsers to use HTTPS alone for a year.
        ipv6: listen on IPv6 too, as Debian's default site does. False on a node whose kernel has none
            (no /proc/net/if_inet6): there `listen [::]` fails and with it all of nginx.
        acme: certificate and key are certbot's.
        https: False before there is a certificate: only port 80, for the ACME directory to look at.

    Raises:
        ValueError: not a host, a port or a size; nothing of it comes from a site file that was let through.
    """
    host = host.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if not is_hostname(host) or not 0 < port < 65536 or max_file_size < 0:
        raise ValueError(f"no host, port and size of file: {host!r}, {port!r}, {max_file_size!r}")
    name = f"[{host}]" if ":" in host else host
    text = (
        _environment()
        .get_template("mattermost.conf.j2")
        .render(
            name=name,
            port=port,
            address=name if port == 443 else f"{name}:{port}",
            by_address=_is_address(host),
            ipv6=ipv6,
            hsts=hsts,
            body=max_file_size + OVERHEAD,
            upstream=UPSTREAM,
            certificate=f"{live(host)}/fullchain.pem" if acme else CERTIFICATE,
            key=f"{live(host)}/privkey.pem" if acme else KEY,
            webroot=WEBROOT,
            https=https,
        )
    )
    return File(path=CONFIG, content=text.encode(), display=text, mode=0o644, keep_first=KEPT)


def live(host: str) -> str:
    """The folder in which certbot keeps links to the certificate in use and its key."""
    return f"/etc/letsencrypt/live/{host}"


def pair(certificate: bytes, key: Secret) -> tuple[File, File]:
    """The certificate and its key as files. Ask `certificate.problems` first.

    Of `certificate` only the certificates are taken: the file is for everybody to read.

    Raises:
        ValueError: there is no certificate.
    """
    chain = "".join(f"{block.decode('ascii')}\n" for block in certificates(certificate))
    if not chain:
        raise ValueError("there is no certificate in PEM")
    secret = f"{key.reveal().strip()}\n"
    return (
        File(path=CERTIFICATE, content=chain.encode(), display=chain, mode=0o644),
        File(path=KEY, content=secret.encode(), display=f"{MASK}\n" * len(secret.splitlines()), mode=0o600),
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
