"""Nodes that are only simulated: what the product sends to them is interpreted, and written down in the order it came.

Built on pyinfra's `@fake` connector; takes the place of its ssh connector, so site files and deploys are the real
ones. The nodes live in a JSON file between two runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gevent
from pyinfra.api import inventory as pyinfra_inventory
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

KINDS = ("incoming_email", "service_desk_email")


def bare_node() -> dict[str, Any]:
    """A node with the GitLab package and nothing configured."""
    return {"files": {}, "readers": [], "tokens": {}, "reconfigured": False, "broken": []}


class World:
    """All simulated nodes. `log` is what was done to them: [node, what]; looks and probes are in it too."""

    def __init__(self, path: Path, names: Iterable[str] = ()) -> None:
        self.path = path
        if names:
            self.nodes = {name: bare_node() for name in names}
            self.log: list[list[str]] = []
            self.save()
        else:
            read = json.loads(path.read_text())
            self.nodes, self.log = read["nodes"], read["log"]

    def save(self) -> None:
        """Keep it for the next process."""
        self.path.write_text(json.dumps({"nodes": self.nodes, "log": self.log}))

    def act(self, name: str, command: str, stdin: str) -> tuple[bool, str]:
        """Do what a command would do on a real node; returns success and standard output."""
        what, (ok, out) = self._act(name, command, stdin)
        self.log.append([name, what])
        assert sum(len(node["readers"]) for node in self.nodes.values()) <= 1 or what in ("look", "stop"), (
            f"two readers after {what} on {name}"
        )
        self.save()
        return ok, out

    def _act(self, name: str, command: str, stdin: str) -> tuple[str, tuple[bool, str]]:
        node = self.nodes[name]
        for what in node["broken"]:
            if what in command:
                return f"{what} failed", (False, "")
        if "ask mailroom.readers" in command:
            return "look", (True, _look(node, command))
        if "gitlab-ctl stop mailroom" in command:
            node["readers"] = []
            return "stop", (True, "")
        if "gitlab-ctl reconfigure" in command:
            return _reconfigure(node)
        if "gitlab-ctl start mailroom" in command:
            node["readers"] = node["readers"] or [4711]
            return "start", (True, "")
        if "stage " in command:
            path = re.findall(r"^stage (\S+)", command, re.M)[0]
            node["files"][path] = base64.b64decode(stdin.splitlines()[0]).decode()
            node["reconfigured"] = False
            return "install", (True, "")
        if stdin and "routes" in json.loads(stdin):
            asked = json.loads(stdin)
            answer = {
                "routes": {r["name"]: {"wrong": 401, "right": 200} for r in asked["routes"]},
                "mailboxes": {
                    k: node.get("mailbox", {"ok": True, "unseen": 0, "stuck": 0}) for k in asked["mailboxes"]
                },
            }
            return "probe", (True, json.dumps(answer))
        raise AssertionError(f"{name} was sent something unknown: {command[:200]}")


def _reconfigure(node: dict[str, Any]) -> tuple[str, tuple[bool, str]]:
    text = node["files"]["/etc/gitlab/gitlab.rb"]
    on = "mailroom['enable'] = true" in text
    node["tokens"] = {
        kind: hashlib.sha256(found.group(1).encode()).hexdigest()
        for kind in KINDS
        if (found := re.search(rf"mailroom\['{kind}_auth_token'\] = '([^']+)'", text))
    }
    node["readers"] = (node["readers"] or [4711]) if on else []
    node["reconfigured"] = True
    return f"reconfigure, mail_room {'on' if on else 'off'}", (True, "")


def _look(node: dict[str, Any], command: str) -> str:
    lines = []
    for number, path in re.findall(r"^file (\d+) (\S+)$", command, re.M):
        if (text := node["files"].get(path)) is None:
            lines.append(f"file\t{number}\tabsent")
        else:
            sha = hashlib.sha256(text.encode()).hexdigest()
            lines.append(f"file\t{number}\tregular file\t600\troot\troot\t{sha}")
    answers = {
        "gitlab.version": "gitlab-ee 18.11.11",
        "gitlab.reconfigured": "yes" if node["reconfigured"] else "",
        "gitlab.free_kib": "9000000",
        "mailroom.readers": "\n".join(map(str, node["readers"])),
        **{f"mailroom.token.{kind}": sha for kind, sha in node["tokens"].items()},
    }
    for key in re.findall(r"^ask (\S+)", command, re.M):
        text = answers.get(key, "")
        encoded = base64.b64encode(f"{text}\nrc={0 if text or key == 'mailroom.readers' else 1}".encode()).decode()
        lines.append(f"answer\t{key}\t{encoded}")
    return "\n".join([*lines, f"clock\t{time.time()}"])


def use(path: Path) -> None:
    """From now on every node of this process is one of the world kept in `path`."""
    world = World(path)

    class Simulated(FakeConnector):
        """In the place of ssh."""

        data_cls = SSHConnector.data_cls
        data_meta = SSHConnector.data_meta

        def connect(self) -> None:
            if world.nodes[self.host.name].get("off"):
                raise ConnectError("no route to host")

        def run_shell_command(self, command: Any, *_: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
            gevent.sleep(0.01 if self.host.name.endswith("1") else 0)  # nodes are not equally quick
            text = command if isinstance(command, str) else command.get_raw_value()
            ok, out = world.act(self.host.name, text, arguments.get("_stdin") or "")
            return ok, CommandOutput([OutputLine("stdout", line) for line in out.splitlines()])

    pyinfra_inventory.get_execution_connectors = lambda: {"ssh": Simulated}  # type: ignore[attr-defined]
