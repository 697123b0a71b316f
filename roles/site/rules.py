"""What a type cannot say: rules between keys, and keys that would be silently ignored.

They work on the file's plain data, so that they run even where other keys are wrong, and all problems come at once.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from roles.backup import rules as backup
from roles.gitlab.settings import RAILS_ROLES, SECTIONS
from roles.mattermost import rules as mattermost
from roles.site.errors import SecretError
from roles.site.found import Found, get, items
from roles.site.models import Site
from roles.site.secret import FileRef, Secret, SecretRef
from roles.site.yaml import KeyPath as Loc

KINDS = ("incoming_email", "service_desk_email")

IGNORED = {
    "mail.service_desk_email.delete_after_delivery": "the package never renders this for Service Desk: it is always on",
    "mail.service_desk_email.expunge_deleted": "the package never renders this for Service Desk: it is always off",
    "mail.incoming_email.email": "the login name at the IMAP server is called user here",
    "mail.service_desk_email.email": "the login name at the IMAP server is called user here",
}
"""Keys that one would expect, and why they do not exist."""

NEVER_READ = {
    ("gitlab_rails", "incoming_email_secret_file"): "mail.tokens.incoming_email",
    ("gitlab_rails", "service_desk_email_secret_file"): "mail.tokens.service_desk_email",
    ("gitlab_rails", "incoming_email_gitlab_url"): "gitlab.internal_api_url",
    ("gitlab_rails", "service_desk_email_gitlab_url"): "gitlab.internal_api_url",
    ("mailroom", "enabled"): "mail.reader",
}
"""Keys that GitLab's documentation names, that no version of the package ever read, and what to use instead."""

_OURS = re.compile(r"^(incoming_email|service_desk_email)_|^internal_api_url$|^auto_migrate$")
_SECRET_KEY = re.compile(
    r"(password|passwd|secret|token|salt|_secret_key|secret_access_key|private_key|encryption_key|key_base)$",
    re.I,
)
_ASSIGNMENT = re.compile(r"^\s*([a-z_]+)\s*(?:\[\s*['\":]?(\w+)['\"]?\s*\]|[\s(]+(?=['\"%])|\[|\s*=)", re.M)
_LOCAL = re.compile(r"(?<![\w.@$:'\"])(mailroom|gitlab_rails)\b\s*(?:,[^=\n]*)?=(?![=~>])")
_RUBY_SECRET = re.compile(
    r"['\":]?([\w-]*(?:password|passwd|secret|token|salt|private_key|access_key|key_base))['\"]?\]?\s*(?:=>|=|:)\s*(['\"])(?!\2)",
    re.I,
)
_BREAKS_YAML = re.compile(r"#[{$@]")


def names_secret(key: str) -> bool:
    """Whether a key is by its name one for a secret."""
    return bool(_SECRET_KEY.search(key))


def check(data: Mapping[str, Any]) -> Iterator[Found]:
    """Every broken rule in the plain data of a site file."""
    own = (_addresses, _reader, _mailboxes, _urls, _tokens, _gitlab, _suffixes, _rollout)
    for rule in (*own, mattermost.check, backup.check):
        yield from rule(data)


def _addresses(data: Mapping[str, Any]) -> Iterator[Found]:
    first: dict[str, str] = {}
    for name, node in items(data, "nodes"):
        address = str(get(node, "address") or "").lower()
        if address and address in first:
            yield Found(
                ("nodes", name, "address"),
                f"is also the address of {first[address]}",
                repr(address),
                "an address of its own for every node",
            )
        first.setdefault(address, name)


def _reader(data: Mapping[str, Any]) -> Iterator[Found]:
    reader = get(data, "mail", "reader")
    nodes = dict(items(data, "nodes"))
    if not isinstance(reader, str) or not nodes:
        return
    rails = [name for name, node in nodes.items() if _rails(node)]
    if reader not in nodes:
        yield Found(("mail", "reader"), "is not a node of this site", repr(reader), "one of: " + ", ".join(rails))
    elif reader not in rails:
        roles = ", ".join(map(str, get(nodes[reader], "roles") or ()))
        yield Found(
            ("mail", "reader"),
            f"has only roles without Rails ({roles}): the package renders neither gitlab.yml nor the token there, "
            "and mail_room cannot work",
            repr(reader),
            "one of: " + ", ".join(rails),
        )


def _rollout(data: Mapping[str, Any]) -> Iterator[Found]:
    canary, reader = get(data, "rollout", "canary"), get(data, "mail", "reader")
    other = {"mattermost", "mattermost_drill"}
    nodes = [name for name, node in items(data, "nodes") if not other & {str(r) for r in get(node, "roles") or ()}]
    allowed = "one of: " + ", ".join(name for name in nodes if name != reader)
    if isinstance(canary, str) and canary not in nodes:
        yield Found(("rollout", "canary"), "is not a GitLab node of this site", repr(canary), allowed)
    elif canary is not None and canary == reader:
        yield Found(("rollout", "canary"), "is the mail reader, which comes last", repr(canary), allowed)


def _rails(node: Any) -> bool:
    roles = get(node, "roles")
    return not roles or (isinstance(roles, list) and bool(RAILS_ROLES & {str(role) for role in roles}))


def _mailboxes(data: Mapping[str, Any]) -> Iterator[Found]:
    mail = get(data, "mail")
    if not isinstance(mail, Mapping):
        return
    boxes = {kind: get(mail, kind) for kind in KINDS if isinstance(get(mail, kind), Mapping)}
    if not boxes:
        yield Found(("mail",), "has no mailbox", "", "incoming_email, service_desk_email, or both")
    identity = {
        kind: tuple(
            str(box.get(key, default)).lower()
            for key, default in (("host", ""), ("user", ""), ("mailbox_name", "inbox"))
        )
        for kind, box in boxes.items()
    }
    if len(identity) == 2 and len(set(identity.values())) == 1:
        yield Found(
            ("mail", "service_desk_email", "user"),
            "is the mailbox of incoming_email too: mails of one would be taken for the other",
            repr(boxes["service_desk_email"].get("user")),
            "another user or another mailbox_name",
        )
    addresses = [str(box.get("address", "")).lower() for box in boxes.values()]
    if len(addresses) == 2 and addresses[0] == addresses[1]:
        yield Found(
            ("mail", "service_desk_email", "address"),
            "is also that of incoming_email",
            repr(addresses[0]),
            "another",
        )
    major = re.match(r"(\d+)\.", str(get(data, "gitlab", "version") or ""))
    for kind, box in boxes.items():
        if box.get("delivery_method") == "sidekiq" and major and int(major.group(1)) >= 19:
            yield Found(
                ("mail", kind, "delivery_method"),
                "GitLab 19.0 is announced to have no sidekiq delivery (deprecated since 16.0)",
                "'sidekiq'",
                "webhook",
            )
        if box.get("ssl", True) is True and box.get("start_tls") is True:
            yield Found(
                ("mail", kind, "start_tls"),
                "cannot be on together with ssl",
                "True",
                "start_tls: true with ssl: false",
            )
        for key in ("user", "mailbox_name", "host"):
            if isinstance(box.get(key), str):
                yield from _yaml_safe(("mail", kind, key), box[key], repr(box[key]))


def _yaml_safe(loc: Loc, value: str, shown: str) -> Iterator[Found]:
    """GitLab writes these values into gitlab.yml as Ruby inspects them (gitlab.yml.erb, quote()), not always as YAML:
    `#{`, `#$` and `#@` get a backslash that YAML does not know, which makes the whole file unreadable."""
    if _BREAKS_YAML.search(value):
        yield Found(
            loc,
            "holds #{, #$ or #@, with which GitLab's own gitlab.yml cannot be read any more",
            shown,
            f"another value, or the encrypted file: gitlab-rake gitlab:{loc[1]}:secret:edit",
        )
    elif not value.isprintable() or any(ord(c) > 0xFFFF for c in value):
        yield Found(
            loc,
            "holds a control character, line break or other sign that gitlab.yml does not keep",
            shown,
            "printable characters (of the Basic Multilingual Plane)",
        )


def _urls(data: Mapping[str, Any]) -> Iterator[Found]:
    url = get(data, "gitlab", "internal_api_url")
    if isinstance(url, str) and url.endswith("/"):
        yield Found(
            ("gitlab", "internal_api_url"),
            "must not end in /: GitLab appends /api/v4 as it is",
            repr(url),
            repr(url.rstrip("/")),
        )


def _tokens(data: Mapping[str, Any]) -> Iterator[Found]:
    for kind in KINDS:
        box = get(data, "mail", kind)
        webhook = isinstance(box, Mapping) and box.get("delivery_method", "webhook") == "webhook"
        if webhook and get(data, "mail", "tokens", kind) is None:
            yield Found(
                ("mail", "tokens", kind) if get(data, "mail", "tokens") else ("mail", "tokens"),
                f"has no place for the {kind} token that all Rails nodes share",
                "",
                f"{kind}: !file PATH (made on the first run if it does not exist), !env NAME or !command LINE",
            )
        elif box is None and get(data, "mail", "tokens", kind) is not None:
            yield Found(("mail", "tokens", kind), f"is for nothing: there is no mail.{kind}", "", "a mailbox for it")


def _gitlab(data: Mapping[str, Any]) -> Iterator[Found]:
    include = get(data, "gitlab", "config") in (None, "include")
    places: list[tuple[Loc, Any]] = [(("gitlab", "settings"), get(data, "gitlab", "settings"))]
    places += [(("nodes", name, "settings"), get(node, "settings")) for name, node in items(data, "nodes")]
    for loc, settings in places:
        if not isinstance(settings, Mapping):
            continue
        if include and settings:
            yield Found(loc, "needs gitlab.config: whole", "", "your own gitlab.rb for other settings (mode include)")
        for section, keys in settings.items():
            yield from _section(loc, str(section), keys)
    yield from _roles(data)
    revision, version = get(data, "gitlab", "package", "revision"), get(data, "gitlab", "version")
    if isinstance(revision, str) and isinstance(version, str) and not revision.startswith(f"{version}-"):
        allowed = f"one that begins with {version}-"
        yield Found(("gitlab", "package", "revision"), "is not of gitlab.version", repr(revision), allowed)
    ruby = get(data, "gitlab", "extra_ruby")
    if isinstance(ruby, str):
        yield from _ruby(ruby, include)


def _roles(data: Mapping[str, Any]) -> Iterator[Found]:
    major = re.match(r"(\d+)\.", str(get(data, "gitlab", "version") or ""))
    unknown = {"spamcheck"} if major and int(major.group(1)) >= 19 else {"backup"}
    for name, node in items(data, "nodes"):
        roles = get(node, "roles")
        for n, role in enumerate(roles if isinstance(roles, list) else ()):
            if role in unknown:
                version = get(data, "gitlab", "version")
                yield Found(("nodes", name, "roles", n), f"does not exist in GitLab {version}", repr(role))


def _section(loc: Loc, section: str, keys: Any) -> Iterator[Found]:
    if section not in SECTIONS:
        near = difflib.get_close_matches(section, SECTIONS, n=1)
        yield Found(
            (*loc, section),
            "is no section of gitlab.rb" + (f'; did you mean "{near[0]}"?' if near else ""),
            section,
            "one that the package knows; what is no section goes into gitlab.extra_ruby",
        )
    for key, value in keys.items() if isinstance(keys, Mapping) else ():
        yield from _setting((*loc, section, str(key)), section, str(key))
        yield from _literals((*loc, section, str(key)), value)


def _setting(loc: Loc, section: str, key: str) -> Iterator[Found]:
    instead = NEVER_READ.get((section, key))
    if instead:
        yield Found(loc, "is in GitLab's documentation, but no version of the package ever read it", key, instead)
    elif _ours(section, key):
        instead = "rollout.canary" if key == "auto_migrate" else "mail, or gitlab.internal_api_url,"
        yield Found(loc, "is set by this program", key, f"{instead} of this file")


def _ours(section: str, key: str) -> bool:
    if section == "mailroom":
        return key == "enable" or key.endswith("_auth_token")
    return section == "gitlab_rails" and bool(_OURS.match(key))


def _literals(loc: Loc, value: Any) -> Iterator[Found]:
    """Literals where, by the key's name, a secret belongs, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _literals((*loc, str(key)), item)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _literals((*loc, n), item)
    elif isinstance(value, float) and not math.isfinite(value):
        yield Found(loc, "cannot be written as Ruby", repr(value), "a finite number")
    elif (
        isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and value != ""
        and names_secret(str(next(p for p in reversed(loc) if isinstance(p, str))))
    ):
        yield Found(
            loc,
            "a secret must be a reference, never the value itself",
            "a literal (not shown)",
            "!env NAME, !file PATH or !command LINE",
        )


def _ruby(text: str, include: bool) -> Iterator[Found]:
    loc: Loc = ("gitlab", "extra_ruby")
    if include:
        yield Found(loc, "needs gitlab.config: whole", "", "your own gitlab.rb for other settings (mode include)")
    if re.search(r"^__END__\r?$|[\0\x04\x1a]", text, re.M):
        message = (
            "holds __END__, ^D, ^Z or NUL, after which Ruby reads nothing: the mail settings come later in the file"
        )
        yield Found(loc, message)
    for match in _LOCAL.finditer(text):
        line = f"line {text[: match.start()].count(chr(10)) + 1} of the block"
        message = f"{line}: makes a local variable {match.group(1)}, which hides the section of that name"
        yield Found(loc, message, "", f"{match.group(1)}['key'] = value")
    for match in _ASSIGNMENT.finditer(text):
        section, key = match.group(1), match.group(2)
        line = f"line {text[: match.start(1)].count(chr(10)) + 1} of the block"
        instead = NEVER_READ.get((section, key or ""))
        if instead:
            message = f"{line}: {section}['{key}'] is in GitLab's documentation, but no version of the package reads it"
            yield Found(loc, message, "", instead)
        elif section in ("external_url", "roles") or (key and _ours(section, key)):
            name = section if section in ("external_url", "roles") else f"{section}['{key}']"
            yield Found(loc, f"{line}: {name} is set by this program", "", "the site file's own key for it")
    for match in _RUBY_SECRET.finditer(text):
        line = f"line {text[: match.start()].count(chr(10)) + 1} of the block"
        yield Found(
            loc,
            f"{line}: {match.group(1)} holds a literal where a secret belongs",
            "a literal (not shown)",
            "gitlab.settings, with !env NAME, !file PATH or !command LINE as the value",
        )


def _suffixes(data: Mapping[str, Any]) -> Iterator[Found]:
    first: dict[tuple[str, str], str] = {}
    projects = items(data, "service_desk", "projects")
    if projects and not get(data, "mail", "service_desk_email"):
        yield Found(
            ("service_desk", "projects"),
            "a suffix has no effect without its own mailbox",
            "",
            "mail.service_desk_email, or no projects here",
        )
    for path, project in projects:
        slug = re.sub(r"[^a-z0-9]", "-", path.lower())[:63].strip("-")
        key = (slug, str(get(project, "suffix")))
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+", path):
            yield Found(
                ("service_desk", "projects", path),
                "is no full path of a project",
                repr(path),
                "group/project",
            )
        elif key in first:
            yield Found(
                ("service_desk", "projects", path, "suffix"),
                f"gives the same address as {first[key]}",
                key[1],
                "another suffix",
            )
        first.setdefault(key, path)


def check_secrets(site: Site, data: Mapping[str, Any]) -> Iterator[Found]:
    """Resolve every secret of a valid site once, and check those that have a form. Values never appear."""
    for key in ("key", "known_hosts"):
        named = getattr(site.ssh, key)
        if named and not site.file(named).is_file():
            yield Found(("ssh", key), "there is no such file", str(site.file(named)), "an existing file")
    for loc, ref in _refs((), data):
        if loc[:2] == ("mail", "tokens") or loc in mattermost.SUMS:
            continue
        if loc in mattermost.MADE and isinstance(ref, FileRef) and not ref.path(site.dir).exists():
            continue  # made by the run
        try:
            value = site.secret(ref).reveal()
        except SecretError as error:
            yield Found(loc, str(error))
            continue
        if loc[0] == "mail":
            yield from _yaml_safe(loc, value, "(not shown)")
        elif any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            yield Found(loc, "is not UTF-8 text")
    for kind in site.webhook_mailboxes:
        loc = ("mail", "tokens", kind)
        try:
            token = site.token(kind)
        except SecretError as error:
            yield Found(loc, str(error))
            continue
        if token is not None:
            yield from _token(loc, token)
    yield from mattermost.check_files(site)


def _token(loc: Loc, token: Secret) -> Iterator[Found]:
    """GitLab's own rule: strict base64 of exactly 32 bytes (lib/gitlab/jwt_authenticatable.rb)."""
    allowed = "strict base64 of exactly 32 bytes; make one with: openssl rand -base64 32"
    try:
        length = len(base64.b64decode(token.reveal(), validate=True))
    except (binascii.Error, ValueError):
        yield Found(loc, "is not strict base64", f"{len(token.reveal())} characters (not shown)", allowed)
        return
    if length != 32:
        yield Found(loc, "has not the right length", f"base64 of {length} bytes (not shown)", allowed)


def _refs(loc: Loc, data: Any) -> Iterator[tuple[Loc, SecretRef]]:
    if isinstance(data, SecretRef):
        yield loc, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _refs((*loc, str(key)), value)
    elif isinstance(data, list):
        for n, value in enumerate(data):
            yield from _refs((*loc, n), value)
