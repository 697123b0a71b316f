"""Nodes that are only simulated: what the product sends to them is interpreted, and written down in the order it came.

Built on pyinfra's `@fake` connector; takes the place of its ssh connector, so site files and deploys are the real
ones. The nodes live in a JSON file between two runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
from pyinfra.api import inventory as pyinfra_inventory
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from roles.mailroom import record
from roles.node import remote
from roles.node.remote import Held

KINDS = ("incoming_email", "service_desk_email")


PREFLIGHT = {
    "check": {"rc": 0, "said": []}, "node": True, "mattermost": {"used": False, "left": False}, "free": 10**8,
    "migrations": {"left": []},
}  # fmt: skip
"""What `preflight.rb` says of a node against whose upgrade nothing speaks."""


def bare_node() -> dict[str, Any]:
    """A node with the GitLab package and nothing configured."""
    return {"files": {}, "readers": [], "tokens": {}, "reconfigured": "", "broken": [], "modes": {}, "guard": False,
            "version": "18.11.11", "upgrade": None}  # fmt: skip


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
        if several := re.findall(r"base64 -d \| \(\n(.*?)\n\)\nrc=\$\?; printf '\\n(--\w+) %s", command, re.S):
            got = [
                self._one(name, script, base64.b64decode(given).decode())
                for (script, _), given in zip(several, stdin.splitlines(), strict=True)
            ]
            return True, "".join(f"{out}\n{several[0][1]} {0 if ok else 1}\n" for ok, out in got)
        if not command.startswith("note() {"):
            return self._one(name, command, stdin)
        if "\n# act 0\n" not in command:
            self._written(name, command.splitlines()[-1])
            return True, ""
        out = ""
        for number, act in enumerate(re.split(r"^# act \d+\n", command, flags=re.M)[1:]):
            script, _, after = act.rpartition("\n)\nrc=$?\n")
            script = script.removeprefix("(\n")
            ok, said = (True, "") if script == ":" else self._one(name, script, stdin)
            good, bad = after.splitlines()[1:], re.findall(r"then (did .*); printf", after)
            for line in filter(None, good if ok else bad):
                self._written(name, line)
            out += said
            if not ok:
                return False, f"{out}\nact {number}"
        return True, out

    def _written(self, name: str, line: str) -> None:
        self.nodes[name].setdefault("audit", []).append(json.loads(shlex.split(line)[-1]))
        self.save()

    def _one(self, name: str, command: str, stdin: str) -> tuple[bool, str]:
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
        if "\nask mailroom." in command:
            return "look", (True, _look(node, command))
        if "gitlab-ctl stop mailroom" in command:
            node["readers"] = []
            return "stop", (True, "")
        if "gitlab-ctl reconfigure" in command:
            what, result = _reconfigure(node)
            return ("upgrade reconfigure" if "SKIP_POST_DEPLOYMENT_MIGRATIONS=true" in command else what), result
        if "/upgrade.json" in command:
            node["upgrade"] = json.loads(stdin)
            return f"upgrade {node['upgrade']['phase']}", (True, "")
        if "ruby preflight.rb" in command:
            return "preflight", (True, json.dumps(PREFLIGHT))
        if "--download-only" in command:
            return "fetch", (True, "")
        if found := re.search(r" install gitlab-ee=([0-9.]+)-ee\.0 ", command):
            assert not any(other["readers"] for other in self.nodes.values()), "somebody reads"
            node["version"] = found.group(1)
            return "package", (True, "")
        if "gitlab-rake db:migrate" in command:
            assert len({other["version"] for other in self.nodes.values()}) == 1, "some have the old version"
            return "post-deployment migrations", (True, "")
        if "gitlab-ctl stop puma" in command:
            return "stop serving", (True, "")
        if "gitlab-ctl start puma" in command:
            return "serve", (True, "")
        if "gitlab-ctl start mailroom" in command:
            node["readers"] = node["readers"] or [4711]
            node["polled"] = json.dumps({"time": datetime.now(UTC).isoformat(), "action": "Getting new messages"})
            return "start", (True, "")
        if "stage " in command:
            paths = re.findall(r"^stage (\S+) \S+ (\d+)", command, re.M)
            for (path, mode), content in zip(paths, stdin.splitlines(), strict=True):
                node["files"][path] = base64.b64decode(content).decode()
                node["modes"][path] = mode
            if "/etc/gitlab/gitlab.rb" not in dict(paths):
                return "note", (True, "")
            return "install", (True, "")
        if "ruby evidence.rb" in command:
            return "logs", (
                True,
                json.dumps({kind: {"since": None, "started": None, "mails": {}} for kind in json.loads(stdin)}),
            )
        if "ruby recover.rb" in command:
            return "mailboxes", (True, json.dumps({kind: {"validity": 1, "mails": []} for kind in json.loads(stdin)}))
        if "/-/readiness" in command:
            down = [node["sick"]] if node.get("sick") else []
            return "health", (True, json.dumps({"services": 3, "down": down}))
        if "/drained" in command:
            node["drained"] = "touch" in command
            return "drained", (True, "")
        if "systemctl enable" in command:
            node["guard"] = True
            return "guard", (True, "")
        if command.startswith("install -d"):
            return "folder", (True, "")
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


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _reconfigure(node: dict[str, Any]) -> tuple[str, tuple[bool, str]]:
    text = node["files"]["/etc/gitlab/gitlab.rb"]
    on = "mailroom['enable'] = true" in text
    node["tokens"] = {
        kind: _sum(found.group(1))
        for kind in KINDS
        if (found := re.search(rf"mailroom\['{kind}_auth_token'\] = '([^']+)'", text))
    }
    node["readers"] = (node["readers"] or [4711]) if on else []
    read = f"gitlab-ee {node['version']}\n{_sum(text)}  /etc/gitlab/gitlab.rb\n"
    node["reconfigured"] = _sum(read)
    return f"reconfigure, mail_room {'on' if on else 'off'}", (True, "")


def _look(node: dict[str, Any], command: str) -> str:
    mark = re.search(r"^mark=(\S+);", command, re.M)
    paths = re.search(r"^files (.*)$", command, re.M)
    assert mark
    found = {path: node["files"][path] for path in shlex.split(paths[1]) if path in node["files"]} if paths else {}
    said = ["files" + "".join(f"\n{path}\tregular file\t{node['modes'][path]}\troot\troot" for path in found)]
    said += ["sums" + "".join(f"\n{_sum(text)}  {p}" for p, text in found.items())]
    answers = {
        "gitlab.version": f"gitlab-ee {node['version']}" if node["version"] else "",
        "gitlab.upgrade": json.dumps(node["upgrade"]) if node["upgrade"] else "",
        "gitlab.reconfigured": node["reconfigured"],
        "gitlab.free_kib": "9000000",
        "mailroom.readers": "\n".join(map(str, node["readers"])),
        "gitlab.drained": "yes" if node.get("drained") else "",
        "mailroom.polled": node.get("polled", ""),
        "mailroom.record": node["files"].get(record.PATH, ""),
        "mailroom.guard": "active\nenabled\nenabled" if node["guard"] else "inactive\ndisabled\ndisabled",
        **{f"mailroom.token.{kind}": sha for kind, sha in node["tokens"].items()},
    }
    for key in re.findall(r"^ask (\S+)", command, re.M):
        text = answers.get(key, "")
        said += [f"ask {key}\n{text}", f"rc {0 if text or key == 'mailroom.readers' else 1}"]
    said += [f"clock {time.time()}", "end"]
    return base64.b64encode("".join(f"\n{mark[1]} {part}\n" for part in said).encode()).decode()


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
            said = [OutputLine("stdout", line) for line in out.splitlines()]
            ends = [line.rpartition(" ")[0] for line in re.findall(r"^--\w+ \d$", out, re.M)]  # of several commands
            return ok, CommandOutput(said + [OutputLine("stderr", line) for end in ends for line in ("", end)])

    def hold(host: Any, command: str) -> Held:
        """The lock of a node: `locked` says who has it."""
        held = world.nodes[host.name].get("locked")
        world.log.append([host.name, "busy" if held else "lock"])
        world.save()
        return Held(host, None, "busy" if held else "held", held or "")

    remote.hold = hold
    pyinfra_inventory.get_execution_connectors = lambda: {"ssh": Simulated}  # type: ignore[attr-defined]
