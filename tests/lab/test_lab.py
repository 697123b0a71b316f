"""The lab itself: what it promises to the other tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import mail
from tests.lab.image import LAB, MACHINES
from tests.lab.lab import CGROUPS, Lab

pytestmark = pytest.mark.lab


def traces(name: str) -> list[str]:
    """What a lab of this name has left on this machine."""
    lab = Lab(name)
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(lab.folder) in line]
    found += [str(path) for path in Path("/run/netns").glob(lab.namespace)]
    found += [str(path) for path in CGROUPS.glob(f"*/{lab.namespace}-*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(lab.folder) in path.read_text():
                found.append(str(path))
        except OSError:
            continue
    return found + ([str(lab.folder)] if lab.folder.exists() else [])


def test_every_machine_takes_ssh_and_knows_its_name(lab: Lab) -> None:
    key = [
        "-i",
        str(LAB / "ssh/id_ed25519"),
        "-o",
        f"UserKnownHostsFile={LAB / 'ssh/known_hosts'}",
        "-o",
        "BatchMode=yes",
    ]
    for name in MACHINES:
        assert lab.run(["ssh", *key, f"root@{name}", "hostname"]).stdout == f"{name}\n"


def test_nothing_leaves_the_lab(lab: Lab) -> None:
    routes = lab.sh("gitlab-1", "ip -4 route").stdout.split("\n")
    assert [route for route in routes if route] == [r for r in routes if r.startswith("198.18.0.0/24 dev host0")]


def test_a_second_lab_beside_the_first_leaves_nothing_behind(lab: Lab) -> None:
    other = Lab("beside")
    other.up()
    try:
        assert other.status() == dict.fromkeys(MACHINES, "running")
        other.sh("gitlab-1", "echo other > /root/whose")
        assert lab.sh("gitlab-1", "cat /root/whose", check=False).returncode != 0
        assert traces("beside")
    finally:
        other.down()
    assert traces("beside") == []
    assert lab.status() == dict.fromkeys(MACHINES, "running")


def test_kill_cut_heal_reset(lab: Lab) -> None:
    ping = "ping -c 1 -W 1 gitaly-1"
    lab.sh("lb-1", ping)
    lab.cut("gitaly-1")
    assert lab.status()["gitaly-1"] == "cut"
    assert lab.sh("lb-1", ping, check=False).returncode != 0
    lab.heal("gitaly-1")
    lab.sh("gitaly-1", "echo x > /root/kept; sync")
    lab.kill("gitaly-1")
    assert lab.status()["gitaly-1"] == "off"
    lab.heal("gitaly-1")
    assert lab.sh("gitaly-1", "cat /root/kept").stdout == "x\n"
    lab.reset("gitaly-1")
    assert lab.sh("gitaly-1", "cat /root/kept", check=False).returncode != 0


def test_mail_goes_to_its_own_mailbox_only(lab: Lab) -> None:
    lab.reset("mail-1")
    mail.send(lab, "incoming+anything@lab.test", "one")
    assert mail.look(lab, "incoming_email").total == 1
    assert mail.look(lab, "service_desk_email").total == 0
    with pytest.raises(RuntimeError, match="SMTPRecipientsRefused"):
        mail.send(lab, "nobody@lab.test", "two")


def test_the_backup_server_takes_files_and_nothing_else(lab: Lab) -> None:
    key, known = LAB / "ssh/backup_ed25519", LAB / "ssh/backup_known_hosts"
    options = ["-i", str(key), "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    account = "restic@backup.lab.test"
    done = lab.run(["sftp", *options, "-b", "-", account], stdin="put /etc/hostname one\nls -l\nrm one\n")
    assert done.returncode == 0, done.stderr
    shell = lab.run(["ssh", *options, account, "id"])
    assert "This service allows sftp connections only." in shell.stdout + shell.stderr
    assert lab.run(["ssh", *options, "root@backup.lab.test", "id"]).returncode == 255


def test_a_repository_of_restic_is_made_from_a_node(lab: Lab) -> None:
    lab.sh("spare-1", "apt-get update -qq && apt-get install -y -qq restic")
    for name in ("backup_ed25519", "backup_known_hosts"):
        lab.sh("spare-1", f"umask 077; cat > /root/{name}", stdin=(LAB / "ssh" / name).read_text())
    ssh = "ssh -i /root/backup_ed25519 -o UserKnownHostsFile=/root/backup_known_hosts -o BatchMode=yes"
    command = f"-o sftp.command='{ssh} -s restic@backup.lab.test sftp'"
    restic = f"RESTIC_PASSWORD=x restic --no-cache -r sftp:x:/srv/restic/spare {command}"
    lab.sh("spare-1", f"{restic} init && {restic} backup -q /etc && {restic} check")
    assert lab.sh("backup-1", "stat -c %U /srv/restic/spare/config; rm -r /srv/restic/spare").stdout == "restic\n"
    lab.reset("spare-1")


@pytest.mark.parametrize(("host", "version"), [("db.lab.test", 15), ("db2.lab.test", 17)])
def test_the_databases_are_two_versions_with_the_same_administrator(lab: Lab, host: str, version: int) -> None:
    password = (LAB / "secrets/db_admin_password").read_text()
    trust = "sslmode=verify-full sslrootcert=/usr/local/share/ca-certificates/lab.crt"
    query = (
        "SELECT current_setting($$server_version_num$$)::int / 10000, rolsuper, rolcreatedb, rolcreaterole "
        "FROM pg_roles WHERE rolname = current_user"
    )
    psql = f"psql 'host={host} user=dba dbname=postgres {trust}' -XAtc '{query}'"
    script = f"IFS= read -r PGPASSWORD; export PGPASSWORD; {psql}"
    assert lab.sh("chat-1", script, stdin=password + "\n").stdout == f"{version}|f|t|t\n"


@pytest.mark.parametrize("name", ["..", "a/b", "", "A", "x" * 30])
def test_a_lab_name_that_could_do_harm_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_NAME", name)
    if name:
        with pytest.raises(SystemExit, match="LAB_NAME"):
            Lab()
    else:
        assert Lab().name == "lab"
