"""Files: what is there, with hashes."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

UPLOAD = re.compile(r"^(\d{8}/teams/|bookmark/)")
"""Paths of uploads below the file store: written once, and named by a row of `fileinfo` (or by none yet)."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file or a link."""

    path: str
    """Absolute; bytes that are no UTF-8 as surrogates."""
    kind: str
    """`file` or `link`."""
    size: int
    """Bytes."""
    content: str
    """SHA-256 in hex, or where the link points."""
    mode: int
    """Permission bits."""
    owner: str
    """`user:group`."""

    def row(self) -> list[Any]:
        """As a list, for JSON."""
        return list(astuple(self))


@lru_cache(maxsize=1000)
def user(number: int) -> str:
    """Name of a user; its number when it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@lru_cache(maxsize=1000)
def group(number: int) -> str:
    """Name of a group; its number when it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def digest(file: BinaryIO) -> tuple[int, str]:
    """Size and SHA-256 of what can be read."""
    sum_, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        sum_.update(block)
        size += len(block)
    return size, sum_.hexdigest()


def entry(path: str) -> Entry | None:
    """What is at a path; None for a folder, a socket and the like, and for what is gone.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            kind, size, content = "link", 0, os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                kind, (size, content) = "file", digest(file)
        else:
            return None
    except FileNotFoundError:
        return None
    owner = f"{user(found.st_uid)}:{group(found.st_gid)}"
    return Entry(path, kind, size, content, stat.S_IMODE(found.st_mode), owner)


def below(root: str, without: Sequence[str] = ()) -> Iterator[str]:
    """Every path below a folder (or the path itself, if it is none), in order.

    Args:
        without: folders to leave out.
    """
    if not os.path.isdir(root) or os.path.islink(root):
        if os.path.lexists(root):
            yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) not in without)
        for name in sorted(names) + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            yield os.path.join(folder, name)


def unfinished(store: str, path: str, moment: float, referenced: set[str]) -> bool:
    """Whether a file is an upload that the dump knows nothing of: younger than it, and named by no row in it.

    Args:
        store: the file store.
        path: of the file.
        moment: of the dump, in seconds since 1970.
        referenced: what the rows name, relative to the store.
    """
    if not path.startswith(f"{store}/"):
        return False
    relative = path[len(store) + 1 :]
    if not UPLOAD.match(relative) or relative in referenced:
        return False
    try:
        return os.lstat(path).st_mtime >= moment - 1
    except FileNotFoundError:
        return True


def free(path: str | Path) -> int:
    """Free bytes where `path` is, or will be."""
    where = Path(path)
    while not where.exists():
        where = where.parent
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


def give(root: str, owner: str, owning_group: str) -> None:
    """Make everything below a folder belong to an account, and unreadable for others."""
    uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(owning_group).gr_gid
    for folder, _, names in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.lchown(path, uid, gid)
    os.lchown(root, uid, gid)


def sync(paths: Iterable[str]) -> None:
    """Have the kernel write folders to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
