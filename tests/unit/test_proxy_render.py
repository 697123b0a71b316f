"""nginx's site for Mattermost, read back with a small parser: each requirement, and that no value can break out."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roles.proxy import render
from roles.proxy.render import CERTIFICATE, CONFIG, KEPT, KEY, WEBROOT, config_file, pair, word
from roles.site import secret
from roles.site.secret import MASK, Secret

HOST = "chat.example.com"
TOKEN = re.compile(r'\s+|#[^\n]*|(?P<mark>[{};])|"(?P<quoted>[^"]*)"|(?P<word>[^\s{};"]+)')
PEM = "-----BEGIN {0}-----\n{1}\n{1}\n-----END {0}-----\n"
LEAF = PEM.format("CERTIFICATE", "bGVhZg==").encode()
KEY_TEXT = PEM.format("PRIVATE KEY", "c2VjcmV0LWtleS1ieXRlcw==")


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch):
    monkeypatch.setattr(secret, "_known", set())
    monkeypatch.setattr(secret, "_pattern", None)


class Block(list):
    """Directives as (words, block or None), in order."""

    def all(self, name: str) -> list:
        return [words[1:] for words, _ in self if words[0] == name]

    def one(self, name: str) -> str:
        (words,) = self.all(name)
        return " ".join(words)

    def blocks(self, *head: str) -> list:
        return [inner for words, inner in self if inner is not None and words[: len(head)] == list(head)]


def parse(text: str) -> Block:
    """nginx's syntax as far as the template uses it; anything else fails."""
    stack, words, at = [Block()], [], 0
    while at < len(text):
        found = TOKEN.match(text, at)
        assert found, text[at : at + 40]
        at = found.end()
        if found["mark"] == ";":
            assert words, text[:at]
            stack[-1].append((words, None))
        elif found["mark"] == "{":
            inner = Block()
            stack[-1].append((words, inner))
            stack.append(inner)
        elif found["mark"] == "}":
            assert not words, words
            stack.pop()
        else:
            words += [found[kind] for kind in ("quoted", "word") if found[kind] is not None]
            continue
        words = []
    assert len(stack) == 1
    assert not words
    return stack[0]


def site(host=HOST, port=443, **more) -> Block:
    return parse(config_file(host, port, **more).content.decode())


def servers(*args, **more) -> tuple[Block, Block, Block]:
    """The one for unknown hosts, the one that redirects, and Mattermost's."""
    unknown, redirect, ours = site(*args, **more).blocks("server")
    return unknown, redirect, ours


def headers(location: Block) -> dict:
    return dict(location.all("proxy_set_header"))


def test_the_upstream_keeps_connections():
    (upstream,) = site().blocks("upstream", "pyinfra_mattermost")
    assert upstream.all("server") == [["127.0.0.1:8065"]]
    assert upstream.one("keepalive") == "32"
    assert int(upstream.one("keepalive_timeout").removesuffix("s")) < 60


@pytest.mark.parametrize(("port", "suffix"), [(443, ""), (8443, ":8443")])
@pytest.mark.parametrize("ipv6", [True, False])
def test_http_goes_to_https(port, suffix, ipv6):
    unknown, redirect, ours = servers(port=port, ipv6=ipv6)
    http = [["80"]] + [["[::]:80"]] * ipv6
    https = [[str(port), "ssl", "http2"]] + [[f"[::]:{port}", "ssl", "http2"]] * ipv6
    assert redirect.all("listen") == http
    assert redirect.blocks("location", "/")[0].one("return") == f"301 https://$host{suffix}$request_uri"
    (challenge,) = redirect.blocks("location", "^~", "/.well-known/acme-challenge/")
    assert challenge.one("root") == WEBROOT
    assert ours.all("listen") == https
    assert unknown.all("listen") == http + https
    assert redirect.one("server_name") == ours.one("server_name") == HOST
    assert headers(ours.blocks("location", "/")[0])["Host"] == HOST + suffix


def test_https_on_port_80_leaves_no_http():
    unknown, ours = site(port=80).blocks("server")
    assert unknown.all("listen") == ours.all("listen") == [["80", "ssl", "http2"], ["[::]:80", "ssl", "http2"]]


def test_an_unknown_host_gets_no_answer_and_other_sites_stay():
    unknown, redirect, ours = servers()
    assert unknown.one("return") == "444"
    assert unknown.one("ssl_reject_handshake") == "on"
    assert unknown.one("server_name") == "pyinfra.invalid"
    assert not unknown.all("ssl_certificate")
    assert not redirect.all("ssl_reject_handshake") + ours.all("ssl_reject_handshake")
    text = config_file(HOST).content.decode()
    assert "default_server" not in re.sub(r"#.*", "", text)  # with two of them nginx refuses everything


@pytest.mark.parametrize(("host", "name"), [("198.18.0.7", "198.18.0.7"), ("[2001:DB8::7]", "[2001:db8::7]")])
def test_an_address_needs_a_handshake_without_a_name(host, name):
    unknown, _, ours = servers(host)
    assert not unknown.all("ssl_reject_handshake")
    assert unknown.one("ssl_certificate") == ours.one("ssl_certificate") == CERTIFICATE
    assert unknown.one("ssl_certificate_key") == ours.one("ssl_certificate_key") == KEY
    assert unknown.one("return") == "444"
    assert ours.one("server_name") == name


def test_tls_is_what_mozilla_calls_intermediate():
    unknown, _, ours = servers()
    for server in (unknown, ours):
        assert server.one("ssl_protocols") == "TLSv1.2 TLSv1.3"
        assert server.one("ssl_session_tickets") == "off"
        assert server.one("ssl_early_data") == "off"
        assert server.one("ssl_prefer_server_ciphers") == "off"
        assert server.one("ssl_session_cache") == "shared:pyinfra_mattermost:10m"
        assert server.one("ssl_session_timeout") == "1d"
        ciphers = server.one("ssl_ciphers").split(":")
        assert len(set(ciphers)) == len(ciphers) == 9
        for cipher in ciphers:
            assert re.fullmatch(
                r"(ECDHE-(ECDSA|RSA)|DHE-RSA)-(AES(128-GCM-SHA256|256-GCM-SHA384)|CHACHA20-POLY1305)", cipher
            )
    assert ours.one("ssl_certificate") == "/etc/nginx/pyinfra/mattermost.crt"
    assert ours.one("ssl_certificate_key") == "/etc/nginx/pyinfra/mattermost.key"


def test_every_location_forwards_who_asked():
    (ours,) = servers()[2:]
    locations = ours.blocks("location")
    assert len(locations) == 2
    for location in locations:
        assert location.one("proxy_pass") == "http://pyinfra_mattermost"
        assert location.one("proxy_http_version") == "1.1"
        sent = headers(location)
        assert {key: sent[key] for key in sent if key not in ("Upgrade", "Connection")} == {
            "Host": HOST,
            "X-Real-IP": "$remote_addr",
            "X-Forwarded-For": "$remote_addr",
            "X-Forwarded-Proto": "https",
            "X-Frame-Options": "SAMEORIGIN",
        }


def test_websockets_pass_and_stay():
    ((head, socket),) = [(words, inner) for words, inner in servers()[2] if words[:2] == ["location", "~"]]
    pattern = re.compile(head[2])
    for path in ("/api/v4/websocket", "/api/v3/users/websocket"):
        assert pattern.search(path)
    for path in ("/api/v4/websockets", "/websocket", "/api/v4/users", "/api/v/websocket"):
        assert not pattern.search(path)
    assert headers(socket)["Upgrade"] == "$http_upgrade"
    assert headers(socket)["Connection"] == "upgrade"
    assert socket.one("proxy_buffering") == "off"
    assert socket.one("proxy_read_timeout") == socket.one("proxy_send_timeout") == "1h"


def test_files_go_through_without_the_disk():
    (rest,) = servers()[2].blocks("location", "/")
    assert headers(rest)["Connection"] == ""
    assert rest.one("proxy_request_buffering") == "off"
    assert rest.one("proxy_max_temp_file_size") == "0"
    assert (rest.one("proxy_buffers"), rest.one("proxy_buffer_size")) == ("256 16k", "16k")
    assert rest.one("proxy_read_timeout") == "600s"  # a search or an export may take longer than nginx's minute


@pytest.mark.parametrize(("size", "body"), [(None, 104857600 + 1048576), (0, 1048576), (5, 1048581)])
def test_the_largest_file_fits_with_its_form(size, body):
    ours = servers()[2] if size is None else servers(max_file_size=size)[2]
    assert ours.one("client_max_body_size") == str(body)
    assert not any(location.all("client_max_body_size") for location in ours.blocks("location"))


def test_hsts_is_sent_only_when_declared():
    declared, not_declared = servers()[2], servers(hsts=False)[2]
    assert declared.all("add_header") == [["Strict-Transport-Security", "max-age=31536000", "always"]]
    assert declared.one("proxy_hide_header") == "Strict-Transport-Security"
    assert not any(location.all("add_header") for location in declared.blocks("location"))  # they would replace it
    assert "Strict-Transport-Security" not in config_file(HOST, hsts=False).display
    assert not not_declared.all("add_header")


def test_no_server_tells_its_version():
    assert [server.one("server_tokens") for server in servers()] == ["off"] * 3


def shape(block: Block, host: str) -> list:
    """The configuration without the host where it belongs, so that one anywhere else would show."""
    places = (["server_name", host], ["proxy_set_header", "Host", host])
    return [
        (words[:-1] if words in places else words, inner if inner is None else shape(inner, host))
        for words, inner in block
    ]


@given(st.text(max_size=20) | st.from_regex(r"[a-z0-9.$;{}\"'\\ \n#-]{1,12}", fullmatch=True))
@example("a;b")
@example("a\nb")
@example("a\n")
@example("$host")
@example("a{")
@example("[")
@example("")
@example("ok-1.example")
@example("on")
@example("listen")
@example("198.18.0.1")
@example("::1")
def test_no_host_breaks_out(host):
    try:
        text = config_file(host).content.decode()
    except ValueError:
        assert not re.fullmatch(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*", host)
        return
    name = parse(text).blocks("server")[1].one("server_name")
    assert re.fullmatch(r"[a-z0-9_.-]+|\[[0-9a-f:.]+\]", name)
    plain = "198.18.0.7" if re.fullmatch(r"[0-9.]+|\[.*", name) else HOST
    assert shape(parse(text), name) == shape(site(plain), plain)


@given(st.text(max_size=8))
@example("a b")
@example("a\n")
@example("$a")
def test_a_word_is_plain_or_refused(text):
    if re.fullmatch(r"[A-Za-z0-9._:/\[\]-]+", text):
        assert word(text) == text
    else:
        with pytest.raises(ValueError, match="cannot be written"):
            word(text)


def test_every_value_of_the_template_is_a_word():
    template = (render._TEMPLATES / "mattermost.conf.j2").read_text()
    for value in re.findall(r"\{\{-?\s*(.*?)\s*-?\}\}", template):
        assert re.fullmatch(r"\w+ \| word|(listen|listen_http|pair|tls|forward)\(\)", value), value


@pytest.mark.parametrize(
    ("host", "port", "size"), [(HOST, 0, 5), (HOST, 65536, 5), (HOST, 443, -1), ("198.18.0.300", 443, 5)]
)
def test_what_no_site_file_says_is_refused(host, port, size):
    with pytest.raises(ValueError, match="no host, port and size"):
        config_file(host, port, max_file_size=size)


def test_three_files_with_owner_and_mode():
    site_file = config_file(HOST, 8443, max_file_size=5, hsts=False, ipv6=False)
    certificate, key = pair(LEAF, Secret(KEY_TEXT))
    assert [(each.path, each.mode, each.owner, each.group) for each in (site_file, certificate, key)] == [
        ("/etc/nginx/conf.d/mattermost.conf", 0o644, "root", "root"),
        ("/etc/nginx/pyinfra/mattermost.crt", 0o644, "root", "root"),
        ("/etc/nginx/pyinfra/mattermost.key", 0o600, "root", "root"),
    ]
    assert site_file.display.encode() == site_file.content
    assert (site_file.keep_first, certificate.keep_first, key.keep_first) == (KEPT, None, None)
    assert not KEPT.endswith(".conf")
    assert KEPT.startswith(CONFIG)


def test_the_key_is_never_shown():
    key = pair(LEAF, Secret(KEY_TEXT.rstrip("\n")))[1]
    assert key.content.decode() == KEY_TEXT
    assert set(key.display.splitlines()) == {MASK}
    assert len(key.display.splitlines()) == len(KEY_TEXT.splitlines())
    assert "c2Vj" not in repr(key)


def test_the_readable_file_holds_certificates_alone():
    mixed = b"Bag \xff Attributes\n" + LEAF + KEY_TEXT.encode() + LEAF.replace(b"\n", b"\r\n")
    certificate = pair(mixed, Secret(KEY_TEXT))[0]
    assert certificate.content.count(b"-----BEGIN CERTIFICATE-----") == 2
    assert certificate.content.splitlines() == LEAF.splitlines() * 2
    assert certificate.display.encode() == certificate.content
    with pytest.raises(ValueError, match="no certificate"):
        pair(KEY_TEXT.encode(), Secret(KEY_TEXT))


def test_before_there_is_a_certificate_port_80_alone_is_served():
    (redirect,) = site(acme=True, https=False).blocks("server")
    assert redirect.all("listen") == [["80"], ["[::]:80"]]
    assert redirect.blocks("location", "^~", "/.well-known/acme-challenge/")


def test_with_acme_the_certificate_is_certbots():
    ours = servers(acme=True)[2]
    assert ours.one("ssl_certificate") == f"/etc/letsencrypt/live/{HOST}/fullchain.pem"
    assert ours.one("ssl_certificate_key") == f"/etc/letsencrypt/live/{HOST}/privkey.pem"
