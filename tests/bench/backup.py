"""Backup and restore against the floor: pg_dump, pg_restore and restic, bare, on the same data in the same run.

`make bench-backup` runs it on a lab of its own, and writes docs/benchmark-backup.md. Rounds of ours and of the floor
alternate; both read the same database over TLS from db-1, and send to backup-1 over SFTP, into an empty repository.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.lab import chat
from tests.lab.image import LAB
from tests.lab.lab import Lab
from tests.lab.site import ROOT, LabSite
from tests.lab.test_chat import WHERE
from tests.lab.test_mattermost import secret

POSTS = (10_000, 100_000, 1_000_000)
MEGABYTES = 200
"""In files: the same for every number of posts."""
ROUNDS = 3
REPORT = ROOT / "docs" / "benchmark-backup.md"
Seconds = dict[str, float]

# Shared by the steps of the floor: what our own program is configured with, without its code.
_BARE = """\
import json, os, re, shutil, subprocess, sys, time
config = json.load(open("/etc/mattermost-backup/config.json"))
db = config["database"]
conninfo = "host={host} port={port} user={user} sslmode={sslmode} sslrootcert={ca} dbname=".format(**db)
env = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PGPASSWORD": db["password"], "RESTIC_PASSWORD": config["password"],
       "RESTIC_CACHE_DIR": "/var/cache/bare"}
ssh = "ssh -i {key} -o BatchMode=yes -o UserKnownHostsFile={known_hosts} ".format(**config["ssh"])
ssh += "restic@backup.lab.test -s sftp"
restic = ["restic", "-q", "-r", "sftp:restic@backup.lab.test:/srv/restic/bare", "-o", "sftp.command=" + ssh]
took = {}
def timed(name, *words):
    started = time.monotonic()
    done = subprocess.run(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, (name, done.stderr)
    took[name] = time.monotonic() - started
"""
_BARE_BACKUP = f"""{_BARE}
subprocess.run([*restic, "init"], env=env, check=True, stdout=subprocess.DEVNULL)
os.makedirs("/var/bare", exist_ok=True)
timed("pg_dump", "pg_dump", "-Fc", "-Z0", "-f", "/var/bare/dump", conninfo + db["name"])
timed("restic backup", *restic, "backup", "/var/bare/dump", config["home"])
timed("restic dump", *restic, "dump", "--archive", "tar", "latest", "/")
print(json.dumps(took))
"""
_BARE_RESTORE = f"""{_BARE}
def psql(statement):
    subprocess.run(["psql", "-Xqw", conninfo + db["maintenance"], "-c", statement], env=env, check=True)
psql("CREATE DATABASE bare TEMPLATE template0 ENCODING 'UTF8'")
timed("restic restore", *restic, "restore", "latest", "--target", "/var/bare/out")
words = ["pg_restore", "--no-owner", "--no-acl", "--single-transaction", "-d", conninfo + "bare"]
timed("pg_restore", *words, "/var/bare/out/var/bare/dump")
timed("ANALYZE", "psql", "-Xqw", conninfo + "bare", "-c", "ANALYZE")
psql("DROP DATABASE bare")
shutil.rmtree("/var/bare")
print(json.dumps(took))
"""
_EMPTY = "rm -rf /srv/restic/bare /srv/restic/lab; sync"


def say(text: str) -> None:
    """Progress."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def bare(site: LabSite, script: str) -> Seconds:
    """One half of the floor."""
    return dict(json.loads(site.lab.sh("chat-1", "python3 -", stdin=script).stdout))


def phases(site: LabSite, told: dict[str, Any], total: float) -> Seconds:
    """Seconds by phase, and in all (with starting the program)."""
    return {**{one["name"]: one["seconds"] for one in told["phases"]}, "in all": total}


def ours_backup(site: LabSite) -> Seconds:
    """One backup with the node's own program, as the timer takes it."""
    site.lab.sh("chat-1", "mattermost-backup prepare")
    started = time.monotonic()
    site.lab.sh("chat-1", "mattermost-backup take")
    took = time.monotonic() - started
    status = json.loads(site.lab.sh("chat-1", "mattermost-backup status --json").stdout)
    return phases(site, status["runs"][-1], took)


def ours_again(site: LabSite) -> Seconds:
    """A second backup: nothing has changed since."""
    took = ours_backup(site)
    return {"a second one": took["in all"]}


def ours_restore(site: LabSite) -> Seconds:
    """One restore with the node's own program over what is there, as a deploy asks for it."""
    request = json.loads(site.lab.sh("chat-1", "cat /var/lib/mattermost-backup/request.json").stdout)
    request |= {"backup": "latest", "replace": True}
    site.lab.sh("chat-1", "cat > /var/lib/mattermost-backup/request.json", stdin=json.dumps(request))
    started = time.monotonic()
    site.lab.sh("chat-1", "mattermost-backup restore")
    took = time.monotonic() - started
    return phases(site, json.loads(site.lab.sh("chat-1", "cat /var/lib/mattermost-backup/result.json").stdout), took)


def one_size(site: LabSite, posts: int, earlier: int) -> dict[str, Any]:
    """Every figure for one number of posts."""
    site.lab.sh("chat-1", "systemctl stop mattermost")
    script = "runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d mattermost -f -"
    site.lab.sh("db-1", script, stdin=chat.sql_posts(posts - earlier, seed=posts))
    site.lab.sh("chat-1", "systemctl start mattermost")
    measured: dict[str, list[Seconds]] = {"ours": [], "floor": []}
    for number in range(ROUNDS):
        site.lab.sh("backup-1", _EMPTY)
        site.lab.sh("chat-1", "rm -rf /var/cache/bare /var/cache/mattermost-backup /var/bare; sync")
        steps = [
            ("ours", lambda: {"backup": ours_backup(site), "again": ours_again(site), "restore": ours_restore(site)}),
            ("floor", lambda: {"backup": bare(site, _BARE_BACKUP), "restore": bare(site, _BARE_RESTORE)}),
        ]
        for name, measure in steps if number % 2 == 0 else reversed(steps):
            parts = measure()
            took = {f"{part}: {step}": value for part, found in parts.items() for step, value in found.items()}
            measured[name].append(took)
            say(f"{posts} posts, round {number + 1}, {name}: " + ", ".join(f"{k} {v:.1f}" for k, v in took.items()))
    size = "runuser -u postgres -- psql -XAt -c \"SELECT pg_database_size('mattermost')\""
    return {
        "posts": posts,
        "database": int(site.lab.sh("db-1", size).stdout),
        "files": int(site.lab.sh("chat-1", "du -sb /var/lib/mattermost/data").stdout.split()[0]),
        **{name: _medians(rounds) for name, rounds in measured.items()},
    }


def _medians(rounds: list[Seconds]) -> dict[str, tuple[float, float, float]]:
    """Median, least and most of each step."""
    names = list(rounds[0])
    return {
        name: (statistics.median(values := [one[name] for one in rounds]), min(values), max(values)) for name in names
    }


def _sum(one: dict[str, tuple[float, float, float]], *names: str) -> float:
    return sum(one[name][0] for name in names)


def report(results: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "# Backup and restore: ours against the floor",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} on the lab ({os.cpu_count()} CPU cores for all machines "
        f"together), medians of {ROUNDS} rounds in which ours and the floor alternate; least and most in brackets. "
        "`make bench-backup` measures again.",
        "",
        "The **floor** is `pg_dump -Fc`, `restic backup`, `restic dump` (to nowhere), and `restic restore`, "
        "`pg_restore`, `ANALYZE`: bare, on the same data, with no check of anything. **Ours** adds to these: the "
        "census of all rows and hashes of all files, the comparison of every byte that comes back, retention, and "
        "with a restore: the comparison with the manifest, the exchange, two starts of Mattermost and its answers.",
        "",
        "| posts | database | files | | ours | floor | ratio | ours per second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        ours, floor = one["ours"], one["floor"]
        data = one["database"] + one["files"]
        pairs = (
            (
                "backup, read back",
                "backup: in all",
                ("backup: pg_dump", "backup: restic backup", "backup: restic dump"),
            ),
            (
                "restore, proven",
                "restore: in all",
                ("restore: restic restore", "restore: pg_restore", "restore: ANALYZE"),
            ),
        )
        for words, name, names in pairs:
            median, least, most = ours[name]
            bottom = _sum(floor, *names)
            lines.append(
                f"| {one['posts']:,} | {one['database'] / 1e6:.0f} MB | {one['files'] / 1e6:.0f} MB | {words} | "
                f"{median:.1f} s ({least:.1f} to {most:.1f}) | {bottom:.1f} s | {median / bottom:.2f} | "
                f"{data / 1e6 / median:.0f} MB |"
            )
        median, least, most = ours["again: a second one"]
        lines.append(
            f"| {one['posts']:,} | | | a second backup, nothing changed | {median:.1f} s ({least:.1f} to {most:.1f}) "
            f"| | | {data / 1e6 / median:.0f} MB |"
        )
    lines += ["", "## Where the time goes", ""]
    for kind in ("ours", "floor"):
        lines += [
            f"### {kind.capitalize()}",
            "",
            "| step | " + " | ".join(f"{one['posts']:,}" for one in results) + " |",
        ]
        lines.append("|---|" + "---|" * len(results))
        lines += [
            f"| {name} | " + " | ".join(f"{one[kind][name][0]:.1f} s" for one in results) + " |"
            for name in results[0][kind]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the report."""
    lab = Lab()
    if lab.name == "lab":
        sys.exit("The benchmark wants a lab of its own: LAB_NAME=bench (make bench-backup says so).")
    lab.up()
    try:
        folder = LAB / "tests" / lab.name
        shutil.rmtree(folder, ignore_errors=True)
        site = LabSite(lab, folder)
        say("the site is configured and filled")
        site.ok()
        admin = {"username": "admin", "password": secret("mattermost_admin_password")}
        users = chat.chat_users(lab, 2)
        chat.use(lab, "fill", **WHERE, admin=admin, gitlab=users, users=4, posts=1000, megabytes=MEGABYTES)
        site.ok(deploy="backup")
        lab.sh("db-1", "runuser -u postgres -- psql -Xqc 'ALTER ROLE mmuser CREATEDB'")
        lab.sh("chat-1", "systemctl stop mattermost-backup.timer mattermost-backup-check.timer")
        version = lab.sh("chat-1", "readlink /opt/mattermost").stdout.strip()
        request = {"id": "bench", "version": version.rpartition("-")[2], "release": version, "dump": "", "files": ""}
        path = Path("/var/lib/mattermost-backup/request.json")
        lab.sh("chat-1", f"umask 077; cat > {path}", stdin=json.dumps(request))
        results: list[dict[str, Any]] = []
        earlier = 1000
        for posts in POSTS:
            results.append(one_size(site, posts, earlier))
            earlier = posts
            REPORT.parent.mkdir(exist_ok=True)
            REPORT.write_text(report(results))
        print(report(results))
    finally:
        lab.down()


if __name__ == "__main__":
    main()
