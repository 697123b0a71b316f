"""The vocabulary of the proxy in a site file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from roles.site.base import AbsoluteURL, StrictModel
from roles.site.secret import SecretRef


class AcmeSettings(StrictModel):
    """A certificate by ACME (RFC 8555), had and renewed by certbot on the node. The directory must reach the node's
    port 80 under the host name of `site_url`; the node must trust the directory's own certificate."""

    directory: AbsoluteURL = "https://acme-v02.api.letsencrypt.org/directory"
    """The directory's URL. Whoever names it agrees to its terms of service."""

    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", description="an e-mail address")] | None = None
    """Where the directory writes to when a certificate is about to end."""


class ProxySettings(StrictModel):
    """nginx with HTTPS in front of an application. Either `certificate` and `key`, or `acme`."""

    certificate: str | None = None
    """File with the certificate and its intermediates, in PEM, the server's own first."""

    key: SecretRef | None = None
    """Its private key, in PEM, without a passphrase."""

    acme: AcmeSettings | None = None
    """Instead of these: a certificate by ACME."""

    hsts: bool = True
    """Tell browsers to use HTTPS alone for a year (`Strict-Transport-Security`)."""
