"""One webhook token per mailbox type for the whole site: as the operator keeps it, as the site has it, or a new one.

A token that exists nowhere is made once and kept in the file that the site file names; a site that already runs keeps
the token it has. `gitlab-secrets.json` is never written by us.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from roles.mailroom import facts
from roles.node.facts import NodeState
from roles.site import kept
from roles.site.errors import StepError
from roles.site.models import Site
from roles.site.secret import Secret

Fetch = Callable[[str, str], Secret]
"""Reads the token of a mailbox type (second argument) from a node (first), privately."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of this run."""

    values: Mapping[str, Secret]
    """By mailbox type; what every Rails node must use."""
    origin: Mapping[str, str]
    """By mailbox type: where it came from, in words; only for those that are not in the operator's keeping yet."""
    keep: Mapping[str, Path]
    """By mailbox type: the file in which it has to be kept, for the same ones."""
    replace: bool = False
    """The files are there, and are replaced: the tokens are rotated."""


def new_token() -> Secret:
    """A token as GitLab demands it: strict base64 of 32 random bytes (lib/gitlab/jwt_authenticatable.rb)."""
    return Secret(base64.b64encode(secrets.token_bytes(32)).decode())


def decide(site: Site, states: Mapping[str, NodeState | str], fetch: Fetch) -> Tokens:
    """The token of each mailbox type: declared, else adopted from the running site, else new.

    When running nodes disagree, the token of the node that reads (or is to read) mail wins: it is the one that mail is
    being pushed with.
    """
    values: dict[str, Secret] = {}
    origin: dict[str, str] = {}
    keep: dict[str, Path] = {}
    for kind in site.webhook_mailboxes:
        declared = site.token(kind)
        if declared is not None:
            values[kind] = declared
            continue
        keep[kind] = site.token_path(kind)
        node = _holder(site, states, kind)
        if node is None:
            values[kind], origin[kind] = new_token(), "newly made"
        else:
            values[kind], origin[kind] = fetch(node, kind), f"adopted from {node}"
    return Tokens(values, origin, keep)


def new(site: Site) -> Tokens:
    """A new token for each mailbox type, in the place of the one that is kept.

    Raises:
        SecretError: one of them is not kept in a file.
    """
    keep = {kind: site.token_path(kind) for kind in site.webhook_mailboxes}
    return Tokens({kind: new_token() for kind in keep}, dict.fromkeys(keep, "newly made"), keep, replace=True)


def _holder(site: Site, states: Mapping[str, NodeState | str], kind: str) -> str | None:
    """The node whose token is to be adopted, or None when no node has one."""
    holders = [
        name
        for name, state in states.items()
        if site.nodes[name].rails and not isinstance(state, str) and facts.token_hash(state, kind)
    ]

    def rank(name: str) -> tuple[bool, bool]:
        state = states[name]
        reading = not isinstance(state, str) and bool(facts.readers(state))
        return (not reading, site.mail is None or name != site.mail.reader)

    return min(holders, key=rank, default=None)


def keep(tokens: Tokens) -> None:
    """Write the tokens that the operator does not have yet to the files that the site file names (mode 0600).

    Raises:
        StepError: when a file cannot be written, or somebody else made it meanwhile.
    """
    for kind, path in tokens.keep.items():
        try:
            kept.keep(path, tokens.values[kind], tokens.replace)
        except FileExistsError as error:
            raise StepError(
                f"{path} exists by now: another run made a token at the same time. Run again; that token will be used."
            ) from error
        except OSError as error:
            raise StepError(f"the {kind} token could not be kept in {path}: {error.strerror}.") from error
