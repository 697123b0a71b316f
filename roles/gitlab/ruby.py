"""Ruby literals that no value can break out of. Pure.

`/etc/gitlab/gitlab.rb` is Ruby: in double quotes `#{...}`, `#$x` and `#@x` run code, and the lexer ends a file at a
NUL byte. Values of printable ASCII therefore become single-quoted strings (only `\\` and `'` are special there); all
others become double-quoted ASCII with `\\u{...}` escapes, so that the result does not depend on the encoding that
Ruby assumes for the file, and always fits one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roles.site.secret import Secret

MASK = "********"


def string(value: str) -> str:
    """`value` as a Ruby string literal on one line.

    Raises:
        ValueError: for a lone surrogate, which no UTF-8 text can hold.
    """
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise ValueError("a lone surrogate cannot be written as UTF-8")
    if all(" " <= c <= "~" for c in value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    out = []
    for c in value:
        if c in '\\"#':
            out.append("\\" + c)
        elif " " <= c <= "~":
            out.append(c)
        else:
            out.append(f"\\u{{{ord(c):x}}}")
    return '"' + "".join(out) + '"'


def literal(value: Any, reveal: bool) -> str:
    """`value` (as YAML gives it) as a Ruby literal on one line.

    Args:
        value: nil, bool, number, string, list, mapping with string keys, or a `Secret` at any depth.
        reveal: write secrets as they are; otherwise a mask stands in their place.

    Raises:
        TypeError: for anything else.
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Secret):
        return string(value.reveal() if reveal else MASK)
    if isinstance(value, str):
        return string(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{string(str(k))} => {literal(v, reveal)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(literal(v, reveal) for v in value) + "]"
    raise TypeError(f"no Ruby literal for {type(value).__name__}")
