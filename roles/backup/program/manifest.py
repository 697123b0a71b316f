"""The manifest of a backup, and every check of a copy against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import database as db
from . import files
from .config import Config, Failure

FORMAT = 1
"""Version of the manifest's form."""
NAME = "manifest.json"
"""Its file, beside the dump."""
DUMP = "database.dump"
"""The dump's file."""
_SHOWN = 5

Check = dict[str, Any]
"""`name`, `expected`, `found` (text), `ok`."""


def check(name: str, expected: object, found: object, ok: bool | None = None) -> Check:
    """One check; by default it is passed when both are the same."""
    return {
        "name": name,
        "expected": str(expected),
        "found": str(found),
        "ok": expected == found if ok is None else ok,
    }


def some(words: Iterable[object]) -> str:
    """The first few of many, for a message."""
    found = [str(word) for word in words]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def none(name: str, expected: object, wrong: Sequence[object]) -> Check:
    """A check that is passed when nothing is wrong."""
    return check(name, expected, some(wrong) or expected, not wrong)


def store(config: Config) -> str:
    """The file store (`FileSettings.Directory`)."""
    return f"{config.home}/data"


def of_database(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Check]:
    """A database against the census that was taken in the dump's own snapshot."""
    tables, absent = was["tables"], ["no table", ""]
    here = {name: now["tables"].get(name, absent) for name in tables}
    counts = [
        f"{name}: {here[name][0]} instead of {tables[name][0]}" for name in tables if here[name][0] != tables[name][0]
    ]
    contents = [f"{name} differs" for name in tables if here[name][1] != tables[name][1]]
    objects = []
    for kind in sorted({*was["objects"], *now["objects"]}):
        old, new = set(was["objects"].get(kind, ())), set(now["objects"].get(kind, ()))
        objects += [f"{kind}: {name} is missing" for name in sorted(old - new)]
        objects += [f"{kind}: {name} is new" for name in sorted(new - old)]
    rows = sum(count for count, _ in tables.values())
    pairs = {name: (number, now["orphans"].get(name)) for name, number in was["orphans"].items()}
    orphans = [f"{name}: {b} instead of {a}" for name, (a, b) in pairs.items() if a != b]
    signed = [] if was["identities"] == now["identities"] else [f"{now['identities'][0]}, others than before"]
    return [
        none("row counts", f"{rows} rows in {len(tables)} tables", counts),
        none("row contents", "as in the dump's snapshot", contents),
        none("sign-on identities", f"the {was['identities'][0]} of before", signed),
        none("tables, indexes and other objects", "as at the source", objects),
        none("orphans", "as many as at the source", orphans),
        check("schema version", was["migration"], now["migration"]),
        check("encoding", was["encoding"], now["encoding"]),
    ]


def of_owner(connection: db.Connection) -> list[Check]:
    """Whether the application's role owns everything, and may migrate it."""
    return [
        none("owner of all objects", "the application's role", [f"not {name}" for name in db.foreign(connection)]),
        check("right to create in the schema public", True, db.may_create(connection)),
    ]


def of_references(found: Iterable[db.Reference], folder: str, missing_before: Iterable[str] = ()) -> list[Check]:
    """Whether every row of `fileinfo` has its file, of its size, below a file store.

    Args:
        found: the rows.
        folder: the file store to look in.
        missing_before: ids whose file was already gone when the backup was taken.
    """
    known, count, wrong = set(missing_before), 0, []
    for one in found:
        count += 1
        if one.id in known:
            continue
        try:
            size = (Path(folder) / one.path).stat().st_size
        except OSError:
            wrong.append(f"{one.path} is missing")
            continue
        if size != one.size:
            wrong.append(f"{one.path} has {size} bytes, its row says {one.size}")
    return [none("files of posts", f"{count - len(known)} rows, each with its file", wrong)]


def of_files(entries: Sequence[Sequence[Any]], found: Mapping[str, files.Entry | None]) -> list[Check]:
    """Files against the manifest's list.

    Args:
        entries: of the manifest.
        found: what is there, by the path in the manifest; None when it is missing.
    """
    missing, changed, modes = [], [], []
    for row in entries:
        wanted = files.Entry(*row)
        here = found.get(wanted.path)
        if here is None:
            missing.append(f"{wanted.path} is missing")
        elif (here.kind, here.size, here.content) != (wanted.kind, wanted.size, wanted.content):
            changed.append(f"{wanted.path} differs")
        elif wanted.kind == "file" and here.mode & 0o777 != wanted.mode & 0o777:
            modes.append(f"{wanted.path} has {here.mode & 0o777:o} instead of {wanted.mode & 0o777:o}")
    return [
        none("files present", f"{len(entries)} files", missing),
        none("file contents", "the SHA-256 of the manifest", changed),
        none("file modes", "as at the source", modes),
    ]


def failed(checks: Iterable[Check]) -> list[str]:
    """Each failed check as a sentence."""
    return [f"{one['name']}: found {one['found']}; must be {one['expected']}" for one in checks if not one["ok"]]


def demand(checks: Sequence[Check], what: str) -> None:
    """See that every check is passed.

    Raises:
        Failure: naming those that are not.
    """
    if wrong := failed(checks):
        raise Failure(f"{what}: {'; '.join(wrong)}")
