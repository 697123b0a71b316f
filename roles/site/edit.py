"""Change one word of a site file, and nothing else in it: comments, order and spaces stay."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml

from roles.site.errors import RefusedError
from roles.site.yaml import KeyPath, read


def where(file: Path, key: KeyPath) -> str:
    """Where a key stands, for people: file and line."""
    return f"{file}, line {read(file).line(key)}"


def scalar(file: Path, key: KeyPath, old: str, new: str) -> None:
    """Replace a plain word by another one.

    Args:
        file: the site file.
        key: the keys that lead to it.
        old: what must be there now.
        new: a word that needs no quotes in YAML, such as a node's name.

    Raises:
        RefusedError: it is not a plain word there (an alias, an anchor, a quoted text), or another one.
        OSError: the file cannot be written.
    """
    text = file.read_bytes().decode("utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for word in key:
        found = [value for name, value in node.value if name.value == word] if node else []
        node = found[0] if found else None
    if not isinstance(node, yaml.ScalarNode) or node.value != old:
        raise RefusedError(f"{where(file, key)}: {'.'.join(map(str, key))} is not simply {old!r}")
    start, end = node.start_mark.index, node.end_mark.index
    if text[start:end].strip("\"'") != old:
        raise RefusedError(f"{where(file, key)}: it is written in a way that is not changed by machine")
    changed = text[:start] + new + text[end:]
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".new", dir=file.parent)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(changed)
            stream.flush()
            os.fsync(stream.fileno())
        status = file.stat()
        os.chmod(staged, status.st_mode & 0o7777)
        os.chown(staged, status.st_uid, status.st_gid)
        os.replace(staged, file.resolve())
    finally:
        staged.unlink(missing_ok=True)
