"""Whether a certificate and its key can be handed to nginx: everything that browsers would refuse, said before. Pure.

Host names are matched as browsers do (RFC 6125 and RFC 2818): the subjectAltName alone counts, never the common name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key

WARN_DAYS = 30
"""Days before the end from which on a certificate is worth a warning; certbot renews at 30. Our own choice."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


def certificates(certificate_pem: bytes) -> list[bytes]:
    """The certificates of a PEM file, each as PEM, without whatever else stands there (comments, a key)."""
    return _CERTIFICATE.findall(certificate_pem)


def not_after(certificate_pem: bytes) -> datetime:
    """Until when the first certificate of a PEM file, the server's own, is valid (UTC, aware).

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    blocks = certificates(certificate_pem)
    if not blocks:
        raise ValueError("there is no certificate in PEM")
    return x509.load_pem_x509_certificate(blocks[0]).not_valid_after_utc


def days_left(not_after: datetime, now: datetime) -> int:
    """Whole days until the end; negative once it is over. Both times are aware."""
    return (not_after - now).days


def problems(certificate_pem: bytes, key_pem: bytes, host: str, now: datetime) -> list[str]:
    """Every reason not to hand this pair to nginx, each one sentence with cause and cure; never any key material.

    Args:
        certificate_pem: the server's certificate, then its intermediates.
        key_pem: its private key, without a passphrase.
        host: name or IP address that people use; letters outside ASCII are taken as IDNA (2003, as Python has it).
        now: the time to judge dates by, aware.

    A self-signed certificate is no problem: a lab has one.
    """
    found: list[str] = []
    if _PRIVATE_KEY.search(certificate_pem):
        found.append("The certificate file holds a private key, and everybody may read it: take the key out of it.")
    key, told = _key(key_pem)
    found += told
    chain: list[x509.Certificate] = []
    blocks = certificates(certificate_pem)
    for number, block in enumerate(blocks, 1):
        try:
            chain.append(_load(block))
        except (*_UNREADABLE, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            found.append(f"Certificate {number} of the file cannot be read: copy it again from where it was issued.")
    if not blocks:
        found.append(
            "The certificate file has no certificate in PEM (-----BEGIN CERTIFICATE-----): give the right file, "
            "or convert it with openssl x509 -inform der."
        )
    if certificate_pem.count(b"-----BEGIN CERTIFICATE-----") > len(blocks) > 0:
        found.append("A certificate of the file has no end or is damaged: copy it again from where it was issued.")
    if not chain or len(chain) < len(blocks):
        return found
    own = [place for place, each in enumerate(chain) if key and _public(each) == key.public_key()]
    first = own or [place for place, each in enumerate(chain) if not _is_ca(each)] or [0]
    if first[0]:
        found.append(f"The server's own certificate is number {first[0] + 1} of the file: put it first.")
    else:
        found += _order(chain)
    if key and not own:
        found.append(
            "The private key does not belong to the certificate: give the key that the certificate was ordered with."
        )
    found += _host(chain[first[0]], host)
    for place, each in enumerate(chain):
        ours = place == first[0]
        if ours or each.issuer != each.subject:  # nobody looks at a root that is sent along
            found += _sound(each, "The certificate" if ours else f"Certificate {place + 1} of the file", now)
    return found


def host_problems(certificate_pem: bytes, host: str) -> list[str]:
    """Why the first certificate of a PEM file is not for `host`; empty when it is."""
    return list(_host(x509.load_pem_x509_certificate(certificate_pem), host))


def _key(pem: bytes) -> tuple[PrivateKeyTypes | None, list[str]]:
    """The key, or why there is none. The library's own words are not passed on: they could quote the key."""
    try:
        return load_pem_private_key(pem, None), []
    except TypeError:
        return None, ["The private key has a passphrase, which nginx cannot ask for: remove it with openssl pkey."]
    except (ValueError, UnsupportedAlgorithm):
        return None, ["The private key cannot be read: give an RSA, EC or Ed25519 key in PEM."]


def _load(block: bytes) -> x509.Certificate:
    """The certificate, all of it read once: the library does so only when a part is asked for, and raises then."""
    certificate = x509.load_pem_x509_certificate(block)
    certificate.issuer, certificate.subject, certificate.extensions  # noqa: B018
    return certificate


def _public(certificate: x509.Certificate) -> CertificatePublicKeyTypes | None:
    try:
        return certificate.public_key()
    except _UNREADABLE:
        return None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _order(chain: list[x509.Certificate]) -> Iterator[str]:
    for number, (each, issuer) in enumerate(pairwise(chain), 1):
        if _is_weak(each) and each.issuer == issuer.subject:
            continue  # the library does not check such signatures; `_sound` tells of them
        try:
            each.verify_directly_issued_by(issuer)
        except (*_UNREADABLE, InvalidSignature):
            yield (
                f"Certificate {number + 1} of the file did not sign certificate {number}: "
                "after the server's own, each must be the issuer of the one before it."
            )


def _host(leaf: x509.Certificate, host: str) -> Iterator[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        addresses = names.get_values_for_type(x509.IPAddress)
    except x509.ExtensionNotFound:
        dns, addresses = [], []
    wanted = host.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    try:
        matches = ipaddress.ip_address(wanted) in addresses
    except ValueError:
        matches = any(_covers(name.lower(), _ascii(wanted)) for name in dns)
    if not matches:
        others = ", ".join([*map(ascii, dns), *map(str, addresses)][:8]) or "no name at all"
        yield f"The certificate is not for {host} but for {others}: order one with it in the subjectAltName."


def _covers(name: str, host: str) -> bool:
    """A wildcard is one whole first label, and two labels must follow it, as OpenSSL wants (`*.com` covers nothing)."""
    if not name.startswith("*."):
        return name == host
    return name.count(".") >= 2 and host.partition(".")[0] != "" and host.partition(".")[2] == name[2:]


def _ascii(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode().lower()
    except UnicodeError:
        return host


def _sound(certificate: x509.Certificate, what: str, now: datetime) -> Iterator[str]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        yield f"{what} is not valid before {_date(start)}: wait, or set the clock of this machine."
    if now > end:
        yield f"{what} expired on {_date(end)}: renew it."
    key = _public(certificate)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        yield f"{what} has a key of a kind that browsers do not know: order one with an RSA or EC key."
    elif isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        yield f"{what} has an RSA key of {key.key_size} bits, which is refused today: order one with 2048 bits or more."
    if _is_weak(certificate):
        yield f"{what} is signed with SHA-1, MD5 or something unknown, which is refused today: order a new one."


def _is_weak(certificate: x509.Certificate) -> bool:
    try:
        return isinstance(certificate.signature_hash_algorithm, SHA1 | MD5)
    except UnsupportedAlgorithm:
        return True


def _date(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
