"""restic, as far as it is needed here (0.14 and newer: Debian 12, Ubuntu 24.04)."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .config import PROGRESS, Config, Failure, call, last_words, tell
from .files import free

KIND = "mattermost"
"""Tag of all our snapshots."""
GOOD = "good"
"""Tag of those that were read back and are whole. Only these count."""
_BACKUP = "backup="
_LOCKED = "already locked"
_UNLOCKED = ("--no-lock",)
"""For questions: they are answered while the repository is checked, which locks it whole (`restic help check`)."""
_AGAIN = 5.0
"""Seconds until a locked repository is asked again."""


@dataclass(frozen=True)
class Snapshot:
    """One backup in the repository."""

    snapshot: str
    """restic's id. It changes when a tag is added."""
    backup: str
    """Our id, which does not: the moment of the dump, such as 20261123T021500Z."""
    time: float
    """That moment, in seconds since 1970."""
    good: bool
    """It was read back and was whole."""
    paths: tuple[str, ...]
    """What is in it."""


class Repository:
    """The repository that the site file names."""

    def __init__(self, config: Config, patience: float = 0) -> None:
        """Nothing is asked yet.

        Args:
            config: names it.
            patience: seconds to wait for another host that has locked it, such as a drill on a spare node.
        """
        self.patience = patience
        self.site = config.site
        self.environment = {
            "RESTIC_REPOSITORY": config.repository,
            "RESTIC_PASSWORD": config.password,
            "RESTIC_CACHE_DIR": "/var/cache/mattermost-backup",
            "RESTIC_PROGRESS_FPS": "0.1",
            **config.environment,
        }
        self.options = _sftp(config)

    def run(self, *words: str, what: str, codes: Sequence[int] = (0,)) -> str:
        """Run restic. While another host has locked the repository, it is tried again.

        Raises:
            Failure: with restic's last words, and what to do where that is known.
        """
        deadline, phase = time.monotonic() + self.patience, ""
        while True:
            try:
                told = call(["restic", *self.options, *words], environment=self.environment, what=what, codes=codes)
            except Failure as error:
                if _LOCKED not in str(error) or time.monotonic() >= deadline:
                    raise Failure(f"{error}{_cure(str(error))}") from None
                if not phase:
                    phase = PROGRESS.read_text()
                    tell(f"wait for another host: {error}")
                time.sleep(_AGAIN)
                self.unlock()
                continue
            if phase:
                tell(phase)
            return told

    def prepare(self) -> bool:
        """Make the repository if there is none. Never done by a timer: one that has vanished must be noticed.

        Returns:
            True when it was made.
        """
        try:
            self.run("cat", "config", *_UNLOCKED, what="the repository")
            return False
        except Failure as error:
            absent = "exist" in str(error) or "no such file" in str(error)  # SFTP, S3, REST; a folder
            if "Is there a repository" not in str(error) or not absent:
                raise
        self.run("init", what="the repository could not be made")
        return True

    def unlock(self) -> None:
        """Remove locks of processes that are gone.

        restic knows those of this host by their process id, those of another host by their age (half an hour; whoever
        works writes its lock anew).
        """
        self.run("unlock", what="locks of the repository")

    def snapshots(self) -> list[Snapshot]:
        """Every backup of this site, oldest first; one that is there twice (a tag was being added) counts once."""
        text = self.run(
            "snapshots", *_UNLOCKED, "--json", "--tag", KIND, "--host", self.site, what="the list of backups"
        )
        found: dict[str, Snapshot] = {}
        for one in json.loads(text) or []:
            snapshot = _snapshot(one)
            if snapshot and (snapshot.backup not in found or snapshot.good):
                found[snapshot.backup] = snapshot
        return sorted(found.values(), key=lambda one: one.time)

    def ids(self, backup: str) -> list[str]:
        """restic's ids of everything that carries this backup's id."""
        words = ("snapshots", *_UNLOCKED, "--json", "--tag", f"{KIND},{_BACKUP}{backup}", "--host", self.site)
        return [str(one["id"]) for one in json.loads(self.run(*words, what="the list of backups")) or []]

    def back_up(self, backup: str, moment: float, paths: Sequence[str], exclude: Path) -> dict[str, Any]:
        """Take a snapshot of paths.

        Returns:
            restic's summary: `snapshot_id`, `data_added` and `total_bytes_processed` in bytes.

        Raises:
            Failure: also when a single file could not be read (restic then exits with 3, and leaves a snapshot).
        """
        local = datetime.fromtimestamp(moment, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        text = self.run(
            *("backup", "--json", "--host", self.site, "--tag", f"{KIND},{_BACKUP}{backup}", "--time", local),
            *("--exclude-file", str(exclude), "--", *paths),
            what="restic could not take the snapshot",
        )
        for line in reversed(text.splitlines()):
            if '"message_type":"summary"' in line:
                return dict(json.loads(line))
        raise Failure("restic could not take the snapshot: it said nothing about it at its end.")

    def mark_good(self, backup: str) -> None:
        """It was read back and is whole."""
        for one in self.ids(backup):
            self.run("tag", "--add", GOOD, one, what="the mark on the snapshot")

    def forget(self, backup: str) -> None:
        """Remove a backup from the list; its data goes with the next `prune`."""
        if found := self.ids(backup):
            self.run("forget", *found, what="the removal of a snapshot")

    def retain(self, keep: dict[str, int]) -> None:
        """Retention: only good backups count, and the last good one always stays."""
        words = [f"--keep-{unit}={number}" for unit, number in {**keep, "last": max(keep.get("last", 1), 1)}.items()]
        group = ("--host", self.site, "--tag", f"{KIND},{GOOD}", "--group-by", "host")
        self.run("forget", *group, *words, what="retention")

    def check(self, subset: str) -> None:
        """Check the repository's structure, and read part of its data; then remove what nothing refers to."""
        words = [] if subset == "0%" else ["--read-data-subset", subset]
        tell("check the repository")
        self.run("check", *words, what="the repository cannot be checked, or is damaged")
        tell("remove what no backup needs")
        self.run("prune", what="the removal of unused data")

    def restore(self, snapshot: str, target: Path) -> None:
        """Write a snapshot's files below `target`."""
        self.run("restore", snapshot, "--target", str(target), what="the snapshot could not be read")

    def read(self, snapshot: str, path: str) -> bytes:
        """One file of a snapshot."""
        return self.run("dump", *_UNLOCKED, snapshot, path, what=f"{path} in the snapshot").encode(
            errors="surrogateescape"
        )

    @contextmanager
    def members(self, snapshot: str) -> Iterator[Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]]:
        """Every member of a snapshot, as it comes out of the repository.

        Raises:
            Failure: the repository does not give all of it.
        """
        words = ["restic", *self.options, "dump", "--archive", "tar", snapshot, "/"]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", **self.environment}
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            said = ""
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|", errors="surrogateescape") as archive:
                    yield ((member, archive) for member in archive)
            except tarfile.TarError as error:
                said = str(error)
            finally:
                if process.poll() is None:
                    process.stdout.read()
                words_of_restic = last_words(process.stderr.read().decode(errors="replace"))
            if process.wait() != 0 or said:
                raise Failure(f"the snapshot could not be read back: {words_of_restic or said}")


def _snapshot(one: dict[str, Any]) -> Snapshot | None:
    tags = one.get("tags") or []
    backup = next((tag[len(_BACKUP) :] for tag in tags if tag.startswith(_BACKUP)), None)
    if backup is None:
        return None
    try:
        moment = datetime.strptime(backup, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None
    return Snapshot(str(one["id"]), backup, moment, GOOD in tags, tuple(one.get("paths") or ()))


def _ssh(config: Config) -> tuple[list[str], str, str]:
    """ssh's options, USER@HOST and path of an SFTP repository; with keys of its own, and such that a line that was cut
    is noticed within a minute."""
    if config.repository.startswith("sftp://"):
        url = urlsplit(config.repository)
        target, port = f"{url.username}@{url.hostname}" if url.username else str(url.hostname), url.port or 22
        path = url.path[1:]
    else:
        _, target, path = config.repository.split(":", 2)
        port = 22
    words = ["-o", f"Port={port}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
    words += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    if config.ssh:
        words += ["-i", config.ssh["key"], "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"]
        words += ["-o", f"UserKnownHostsFile={config.ssh['known_hosts']}"]
    return words, target, path


def _sftp(config: Config) -> list[str]:
    """restic starts ssh itself."""
    if not config.repository.startswith("sftp:"):
        return []
    words, target, _ = _ssh(config)
    return ["-o", f"sftp.command={' '.join(['ssh', *words, target, '-s', 'sftp'])}"]


def room(config: Config) -> int | None:
    """Free bytes where the repository is; None when it does not say."""
    if config.repository.startswith("/"):
        return free(config.repository)
    if not config.repository.startswith("sftp:"):
        return None
    words, target, path = _ssh(config)
    asked = f'df "{path}"\n'
    try:
        done = subprocess.run(
            ["sftp", "-q", "-b", "-", *words, target],
            input=asked,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return int(done.stdout.splitlines()[-1].split()[2]) * 1024
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _cure(said: str) -> str:
    for words, told in (
        ("wrong password", ". Check mattermost.backup.password: without it nothing in the repository can be read"),
        ("Permission denied", ". Check mattermost.backup.ssh, and who owns the repository"),
        ("Host key verification failed", ". Check mattermost.backup.ssh.known_hosts"),
        ("Is there a repository", ". deploys/backup.py makes a new one"),
        ("no space left", ". Make room where the repository is"),
        (_LOCKED, ". Another host works on the repository; `restic unlock` on it, if it is gone"),
    ):
        if words.lower() in said.lower():
            return told
    return ""
