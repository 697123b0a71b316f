"""Keep a secret that was made or fetched by us in the file that the site file names."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from roles.site.secret import Secret


def check(path: Path) -> None:
    """See that a file can be written to `path`; its folder is made if absent (mode 0700).

    Raises:
        OSError: it cannot.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, "its folder is a file") from error
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "it is a link to nowhere")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "its folder cannot be written to")


def keep(path: Path, value: Secret, replace: bool = False) -> None:
    """Write a secret to `path` (mode 0600), whole or not at all.

    Args:
        path: its folder is made if absent (mode 0700).
        replace: a file that exists is replaced; else it is left alone.

    Raises:
        FileExistsError: it exists by now, and `replace` is false.
        OSError: it cannot be written.
    """
    check(path)
    # Written whole under another name first: a secret cut short by a full disk must never be found later.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(value.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(staged, path)
        else:
            os.link(staged, path)  # fails when the file exists by now, where a rename would replace it
    finally:
        staged.unlink(missing_ok=True)
