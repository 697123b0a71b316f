"""The lab: real machines in a network of their own, made in seconds and gone without a trace.

Each node is a systemd-nspawn container that boots systemd from an overlay on one root file system, on a bridge inside a
network namespace. Nothing leaves that namespace, so two labs (`LAB_NAME`) can run side by side.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.lab import image
from tests.lab.image import LAB, MACHINES, ROOT, run, say

CGROUPS = Path("/sys/fs/cgroup")
PORTS = {"lb-1": (80, 443, 14000), "mail-1": (25, 143, 993), "db-1": (5432,), "db-2": (5432,)}
"""What the lab's own machines serve, besides ssh."""
UNITS = {name: f"postgresql@{version}-main" for name, version in image.DATABASES.items()}
"""Units that are ready later than their ports: PostgreSQL then makes its administrator."""
NEEDED = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "dpkg-scanpackages": "dpkg-dev",
    "openssl": "openssl",
}
"""Commands that the lab runs on this machine, and their Debian packages."""
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
"""How many inotify instances one user of this machine may have, all nodes of all labs together."""
ENOUGH = 1024
"""A node's systemd and its services take about ten; the usual limit is 128, too few for two labs."""
REBOOT = 133
"""Exit code of systemd-nspawn when the container asked for a reboot."""

SHARED = "/var/opt/gitlab/standin-shared"
"""A folder that all nodes with GitLab have in common: what the database is to the real GitLab."""

# One per node. A reboot inside ends nspawn: it is started again, as a machine would. The node gets a cgroup of its own,
# or the systemds of two nodes would share one tree.
SUPERVISOR = f"""\
for tree in "$3"/systemd "$3"/unified "$3"; do
  if [ -w "$tree/cgroup.procs" ]; then mkdir -p "$tree/$4" && echo $$ > "$tree/$4/cgroup.procs"; fi
done
while :; do
  nsenter --net=/run/netns/"$1" systemd-nspawn --register=no --keep-unit --quiet --directory="$2/merged" \
    --machine="$5" --network-bridge="$6" --bind-ro="$7":/srv/debs ${{8:+--bind="$8":{SHARED}}} --boot --console=pipe \
    </dev/null >>"$2/console" 2>&1
  [ $? -eq {REBOOT} ] || exit
done"""


class Lab:
    """One lab. Methods return when what they name is done.

    Args:
        name: its name; default `LAB_NAME`, else derived from the checkout's path.
    """

    def __init__(self, name: str | None = None) -> None:
        checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
        self.name = name or os.environ.get("LAB_NAME") or "lab"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", self.name):
            raise SystemExit(f"LAB_NAME={self.name!r}: a lab's name has at most 20 small letters, digits and hyphens")
        self.folder = LAB / "labs" / self.name
        self.namespace = f"pg-{checkout}-{self.name}"
        self.bridge = "br0"

    # The lab as a whole

    @property
    def is_up(self) -> bool:
        """Whether the lab was started and not stopped."""
        return self.folder.exists()

    def up(self) -> None:
        """Start what is not running, and wait until every node takes ssh."""
        check_machine()
        if int(INOTIFY.read_text()) < ENOUGH:
            say(f"{INOTIFY} is set to {ENOUGH} until the next boot: it was too small for so many nodes")
            INOTIFY.write_text(str(ENOUGH))
        with image.locked(LAB / "lock"):
            bases = [image.root_file_system(suite) for suite in image.PACKAGES]
            image.keys()
            image.packages()
            image.releases()
            for base in bases:
                image.layer(base)
            self._up()

    def _up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        image.put(self.folder / "hosts", image.hosts())
        if not Path("/run/netns", self.namespace).exists():
            run("ip", "netns", "add", self.namespace)
            for command in (
                f"ip link add {self.bridge} type bridge",
                f"ip addr add {image.BRIDGE_ADDRESS}/24 dev {self.bridge}",
                f"ip link set {self.bridge} up",
                "ip link set lo up",
            ):
                run("nsenter", f"--net=/run/netns/{self.namespace}", *command.split())
        say(f"starting {len(MACHINES)} nodes")
        for name in MACHINES:
            if not self.leader(name):
                self._start(name)
        self.wait(*MACHINES, seconds=60 + 2 * len(MACHINES))
        say("the lab is up")

    def down(self) -> None:
        """Stop everything of this lab and remove it: processes, mounts, namespace, files."""
        with image.locked(LAB / "lock"):
            for name in MACHINES:
                self._stop(name)
            if Path("/run/netns", self.namespace).exists():
                for pid in run("ip", "netns", "pids", self.namespace).stdout.split():
                    kill(int(pid))  # left behind by a `lab run`
                run("ip", "netns", "del", self.namespace)
            if self.folder.exists():
                shutil.rmtree(self.folder)

    def status(self) -> dict[str, str]:
        """State of each node: `running`, `cut` or `off`."""
        out = {}
        for name in MACHINES:
            link = self._in_network("ip", "-o", "link", "show", f"vb-{name}") if self.leader(name) else None
            out[name] = "off" if link is None else ("running" if "state UP" in link.stdout else "cut")
        return out

    def wait(self, *names: str, seconds: float = 60) -> None:
        """Wait until these nodes take ssh connections, and the lab's own machines do their work.

        Raises:
            TimeoutError: naming those that do not, with the end of their console.
        """
        deadline = time.monotonic() + seconds
        left = list(names)
        while left:
            left = [name for name in left if not self._answers(name)]
            if left and time.monotonic() > deadline:
                console = (self.folder / left[0] / "console").read_text(errors="replace")[-1500:]
                raise TimeoutError(f"{', '.join(left)} not ready after {seconds} s; {left[0]} said:\n{console}")
            time.sleep(0.1)

    # One node

    def kill(self, name: str) -> None:
        """Switch a node off without warning."""
        self._stop(name, keep=True)

    def cut(self, name: str) -> None:
        """Pull a node's network cable."""
        self._in_network("ip", "link", "set", f"vb-{name}", "down").check_returncode()

    def heal(self, name: str) -> None:
        """Plug the cable in again, and switch the node on if it is off."""
        if self.leader(name):
            self._in_network("ip", "link", "set", f"vb-{name}", "up").check_returncode()
        else:
            self._start(name)
        self.wait(name)

    def reboot(self, name: str) -> None:
        """Reboot a node from inside, and wait until it is back."""
        before = self.leader(name)
        self.sh(name, "systemctl reboot", check=False)
        deadline = time.monotonic() + 60
        while self.leader(name) in (before, None) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.wait(name)

    def reset(self, *names: str) -> None:
        """Make nodes (default: all) new: as they were before anything was installed on them."""
        for name in names or MACHINES:
            self._stop(name)
        if {name for name in MACHINES if name.startswith("gitlab-")} <= set(names or MACHINES):
            shutil.rmtree(self.folder / "shared", ignore_errors=True)
        for name in names or MACHINES:
            self._start(name)
        self.wait(*(names or MACHINES), seconds=60 + 2 * len(names or MACHINES))

    def sh(self, name: str, script: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell script on a node as root, past its network.

        Raises:
            RuntimeError: when it fails and `check` is true.
        """
        leader = self.leader(name)
        if leader is None:
            raise RuntimeError(f"{name} is off")
        command = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wdns=/"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command += ["env", "-i", path, "HOME=/root", "LANG=C.UTF-8", "sh", "-c", script]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"on {name}: {script!r} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def leader(self, name: str) -> int | None:
        """Process id of the node's systemd, as seen from outside; None when the node is off."""
        for nspawn in children(self._pid(name)):
            for child in children(nspawn):
                if is_init(child):
                    return child
        return None

    # Commands in the lab's network

    def command(self, command: list[str]) -> list[str]:
        """The command line that runs `command` in the lab's network, with the lab's host names."""
        inner = 'mount --bind "$0" /etc/hosts && exec "$@"'
        unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", inner]
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *unshare, str(self.folder / "hosts"), *command]

    def run(self, command: list[str], stdin: str = "", timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab's network and catch what it prints."""
        environment = os.environ | {"LAB_NAME": self.name, "PYINFRA_PROGRESS": "off", "NO_COLOR": "1"}
        return subprocess.run(
            self.command(command), input=stdin, capture_output=True, text=True, env=environment, timeout=timeout,
            check=False, cwd=ROOT,
        )  # fmt: skip

    # How it is done

    def _in_network(self, *command: str) -> subprocess.CompletedProcess[str]:
        words = ["nsenter", f"--net=/run/netns/{self.namespace}", *command]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def _answers(self, name: str) -> bool:
        ports = (22, *PORTS.get(name, ()))
        script = " && ".join(f"(</dev/tcp/{MACHINES[name]}/{port})" for port in ports)
        if self._in_network("bash", "-c", script).returncode:
            return False
        unit = UNITS.get(name)
        return unit is None or self.sh(name, f"systemctl is-active --quiet {unit}", check=False).returncode == 0

    def _pid(self, name: str) -> int | None:
        try:
            pid = int((self.folder / name / "pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            return pid if str(self.folder / name) in words else None
        except (OSError, ValueError):
            return None

    def _start(self, name: str) -> None:
        folder = self.folder / name
        for part in ("upper", "work", "merged"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(folder / "merged"):
            base = image.root_file_system(image.SUITES.get(name, image.SUITE))
            lower = f"{image.layer(base)}:{base}"
            options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
            run("mount", "-t", "overlay", "overlay", "-o", options, folder / "merged")
        if not (folder / "furnished").exists():
            image.furnish(name, folder / "merged")
            (folder / "furnished").touch()
        shared = self.folder / "shared" if name.startswith(("gitlab-", "node-")) else ""
        if shared:
            shared.mkdir(parents=True, exist_ok=True)
        arguments = [self.namespace, folder, CGROUPS, self._cgroup(name), name, self.bridge, LAB / "debs", shared]
        supervisor = subprocess.Popen(
            ["sh", "-c", SUPERVISOR, "supervisor", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        (folder / "pid").write_text(str(supervisor.pid))

    def _stop(self, name: str, keep: bool = False) -> None:
        """Kill a node; without `keep` its disk is wiped too."""
        folder = self.folder / name
        supervisor = self._pid(name)
        tree = [supervisor, *children(supervisor)] if supervisor else []
        leader = self.leader(name)
        for pid in [*tree, leader]:
            if pid:
                kill(pid)
        for tree_name in ("systemd", "unified", "."):
            end_cgroup(CGROUPS / tree_name / self._cgroup(name))
        for pid in [*tree, leader]:
            deadline = time.monotonic() + 10
            while pid and alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        self._in_network("ip", "link", "del", f"vb-{name}")
        if os.path.ismount(folder / "merged"):
            run("umount", "--recursive", folder / "merged")
        if not keep and folder.exists():
            shutil.rmtree(folder)

    def _cgroup(self, name: str) -> str:
        return f"{self.namespace}-{name}"


def is_init(pid: int) -> bool:
    """Whether a process is number 1 in a process namespace of its own: a node's systemd, not nspawn's first child."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    return len(ids) > 1 and ids[-1] == "1"


def children(pid: int | None) -> list[int]:
    """Process ids of a process's children."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(pid: int) -> None:
    """SIGKILL, if the process is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours to bury, when this very process started it
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end_cgroup(path: Path) -> None:
    """Kill every process in a cgroup and below it, then remove it. (A node can outlive its nspawn.)"""
    if not path.is_dir() or path == CGROUPS:
        return
    deadline = time.monotonic() + 10
    while path.is_dir() and time.monotonic() < deadline:
        for folder, _, _ in sorted(os.walk(path), reverse=True):
            try:
                for word in Path(folder, "cgroup.procs").read_text().split():
                    kill(int(word))
                os.rmdir(folder)
            except OSError:
                time.sleep(0.01)  # the kernel is still burying processes


def check_machine() -> None:
    """Say what this machine lacks for a lab, and why.

    Raises:
        SystemExit: with everything that is missing.
    """
    missing = []
    if os.geteuid() != 0:
        missing.append("root: systemd-nspawn boots real systemd, and the network namespace needs it. Use sudo.")
    for command, package in NEEDED.items():
        if not shutil.which(command):
            missing.append(f"{command}: run `apt-get install {package}`, or `make demo`, which does it for you.")
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], capture_output=True, check=False)
        if "overlay" not in Path("/proc/filesystems").read_text():
            missing.append("overlayfs in the kernel: every node is a thin layer on one root file system.")
    if missing:
        raise SystemExit("The lab cannot run here. Missing:\n" + "\n".join(f"  - {item}" for item in missing))
