"""The vocabulary of the proxy in a site file."""

from __future__ import annotations

from roles.site.base import StrictModel
from roles.site.secret import SecretRef


class ProxySettings(StrictModel):
    """nginx with HTTPS in front of an application."""

    certificate: str
    """File with the certificate and its intermediates, in PEM, the server's own first."""

    key: SecretRef
    """Its private key, in PEM, without a passphrase."""

    hsts: bool = True
    """Tell browsers to use HTTPS alone for a year (`Strict-Transport-Security`)."""
