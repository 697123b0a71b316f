"""pyinfra, with the commands that it has executed over SSH counted: `python -m tests.lab.counted FILE WORDS...`.

FILE gets one line of JSON for each command: the address of the node, and the command's beginning. It is written at
once: a run that fails may leave no time for more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyinfra_cli.main import main


def count(file: Path) -> None:
    """Count from now on."""
    import paramiko  # only now: pyinfra has patched what paramiko builds on

    file.touch()
    execute = paramiko.Channel.exec_command

    def counted(channel: paramiko.Channel, command: str | bytes) -> None:
        text = command.decode() if isinstance(command, bytes) else command
        transport = channel.get_transport()
        with file.open("a") as lines:
            lines.write(json.dumps([transport.getpeername()[0], text[:2000]]) + "\n")
        execute(channel, command)

    paramiko.Channel.exec_command = counted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    count(Path(sys.argv.pop(1)))
    sys.argv[0] = "pyinfra"
    main()
