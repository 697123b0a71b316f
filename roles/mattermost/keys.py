"""Every configuration key of Mattermost with its type, and how a value is said in the environment."""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

OLDER, NEWER = (9, 9), (11, 4)
"""The versions whose keys are known, from the servers' own `model.Config` (tests/lab/mattermost/keys)."""

PYTHON = {"string": str, "bool": bool, "int": int, "list": list, "map": dict}
WORDS = {
    "string": "text",
    "bool": "true or false",
    "int": "a whole number",
    "list": "a list of texts without spaces",
    "map": "a mapping",
}


class Key(NamedTuple):
    """One configuration key."""

    name: str
    """Section and key, such as `EmailSettings.SMTPServer`."""
    type: str
    """`string`, `bool`, `int`, `list` or `map`."""
    only: str
    """`older`: known in 9.9, gone in 11.4. `newer`: the other way round. Empty: in both."""


@cache
def catalogue() -> dict[str, Key]:
    """All keys by name."""
    read: dict[str, str] = json.loads(Path(__file__).with_name("keys.json").read_text())
    marks = {"-9.9": "older", "11.4-": "newer", "": ""}
    out = {}
    for name, text in read.items():
        kind, _, mark = text.partition(" ")
        out[name] = Key(name, kind, marks[mark])
    return out


def problem(name: str, value: Any, version: tuple[int, ...]) -> tuple[str, str] | None:
    """What is wrong with a key and its value, and what is allowed; None when nothing is.

    Args:
        name: such as `EmailSettings.SMTPServer`; deeper ones with further dots.
        value: as the site file has it; a secret counts as text.
        version: of the server.
    """
    key = catalogue().get(name)
    if key is None:
        near = difflib.get_close_matches(name, catalogue(), n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"is no key of Mattermost 9.9 to 11.4; {hint}".rstrip("; "),
            "a key of config.json; one that is newer: mattermost.environment, as MM_SECTION_KEY",
        )
    if key.only == "older" and version >= NEWER:
        return ("does not exist any more in Mattermost 11.4", "no such key")
    if key.only == "newer" and version and version[:2] <= OLDER:
        return ("does not exist yet in Mattermost 9.9", "no such key")
    kind = PYTHON[key.type]
    if not isinstance(value, kind) or (key.type == "int" and isinstance(value, bool)):
        return ("is of the wrong type", WORDS[key.type])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return ("does not fit into 64 bits, and the server would ignore it", WORDS["int"])
    # The server splits a list at spaces (config/environment.go), so an item with one cannot be said, nor an empty list.
    if isinstance(value, list) and not all(isinstance(item, str) and item and " " not in item for item in value or [0]):
        return ("cannot be said in the environment", WORDS["list"] + ", not empty")
    return None


def variable(name: str) -> str:
    """Name of the environment variable (MM_SECTION_KEY)."""
    return "MM_" + name.replace(".", "_").upper()


def text(value: Any) -> str:
    """A value as the server reads it from the environment (config/environment.go of the server)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
