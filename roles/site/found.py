"""What a rule between keys says, and how it looks into the plain data of a site file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roles.site.yaml import KeyPath as Loc


@dataclass(frozen=True)
class Found:
    """A broken rule."""

    loc: Loc
    """Where."""
    message: str
    """What is wrong."""
    found: str = ""
    """What was found."""
    allowed: str = ""
    """What is allowed, or what to do."""


def get(data: Any, *keys: str) -> Any:
    """The value at a place, or None."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def items(data: Any, *keys: str) -> list[tuple[str, Any]]:
    """The entries of the mapping at a place; none when there is no mapping."""
    found = get(data, *keys)
    return list(found.items()) if isinstance(found, Mapping) else []
