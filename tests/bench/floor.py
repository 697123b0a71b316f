"""The floor: one question to every node over OpenSSH, all at once: `python -m tests.bench.floor FOLDER NODES...`

FOLDER holds the question (`question`), and the sockets of connections that stand already. Prints three numbers: seconds
with fresh connections and paramiko's key exchange, with OpenSSH's own (slower, post-quantum), and with connections that
stood already.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.image import LAB, MACHINES

_SSH = ["ssh", "-F", "none", "-i", str(LAB / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={LAB / 'ssh/known_hosts'}"]
_SSH += ["-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"]


CURVE = ("-o", "KexAlgorithms=curve25519-sha256")
"""paramiko's key exchange."""


def words(folder: Path, node: str, mux: bool, *more: str) -> list[str]:
    """The command line of ssh."""
    path = f"ControlPath={folder}/{node}.sock" if mux else "ControlPath=none"
    return [*_SSH, "-o", path, *more, f"root@{MACHINES[node]}"]


def asked(folder: Path, nodes: list[str], mux: bool, *more: str) -> float:
    """Ask every node, and wait for all answers; returns seconds."""
    question = (folder / "question").read_bytes()
    started = time.monotonic()
    running = []
    for node in nodes:
        command = [*words(folder, node, mux, *more), "sh -s"]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert one.stdin
        one.stdin.write(question)
        one.stdin.close()
        running.append(one)
    for one in running:
        assert one.stdout
        assert base64.b64decode(one.stdout.read()).endswith(b" end\n")
        assert one.wait() == 0
    return time.monotonic() - started


if __name__ == "__main__":
    place, names = Path(sys.argv[1]), sys.argv[2:]
    fresh, usual = asked(place, names, False, *CURVE), asked(place, names, False)
    for name in names:
        subprocess.run(words(place, name, True, "-o", "ControlMaster=yes", "-fN"), check=True)
    try:
        print(fresh, usual, asked(place, names, True))
    finally:
        for name in names:
            subprocess.run(words(place, name, True, "-O", "exit"), check=False, capture_output=True)
