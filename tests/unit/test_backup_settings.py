"""What a site file may say about backups and drills, and what becomes of it on the node."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from roles.backup import render
from roles.backup.settings import seconds
from roles.site.secret import MASK
from tests.unit import chat_sites
from tests.unit.chat_sites import SITE, changed, problems

PROGRAM = Path(render.__file__).with_name("program")
BACKUP = """\
  backup:
    repository: sftp:restic@backup.example.com:/srv/restic
    password: !file secrets/smtp
"""
DRILL = """\
  drill:
    database: {host: spare.example.com, password: !file secrets/db}
"""
SPARE = ("gitlab:\n", "  spare-1: {address: 10.0.0.10, roles: [mattermost_drill]}\ngitlab:\n")


def rendered(tmp_path, more="", timers=True):
    site = chat_sites.site(tmp_path, SITE + BACKUP + more)
    return {file.path: file for file in render.files(site, timers)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BACKUP.replace("password:", "pasword:"), "unknown key"),
        (BACKUP.replace("sftp:restic@backup.example.com:/srv/restic", "backup"), "is no repository"),
        (
            BACKUP.replace("sftp:restic@backup.example.com:/srv/restic", "rest:https://u:secret@h/"),
            "has a password in it",
        ),
        (BACKUP + '    calendar: "daily\\nOnCalendar=hourly"\n', "one line"),
        (BACKUP + "    rpo: 26\n", "rpo"),
        (BACKUP + "    rpo: 0h\n", "rpo"),
        (BACKUP + "    keep: {last: 0}\n", "keep.last"),
        (BACKUP + "    textfile: /etc/passwd\n", "textfile"),
        (BACKUP + "  settings:\n    FileSettings: {DriverName: amazons3}\n", "would hold no files"),
        (BACKUP.replace("!file secrets/smtp", "hunter2"), "a literal stands where a secret belongs"),
        (DRILL, "has nothing to restore"),
        (BACKUP + DRILL, "needs exactly one node with the role mattermost_drill"),
        (BACKUP + "    ssh: {key: !file secrets/db, known_hosts: nowhere}\n", "there is no such file"),
    ],
)
def test_mistakes_are_told(tmp_path, text, told):
    found = "\n".join(map(str, problems(tmp_path, SITE + text)))
    assert told in found
    assert "hunter2" not in found
    assert "u:secret" not in found


def test_a_drill_beside_mattermosts_own_database_is_refused(tmp_path):
    own = DRILL.replace("spare.example.com", "db.example.com")
    (found,) = problems(tmp_path, changed(SPARE) + BACKUP + own)
    assert "is Mattermost's own" in str(found)
    named = own.replace("password:", "name: mattermost_drill, password:")
    assert chat_sites.site(tmp_path, changed(SPARE) + BACKUP + named).drill_node == "spare-1"


def test_a_spare_node_has_no_other_role_and_needs_a_drill(tmp_path):
    (found,) = problems(tmp_path, changed(SPARE) + BACKUP)
    assert "there is no drill in this file" in str(found)
    both = ("gitlab:\n", "  spare-1: {address: 10.0.0.10, roles: [mattermost_drill, sidekiq]}\ngitlab:\n")
    told = "\n".join(map(str, problems(tmp_path, changed(both) + BACKUP + DRILL)))
    assert "mattermost_drill is not a role beside others" in told


@pytest.mark.parametrize(("span", "number"), [("15min", 900), ("26h", 93600), ("2d", 172800)])
def test_spans(span, number):
    assert seconds(span) == number


def test_the_configuration_is_whole_and_shows_no_secret(tmp_path):
    files = rendered(tmp_path)
    config = files["/etc/mattermost-backup/config.json"]
    told = json.loads(config.content)
    assert told["password"] == "password-of-smtp"
    assert told["database"]["password"] == "password-of-mmuser"
    assert told["keep"] == {"last": 3, "daily": 7, "weekly": 5, "monthly": 12}
    assert config.mode == 0o600
    for text in (config.display, repr(config)):
        assert "password-of" not in text
    assert json.loads(config.display)["password"] == MASK


def test_every_module_is_on_the_node_and_only_what_restores_on_a_spare_one(tmp_path):
    files = rendered(tmp_path)
    assert {path.name for path in PROGRAM.glob("*.py")} == {
        path.split("/")[-1] for path in files if path.endswith(".py")
    }
    names = {path.split("/")[-1] for path in rendered(tmp_path, timers=False)}
    assert "mattermost-restore.service" in names
    assert not any(name.endswith(".timer") for name in names)
    assert "mattermost-backup.service" not in names


@pytest.mark.parametrize("path", sorted(PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_the_program_is_in_python_3_9(path):
    ast.parse(path.read_text(), feature_version=(3, 9))
    assert path.name == "__init__.py" or "from __future__ import annotations" in path.read_text()


def test_a_command_for_failures_is_one_word_of_the_unit(tmp_path):
    files = rendered(tmp_path, """    on_failure: 'echo "$1" 100% \\ | mail ops'\n""")
    unit = files["/etc/systemd/system/mattermost-backup-failed@.service"].content.decode()
    assert 'ExecStart=/bin/sh -c "echo \\"$$1\\" 100%% \\\\ | mail ops" sh %i' in unit
    for name in ("mattermost-backup", "mattermost-backup-check"):
        assert (
            "OnFailure=mattermost-backup-failed@%n.service"
            in files[f"/etc/systemd/system/{name}.service"].content.decode()
        )
    quiet = rendered(tmp_path)
    assert "/etc/systemd/system/mattermost-backup-failed@.service" not in quiet
    assert "OnFailure" not in quiet["/etc/systemd/system/mattermost-backup.service"].content.decode()
