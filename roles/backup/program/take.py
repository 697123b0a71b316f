"""Take a backup, read it back, and only then count it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import database as db
from . import files, manifest, state
from .config import FOLDER, PATIENCE, Config, Failure, Phases, call, write
from .repository import Repository, room

STAGING = FOLDER / "staging"
"""Where dump and manifest are made; emptied before and after."""
STOPPED = FOLDER / "stopped"
"""There while we have stopped the server: whoever finds it starts the server again."""
ATTEMPTS = 3
"""How often the files are read again when one changed while it was read."""
_MARGIN = 64 << 20


class Changed(Failure):
    """A file changed between our look at it and restic's. Looking again helps."""


def take(config: Config) -> dict[str, Any]:
    """Take one backup.

    Returns:
        the entry of this run in the state file.

    Raises:
        Failure: there is no good backup of this run; those from before are all there.
    """
    phases = Phases()
    entry: dict[str, Any] = {"started": phases.started, "result": "failed", "reason": "it was killed"}
    state.begin(entry)
    try:
        _take(config, phases, entry)
        entry |= {"result": "good", "reason": ""}
    except Failure as error:
        entry["reason"] = str(error)
        raise
    finally:
        try:
            tidy()
        finally:
            entry |= {"finished": time.time(), "phases": phases.done}
            state.end(config, entry)
    return entry


def _take(config: Config, phases: Phases, entry: dict[str, Any]) -> None:
    repository = Repository(config, PATIENCE)
    tidy()
    with phases.phase("look"):
        repository.unlock()
        worthless = [one.backup for one in repository.snapshots() if not one.good]
        STAGING.mkdir(parents=True, mode=0o700)
        _room(config)
    if config.stop:
        with phases.phase("stop the server"):
            repository.patience = 0  # nobody's chat waits for another host
            STOPPED.touch()
            call(["systemctl", "stop", "mattermost.service"], what="Mattermost does not stop")
    with phases.phase("dump the database"):
        moment, facts, references = _dump(config)
    backup = datetime.fromtimestamp(moment, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    entry |= {"backup": backup, "posts": facts["posts"], "users": facts["users"]}
    for attempt in range(1, ATTEMPTS + 1):
        with phases.phase("read the files"):
            what = _manifest(config, backup, moment, facts, references)
            write(STAGING / manifest.NAME, json.dumps(what))
        with phases.phase("send to the repository"):
            paths, exclude = _paths(config), STAGING / "exclude"
            write(exclude, "\n".join(_excluded(config, what, moment)))
            summary = repository.back_up(backup, moment, paths, exclude)
        if config.stop and STOPPED.exists():
            with phases.phase("start the server"):
                resume()
                repository.patience = PATIENCE
        try:
            with phases.phase("read back"):
                read_back(repository, str(summary["snapshot_id"]), what)
            break
        except Changed as error:
            repository.forget(backup)
            if attempt == ATTEMPTS:
                raise Failure(f"{error} ({ATTEMPTS} times). Use consistent: stop, or look who writes there.") from None
    with phases.phase("count it"):
        repository.mark_good(backup)
        repository.retain(dict(config.keep))
        for one in worthless:
            repository.forget(one)
    entry |= {
        "snapshot": next(one.snapshot for one in repository.snapshots() if one.backup == backup),
        "bytes": int(summary["total_bytes_processed"]),
        "added": int(summary["data_added"]),
        "files": len(what["files"]),
        "missing": what["missing"],
        "room": room(config),
    }


def _room(config: Config) -> None:
    with db.connect(config) as connection:
        row = connection.execute("SELECT pg_database_size(current_database()), current_setting('server_version_num')")
        size, version = row.fetchone() or (0, "0")
    major, client = int(version) // 10000, db.client_major("pg_dump")
    if client < major:
        raise Failure(
            f"pg_dump {client} cannot dump PostgreSQL {major}. Install postgresql-client-{major} on this node "
            "(https://apt.postgresql.org)."
        )
    here, needed = files.free(FOLDER), int(size) + _MARGIN
    if here < needed:
        raise Failure(
            f"{FOLDER} has {here >> 20} MiB free, the dump needs up to {needed >> 20} MiB. Make room, or "
            "mount a larger disk there."
        )


def _dump(config: Config) -> tuple[float, dict[str, Any], list[db.Reference]]:
    """The dump, and what is in the database at the very moment that the dump shows."""
    with db.connect(config) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row
        moment = float(int(time.time()))
        db.dump(config, str(row[0]), STAGING / manifest.DUMP)
        facts = db.census(connection)
        references = list(db.references(connection))
    return moment, facts, references


def _manifest(
    config: Config, backup: str, moment: float, facts: dict[str, Any], references: list[db.Reference]
) -> dict[str, Any]:
    store = manifest.store(config)
    named = {path for one in references for path in (one.path, *one.previews)}
    entries: list[list[Any]] = []
    for root in [config.home, *config.also, str(STAGING / manifest.DUMP)]:
        for path in files.below(root, without=asides(config)):
            if files.unfinished(store, path, moment, named):
                continue
            found = files.entry(path)
            if found:
                entries.append(found.row())
    have = {row[0]: row[2] for row in entries}
    missing = [one.id for one in references if have.get(f"{store}/{one.path}") != one.size]
    return {
        "format": manifest.FORMAT,
        "backup": backup,
        "site": config.site,
        "moment": moment,
        "home": config.home,
        "mattermost": release(config),
        "pg_dump": db.client_major("pg_dump"),
        "restic": call(["restic", "version"], what="restic").strip(),
        "running": call(["systemctl", "is-active", "mattermost.service"], what="systemctl", codes=range(5)).strip(),
        "consistent": "stop" if config.stop else "running",
        "database": facts,
        "missing": sorted(missing),
        "files": entries,
    }


def release(config: Config) -> str:
    """Version of the release in use."""
    return os.path.basename(os.path.realpath(config.current)).removeprefix("mattermost-")


def asides(config: Config) -> tuple[str, str]:
    """Folders of a restore, which are no part of a backup: what comes, and what was there before."""
    return f"{config.home}/.restore", f"{config.home}/.before"


def _paths(config: Config) -> list[str]:
    return [config.home, *(path for path in config.also if os.path.lexists(path)), str(STAGING)]


def _excluded(config: Config, what: Mapping[str, Any], moment: float) -> list[str]:
    """Patterns for restic: uploads that the dump knows nothing of. What comes later is left out when reading."""
    known, store = {row[0] for row in what["files"]}, manifest.store(config)
    out = [*asides(config), str(STAGING / "exclude")]
    out += [path for path in files.below(store) if path not in known and files.unfinished(store, path, moment, set())]
    return [path.translate({ord(sign): f"\\{sign}" for sign in "\\*?["}).replace("$", "$$") for path in out]


def read_back(repository: Repository, snapshot: str, what: Mapping[str, Any]) -> None:
    """Read a snapshot from the repository, and compare every byte with the manifest.

    Raises:
        Changed: a file that no row names changed while the backup was taken.
        Failure: the snapshot is not what was backed up.
    """
    found: dict[str, files.Entry | None] = {}
    own, itself = str(STAGING / manifest.NAME), b""
    with repository.members(snapshot) as members:
        for member, archive in members:
            path = "/" + member.name.lstrip("/")
            if member.issym():
                found[path] = files.Entry(path, "link", 0, member.linkname, 0, "")
            elif member.isreg():
                stream = archive.extractfile(member)
                assert stream
                if path == own:
                    itself = stream.read()
                    continue
                size, sum_ = files.digest(stream)  # type: ignore[arg-type]
                owner = f"{member.uname}:{member.gname}"
                found[path] = files.Entry(path, "file", size, sum_, member.mode & 0o7777, owner)
    checks = manifest.of_files(what["files"], found)
    checks.append(manifest.check("manifest", json.dumps(what) == itself.decode(errors="replace"), True))
    wrong = manifest.failed(checks)
    if not wrong:
        return
    for row in what["files"]:
        wanted, here = files.Entry(*row), found.get(row[0])
        same = here is not None and (here.size, here.content) == (wanted.size, wanted.content)
        if not same and files.entry(wanted.path) != wanted:
            raise Changed(f"{wanted.path} changed while the backup was taken")
    raise Failure(
        f"the snapshot is not what was backed up: {'; '.join(wrong)}. It does not count. Look after the repository: "
        "`mattermost-backup check`."
    )


def resume() -> None:
    """Start the server again, if it was us who stopped it."""
    if STOPPED.exists():
        call(["systemctl", "start", "mattermost.service"], what="Mattermost does not start again")
        STOPPED.unlink()


def tidy() -> None:
    """Nothing of a backup that ended is left: no staged dump, no stopped server."""
    shutil.rmtree(STAGING, ignore_errors=True)
    resume()


def staged(target: Path) -> Path:
    """Where dump and manifest are in a snapshot that was restored below `target`."""
    return target / str(STAGING).lstrip("/")
