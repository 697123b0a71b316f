"""What the program is told, and the small things that every command of it needs."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/mattermost-backup/config.json")
"""The program's configuration; holds secrets, mode 0600."""
FOLDER = Path("/var/lib/mattermost-backup")
"""What the program keeps: `state.json`, `staging/`, and a restore's `journal.json`, `request.json`, `result.json`."""
LOCK = Path("/run/mattermost-backup.lock")
"""Held by whichever command works. The kernel lets it go when the process ends, however that ends."""
PROGRESS = Path("/run/mattermost-backup.progress")
"""The phase that a command is in, for whoever waits for it."""
PATIENCE = 3 * 3600
"""Seconds that what runs in a unit waits for others: a backup must not be lost because somebody restores meanwhile."""


class Failure(Exception):
    """What went wrong, with cause and cure in one sentence. Never holds a secret."""


class Busy(Failure):
    """Another command works on this node."""


@dataclass(frozen=True)
class Database:
    """How the application's role reaches its database (libpq's words)."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    sslmode: str
    ca: str | None
    maintenance: str
    """A database that is always there, to be in while others change their names."""


@dataclass(frozen=True)
class Config:
    """The program's configuration; made by `roles.backup.render`."""

    site: str
    """Name of the site: the host under which restic files the snapshots, whatever node makes them."""
    home: str
    """Folder of everything that the server writes."""
    current: str
    """Link to the release in use."""
    user: str
    """Account that the server runs as."""
    group: str
    """Its group."""
    also: Sequence[str]
    """Further files and folders to keep; one that is not there is left out."""
    socket: str
    """Where the server answers local requests."""
    repository: str
    """restic's repository; may hold a password (REST)."""
    password: str = field(repr=False)
    """Its password."""
    environment: Mapping[str, str] = field(repr=False)
    """What restic's backend needs, such as AWS_ACCESS_KEY_ID."""
    ssh: Mapping[str, str] | None
    """`key` and `known_hosts` for SFTP: paths on this node."""
    database: Database
    """The database."""
    keep: Mapping[str, int]
    """How many good backups to keep: restic's `last`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`."""
    stop: bool
    """Stop the server while database and files are read."""
    rpo: int
    """Seconds that the last good backup may be old."""
    textfile: str | None
    """File for node_exporter's textfile collector."""
    read_data: str
    """How much of the repository `check` reads: restic's --read-data-subset."""


def load(path: Path = CONFIG) -> Config:
    """Read the configuration.

    Raises:
        Failure: it is not there or not whole.
    """
    try:
        told = json.loads(path.read_text())
        return Config(**{**told, "database": Database(**told["database"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Failure(f"{path} cannot be used ({type(error).__name__}). Run deploys/backup.py.") from None


@contextmanager
def locked(wait: float = 0) -> Iterator[None]:
    """Work alone.

    Args:
        wait: seconds to wait for whoever works now; whoever follows us is told.

    Raises:
        Busy: another command works.
    """
    deadline = time.monotonic() + wait
    told = False
    with LOCK.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip() or "another command"
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"{who} works on this node now. Wait for its end (`journalctl -fu 'mattermost-*'`)."
                    ) from None
                if not told:
                    tell(f"wait for {who}", progress=not PROGRESS.exists())  # it may tell its own phase
                    told = True
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"`mattermost-backup {' '.join(sys.argv[1:])}` (process {os.getpid()})")
        file.flush()
        yield


def call(
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    what: str,
    codes: Sequence[int] = (0,),
    stdin: Any = None,
) -> str:
    """Run a program and return its standard output.

    Args:
        words: program and arguments; every user of the node can see them.
        environment: on top of a small, fixed environment.
        what: what it does, for the message.
        codes: exit codes that are good.
        stdin: as for `subprocess`.

    Raises:
        Failure: it failed, with its last words.
    """
    base = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
    }
    try:
        done = subprocess.run(
            words,
            env={**base, **(environment or {})},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        raise Failure(f"{what}: {words[0]} cannot be run: {error.strerror}. Run deploys/backup.py.") from None
    if done.returncode not in codes:
        raise Failure(f"{what}: {last_words(done.stderr or done.stdout) or f'{words[0]} ended with {done.returncode}'}")
    return done.stdout


def last_words(text: str) -> str:
    """The end of what a program said, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-600:]


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole or not at all, with its final mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path) -> Any:
    """JSON of a file of ours; None when there is none, or when it is not whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def tell(what: str, progress: bool = True) -> None:
    """What is done now: to the journal, and to whoever follows the progress."""
    print(f"{what} ...", flush=True)
    if progress:
        write(PROGRESS, what, 0o644)


class Phases:
    """What is done one after the other, and how long it takes."""

    def __init__(self) -> None:
        self.started = time.time()
        self.done: list[dict[str, Any]] = []
        self._clock = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One of them; it is told."""
        tell(name)
        began = time.monotonic()
        entry = {"name": name, "started": round(began - self._clock, 3), "seconds": 0.0, "ok": False}
        self.done.append(entry)
        try:
            yield
            entry["ok"] = True
        finally:
            entry["seconds"] = round(time.monotonic() - began, 3)
