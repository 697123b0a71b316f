"""pyinfra, with the commands that it has executed over SSH counted: `python -m tests.lab.counted FILE WORDS...`.

FILE gets one JSON object: address of a node -> the first line of each command that was executed there.
"""

from __future__ import annotations

import atexit
import json
import sys
from pathlib import Path

from pyinfra_cli.main import main

_executed: dict[str, list[str]] = {}


def count(file: Path) -> None:
    """From now on; what was counted is written when this process ends."""
    import paramiko  # only now: pyinfra has patched what paramiko builds on

    execute = paramiko.Channel.exec_command

    def counted(channel: paramiko.Channel, command: str | bytes) -> None:
        text = command.decode() if isinstance(command, bytes) else command
        transport = channel.get_transport()
        _executed.setdefault(transport.getpeername()[0], []).append(text[:2000])
        execute(channel, command)

    paramiko.Channel.exec_command = counted  # type: ignore[method-assign, assignment]
    atexit.register(lambda: file.write_text(json.dumps(_executed)))


if __name__ == "__main__":
    count(Path(sys.argv.pop(1)))
    sys.argv[0] = "pyinfra"
    main()
