"""A fleet of lab nodes for the benchmark of speed: its site, the same for Ansible, and how a run is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from roles.gitlab.facts import FINGERPRINT, STAMP
from roles.gitlab.render import config_file
from roles.mailroom import guard, record
from roles.mailroom.facts import READERS
from roles.mailroom.record import Record
from roles.node.bundle import File
from roles.node.facts import Look
from roles.rollout.run import bundles
from roles.site.load import load
from roles.site.models import Site
from tests.lab.image import LAB, MACHINES
from tests.lab.lab import Lab
from tests.lab.site import ROOT

PLAYBOOK = Path(__file__).with_name("playbook.yml")


@dataclass(frozen=True)
class Measure:
    """What one run took."""

    seconds: float
    """Wall clock."""
    cpu: float
    """Seconds of CPU on this side: the command and the processes that it waited for."""
    memory: float
    """MB at most, of its largest process."""
    control: float
    """Seconds during which a gitlab-ctl ran on any node."""
    kilobytes: float
    """Sent and received, per node."""
    sessions: int
    """SSH sessions on the last node."""


class Fleet:
    """The first `count` of the bench's nodes as one site."""

    def __init__(self, lab: Lab, folder: Path, count: int) -> None:
        self.lab, self.count = lab, count
        self.rails = -(-count // 3)
        self.nodes = [f"node-{number}" for number in range(1, count + 1)]
        self.folder = folder / f"site-{count}"
        self.number = 0
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        source = (ROOT / "inventories/lab/inventory.py").read_text()
        (self.folder / "inventory.py").write_text("".join(source.partition("rails = ")[:1]))
        ssh = {"ssh_user": "root", "ssh_key": f"{LAB}/ssh/id_ed25519", "ssh_strict_host_key_checking": "yes"}
        ssh["ssh_known_hosts_file"] = f"{LAB}/ssh/known_hosts"
        plain = [(name, {"ssh_hostname": MACHINES[name], **ssh}) for name in self.nodes]
        (self.folder / "plain.py").write_text(f"nodes = {plain!r}\n")
        self.say(0)

    def say(self, number: int) -> None:
        """Write the site file; `number` is in a setting of every node."""
        self.number = number
        secrets = LAB / "secrets"
        lines = ["site: bench", f"ssh: {{user: root, key: {LAB}/ssh/id_ed25519, known_hosts: {LAB}/ssh/known_hosts}}"]
        lines += ["nodes:"]
        for place, name in enumerate(self.nodes):
            role = "application" if place < self.rails else "gitaly"
            lines.append(f"  {name}: {{address: {MACHINES[name]}, roles: [{role}]}}")
        lines += ["gitlab:", "  version: 18.11.11", "  package: {install: true}", "  config: whole"]
        lines += ["  external_url: http://node-1", "  settings:", "    nginx: {listen_port: 80, listen_https: false}"]
        lines += [f"    gitlab_rails: {{monitoring_whitelist: [127.0.0.0/8, 192.0.2.{number}/32]}}"]
        lines += ["mail:", "  reader: node-1"]
        for kind, user in (("incoming_email", "incoming"), ("service_desk_email", "servicedesk")):
            lines += [f"  {kind}:", f'    address: "{user}+%{{key}}@lab.test"', f"    user: {user}@lab.test"]
            lines += [f"    password: !file {secrets}/{kind}_password", "    host: mail.lab.test"]
        lines += ["  tokens: {incoming_email: !file token-1, service_desk_email: !file token-2}"]
        (self.folder / "site.yml").write_text("\n".join(lines) + "\n")

    @property
    def site(self) -> Site:
        """The site, loaded."""
        return load(self.folder / "site.yml")

    def question(self) -> bytes:
        """What the product asks the last node when it looks."""
        site, name = self.site, self.nodes[-1]
        file = config_file(site, name, False, {})
        return Look(bundles(site, {name: file}, {})[name]).script.encode()

    def for_ansible(self) -> None:
        """The inventory, and the very files that the product would write, for each node."""
        site, lines = (
            self.site,
            ["[all:vars]", "ansible_user=root", f"ansible_ssh_private_key_file={LAB}/ssh/id_ed25519"],
        )
        tokens = {kind: token for kind in site.webhook_mailboxes if (token := site.token(kind))}
        known = Record(**json.loads(self.lab.sh("node-1", f"cat {record.PATH}").stdout))
        folder = self.folder / "files"
        shutil.rmtree(folder, ignore_errors=True)
        quiet: list[File] = []
        for name in self.nodes:
            (folder / name).mkdir(parents=True)
            (folder / name / "gitlab.rb").write_bytes(config_file(site, name, name == "node-1", tokens).content)
            if site.nodes[name].rails:
                quiet = [*record.files(site, known), *guard.files(site, name)]
                for file in quiet:
                    path = folder / name / file.path.lstrip("/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(file.content)
        lines += ["[all]", *(f"{name} ansible_host={MACHINES[name]}" for name in self.nodes)]
        lines += ["[rails]", *site.rails_nodes, "[reader]", "node-1"]
        (self.folder / "hosts.ini").write_text("\n".join(lines) + "\n")
        told: dict[str, object] = {"files": str(folder), "stamp": STAMP, "fingerprint": FINGERPRINT, "readers": READERS}
        told["quiet"] = [{"path": f.path, "mode": f"{f.mode:04o}"} for f in quiet]
        (self.folder / "vars.json").write_text(json.dumps(told))

    def bare(self) -> None:
        """Nodes with the package and nothing configured; and with Python, which Ansible needs and ours does not."""
        self.lab.reset(*self.nodes)
        packages = f"python3 gitlab-ee={self.site.gitlab.package_version}"
        script = f"apt-get update -qq && apt-get install -yqq --no-install-recommends {packages} >/dev/null"
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: self.lab.sh(name, script), self.nodes))

    def ours(self, *words: str) -> Measure:
        """Run the product."""
        return self.pyinfra("inventory.py", *words)

    def pyinfra(self, inventory: str, *words: str) -> Measure:
        """Run pyinfra."""
        return self.measure(
            [str(Path(sys.executable).with_name("pyinfra")), "-y", str(self.folder / inventory), *words]
        )

    def ansible(self, *words: str) -> Measure:
        """Run Ansible, with all that makes it fast: pipelining, as many forks as nodes, connections that are kept."""
        sockets = self.folder / "cp"
        shutil.rmtree(sockets, ignore_errors=True)  # each run makes its connections, as ours does
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts.ini")]
        command += ["-f", str(self.count), "-e", f"@{self.folder / 'vars.json'}", *words, str(PLAYBOOK)]
        known = f"-o UserKnownHostsFile={LAB}/ssh/known_hosts -o ControlMaster=auto -o ControlPersist=60s"
        more = {"ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_ARGS": known, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets)}
        more |= {"ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3", "ANSIBLE_NOCOLOR": "1"}
        try:
            return self.measure(command, more)
        finally:
            for one in sockets.glob("*") if sockets.exists() else ():
                exit_ = ["ssh", "-o", f"ControlPath={one}", "-O", "exit", "any"]
                subprocess.run(exit_, capture_output=True, check=False)

    def measure(self, command: list[str], more: dict[str, str] | None = None) -> Measure:
        """Run a command in the lab's network; it must succeed."""
        bytes_before, began = self._bytes(), time.time()
        said = self.folder / "said"
        environment = (
            os.environ | {"LAB_NAME": self.lab.name, "PYINFRA_PROGRESS": "off", "NO_COLOR": "1"} | (more or {})
        )
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # no operator has it, and it costs both half a second
        started = time.monotonic()
        with said.open("w") as out:
            running = subprocess.Popen(self.lab.command(command), stdout=out, stderr=out, env=environment, cwd=ROOT)
            _, status, usage = os.wait4(running.pid, 0)
        took = time.monotonic() - started
        running.returncode = os.waitstatus_to_exitcode(status)
        assert running.returncode == 0, said.read_text()[-3000:]
        sent = (self._bytes() - bytes_before) / 1000 / self.count
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000
        return Measure(took, cpu, memory, self._control(began), sent, self._sessions(began))

    def _bytes(self) -> int:
        show = ["nsenter", f"--net=/run/netns/{self.lab.namespace}", "ip", "-j", "-s", "link"]
        links = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        wanted = {f"vb-{name}" for name in self.nodes}
        return sum(one["stats64"][way]["bytes"] for one in links if one["ifname"] in wanted for way in ("rx", "tx"))

    def _control(self, began: float) -> float:
        spans = []
        for name in self.nodes:
            file = self.lab.folder / name / "upper/var/log/gitlab-ctl.times"
            for line in file.read_text().splitlines() if file.exists() else ():
                start, end = map(float, line.split())
                if start >= began:
                    spans.append((start, end))
        total, until = 0.0, 0.0
        for start, end in sorted(spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def _sessions(self, began: float) -> int:
        script = f"journalctl -u ssh --since=@{began:.0f} -o cat | grep -c 'Starting session' || true"
        return int(self.lab.sh(self.nodes[-1], script).stdout)
