"""The example is complete and loads, the schema is fresh, and the inventories show clean errors."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from roles.site import schema
from roles.site.current import current
from roles.site.inventory import pyinfra_groups
from roles.site.load import load
from roles.site.models import Site
from roles.site.yaml import read
from tests.unit.certificates import self_signed

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories" / "example"
SECRETS = {
    "service_desk_email_password": "hunter2-example",
    "incoming_email_token": base64.b64encode(b"x" * 32).decode(),
    "mattermost_db_password": "hunter2-db",
    "mattermost_smtp_password": "hunter2-smtp",
    "mattermost_admin_password": "hunter2-admin",
    "restic_password": "hunter2-restic",
    "backup_ed25519": "hunter2-ssh-key",
    "mattermost_drill_db_password": "hunter2-drill",
}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example with what its references point at."""
    folder = tmp_path / "inventories" / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("ssh", "secrets", "bin"):
        (folder / name).mkdir()
    for name in ("id_ed25519", "known_hosts", "backup_known_hosts"):
        (folder / "ssh" / name).touch(mode=0o600)
    for name, value in SECRETS.items():
        file = folder / "secrets" / name
        file.touch(mode=0o600)
        file.write_text(value + "\n")
    certificate, key = self_signed("chat.example.com")
    (folder / "secrets" / "chat.example.com.key").touch(mode=0o600)
    (folder / "secrets" / "chat.example.com.key").write_text(key)
    for name in ("chat.example.com.pem", "postgres-ca.pem"):
        (folder / name).write_text(certificate)
    (folder / "mattermost-plugin-gitlab-v1.10.0-linux-amd64.tar.gz").touch()
    (folder / "mattermost-team-10.11.8-linux-amd64.tar.gz.sha256").write_text(f"{'0' * 64}  mattermost.tar.gz\n")
    sops = folder / "bin" / "sops"
    sops.write_text('#!/bin/sh\nprintf "%s" "sops:$*"\n')
    sops.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    monkeypatch.setenv("GITLAB_INCOMING_EMAIL_PASSWORD", "hunter2-incoming")
    monkeypatch.setenv("GITLAB_ADMIN_TOKEN", "hunter2-api-token")
    return folder


def fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of a model and of the models in it, as a path; `*` stands for the keys of a mapping."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        yield from inner(field.annotation, (*path, name))


def inner(annotation: typing.Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from inner(part, path)
    elif origin is dict:
        yield from inner(typing.get_args(annotation)[1], (*path, "*"))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, path)


def stands(data: typing.Any, path: tuple[str, ...]) -> bool:
    if not path:
        return True
    if not isinstance(data, dict):
        return False
    if path[0] == "*":
        return any(stands(value, path[1:]) for value in data.values())
    return path[0] in data and stands(data[path[0]], path[1:])


def missing(data: typing.Any) -> list[str]:
    return [".".join(path) for path in fields(Site) if not stands(data, path)]


def test_every_field_of_every_model_stands_in_the_example(tmp_path: Path) -> None:
    # What cannot be said beside something else stands in a comment.
    other = tmp_path / "site.yml"
    other.write_text((EXAMPLE / "site.yml").read_text().replace("    # acme:", "    acme:"))
    assert missing(read(other).data) == []


def test_the_other_way_to_a_certificate_loads_too(example: Path) -> None:
    file = example / "site.yml"
    text = re.sub(r"(?m)^    (certificate: chat|key: !file secrets/chat).*\n", "", file.read_text())
    file.write_text(text.replace("    # acme:", "    acme:"))
    assert load(file).mattermost.proxy.acme.email == "admin@example.com"


def test_a_field_that_is_missing_in_the_example_is_found() -> None:
    data = read(EXAMPLE / "site.yml").data
    for node in data["nodes"].values():
        node.pop("url", None)
    del data["mail"]["service_desk_email"]["mailbox_name"]
    del data["service_desk"]["projects"]["mygroup/myproject"]["suffix"]
    assert missing(data) == [
        "nodes.*.url",
        "mail.service_desk_email.mailbox_name",
        "service_desk.projects.*.suffix",
        *(f"mattermost.proxy.acme{rest}" for rest in ("", ".directory", ".email")),
    ]


def test_every_model_and_field_is_documented() -> None:
    made = json.loads(schema.text())
    models = {"Site": made, **{name: model for name, model in made["$defs"].items() if "properties" in model}}
    assert len(models) > 20
    assert [name for name, model in {**models, **made["$defs"]}.items() if not model.get("description")] == []
    assert [
        f"{name}.{field}"
        for name, model in models.items()
        for field, value in model["properties"].items()
        if not value.get("description")
    ] == []


def test_the_example_loads(example: Path) -> None:
    site = load(example / "site.yml")
    assert site.rails_nodes == ["gitlab-1", "gitlab-2", "gitlab-3"]
    database = site.gitlab.settings["gitlab_rails"]["db_password"]
    assert site.secret(database).reveal() == 'sops:-d --extract ["db_password"] secrets.sops.yml'
    token = site.token("incoming_email")
    assert token is not None
    assert token.reveal() == SECRETS["incoming_email_token"]
    assert site.token("service_desk_email") is None
    assert site.token_path("service_desk_email") == example / "secrets" / "service_desk_email_token"
    # the comment beside the suffix promises this address
    assert list(site.service_desk_addresses().values()) == ["contact+mygroup-myproject-support@example.com"]


def test_the_groups_of_the_inventory(example: Path) -> None:
    groups = pyinfra_groups(example / "site.yml")
    assert {name: [host for host, _ in hosts] for name, hosts in groups.items()} == {
        "gitlab": ["gitlab-1", "gitlab-2", "gitlab-3", "gitaly-1"],
        "rails": ["gitlab-1", "gitlab-2", "gitlab-3"],
        "mail_reader": ["gitlab-1"],
        "mattermost": ["chat-1"],
        "mattermost_drill": ["spare-1"],
    }
    assert groups["mail_reader"][0][1] == {
        "ssh_hostname": "192.0.2.11",
        "ssh_user": "deploy",
        "ssh_port": 22,
        "_sudo": True,
        "ssh_key": str(example / "ssh" / "id_ed25519"),
        "ssh_known_hosts_file": str(example / "ssh" / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    }
    assert current().site == "example"


def debug_inventory(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("pyinfra")
    command = [str(program), "-y", str(folder / "inventory.py"), "debug-inventory"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_pyinfra_takes_the_inventory_and_sees_no_secret(example: Path) -> None:
    done = debug_inventory(example)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "192.0.2.21" in shown
    assert not any(value in shown for value in ("hunter2", *SECRETS.values()))


def test_pyinfra_ends_with_all_problems_and_without_a_traceback(example: Path) -> None:
    file = example / "site.yml"
    text = file.read_text().replace("reader: gitlab-1", "reader: gitaly-1").replace("suffix: support", "suffix: S!")
    file.write_text(text)
    done = debug_inventory(example)
    assert done.returncode == 1
    shown = done.stdout + done.stderr
    assert "2 problems" in shown
    assert "mail.reader" in shown
    assert "service_desk.projects.mygroup/myproject.suffix" in shown
    assert "Traceback" not in shown
    assert not (example / "pyinfra-debug.log").exists()


def test_the_schema_is_fresh() -> None:
    committed = schema.SCHEMA_FILE.read_text(encoding="utf-8")
    assert committed == schema.text(), "stale: run `uv run python -m roles.site.schema` and commit the file"


@pytest.mark.parametrize("site_file", sorted(ROOT.glob("inventories/*/site.yml")), ids=lambda p: p.parent.name)
def test_every_site_file_names_the_schema_and_no_path_of_this_machine(site_file: Path) -> None:
    first = site_file.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../site.schema.json"
    assert (site_file.parent / first.partition("=")[2]).resolve() == schema.SCHEMA_FILE
    assert str(ROOT) not in site_file.read_text()
