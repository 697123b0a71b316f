"""Walk the way of a sign-on through GitLab, from Mattermost's node, step by step, without anybody's password.

Every step asks what the server itself would ask. The first that fails is named; those behind it would only repeat it.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

from pyinfra.api.host import Host

from roles.mattermost.application import Application, Credentials, redirect_uris
from roles.mattermost.render import LISTEN
from roles.node import remote
from roles.node.checks import Check, Verdict, compare
from roles.site.models import Site
from roles.site.secret import scrub

CLOCK = 60.0
"""Seconds by which the clocks may differ: GitLab's codes live for ten minutes, its tokens carry times."""
WRONG_SECRET = "the application's id and secret"
"""Subject of the check that fails when GitLab does not know the kept credentials."""

APPLICATION = "the application in GitLab"
"""Subject of the check that fails when the application is not as declared."""

_UNREACHED = {
    5: "The proxy that the node uses has no address.",
    6: "The node's DNS does not know this name: put it there, or into /etc/hosts.",
    7: "Nothing listens there, or a firewall refuses this node.",
    28: "No answer: a firewall between this node and GitLab drops the connection.",
    35: "TLS could not be agreed on: is this the right port?",
    60: "The node does not trust GitLab's certificate, and neither would the server: put its authority into "
    "/usr/local/share/ca-certificates and run update-ca-certificates; or the certificate has expired, or is for "
    "another name.",
}
"""Exit codes of curl, and what an operator does about them."""


@dataclass(frozen=True)
class _Answer:
    """What came back over HTTP, or why nothing did."""

    rc: int
    """Exit code of curl; 0: there is an answer."""
    why: str = ""
    """What curl said."""
    status: int = 0
    """HTTP status."""
    headers: dict[str, str] = field(default_factory=dict)
    """By small name; the last of each."""
    body: str = ""
    """The body."""


_CURL = """\
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
ask() {
  file=$folder/$1; shift
  curl --silent --show-error --include --max-time 20 "$@" > "$file.out" 2> "$file.err"; echo $? > "$file.rc"
}
date +%s"""


def _ask(host: Host, asked: Mapping[str, Sequence[str]], stdin: str) -> tuple[float, dict[str, _Answer]]:
    """Ask all of it at once, in one command on the node.

    Args:
        asked: words for curl, by name. What has `@-` among them is fed `stdin`.

    Returns:
        the node's clock, and the answers by name.
    """
    lines = [_CURL]
    for name, words in asked.items():
        fed = "" if "@-" in words else " < /dev/null"
        lines.append(f"ask {name} {' '.join(shlex.quote(word) for word in words)}{fed}{' &' if fed else ''}")
    lines.append("wait")
    for name in asked:
        parts = (
            '"$(cat $folder/NAME.rc)" "$(base64 -w0 < $folder/NAME.out)" "$(base64 -w0 < $folder/NAME.err)"'
        ).replace("NAME", name)
        lines.append(f"printf '{name}\\t%s\\t%s\\t%s\\n' {parts}")
    got = remote.run(host, "\n".join(lines), stdin=stdin)
    clock, *rest = got.stdout.splitlines() or [""]
    answers = {}
    for line in rest:
        name, rc, out, err = line.split("\t")
        answers[name] = _answer(rc, *(base64.b64decode(part).decode(errors="replace") for part in (out, err)))
    silent = _Answer(-1, scrub(got.stderr.strip()) or "curl could not be run")
    return float(clock) if clock.isdigit() else math.nan, {name: answers.get(name, silent) for name in asked}


def _answer(rc: str, out: str, err: str) -> _Answer:
    if rc != "0":
        said = err.strip().splitlines() or ["no reason was given"]
        return _Answer(int(rc) if rc.isdigit() else -1, scrub(said[0].removeprefix("curl: ")))
    head, _, body = out.replace("\r\n", "\n").partition("\n\n")
    # Interim answers (1xx), and what a proxy said when it opened the way.
    while body.startswith("HTTP/"):
        head, _, body = body.partition("\n\n")
    status, *lines = head.split("\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _Answer(0, "", int(status.split()[1]), headers, body)


def walk(site: Site, host: Host, credentials: Credentials | None, application: Application | str | None) -> list[Check]:
    """The checks up to the first that fails.

    Args:
        host: Mattermost's node; the server runs.
        credentials: as kept.
        application: as found in GitLab; a string is the reason why it could not be looked at; None: not looked at.
    """
    out = []
    for check in _steps(site, host, credentials, application):
        out.append(check)
        if not check.ok:
            break
    return out


def _steps(
    site: Site, host: Host, credentials: Credentials | None, application: Application | str | None
) -> Iterator[Check]:
    gitlab, node = site.gitlab.external_url.rstrip("/"), host.name
    name = str(urlsplit(gitlab).hostname)
    clock, answers = _ask(host, *_questions(site, gitlab, credentials))
    got = answers["authorize"]
    cure = _UNREACHED.get(got.rc, "Open that address from the node with curl and see.")
    found = f"HTTP {got.status}" if got.rc == 0 else got.why
    yield compare(node, f"the way to {name} (DNS, connection, TLS)", "GitLab answers", found, got.rc == 0, cure)
    if "date" in got.headers:
        yield _clock(host, got, clock)
    if credentials is None:
        cure = "Run deploys/mattermost.py: it makes the application."
        yield compare(node, WRONG_SECRET, "kept where the site file says", "none", False, cure)
        return
    yield _client(host, gitlab, answers["token"])
    if application is not None:
        yield _registered(site, host, application)
    yield _user_api(host, answers["user"])
    yield _server(site, host, gitlab, credentials, answers["login"])


def _questions(site: Site, gitlab: str, credentials: Credentials | None) -> tuple[dict[str, Sequence[str]], str]:
    """What is asked, and what the question with the secret is fed."""
    asked: dict[str, Sequence[str]] = {"authorize": ["--", f"{gitlab}/oauth/authorize"]}
    if credentials is None:
        return asked, ""
    assert site.mattermost is not None
    authority = urlsplit(site.mattermost.site_url).netloc
    headers = ["--header", f"Host: {authority}", "--header", "X-Forwarded-Proto: https"]
    asked["user"] = ["--header", "Authorization: Bearer none", "--", f"{gitlab}/api/v4/user"]
    asked["login"] = [*headers, "--", f"http://{LISTEN}/oauth/gitlab/login"]
    asked["token"] = ["--data", "@-", "--", f"{gitlab}/oauth/token"]
    uid, secret = credentials
    body = f"grant_type=authorization_code&code=none&redirect_uri=https%3A%2F%2Fnone.invalid&client_id={uid}"
    return asked, f"{body}&client_secret={secret.reveal()}"


def _clock(host: Host, got: _Answer, clock: float) -> Check:
    declared, subject = f"within {CLOCK:.0f} s of GitLab's", "clock"
    try:
        off = clock - parsedate_to_datetime(got.headers["date"]).timestamp()
    except ValueError:
        off = math.nan
    if math.isnan(off):
        return compare(
            host.name,
            subject,
            declared,
            None,
            False,
            "The date in GitLab's answer is none, or the node's clock could not be read.",
        )
    cure = "Let NTP set the clocks of both (chrony or systemd-timesyncd)."
    return compare(host.name, subject, declared, f"{off:+.0f} s", abs(off) <= CLOCK, cure)


def _client(host: Host, gitlab: str, got: _Answer) -> Check:
    """GitLab looks at id and secret before it looks at the code: a made-up code is refused as such only after them."""
    try:
        said = str(json.loads(got.body)["error"])
    except (ValueError, KeyError, TypeError):
        said = got.why or f"HTTP {got.status} without a reason"
    cure = "Run deploys/mattermost.py: it makes the application, or renews its secret, and keeps them."
    if said not in ("invalid_client", "invalid_grant"):
        cure = f"{gitlab}/oauth/token does not answer as GitLab does: is something between, or is external_url wrong?"
    declared = "GitLab knows them"
    said = scrub(said)
    found = {"invalid_grant": "GitLab knows them", "invalid_client": "GitLab refuses them (invalid_client)"}.get(
        said, said
    )
    return compare(host.name, WRONG_SECRET, declared, found, said == "invalid_grant", cure)


def _registered(site: Site, host: Host, application: Application | str) -> Check:
    assert site.mattermost is not None
    assert site.mattermost.sign_on is not None
    declared = f"redirect URIs {' and '.join(redirect_uris(site))}, confidential"
    if not site.mattermost.sign_on.api_token:  # the API does not tell these
        declared += ", trusted, scope read_user"
    if isinstance(application, str):
        return Check(host.name, APPLICATION, declared, application, Verdict.NOT_SEEN, "See the reason.")
    cure = "Run deploys/mattermost.py: it puts the application right."
    if application.uid is None:
        return compare(host.name, APPLICATION, declared, "there is none of that name", False, cure)
    found = "another " + ", another ".join(application.differs) if application.differs else "the same"
    return compare(host.name, APPLICATION, declared, found, not application.differs, cure)


def _user_api(host: Host, got: _Answer) -> Check:
    """A made-up token must be refused for being made up, not for where it comes from."""
    is_json = "json" in got.headers.get("content-type", "")
    cures = {
        403: "GitLab refuses this address: see its IP restrictions, rate limits, and what stands before it.",
        429: "GitLab limits the rate of this address (Admin area > Settings > Network).",
        404: "There is no API at this address: check gitlab.external_url.",
    }
    found = f"HTTP {got.status}" + ("" if is_json else ", no JSON") if got.rc == 0 else got.why
    cure = cures.get(got.status, "Something that is not GitLab's API answers there.")
    ok = got.status == 401 and is_json
    return compare(host.name, "GET /api/v4/user with a wrong token", "HTTP 401 in JSON", found, ok, cure)


def _server(site: Site, host: Host, gitlab: str, credentials: Credentials, got: _Answer) -> Check:
    """Where the server sends a browser that wants to sign on."""
    url = urlsplit(got.headers.get("location", ""))
    query = parse_qs(url.query)
    subject, declared = "the server's redirect to GitLab", f"{gitlab}/oauth/authorize with {redirect_uris(site)[0]}"
    if got.rc or got.status not in (302, 307) or "client_id" not in query:
        found = got.why or f"HTTP {got.status}, no redirect to GitLab"
        cure = "Is sign-on with GitLab part of this edition and version? See journalctl -u mattermost."
        return compare(host.name, subject, declared, found, False, cure)
    to = f"{url.scheme}://{url.netloc}{url.path}"
    back = query.get("redirect_uri", [""])[0]
    ok = (to, back, query["client_id"][0]) == (f"{gitlab}/oauth/authorize", redirect_uris(site)[0], credentials[0])
    cure = "The server uses other settings than the site file's: run deploys/mattermost.py."
    if back not in redirect_uris(site):
        cure = "GitLab would refuse it (redirect URI mismatch): mattermost.site_url must be what people type."
    found = f"{to} with {back}"
    if query["client_id"][0] != credentials[0]:
        found += ", as another application"
    return compare(host.name, subject, declared, found, ok, cure)
