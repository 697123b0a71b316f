"""What is said of a certificate and key before nginx gets them: a sentence for each fault, none for a good pair."""

from __future__ import annotations

import base64
import ipaddress
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from roles.proxy.certificate import certificates, days_left, not_after, problems

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOST = "chat.example.com"
KEY = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "short": rsa.generate_private_key(65537, 1024),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "dsa": dsa.generate_private_key(2048),
}
ROOT = rsa.generate_private_key(65537, 2048)
MIDDLE, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
RSA_WITH = {  # how DER names a signature; the library no longer makes the old ones for certificates
    "SHA256": (hashes.SHA256(), bytes.fromhex("2a864886f70d01010b")),
    "SHA1": (hashes.SHA1(), bytes.fromhex("2a864886f70d010105")),
    "MD5": (hashes.MD5(), bytes.fromhex("2a864886f70d010104")),
}


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def cert(subject="leaf", names=(HOST,), key=KEY["ec"], by=("middle", MIDDLE), ca=False, days=(-1, 89), digest="SHA256"):
    """A certificate in PEM. `by` is issuer and its key, or None for a self-signed one; `days` are counted from NOW."""
    issuer, signer = by or (subject, key)
    built = x509.CertificateBuilder(
        name(issuer), name(subject), key.public_key(), x509.random_serial_number(),
        NOW + timedelta(days[0]), NOW + timedelta(days[1]),
    ).add_extension(x509.BasicConstraints(ca, None), True)  # fmt: skip
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([san(each) for each in names]), False)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    signed = built.sign(signer, algorithm)
    return block(der(signed) if digest == "SHA256" else again(signed, signer, *RSA_WITH[digest]))


def again(certificate: x509.Certificate, signer, algorithm, oid: bytes) -> bytes:
    """The certificate, in DER, with an old kind of RSA signature that is right nevertheless."""
    changed = der(certificate).replace(RSA_WITH["SHA256"][1], oid)
    signed = x509.load_der_x509_certificate(changed)
    return changed.replace(signed.signature, signer.sign(signed.tbs_certificate_bytes, padding.PKCS1v15(), algorithm))


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def block(data: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"


def pem(key, passphrase=None, form=serialization.PrivateFormat.PKCS8) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, how)


ISSUER = cert("middle", (), MIDDLE, ("root", ROOT), ca=True)
TOP = cert("root", (), ROOT, None, ca=True, days=(-900, -1), digest="SHA1")
LEAF = cert()
GOOD = pem(KEY["ec"])
CUT = LEAF.replace(b"-----END CERTIFICATE-----", b"")
JUNK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
OLD_FORM = serialization.PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        (LEAF, GOOD),
        (LEAF + ISSUER, GOOD),
        (LEAF + ISSUER + TOP, GOOD),  # nobody checks the dates and the signature of a root that is sent along
        (b"Bag Attributes\n" + LEAF.replace(b"\n", b"\r\n") + b"issuer=x\n" + ISSUER, GOOD),
        (cert(by=None), GOOD),
        (cert(by=None, ca=True), GOOD),  # what openssl req -x509 makes
        (LEAF, PARAMETERS + pem(KEY["ec"], form=OLD_FORM)),
        *((cert(key=KEY[kind]), pem(KEY[kind])) for kind in ("rsa", "ed25519")),
    ],
)
def test_a_good_pair_has_no_problems(certificate, key):
    assert problems(certificate, key, HOST, NOW) == []


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        (b"", GOOD, ["The certificate file has no certificate in PEM .* openssl x509 -inform der"]),
        (b"\x30\x82\x01\x01", GOOD, ["The certificate file has no certificate in PEM"]),
        (CUT, GOOD, ["The certificate file has no certificate in PEM"]),
        (LEAF + CUT, GOOD, ["A certificate of the file has no end .*: copy it again"]),
        (LEAF + JUNK, GOOD, ["Certificate 2 of the file cannot be read: copy it again"]),
        (JUNK, b"", ["The private key cannot be read", "Certificate 1 of the file cannot be read"]),
        (LEAF + GOOD, GOOD, ["The certificate file holds a private key.*: take the key out"]),
        (LEAF, b"", ["The private key cannot be read: give an RSA, EC or Ed25519 key in PEM"]),
        (LEAF, GOOD[:100], ["The private key cannot be read"]),
        (LEAF, LEAF, ["The private key cannot be read"]),
        (LEAF, pem(KEY["ec"], b"word"), ["The private key has a passphrase.*: remove it with openssl pkey"]),
        (LEAF, pem(KEY["ec"], b"word", OLD_FORM), ["The private key has a passphrase"]),
        *((LEAF, pem(key), ["The private key does not belong to the certificate: give the key that"])
          for key in (OTHER, KEY["rsa"], KEY["ed25519"])),
        (LEAF + ISSUER, pem(MIDDLE), ["number 2 of the file", "is not for .* but for no name at all"]),
        (ISSUER + LEAF, GOOD, ["The server's own certificate is number 2 of the file: put it first"]),
        (TOP + ISSUER + LEAF, GOOD, ["The server's own certificate is number 3 of the file"]),
        (ISSUER + LEAF, b"", ["The private key cannot be read", "The server's own certificate is number 2"]),
        (LEAF + TOP + ISSUER, GOOD, ["Certificate 2 of the file did not sign certificate 1", "Certificate 3 .* 2:"]),
        (LEAF + TOP, GOOD, ["Certificate 2 of the file did not sign certificate 1: after the server's own"]),
        (LEAF + cert("middle", (), OTHER, None, ca=True), GOOD, ["Certificate 2 of the file did not sign"]),
        (cert(names=()), GOOD, ["The certificate is not for chat.example.com but for no name at all"]),
        (cert(HOST, names=()), GOOD, ["The certificate is not for chat.example.com but for no name at all"]),
        (cert(names=("a.example", "192.0.2.7")), GOOD, ["not for chat.example.com but for 'a.example', 192.0.2.7: or"]),
        (cert(days=(-90, -3)), GOOD, ["The certificate expired on 2026-02-26 12:00 UTC: renew it"]),
        (cert(days=(2, 90)), GOOD, ["The certificate is not valid before 2026-03-03 12:00 UTC: wait"]),
        (LEAF + cert("middle", (), MIDDLE, ("root", ROOT), True, (-9, -1)), GOOD, ["Certificate 2 .* expired on 2026"]),
        (cert(key=KEY["short"]), pem(KEY["short"]), ["The certificate has an RSA key of 1024 bits.*: order"]),
        (cert(key=KEY["dsa"]), pem(KEY["dsa"]), ["a key of a kind that browsers do not know: order"]),
        (cert(by=("root", ROOT), digest="SHA1") + TOP, GOOD, ["The certificate is signed with SHA-1, MD5 .*: order"]),
        (cert(by=("root", ROOT), digest="MD5"), GOOD, ["The certificate is signed with SHA-1, MD5"]),
    ],
)  # fmt: skip
def test_each_fault_is_told_once_with_its_cure(certificate, key, told):
    found = problems(certificate, key, HOST, NOW)
    assert len(found) == len(told), found
    for sentence, pattern in zip(found, told, strict=True):
        assert re.search(pattern, sentence)
        assert sentence.endswith(".")
        assert "\n" not in sentence
    for line in [line for line in key.decode().splitlines() if len(line) > 8 and "-----" not in line]:
        assert line not in " ".join(found)


def test_all_faults_are_told_at_once():
    found = problems(cert(names=("a.example",), by=("root", ROOT), days=(-9, -1), digest="SHA1"), pem(OTHER), HOST, NOW)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        (["CHAT.Example.com"], "chat.example.COM.", True),
        (["*.example.com"], HOST, True),
        (["*.EXAMPLE.com"], "a_b.example.com", True),
        (["*.example.com"], "example.com", False),
        (["*.example.com"], "a.chat.example.com", False),
        (["*.example.com"], ".example.com", False),
        (["ch*.example.com", "*hat.example.com", "chat.*.com"], HOST, False),
        (["*.com"], "example.com", False),
        (["*"], "localhost", False),
        (["xn--mnchen-3ya.example.com"], "München.example.com", True),
        (["*.example.com"], "münchen.example.com", True),
        (["munchen.example.com"], "münchen.example.com", False),
        (["192.0.2.7"], "192.0.2.7", True),
        (["192.0.2.70"], "192.0.2.7", False),
        (["2001:db8::7"], "[2001:0DB8:0::7]", True),
        (["*.0.2.7"], "192.0.2.7", False),
    ],
)
def test_names_fit_as_in_browsers(names, host, fits):
    assert (problems(cert(names=names), GOOD, host, NOW) == []) is fits


def test_an_address_as_a_dns_name_does_not_fit():
    builder = x509.CertificateBuilder(name("x"), name("x"), KEY["ec"].public_key(), 1, NOW, NOW + timedelta(9))
    built = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("192.0.2.7")]), False)
    own = built.sign(KEY["ec"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert len(problems(own, GOOD, "192.0.2.7", NOW)) == 1


LABELS = st.lists(st.sampled_from(["a", "b", "A", "a-b", "xn--a"]), min_size=1, max_size=4)


@given(LABELS, LABELS, st.booleans())
@example(["a", "b", "a"], ["b", "b", "a"], True)
@settings(max_examples=200, deadline=None)
def test_names_fit_as_a_regular_expression_says(host, labels, wildcard):
    labels = ["*", *labels[1:]] if wildcard else labels
    assume(not wildcard or len(labels) >= 3)
    oracle = re.compile(r"\.".join("[^.]+" if each == "*" else re.escape(each) for each in labels), re.I)
    found = problems(cert(names=[".".join(labels)], by=("x", KEY["ed25519"])), GOOD, ".".join(host), NOW)
    assert (found == []) is (oracle.fullmatch(".".join(host)) is not None)


DER = der(x509.load_pem_x509_certificate(LEAF))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(DER) - 1), st.binary(min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_damaged_certificate_is_told_and_never_breaks_the_check(place, noise):
    damaged = DER[:place] + noise + DER[place + len(noise) :]
    assume(damaged != DER)
    assert problems(block(damaged) + ISSUER, GOOD, HOST, NOW) != []
    assert problems(LEAF + block(damaged), GOOD, HOST, NOW) != []


def test_the_end_is_the_one_of_the_first_certificate():
    chain = b"text\n" + LEAF + cert("middle", (), MIDDLE, ("root", ROOT), True, (-9, 9))
    assert not_after(chain) == NOW + timedelta(89)
    assert not_after(chain).tzinfo is not None
    assert [len(certificates(each)) for each in (chain, LEAF + GOOD, b"")] == [2, 1, 0]
    with pytest.raises(ValueError, match="no certificate"):
        not_after(GOOD)


@pytest.mark.parametrize(("hours", "days"), [(30 * 24, 30), (30 * 24 - 1, 29), (1, 0), (0, 0), (-1, -1), (-25, -2)])
def test_days_left_are_whole_days(hours, days):
    assert days_left(NOW + timedelta(hours=hours), NOW) == days
