"""Mattermost on its own server: people can log in, and whatever is in the way is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.image import LAB
from tests.lab.site import AS_DECLARED, LabSite, broken

pytestmark = pytest.mark.lab

URL = "https://chat.lab.test"
SITE_100_MB = 104857600
"""Bytes; Mattermost's default of FileSettings.MaxFileSize."""


def secret(name: str) -> str:
    """One of the lab's secrets."""
    return (LAB / "secrets" / name).read_text().removesuffix("\n")


def person(site: LabSite, command: str, username: str, password: str, **more: Any) -> dict[str, Any]:
    """Somebody uses Mattermost (tests/lab/people.py)."""
    asked = {"url": URL, "ca": str(LAB / "ca" / "ca.crt"), "username": username, "password": password, **more}
    done = site.lab.run([sys.executable, "-m", "tests.lab.people", command], stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr[-1500:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def admin(site: LabSite, command: str, **more: Any) -> dict[str, Any]:
    """The first administrator uses Mattermost."""
    return person(site, command, "admin", secret("mattermost_admin_password"), **more)


def sql(site: LabSite, query: str) -> list[str]:
    """Rows of a query in Mattermost's database, asked on its server."""
    script = f"runuser -u postgres -- psql -X -A -t -d mattermost -c '{query}'"
    return site.lab.sh("db-1", script).stdout.splitlines()


def test_a_second_run_performs_no_operation(site: LabSite) -> None:
    started = site.lab.sh("chat-1", "systemctl show -p MainPID --value mattermost").stdout
    result = site.ok(deploy="mattermost")
    assert result.last_line == "pyinfra-gitlab: as declared: nothing to do for Mattermost on chat-1"
    assert site.lab.sh("chat-1", "systemctl show -p MainPID --value mattermost").stdout == started
    assert site.ok().last_line == AS_DECLARED


def test_people_log_in_through_gitlab(site: LabSite) -> None:
    me = person(site, "sign_on", "alice", "password-of-alice-in-the-lab")["me"]
    assert (me["username"], me["auth_service"], me["email"]) == ("alice", "gitlab", "alice@lab.test")
    rows = sql(site, "SELECT username, authservice, authdata FROM users WHERE authservice <> $$$$")
    assert rows == ["alice|gitlab|42"], "GitLab's id of alice is 42"
    again = person(site, "sign_on", "alice", "password-of-alice-in-the-lab")["me"]
    assert again["id"] == me["id"]


def test_who_is_blocked_in_gitlab_does_not_get_in(site: LabSite) -> None:
    answer = person(site, "sign_on", "bob", "password-of-bob-in-the-lab")
    assert "me" not in answer
    assert "blocked" in answer["text"]
    assert sql(site, "SELECT count(*) FROM users WHERE username = $$bob$$") == ["0"]


def test_the_first_administrator_can_log_in(site: LabSite) -> None:
    me = admin(site, "log_in")["me"]
    assert (me["roles"], me["email_verified"]) == ("system_user system_admin", True)


def test_a_websocket_and_a_large_file_go_through_nginx(site: LabSite) -> None:
    assert admin(site, "hello")["event"] == "hello"
    assert admin(site, "upload", size=SITE_100_MB) == {"status": 201, "size": SITE_100_MB, "same": True}
    too_large = admin(site, "upload", size=SITE_100_MB + 1)
    assert too_large["status"] == 413
    assert "api.file" in too_large["text"], "refused by the server, with its reason, not by nginx"


def test_https_alone(site: LabSite) -> None:
    ca = LAB / "ca" / "ca.crt"
    shown = site.lab.run(["curl", "-sI", "http://chat.lab.test/x?y=1"]).stdout
    assert "301" in shown
    assert "https://chat.lab.test/x?y=1" in shown
    ping = f"{URL}/api/v4/system/ping"
    assert "max-age=31536000" in site.lab.run(["curl", "-si", "--cacert", str(ca), ping]).stdout
    old = site.lab.run(["curl", "-sS", "--cacert", str(ca), "--tls-max", "1.1", ping])
    assert old.returncode == 35, "TLS 1.1 is refused"
    other = ["curl", "-sS", "-k", "--resolve", "other.lab.test:443:198.18.0.41", "https://other.lab.test/"]
    assert site.lab.run(other).returncode == 35, "a host that is not ours gets no handshake"
    open_ports = site.lab.sh("chat-1", "ss -Hltn | awk '{print $4}'").stdout.split()
    assert "127.0.0.1:8065" in open_ports
    assert not any(port.endswith(":8065") and not port.startswith("127.") for port in open_ports)


def test_the_database_is_used_over_tls_as_its_owner(site: LabSite) -> None:
    query = (
        "SELECT DISTINCT s.ssl, s.version, a.usename FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
        "WHERE a.datname = $$mattermost$$ AND a.client_addr IS NOT NULL"
    )
    assert sql(site, query) == ["t|TLSv1.3|mmuser"]
    owner = (
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = $$mattermost$$"
    )
    assert sql(site, owner) == ["mmuser|UTF8"]
    assert sql(site, "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = $$mmuser$$") == [
        "f|f|f"
    ]


def test_mmctl_talks_to_the_server(site: LabSite) -> None:
    socket = "MMCTL_LOCAL_SOCKET_PATH=/run/mattermost/local.socket"
    shown = site.lab.sh("chat-1", f"{socket} /opt/mattermost/bin/mmctl --local --json user list").stdout
    assert "admin@lab.test" in shown
    mmctl = "HOME=/tmp/mmctl /opt/mattermost/bin/mmctl"
    login = f"auth login {URL} --name lab --username admin --password-file /dev/stdin"
    password = secret("mattermost_admin_password")
    done = site.lab.sh("chat-1", f"{mmctl} {login} && {mmctl} --json user list; rm -rf /tmp/mmctl", stdin=password)
    assert '"email": "admin@lab.test"' in done.stdout, "the same over HTTPS, with a password"


def test_gitlab_knows_where_mattermost_is(site: LabSite) -> None:
    for name in ("gitlab-1", "gitlab-3"):
        assert f"gitlab_rails['mattermost_host'] = '{URL}'" in site.lab.sh(name, "cat /etc/gitlab/gitlab.rb").stdout


def test_dry_changes_nothing_and_tells_what_would(healed: LabSite) -> None:
    healed.edit(("    LogSettings: {", '    TeamSettings: {SiteName: "It\'s #{chat} €"}\n    LogSettings: {'))
    before = healed.lab.sh("chat-1", "sha256sum /etc/mattermost/environment").stdout
    result = healed.ok("--dry", "--diff", deploy="mattermost")
    assert result.last_line == "pyinfra-gitlab: would change: chat-1 (nothing was touched)"
    assert '+ MM_TEAMSETTINGS_SITENAME="It\'s #{chat} €"' in result.screen
    assert "chat-1: start Mattermost" in result.screen
    assert healed.lab.sh("chat-1", "sha256sum /etc/mattermost/environment").stdout == before
    started = healed.lab.sh("chat-1", "systemctl show -p MainPID --value mattermost").stdout
    nginx = healed.lab.sh("chat-1", "systemctl show -p MainPID --value nginx").stdout
    healed.ok(deploy="mattermost")
    assert healed.lab.sh("chat-1", "systemctl show -p MainPID --value mattermost").stdout != started, "restarted"
    assert healed.lab.sh("chat-1", "systemctl show -p MainPID --value nginx").stdout == nginx, "nginx is not touched"
    assert healed.verify().check("chat-1", "settings in use")["verdict"] == "as declared"
    used = healed.lab.sh("chat-1", "curl -s --unix-socket /run/mattermost/local.socket http://x/api/v4/config").stdout
    assert json.loads(used)["TeamSettings"]["SiteName"] == "It's #{chat} €"


def test_the_servers_own_keys_are_kept(healed: LabSite) -> None:
    salt = "grep PublicLinkSalt /var/lib/mattermost/config/config.json"
    before = healed.lab.sh("chat-1", salt).stdout
    assert len(before.strip()) > 30
    healed.edit(("    LogSettings: {", "    TeamSettings: {SiteName: Other}\n    LogSettings: {"))
    healed.ok(deploy="mattermost")
    assert healed.lab.sh("chat-1", salt).stdout == before


def test_another_password_of_the_database_is_one_restart(healed: LabSite) -> None:
    path = healed.folder / "secrets" / "mattermost_db_password"
    path.write_text("an0ther 'pass%word\" @:/?#\n")
    path.chmod(0o600)
    healed.edit((str(LAB / "secrets" / "mattermost_db_password"), str(path)))
    result = healed.ok(deploy="mattermost")
    assert "PostgreSQL: set the password of role mmuser" in result.screen
    assert admin(healed, "log_in")["me"]["username"] == "admin"
    log = healed.lab.sh("db-1", "cat /var/log/postgresql/*.log").stdout
    assert "an0ther" not in log
    path.unlink()


def test_a_drop_in_that_changes_a_setting_is_drift(healed: LabSite) -> None:
    folder = "/run/systemd/system/mattermost.service.d"
    healed.edit(("    LogSettings: {", "    TeamSettings: {MaxUsersPerTeam: 77}\n    LogSettings: {"))
    healed.ok(deploy="mattermost")
    text = "[Service]\\nEnvironmentFile=/run/other\\n"
    script = (
        f"mkdir -p {folder}; printf '{text}' > {folder}/x.conf; echo MM_TEAMSETTINGS_MAXUSERSPERTEAM=78 > /run/other"
    )
    healed.lab.sh("chat-1", f"{script}; systemctl daemon-reload; systemctl restart mattermost")
    found = healed.verify()
    assert found.check("chat-1", "settings in use")["found"] == "MM_TEAMSETTINGS_MAXUSERSPERTEAM differ"
    healed.lab.sh("chat-1", f"rm -r {folder} /run/other; systemctl daemon-reload; systemctl restart mattermost")


def test_a_server_that_was_killed_is_back_and_one_that_was_stopped_is_named(healed: LabSite) -> None:
    healed.lab.sh("chat-1", "systemctl stop mattermost")
    found = healed.verify()
    assert found.json["result"] == "differs"
    assert found.check("chat-1", "mattermost.service")["found"] == "does not run, enabled"
    assert "start Mattermost" in healed.ok(deploy="mattermost").screen
    healed.lab.sh("chat-1", "systemctl kill -s KILL mattermost; sleep 12")
    assert healed.verify().check("chat-1", "mattermost.service")["verdict"] == "as declared", "systemd started it again"


def test_a_database_that_is_away_is_named_and_comes_back(healed: LabSite) -> None:
    healed.lab.sh("db-1", "systemctl stop postgresql@15-main")
    found = healed.verify()
    assert found.code == 1
    assert "Connection refused" in found.check("chat-1", "database mattermost on")["found"]
    assert found.check("chat-1", "database, as the server")["verdict"] != "as declared"
    refused = healed.run(deploy="mattermost")
    assert refused.code == 1
    assert "nothing was touched" in refused.screen
    assert "Connection refused" in refused.last_line
    healed.lab.sh("db-1", "systemctl start postgresql@15-main; sleep 2")
    assert healed.verify().check("chat-1", "database, as the server")["verdict"] == "as declared", "without a restart"


def test_a_full_file_store_is_named(healed: LabSite) -> None:
    data = "/var/lib/mattermost/data"
    full = f"mount -t tmpfs -o size=64k,mode=750,uid=$(id -u mattermost),gid=$(id -g mattermost) tmpfs {data}"
    # The server has a view of the file systems of its own, made when it starts.
    healed.lab.sh("chat-1", f"{full}; head -c 64k /dev/zero > {data}/x || true; systemctl restart mattermost")
    found = healed.verify().check("chat-1", "file store")
    assert (found["found"], found["verdict"]) == ("UNHEALTHY", "differs")
    healed.lab.sh("chat-1", "umount /var/lib/mattermost/data; systemctl restart mattermost")
    assert healed.verify().check("chat-1", "file store")["verdict"] == "as declared"


def test_a_file_that_somebody_changed_is_put_right(healed: LabSite) -> None:
    healed.lab.sh("chat-1", "echo MM_TEAMSETTINGS_SITENAME=mine >> /etc/mattermost/environment; systemctl stop nginx")
    found = healed.verify()
    assert found.check("chat-1", "/etc/mattermost/environment")["verdict"] == "differs"
    assert found.check("chat-1", "nginx")["verdict"] == "differs"
    assert found.check("chat-1", "certificate at port 443")["found"] == "no TLS answer"
    healed.ok(deploy="mattermost")
    assert healed.verify().check("chat-1", "certificate at port 443")["verdict"] == "as declared"


def test_what_nginx_refuses_is_taken_back(healed: LabSite) -> None:
    healed.lab.sh("chat-1", "echo 'nonsense;' > /etc/nginx/conf.d/other.conf")
    healed.edit(("\n    key: !file", "\n    hsts: false\n    key: !file"))
    before = healed.lab.sh("chat-1", "sha256sum /etc/nginx/conf.d/mattermost.conf").stdout
    result = healed.run(deploy="mattermost")
    assert result.code == 1
    assert "nginx refused it, and what was there before is back" in result.last_line
    assert "other.conf" in result.last_line
    assert healed.lab.sh("chat-1", "sha256sum /etc/nginx/conf.d/mattermost.conf").stdout == before
    assert admin(healed, "log_in")["me"]["username"] == "admin", "nginx still serves"
    healed.lab.sh("chat-1", "rm /etc/nginx/conf.d/other.conf")


def test_a_release_with_another_sum_is_refused_and_nothing_is_left(healed: LabSite) -> None:
    sums = Path(healed.folder / "wrong.sha256")
    sums.write_text("0" * 64 + "\n")
    name = "mattermost-team-9.9.0-linux-amd64.tar.gz.sha256"
    healed.edit((str(LAB / "mattermost" / name), str(sums)))
    result = healed.run(deploy="mattermost")
    assert result.code == 1
    assert "declared is 0000" in result.last_line
    assert healed.lab.sh("chat-1", "ls -d /opt/mattermost*").stdout.split() == [
        "/opt/mattermost",
        "/opt/mattermost-9.9.0",
    ]


def test_a_database_with_another_certificate_is_refused(healed: LabSite) -> None:
    """Signed by somebody else: with verify-full neither the proof nor the server talks to it."""
    folder = "/etc/postgresql/15/main"
    where = healed.lab.sh(
        "db-1", "runuser -u postgres -- psql -X -A -t -c 'SHOW ssl_cert_file; SHOW ssl_key_file'"
    ).stdout
    certificate, private = (path if path.startswith("/") else f"{folder}/{path}" for path in where.split())
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=x -addext subjectAltName=DNS:db.lab.test"
    make += f" -keyout {private} -out {certificate} 2>/dev/null"
    reload = "systemctl restart postgresql@15-main"
    swap = f"cp -p {certificate} /run/c; cp -p {private} /run/k; {make}; {reload}"
    with broken(healed, "db-1", swap, f"cp -p /run/c {certificate}; cp -p /run/k {private}; {reload}"):
        result = healed.run(deploy="mattermost")
        assert result.code == 1
        assert "certificate verify failed" in result.last_line
        assert "mattermost.database.ca" in result.last_line
    assert healed.verify().check("chat-1", "database mattermost on")["verdict"] == "as declared"


def test_the_mail_server_is_tried(healed: LabSite) -> None:
    """mail-1 takes mail without TLS; the password is never sent in the clear."""
    mail = '    EmailSettings: {SMTPServer: mail.lab.test, SMTPPort: "25", SendEmailNotifications: true'
    healed.edit(("    LogSettings: {", mail + "}\n    LogSettings: {"))
    healed.ok(deploy="mattermost")
    assert healed.verify().check("chat-1", "mail through mail.lab.test:25")["found"] == "it answers"
    secret = healed.folder / "secrets" / "chat_smtp_password"
    secret.touch(mode=0o600)
    secret.write_text("smtp-s3cret-of-chat")
    more = f", SMTPUsername: u, SMTPPassword: !file {secret}, EnableSMTPAuth: true"
    healed.edit(("    LogSettings: {", mail + more + "}\n    LogSettings: {"))
    assert "sent over TLS alone" in healed.run(deploy="mattermost").screen
    healed.edit(("    LogSettings: {", mail + more + ", ConnectionSecurity: STARTTLS}\n    LogSettings: {"))
    healed.ok(deploy="mattermost")
    result = healed.verify()
    assert result.check("chat-1", "mail through")["verdict"] == "differs", "mail-1 offers no TLS"
    assert "smtp-s3cret-of-chat" not in result.stdout + result.screen
    secret.unlink()


def test_through_a_node_and_without_an_administrator(healed: LabSite) -> None:
    """The database server as a node sees it; and a role that somebody else made, whose password is wrong."""
    healed.edit(("    admin:\n      user: dba\n", "    admin:\n      user: dba\n      through: gitlab-2\n"))
    healed.lab.sh("db-1", "runuser -u postgres -- psql -q -c 'ALTER ROLE mmuser PASSWORD $$other$$'")
    assert "PostgreSQL: set the password of role mmuser" in healed.ok(deploy="mattermost").screen
    start = healed.original.index("    admin:\n      user: dba")
    healed.write(healed.original[:start] + healed.original[healed.original.index("  proxy:") :])
    assert "nothing to do" in healed.ok(deploy="mattermost").last_line, "the role gets in: no administrator is needed"
    healed.lab.sh("db-1", "runuser -u postgres -- psql -q -c 'ALTER ROLE mmuser PASSWORD $$other$$'")
    refused = healed.run(deploy="mattermost")
    assert refused.code == 1
    assert "password authentication failed" in refused.last_line
    assert "nothing was touched" in refused.screen


def test_somebody_elses_database_is_not_taken(healed: LabSite) -> None:
    healed.lab.sh("db-1", "runuser -u postgres -- createdb theirs")
    healed.edit(("    host: db.lab.test\n", "    host: db.lab.test\n    name: theirs\n    user: other\n"))
    refused = healed.run(deploy="mattermost")
    assert refused.code == 1
    assert "belongs to postgres" in refused.last_line
    healed.lab.sh("db-1", "runuser -u postgres -- dropdb theirs")


def test_a_release_out_of_apt(healed: LabSite) -> None:
    """The package is the lab's, made of the tarball: there is none of Mattermost's own here."""
    tree = healed.folder / "deb"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: mattermost\nVersion: 9.9.0-0\nArchitecture: all\nMaintainer: lab\nDescription: lab\n"
    (tree / "DEBIAN" / "control").write_text(control)
    (tree / "opt").mkdir()
    tarball = LAB / "mattermost" / "mattermost-team-9.9.0-linux-amd64.tar.gz"
    subprocess.run(["tar", "-xzf", tarball, "-C", tree / "opt"], check=True)
    repository = healed.lab.folder / "chat-1" / "merged" / "srv" / "mattermost"
    repository.mkdir()
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, repository], check=True, capture_output=True)
    index = subprocess.run(["dpkg-scanpackages", "."], cwd=repository, check=True, capture_output=True).stdout
    (repository / "Packages").write_bytes(index)
    shutil.rmtree(tree)
    start, end = healed.original.index("    source: "), healed.original.index("  site_url:")
    healed.write(
        (healed.original[:start] + "    source: apt\n" + healed.original[end:]).replace(
            "version: 9", "edition: entry\n  version: 9"
        )
    )
    refused = healed.run(deploy="mattermost")
    assert "no apt source of this node has mattermost 9.9.0" in refused.last_line
    sources = "echo 'deb [trusted=yes] file:/srv/mattermost ./' > /etc/apt/sources.list.d/mattermost.list"
    healed.lab.sh("chat-1", sources)
    healed.ok(deploy="mattermost")
    assert healed.lab.sh("chat-1", "cat /opt/mattermost/.sha256").stdout == "apt:9.9.0\n"
    assert admin(healed, "log_in")["me"]["username"] == "admin"
    assert "nothing to do" in healed.ok(deploy="mattermost").last_line
    assert healed.lab.sh("chat-1", "dpkg -l mattermost 2>/dev/null | grep -c ^ii || true").stdout == "0\n"
    healed.lab.sh("chat-1", "rm -r /srv/mattermost /etc/apt/sources.list.d/mattermost.list")


def test_an_upgrade_and_no_way_back(fresh: LabSite) -> None:
    """The Team Edition has no sign-on from 11.0 on, so that goes first. Last of all: these nodes stay upgraded."""
    start, end = fresh.original.index("  sign_on:\n"), fresh.original.index("  backup:\n")
    text = fresh.original[:start] + fresh.original[end:]
    fresh.write(text)
    fresh.ok(deploy="mattermost")
    upgraded = text.replace("9.9.0", "11.4.0")
    fresh.write(upgraded)
    dry = fresh.ok("--dry", deploy="mattermost")
    assert "UPGRADE Mattermost from 9.9.0" in dry.screen
    fresh.ok(deploy="mattermost")
    found = fresh.verify()
    for subject in ("Mattermost release", "version of the server", "server status", "settings in use"):
        assert found.check("chat-1", subject)["verdict"] == "as declared", found.check("chat-1", subject)
    assert admin(fresh, "log_in")["me"]["username"] == "admin"
    assert "nothing to do" in fresh.ok(deploy="mattermost").last_line
    assert fresh.lab.sh("chat-1", "ls -d /opt/mattermost-*").stdout.split() == [
        "/opt/mattermost-11.4.0",
        "/opt/mattermost-9.9.0",
    ]
    fresh.write(text)
    back = fresh.run(deploy="mattermost")
    assert back.code == 1
    assert "an older server does not start on a newer database" in back.last_line
    fresh.write(fresh.original.replace("9.9.0", "11.4.0"))
    assert "no GitLab sign-on from 11.0 on" in fresh.run(deploy="mattermost").screen
