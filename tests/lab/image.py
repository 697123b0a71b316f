"""What the lab's nodes are made of: a root file system (cached), one repository of packages, one layer of trust.

A root file system is made once per recipe by mmdebstrap and kept in the user's cache folder. The layer on top of it
belongs to this checkout: the lab's certificate authority, its ssh keys, host names, package source.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.gitlab_standin.build import DEPENDS
from tests.lab.gitlab_standin.build import build as build_standin
from tests.lab.mattermost.build import ARCH, LINES, tarball

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / ".lab"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyinfra-gitlab-lab"
CONFIG = Path(__file__).with_name("nodes")

DOMAIN = "lab.test"
MACHINES = {
    "lb-1": "198.18.0.10",
    "gitlab-1": "198.18.0.11",
    "gitlab-2": "198.18.0.12",
    "gitlab-3": "198.18.0.13",
    "gitaly-1": "198.18.0.21",
    "mail-1": "198.18.0.31",
    "chat-1": "198.18.0.41",
    "spare-1": "198.18.0.42",
    "db-1": "198.18.0.51",
    "db-2": "198.18.0.52",
    "backup-1": "198.18.0.61",
}
"""The default site, by name. 198.18.0.0/15 is for benchmarks (RFC 2544) and never routed."""
MORE = [f"node-{number}" for number in range(1, int(os.environ.get("LAB_NODES", "0")) + 1)]
"""Further bare machines, for benchmarks (at most 150)."""
MACHINES |= {name: f"198.18.0.{100 + number}" for number, name in enumerate(MORE, 1)}
BRIDGE_ADDRESS = "198.18.0.1"
ALIASES = {
    "lb-1": [f"gitlab.{DOMAIN}", f"acme.{DOMAIN}"],
    "mail-1": [f"mail.{DOMAIN}"],
    "chat-1": [f"chat.{DOMAIN}"],
    "db-1": [f"db.{DOMAIN}"],
    "db-2": [f"db2.{DOMAIN}"],
    "backup-1": [f"backup.{DOMAIN}"],
}
DATABASES = {"db-1": 15, "db-2": 17}
"""The machines with PostgreSQL, and its major version: the one of their Debian."""

SUITE, NEWER = "bookworm", "trixie"
SUITES = {"db-2": NEWER}
"""Machines that are not of the Debian that all others are."""

BASIC = """
    systemd systemd-sysv dbus openssh-server iproute2 iputils-ping ca-certificates curl procps less sudo openssl
    postgresql
""".split()
PACKAGES = {
    SUITE: [*BASIC, *"faketime haproxy dovecot-imapd dovecot-lmtpd postfix pebble".split(), *DEPENDS],
    NEWER: BASIC,
}
"""What is in each root file system. DEPENDS is what the stand-in for GitLab needs: with that in it, installing the
stand-in takes a second. The real package brings all of its own."""

STANDINS = ("18.10.5-ee.0", "18.11.11-ee.0", "19.0.5-ee.0")
"""The versions of the stand-in for GitLab that the nodes can install."""

OFFERED = {SUITE: "nginx-light certbot restic python3-psycopg nftables".split(), NEWER: []}
"""Packages that are not in the root file system, but can be installed by the nodes, with all that they need."""

MASKED = """
    console-getty.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
    systemd-networkd-wait-online.service systemd-timesyncd.service runit.service
""".split()
OFF = "haproxy.service dovecot.service dovecot.socket postfix.service postgresql.service".split()
"""Services that only the lab's own machines start."""

HOOK = f"""\
set -e
root="$1"
shift
chroot "$root" useradd --system --no-create-home vmail
chroot "$root" systemctl disable {" ".join(OFF)} 2>/dev/null || true
chroot "$root" systemctl mask {" ".join(MASKED)}
chroot "$root" systemctl enable systemd-networkd
: > "$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*
chroot "$root" apt-get clean
chroot "$root" apt-get install --yes --quiet --download-only --no-install-recommends "$@"
mkdir "$root/offered"
find "$root/var/cache/apt/archives" -name '*.deb' -exec mv -t "$root/offered" {{}} +
"""
"""Run on a new root file system: the folder, then the packages that are only laid aside."""

_started = time.monotonic()


def say(text: str) -> None:
    """A line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of the lab's own making.

    Raises:
        RuntimeError: when it fails, with its output.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, input=stdin)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)[:200]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def root_file_system(suite: str = SUITE) -> Path:
    """The base of every node of a Debian suite; made on first use (about a minute), then taken from the cache."""
    included, offered = sorted({*PACKAGES[suite]}), OFFERED[suite]
    recipe = hashlib.sha256(repr((suite, included, offered, HOOK)).encode()).hexdigest()[:12]
    base = CACHE / recipe
    with locked(CACHE / "lock"):
        if not base.exists():
            say(f"making the root file system of the nodes, Debian {suite} (once; about a minute)")
            part = CACHE / f"{recipe}.part"
            shutil.rmtree(part, ignore_errors=True)
            hook = CACHE / f"{recipe}.sh"
            hook.write_text(HOOK)
            wanted = f"--include={','.join(included)}"
            customize = f'--customize-hook=sh {hook} "$1" {" ".join(offered)}'
            run("mmdebstrap", "--variant=minbase", wanted, customize, suite, part)
            part.rename(base)
    return base


TIMED = """\
#!/bin/sh
began=$(date +%s.%N); /opt/gitlab/bin/gitlab-ctl "$@"; rc=$?
echo "$began $(date +%s.%N)" >> /var/log/gitlab-ctl.times; exit $rc
"""
"""In a benchmark, the time that the stand-in takes is told apart from everything else."""


def packages() -> Path:
    """The folder of .debs that the nodes see as their only apt repository."""
    folder, part = LAB / "debs", LAB / "debs.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    given = os.environ.get("LAB_GITLAB_PACKAGE")
    if given:
        shutil.copy(given, part)
    else:
        for version in STANDINS:
            build_standin(part, version)
    for offered in (root_file_system() / "offered").iterdir():
        shutil.copy(offered, part)
    (part / "Packages").write_text(run("dpkg-scanpackages", "--multiversion", ".", cwd=part).stdout)
    folder.mkdir(exist_ok=True)  # it is mounted into running nodes: the folder itself must stay the same
    for old in folder.iterdir():
        if not (part / old.name).exists():
            old.unlink()
    for new in part.iterdir():
        new.replace(folder / new.name)
    part.rmdir()
    return folder


def releases() -> None:
    """Mattermost's release tarballs with their checksums; compiled on first use (a few minutes), then cached."""
    folder = LAB / "mattermost"
    folder.mkdir(parents=True, exist_ok=True)
    for version in LINES:
        name = f"mattermost-team-{version}-linux-{ARCH}.tar.gz"
        with locked(CACHE / "lock"):
            source = tarball(version, CACHE)
        if not (folder / name).exists() or not (folder / name).samefile(source):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(source)
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
            (folder / f"{name}.sha256").write_text(f"{digest}  {name}\n")


def keys() -> None:
    """The lab's keys, passwords and certificates; made once per checkout."""
    ssh, ca, secret = LAB / "ssh", LAB / "ca", LAB / "secrets"
    for folder in (ssh, ca, secret):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("id_ed25519", "host_ed25519", "backup_ed25519"):
        if not (ssh / name).exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", ssh / name)
    host = " ".join((ssh / "host_ed25519.pub").read_text().split()[:2])
    names = [f"{name},{address} {host}\n" for name, address in MACHINES.items()]
    (ssh / "known_hosts").write_text("".join(names))
    backup = ("backup-1", f"backup.{DOMAIN}", MACHINES["backup-1"])
    (ssh / "backup_known_hosts").write_text("".join(f"{name} {host}\n" for name in backup))
    for kind in ("incoming_email", "service_desk_email"):
        path = secret / f"{kind}_password"
        if not path.exists():
            # characters on which careless quoting breaks; no #{ #$ #@, which GitLab's own gitlab.yml does not survive
            path.touch(mode=0o600)
            path.write_text("'\"\\ %$&<>" + secrets.token_urlsafe(18))
    passwords = "db_admin_password mattermost_db_password mattermost_admin_password mattermost_drill_db_password"
    for name in (*passwords.split(), "restic_password"):
        path = secret / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text("Aa1! '\"\\ %$&@:/?#[]" + secrets.token_urlsafe(18))
    if not (ca / "ca.crt").exists():
        subject = ("-subj", "/CN=pyinfra-gitlab lab CA")
        out = ("-keyout", ca / "ca.key", "-out", ca / "ca.crt")
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", *subject, *out)
    for name in ("mail", "gitlab", "chat", "db", "db2", "acme"):
        certificate(f"{name}.{DOMAIN}")


def certificate(name: str) -> None:
    """A certificate for a host name, signed by the lab's CA, as ca/NAME.crt and ca/NAME.key."""
    ca = LAB / "ca"
    if (ca / f"{name}.crt").exists():
        return
    extensions = ca / f"{name}.ext"
    extensions.write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth\n")
    out = ("-keyout", ca / f"{name}.key", "-out", ca / f"{name}.csr")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", *out)
    signer = ("-CA", ca / "ca.crt", "-CAkey", ca / "ca.key", "-CAcreateserial", "-extfile", extensions)
    run("openssl", "x509", "-req", "-days", "3650", "-in", ca / f"{name}.csr", *signer, "-out", ca / f"{name}.crt")


def hosts() -> str:
    """/etc/hosts of the lab."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{address} {' '.join([name, *ALIASES.get(name, [])])}" for name, address in MACHINES.items()]
    return "\n".join(lines) + "\n"


def layer(base: Path) -> Path:
    """What all nodes of this checkout have on top of the base: trust, keys, names, package source."""
    parts = ("ca/ca.crt", "ssh/id_ed25519.pub", "ssh/host_ed25519.pub")
    content = b"".join((LAB / name).read_bytes() for name in parts) + (hosts() + base.name).encode()
    folder = LAB / f"layer-{hashlib.sha256(content).hexdigest()[:12]}"
    if folder.exists():
        return folder
    part, work, merged = (LAB / f"layer.{name}" for name in ("part", "work", "merged"))
    for path in (part, work, merged):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={base},upperdir={part},workdir={work}", merged)
    try:
        shutil.copy(LAB / "ca/ca.crt", merged / "usr/local/share/ca-certificates/lab.crt")
        run("chroot", merged, "update-ca-certificates")
        put(merged / "root/.ssh/authorized_keys", (LAB / "ssh/id_ed25519.pub").read_text(), 0o600)
        (merged / "root/.ssh").chmod(0o700)
        put(merged / "etc/ssh/ssh_host_ed25519_key", (LAB / "ssh/host_ed25519").read_text(), 0o600)
        put(merged / "etc/ssh/sshd_config.d/lab.conf", "UseDNS no\nMaxStartups 100\nMaxSessions 100\n")
        put(merged / "etc/hosts", hosts())
        put(merged / "etc/apt/sources.list", "deb [trusted=yes] file:/srv/debs ./\n")
        for other in (merged / "etc/apt/sources.list.d").glob("*"):
            other.unlink()
    finally:
        run("umount", merged)
    for path in (work, merged):
        shutil.rmtree(path)
    part.rename(folder)
    return folder


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of a node that is not running."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def furnish(name: str, root: Path) -> None:
    """What makes a bare node the machine `name`. `root` is its mounted file system."""
    put(root / "etc/hostname", name + "\n")
    network = f"[Match]\nName=host0\n[Network]\nAddress={MACHINES[name]}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    put(root / "etc/systemd/network/00-host0.network", network)
    if name in MORE:
        put(root / "usr/local/sbin/gitlab-ctl", TIMED, 0o755)
        put(root / "etc/ssh/sshd_config.d/bench.conf", "LogLevel VERBOSE\n")
    if name == "lb-1":
        put(root / "etc/haproxy/haproxy.cfg", (CONFIG / "haproxy.cfg").read_text())
        pem = "".join((LAB / f"ca/gitlab.{DOMAIN}.{end}").read_text() for end in ("crt", "key"))
        put(root / "etc/haproxy/gitlab.pem", pem, 0o600)
        enable(root, "haproxy.service")
        for end in ("crt", "key"):
            put(root / f"etc/pebble/lab.{end}", (LAB / f"ca/acme.{DOMAIN}.{end}").read_text(), 0o600)
        put(root / "etc/pebble/pebble.json", (CONFIG / "pebble.json").read_text())
        put(root / "lib/systemd/system/pebble.service", (CONFIG / "pebble.service").read_text())
        enable(root, "pebble.service")
    if name in DATABASES:
        _furnish_database(root, ALIASES[name][0], DATABASES[name])
    if name == "backup-1":
        _furnish_backup(root)
    if name == "mail-1":
        put(root / "etc/dovecot/dovecot.conf", (CONFIG / "dovecot.conf").read_text())
        put(root / "etc/postfix/main.cf", (CONFIG / "main.cf").read_text())
        for end in ("crt", "key"):
            put(root / f"etc/dovecot/lab.{end}", (LAB / f"ca/mail.{DOMAIN}.{end}").read_text(), 0o600)
        users = ""
        for user, kind in (("incoming", "incoming_email"), ("servicedesk", "service_desk_email")):
            password = (LAB / f"secrets/{kind}_password").read_text()
            users += f"{user}@{DOMAIN}:{run('openssl', 'passwd', '-6', '-stdin', stdin=password).stdout.strip()}\n"
        put(root / "etc/dovecot/users", users)
        mail = root / "var/mail/virtual"
        mail.mkdir(parents=True)
        os.chown(mail, *owner(root, "vmail"))
        for unit in ("dovecot.service", "postfix.service"):
            enable(root, unit)


def _furnish_backup(root: Path) -> None:
    """A place for backups: the account `restic` may transfer files in its folder, and nothing else."""
    run("chroot", root, "useradd", "--system", "--shell=/usr/sbin/nologin", "--home-dir=/srv/restic", "restic")
    (root / "srv/restic").mkdir(mode=0o700)
    os.chown(root / "srv/restic", *owner(root, "restic"))
    put(root / "etc/ssh/restic_keys", (LAB / "ssh/backup_ed25519.pub").read_text())
    put(root / "etc/ssh/sshd_config.d/restic.conf", (CONFIG / "sshd_restic.conf").read_text())


def _furnish_database(root: Path, host: str, version: int) -> None:
    """PostgreSQL that takes TLS alone, with an administrator who is no superuser, as a managed database has."""
    for end in ("crt", "key"):
        put(root / f"etc/postgresql/lab.{end}", (LAB / f"ca/{host}.{end}").read_text(), 0o600)
        os.chown(root / f"etc/postgresql/lab.{end}", *owner(root, "postgres"))
    main = root / f"etc/postgresql/{version}/main"
    put(main / "conf.d/lab.conf", (CONFIG / "postgresql.conf").read_text())
    put(main / "pg_hba.conf", (CONFIG / "pg_hba.conf").read_text())
    password = (LAB / "secrets/db_admin_password").read_text().replace("'", "''")
    put(root / "etc/postgresql/lab.sql", f"CREATE ROLE dba LOGIN CREATEROLE CREATEDB PASSWORD '{password}';\n", 0o600)
    os.chown(root / "etc/postgresql/lab.sql", *owner(root, "postgres"))
    create = "ExecStartPost=-/usr/bin/psql -X --quiet --file=/etc/postgresql/lab.sql"
    unit = root / f"etc/systemd/system/postgresql@{version}-main.service.d/lab.conf"
    put(unit, f"[Service]\nUser=postgres\n{create}\n")
    enable(root, "postgresql.service")


def enable(root: Path, unit: str) -> None:
    """Start a unit at boot."""
    link = root / "etc/systemd/system/multi-user.target.wants" / unit
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(f"/lib/systemd/system/{unit}")


def owner(root: Path, user: str) -> tuple[int, int]:
    """uid and gid of a user inside a node."""
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return int(fields[2]), int(fields[3])
    raise RuntimeError(f"the root file system has no user {user}")
