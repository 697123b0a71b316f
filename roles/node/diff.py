"""The diff an operator may see: nothing of it can be a secret.

The new side is rendered with every secret masked. The old side was written by somebody else and may hold
any secret in any form, so a line of it is shown only when the new side has the very same line, or when
`public` says so; of every other line only its key, if it looks like one, is shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

MASK = "********"

_KEY = re.compile(r"^\s*#?\s*([A-Za-z_][\w.]*(?:\[['\"][\w.-]+['\"]\])*)\s*=(?!=)")


def mask_old_line(line: str) -> str:
    """What may be shown of a line that we did not write: its key, never its value."""
    if not line.strip():
        return line
    if line.lstrip().startswith("#") and "=" not in line and ":" not in line:
        return line
    key = _KEY.match(line)
    if key:
        return f"{key.group(1)} = {MASK}"
    return f"{MASK} ({len(line)} characters, not shown: written by someone else)"


def masked_diff(
    path: str, old: str, new_display: str, new: str, public: Callable[[str], bool] = lambda line: False
) -> list[str]:
    """Unified diff from `old` (as found) to `new` (as declared), every secret masked.

    Args:
        path: shown in the head.
        old: the file's text as found on the node.
        new_display: the declared text, secrets masked, line for line the same shape as `new`.
        new: the declared text with the real values, used only to find the lines that stay.
        public: true for an old line that may be shown whole.
    """
    old_lines, new_lines, shown = old.splitlines(), new.splitlines(), new_display.splitlines()
    out = [f"--- {path} (on the node)", f"+++ {path} (declared)"]
    matcher = difflib.SequenceMatcher(a=old_lines, b=new_lines, autojunk=False)
    for group in matcher.get_grouped_opcodes(2):
        out.append(f"@@ line {group[0][1] + 1} @@")
        for tag, a1, a2, b1, b2 in group:
            if tag == "equal":
                out += [f"  {line}" for line in shown[b1:b2]]
                continue
            out += [f"- {line if public(line) else mask_old_line(line)}" for line in old_lines[a1:a2]]
            out += [f"+ {line}" for line in shown[b1:b2]]
    return out
