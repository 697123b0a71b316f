"""`uv run lab`: start, stop and disturb the lab by hand."""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab import mail
from tests.lab.image import LAB, MACHINES
from tests.lab.lab import Lab


def main() -> None:
    """Entry point of `lab`."""
    parser = argparse.ArgumentParser(prog="lab", description="The lab: real machines in a network of their own.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running")
    commands.add_parser("down", help="stop and remove everything of this lab")
    commands.add_parser("status", help="state of each node")
    run = commands.add_parser("run", help="run a command in the lab's network: lab run -- CMD ...")
    run.add_argument("words", nargs=argparse.REMAINDER)
    ssh = commands.add_parser("ssh", help="log in to a node, or run a command on it")
    ssh.add_argument("node", choices=MACHINES)
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    for name, text in (
        ("kill", "switch a node off without warning"),
        ("cut", "pull its network cable"),
        ("heal", "plug it in again, switch it on if it is off"),
        ("reboot", "reboot it from inside"),
    ):
        commands.add_parser(name, help=text).add_argument("node", choices=MACHINES)
    commands.add_parser("reset", help="make nodes new").add_argument("nodes", nargs="*")
    send = commands.add_parser("mail", help="send a mail by SMTP")
    send.add_argument("--to", default="incoming+mygroup-myproject@lab.test")
    send.add_argument("--subject", default="Hello from the lab")
    given = parser.parse_args()
    lab = Lab()
    if given.command not in ("up", "down", "status") and not lab.is_up:
        sys.exit("The lab is not up. Start it: uv run lab up")
    match given.command:
        case "up":
            lab.up()
        case "down":
            lab.down()
        case "status":
            for name, state in lab.status().items():
                print(f"{name:10} {MACHINES[name]:14} {state}")
        case "run":
            enter(lab, given.words)
        case "ssh":
            options = ["-i", str(LAB / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={LAB / 'ssh/known_hosts'}"]
            enter(lab, ["ssh", *options, f"root@{given.node}", *given.words])
        case "reset":
            lab.reset(*given.nodes)
        case "mail":
            print(mail.send(lab, given.to, given.subject))
        case other:
            getattr(lab, other)(given.node)


def enter(lab: Lab, words: list[str]) -> None:
    """Become a command in the lab's network."""
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        sys.exit("lab run: name a command, as in: lab run -- ping -c 1 gitlab-1")
    os.environ["LAB_NAME"] = lab.name
    command = lab.command(words)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
