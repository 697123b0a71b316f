"""Keep a secret that was made or fetched by us in the file that the site file names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from roles.site.secret import Secret


def keep(path: Path, value: Secret, replace: bool = False) -> None:
    """Write a secret to `path` (mode 0600), whole or not at all.

    Args:
        path: its folder is made if absent (mode 0700).
        replace: a file that exists is replaced; else it is left alone.

    Raises:
        FileExistsError: it exists by now, and `replace` is false.
        OSError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, "its folder is a file") from error
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "it is a link to nowhere")
    # Written whole under another name first: a secret cut short by a full disk must never be found later.
    staged = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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
