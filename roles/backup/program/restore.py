"""Restore: beside what is there, proven there, and only then in its place. What was there stays until the end.

Nothing of the running system is touched before every check of the copy is passed. Then databases and folders change
their names; the server starts where only we reach it, muted; it is asked; and only then it is opened. Whenever this
ends earlier, `settle` puts everything back: at a failure, after a kill (systemd's ExecStopPost), at boot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import database as db
from . import files, manifest, server, take, versions
from .config import FOLDER, PATIENCE, Config, Failure, Phases, call, read, write
from .repository import Repository, Snapshot

REQUEST = FOLDER / "request.json"
"""What is to be restored; written by a deploy."""
RESULT = FOLDER / "result.json"
"""How it ended: `id`, `ok`, `error`, `phases`, `checks`, `identities`."""
JOURNAL = FOLDER / "journal.json"
"""There while a restore is under way, and as long as a drill's copy stands."""
DROP_IN = Path("/run/systemd/system/mattermost.service.d/50-restore.conf")
"""Mutes the server while it is checked; in /run, so it does not outlive a reboot."""
CHILDREN = ("config", "data", "plugins", "client-plugins")
"""Folders below the server's home that change places."""
_MARGIN = 256 << 20


def side(config: Config) -> str:
    """Name of the database into which is restored."""
    return f"{config.database.name[:50]}_restore"


def before(config: Config) -> str:
    """Name of the database that was in use before, while and after a restore."""
    return f"{config.database.name[:50]}_before"


def chosen(repository: Repository, word: str) -> Snapshot:
    """The backup that an operator means.

    Args:
        repository: where to look.
        word: its id (ours or restic's), `latest`, or a time such as 2026-11-23 02:00 (UTC): the newest good one that
            is not younger.

    Raises:
        Failure: there is none, or it is not good.
    """
    everything = repository.snapshots()
    good = [one for one in everything if one.good]
    if word == "latest":
        found = good[-1:]
    else:
        found = [one for one in everything if one.backup == word or (len(word) >= 8 and one.snapshot.startswith(word))]
        if not found and (moment := versions.moment(word)) is not None:
            found = [one for one in good if one.time <= moment][-1:]
    if not found:
        names = ", ".join(one.backup for one in good[-5:]) or "none"
        raise Failure(f"there is no good backup for {word!r} in the repository. The last good ones: {names}.")
    if not found[0].good:
        raise Failure(f"the backup {found[0].backup} is not good: it was never read back whole. Name another one.")
    return found[0]


def look(config: Config, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a restore would do, and every reason why it must not. Changes nothing.

    Returns:
        `backup` (facts for people), `refused` (sentences), `replaces` (what is there now, in words).
    """
    refused: list[str] = []
    what: dict[str, Any] = {}
    facts: dict[str, Any]
    if request.get("dump"):
        size = sum(os.stat(request[key]).st_size for key in ("dump", "files"))
        needed = size * 4  # packed
        facts = {"backup": "", "source": f"{request['dump']}, {request['files']}"}
    else:
        repository = Repository(config)
        found = chosen(repository, str(request["backup"]))
        path = str(take.STAGING / manifest.NAME)
        what = json.loads(repository.read(found.snapshot, path).decode(errors="surrogateescape"))
        needed = sum(row[2] for row in what["files"])
        census = what["database"]
        facts = {
            "backup": found.backup,
            "time": found.time,
            "bytes": needed,
            "files": len(what["files"]),
            "posts": census["posts"],
            "users": census["users"],
            "mattermost": what["mattermost"],
            "postgresql": str(census["server_version"] // 10000),
        }
        refused += versions.conflicts(what["mattermost"], bool(census.get("gate_142")), str(request["version"]))
    refused += _database(config, what)
    for child in CHILDREN:
        if os.path.ismount(f"{config.home}/{child}"):
            refused.append(f"{config.home}/{child} is a mount point: mount the disk at {config.home} instead.")
    here = files.free(config.home)
    if here < needed + _MARGIN:
        refused.append(
            f"{config.home} has {here >> 20} MiB free; the copy needs {(needed + _MARGIN) >> 20} MiB beside what is "
            "there. Make room."
        )
    replaces = present(config)
    if replaces and not request.get("replace") and not request.get("drill"):
        refused.append(f"there is {' and '.join(replaces)}. If it is to be replaced, add --data replace=yes.")
    if replaces and request.get("drill"):
        refused.append(f"there is {' and '.join(replaces)}: a drill needs a node and a database without any.")
    return {"backup": facts, "refused": refused, "replaces": replaces}


def _database(config: Config, what: Mapping[str, Any]) -> list[str]:
    with db.connect(config, config.database.maintenance) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version_num')::int / 10000, rolcreatedb FROM pg_roles "
            "WHERE rolname = current_user"
        ).fetchone()
        assert row
    major, dumped = int(row[0]), int(what["database"]["server_version"]) // 10000 if what else 0
    out = []
    if major < dumped:
        out.append(f"PostgreSQL {major} cannot take a dump of PostgreSQL {dumped}: take {dumped} or newer.")
    if what and (client := db.client_major("pg_restore")) < int(what["pg_dump"]):
        out.append(f"pg_restore {client} cannot read what pg_dump {what['pg_dump']} made. Install a newer client.")
    if not row[1]:
        out.append(
            f"the role {config.database.user} may not create a database. Name mattermost.database.admin (it lends that "
            f"right for the time of the restore), or run there: ALTER ROLE {config.database.user} CREATEDB;"
        )
    return out


def present(config: Config) -> list[str]:
    """What is there that a restore would replace, in words."""
    out = []
    with db.connect(config, config.database.maintenance) as connection:
        there = db.exists(connection, config.database.name)
    if there and not db.empty(config, config.database.name):
        with db.connect(config) as connection:
            facts = db.people(connection)
        out.append(f"a database {config.database.name} with {facts}")
    number = sum(1 for _ in zip(files.below(manifest.store(config)), range(1000)))
    if number:
        out.append(f"{'1000 or more' if number == 1000 else number} files in {manifest.store(config)}")
    return out


def restore(config: Config) -> dict[str, Any]:
    """Do what the request says.

    Raises:
        Failure: what was there before is there again, and runs if it ran.
    """
    request = read(REQUEST)
    if not isinstance(request, dict):
        raise Failure(f"{REQUEST} is not there. Run deploys/restore.py.")
    settle(config)
    phases, result = Phases(), {"id": request["id"], "ok": False, "error": "it was killed", "checks": []}
    write(RESULT, json.dumps(result))
    try:
        _restore(config, request, phases, result)
        result |= {"ok": True, "error": ""}
    except Failure as error:
        result["error"] = str(error)
        with phases.phase("put back what was there"):
            settle(config)
        raise
    finally:
        result["phases"] = phases.done
        write(RESULT, json.dumps(result))
    return result


def _restore(config: Config, request: Mapping[str, Any], phases: Phases, result: dict[str, Any]) -> None:
    checks: list[manifest.Check] = result["checks"]
    aside = Path(take.asides(config)[0])
    with phases.phase("look"):
        seen = look(config, request)
        result["backup"] = seen["backup"]
        if seen["refused"]:
            raise Failure(" ".join(seen["refused"]))
        _note("preparing")
    with phases.phase("fetch the files"):
        aside.mkdir(mode=0o700)
        what, hashes = _fetch(config, request, aside, checks)
    with phases.phase("restore the database"):
        with db.connect(config, config.database.maintenance) as connection:
            db.create(connection, side(config))
        if request.get("dump"):
            counts = db.restore_plain(config, side(config), Path(request["dump"]))
        else:
            db.restore(config, side(config), take.staged(aside / "snapshot") / manifest.DUMP)
            counts = {}
    with phases.phase("compare the database"):
        _prove(config, what, counts, aside / "home" / "data", checks)
    manifest.demand(checks, "the copy is not whole, and nothing was replaced")
    with phases.phase("switch over"):
        for child in CHILDREN:
            (aside / "home" / child).mkdir(mode=0o750, exist_ok=True)
        files.give(str(aside / "home"), config.user, config.group)
        _switch(config, request)
    with phases.phase("start the server, muted"):
        call(["systemctl", "start", "mattermost.service"], what="Mattermost does not start with the restored data")
        checks += server.healthy(config, str(request["version"]))
    with phases.phase("ask the server"):
        checks += server.muted(config)
        if request.get("drill"):
            checks += server.used(config, config.database.name, hashes)
            checks += blocked(request)
            with db.connect(config) as connection:
                result["identities"] = db.identities(connection)
    manifest.demand(checks, "the restored server is not as it must be")
    if request.get("drill"):
        _note("held")
        return
    with phases.phase("open"):
        _unmute()
        call(["systemctl", "restart", "mattermost.service"], what="Mattermost does not start again")
        checks += [{**one, "name": f"{one['name']}, open"} for one in server.healthy(config, str(request["version"]))]
        manifest.demand(checks, "the restored server is not as it must be")
        JOURNAL.unlink()
        shutil.rmtree(aside, ignore_errors=True)


def _fetch(
    config: Config, request: Mapping[str, Any], aside: Path, checks: list[manifest.Check]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Files into `aside/home`; returns the manifest (empty without one) and the hashes of the file store's files."""
    home = aside / "home"
    if request.get("dump"):
        home.mkdir()
        call(["tar", "-xf", str(request["files"]), "-C", str(home), "--no-same-owner"], what="the archive of the files")
        if (home / "config.json").exists():
            (home / "config").mkdir(exist_ok=True)
            (home / "config.json").rename(home / "config" / "config.json")
        if not (home / "data").is_dir():
            raise Failure(f"there is no folder data in {request['files']}.")
        return {}, {}
    repository = Repository(config, PATIENCE)
    found = chosen(repository, str(request["backup"]))
    target = aside / "snapshot"
    repository.restore(found.snapshot, target)
    what = json.loads((take.staged(target) / manifest.NAME).read_bytes().decode(errors="surrogateescape"))
    there = {row[0]: files.entry(f"{target}{row[0]}") for row in what["files"]}
    checks += manifest.of_files(what["files"], there)
    source = Path(f"{target}{what['home']}")
    for path in [path for path in files.below(str(source)) if path[len(str(target)) :] not in there]:
        os.unlink(path)  # appeared while the snapshot was taken: no row knows it
    source.rename(home)
    store = f"{what['home']}/data/"
    hashes = {row[0][len(store) :]: str(row[3]) for row in what["files"] if row[0].startswith(store)}
    return what, hashes


def _prove(
    config: Config, what: Mapping[str, Any], counts: Mapping[str, int], store: Path, checks: list[manifest.Check]
) -> None:
    with db.connect(config, side(config)) as connection, connection.transaction():
        now = db.census(connection)
        if what:
            checks += manifest.of_database(what["database"], now)
        else:
            found = {name: now["tables"].get(name, ["no table"])[0] for name in counts}
            wrong = [
                f"{name}: {found[name]} instead of {counts[name]}" for name in counts if found[name] != counts[name]
            ]
            total = f"{sum(counts.values())} rows in {len(counts)} tables"
            checks.append(manifest.none("row counts", total, wrong))
            checks.append(manifest.check("encoding", "UTF8", now["encoding"]))
        checks += manifest.of_owner(connection)
        checks += manifest.of_references(db.references(connection), str(store), what.get("missing", ()))


def blocked(request: Mapping[str, Any]) -> list[manifest.Check]:
    """Whether the copy really reaches nobody: what a process of the server's own unit got from the outside."""
    told = read(Path("/run/mattermost/blocked.json"))
    out = []
    for name in request.get("unreachable", ()):
        found = told.get(name) if isinstance(told, dict) else None
        expected = "not reached"
        out.append(manifest.check(f"{name} cannot be reached by the copy", expected, found or "not tried"))
    return out


def _note(phase: str, **more: Any) -> None:
    known = read(JOURNAL) or {}
    write(JOURNAL, json.dumps({**known, "phase": phase, **more}))


def _switch(config: Config, request: Mapping[str, Any]) -> None:
    """Stop the server; then databases and folders change their names."""
    aside, old = (Path(path) for path in take.asides(config))
    active = (
        call(["systemctl", "is-active", "mattermost.service"], what="systemctl", codes=range(5)).strip() == "active"
    )
    link = os.readlink(config.current) if os.path.islink(config.current) else ""
    with db.connect(config, config.database.maintenance) as connection:
        db.drop(connection, before(config))  # of the restore before this one
        there = db.exists(connection, config.database.name)
    shutil.rmtree(old, ignore_errors=True)
    _note("switching", active=active, link=link, database=there)
    _mute(config, request)
    call(["systemctl", "stop", "mattermost.service"], what="Mattermost does not stop", codes=(0, 5))
    pairs = [(config.database.name, before(config))] if there else []
    with db.connect(config, config.database.maintenance) as connection:
        db.rename(connection, *pairs, (side(config), config.database.name))
    old.mkdir(mode=0o700)
    for child in CHILDREN:
        if os.path.lexists(f"{config.home}/{child}"):
            os.rename(f"{config.home}/{child}", old / child)
        os.rename(aside / "home" / child, f"{config.home}/{child}")
    if request["release"] != link:
        _point(config.current, str(request["release"]))
    files.sync([config.home])


def _point(link: str, target: str) -> None:
    new = f"{link}.new"
    Path(new).unlink(missing_ok=True)
    os.symlink(target, new)
    os.replace(new, link)


def _mute(config: Config, request: Mapping[str, Any]) -> None:
    # An EnvironmentFile that comes later wins (systemd.exec(5)).
    environment = DROP_IN.with_name("muted.environment")
    lines = ["[Service]", f"EnvironmentFile={environment}", "Restart=no", *request.get("drop_in", ())]
    write(environment, "".join(f"{name}={value}\n" for name, value in server.MUTED.items()))
    write(DROP_IN, "\n".join(lines) + "\n", 0o644)
    call(["systemctl", "daemon-reload"], what="systemctl daemon-reload")


def _unmute() -> None:
    shutil.rmtree(DROP_IN.parent, ignore_errors=True)
    call(["systemctl", "daemon-reload"], what="systemctl daemon-reload")


def interrupted() -> bool:
    """A restore was under way and is not any more; a drill's copy that stands is none."""
    journal = read(JOURNAL)
    return JOURNAL.exists() and not (isinstance(journal, dict) and journal.get("phase") == "held")


def settle(config: Config) -> bool:
    """Whatever a restore or a drill left: what was there before is put back, the rest is removed.

    Returns:
        True when there was something to settle.
    """
    journal = read(JOURNAL)
    aside = Path(take.asides(config)[0])
    if not JOURNAL.exists():
        shutil.rmtree(aside, ignore_errors=True)
        return False
    journal = journal if isinstance(journal, dict) else {"phase": "preparing"}
    if journal["phase"] in ("switching", "held"):
        _back(config, journal)
    with db.connect(config, config.database.maintenance) as connection:
        db.drop(connection, side(config))
    shutil.rmtree(aside, ignore_errors=True)
    JOURNAL.unlink()
    return True


def _back(config: Config, journal: Mapping[str, Any]) -> None:
    """The way back from `_switch`, from whichever point of it."""
    aside, old = (Path(path) for path in take.asides(config))
    call(["systemctl", "stop", "mattermost.service"], what="Mattermost does not stop", codes=(0, 5))
    with db.connect(config, config.database.maintenance) as connection:
        if not db.exists(connection, side(config)):  # they have changed places
            pairs = [(before(config), config.database.name)] if journal["database"] else []
            db.rename(connection, (config.database.name, side(config)), *pairs)
    for child in CHILDREN:  # what comes is complete before the first folder moves, so its absence shows that it moved
        here, came = f"{config.home}/{child}", aside / "home" / child
        if not came.exists():
            os.rename(here, came)
        if (old / child).exists():
            os.rename(old / child, here)
    if journal["link"] and os.readlink(config.current) != journal["link"]:
        _point(config.current, str(journal["link"]))
    _unmute()
    if journal["active"]:
        call(["systemctl", "start", "mattermost.service"], what="Mattermost, as it was before, does not start")
        server.demand_answer(config)
