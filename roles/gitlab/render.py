"""Render the configuration of one GitLab node. Pure: settings in, files out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.gitlab.ruby import literal
from roles.mailroom.render import mail_keys
from roles.node.bundle import File
from roles.site.models import Site
from roles.site.secret import Secret, SecretRef

GITLAB_RB = "/etc/gitlab/gitlab.rb"
"""The file that `gitlab-ctl reconfigure` evaluates."""
MAIL_RB = "/etc/gitlab/pyinfra-mail.rb"
"""Our file in `include` mode; one `from_file` line in the operator's `gitlab.rb` brings it in."""
KEPT = f"{GITLAB_RB}.before-pyinfra"
"""Where the operator's `gitlab.rb` is kept when the `whole` mode first replaces it."""
RUBY = "/opt/gitlab/embedded/bin/ruby"
"""The package's own Ruby: present on every node that has the package, of every role."""

_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "gitlab"


@cache
def _environment(reveal: bool) -> Environment:
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is Ruby; every value passes through the `ruby` filter
    )
    env.filters["ruby"] = lambda value: literal(value, reveal)
    return env


def config_file(site: Site, node: str, reading: bool, tokens: Mapping[str, Secret]) -> File:
    """The file that this node must have: `gitlab.rb` (mode `whole`) or `pyinfra-mail.rb` (mode `include`).

    Args:
        site: the whole site.
        node: name of the node.
        reading: whether mail_room is to run on it now.
        tokens: the shared webhook tokens, by mailbox type.
    """
    whole = site.gitlab.config == "whole"
    context: dict[str, Any] = {
        "site": site.site,
        "node": node,
        "migrates": node == site.migrates if site.nodes[node].rails else None,
        "mail": mail_keys(site, node, reading, tokens),
    }
    if whole:
        context |= {
            "kept": KEPT,
            "external_url": site.gitlab.external_url,
            "roles": [f"{role}_role" for role in site.nodes[node].roles],
            "settings": _settings(site, node),
            "extra_ruby": (site.gitlab.extra_ruby or "").rstrip("\n"),
        }
    name = "gitlab.rb.j2" if whole else "pyinfra-mail.rb.j2"
    text, display = (_environment(reveal).get_template(name).render(context) for reveal in (True, False))
    return File(
        path=GITLAB_RB if whole else MAIL_RB,
        content=text.encode(),
        display=display,
        mode=0o600,
        check=f'{RUBY} -c "$1"',
        keep_first=KEPT if whole else None,
    )


def _settings(site: Site, node: str) -> list[tuple[str, str, Any]]:
    """`gitlab.settings` with the node's own on top, secrets resolved, in a stable order."""
    merged: dict[str, dict[str, Any]] = {section: dict(keys) for section, keys in site.gitlab.settings.items()}
    for section, keys in site.nodes[node].settings.items():
        merged.setdefault(section, {}).update(keys)
    return [
        (section, key, _resolve(site, value))
        for section, keys in sorted(merged.items())
        for key, value in sorted(keys.items())
    ]


def _resolve(site: Site, value: Any) -> Any:
    if isinstance(value, SecretRef):
        return site.secret(value)
    if isinstance(value, Mapping):
        return {key: _resolve(site, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve(site, item) for item in value]
    return value
