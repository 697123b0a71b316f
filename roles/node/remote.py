"""Run a command on a node without showing its input or output, and read all nodes at once.

pyinfra prints commands at `-vv` and output at `-vvv`; what goes through here is printed at no verbosity,
so secrets may be in standard input and standard output.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import gevent
from gevent.lock import Semaphore
from paramiko import SSHException
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import get_fact
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_host

from roles.node.bundle import Bundle
from roles.node.facts import Look, NodeFact, NodeState

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a command on a node ended. `repr` hides the output."""

    ok: bool
    """Exit code 0."""
    stdout: str = field(repr=False)
    """Standard output."""
    stderr: str = field(repr=False)
    """Standard error, or why the command could not be run."""


def run(host: Host, command: str, stdin: str = "", note: str | None = None, every: float = 15.0) -> Result:
    """Run `command` on `host`, as root when the site says `sudo`; print nothing of it.

    Args:
        host: pyinfra's host; connected on demand.
        command: POSIX shell; visible in the node's process list, so no secret may be in it.
        stdin: fed to the command; may hold secrets.
        note: if given, a progress line with this text and the seconds passed, every `every` seconds.
        every: seconds between progress lines.
    """
    try:
        with _told(host, note, every):
            if not host.connected:
                host.connect(raise_exceptions=True)
            _at_once(host)
            arguments: dict[str, Any] = {"_sudo": True} if host.data.get("_sudo") else {}
            if stdin:
                arguments["_stdin"] = stdin
            ok, output = host.run_shell_command(command, print_output=False, print_input=False, **arguments)
            return Result(ok, output.stdout, output.stderr)
    except (TimeoutError, OSError, SSHException, EOFError, PyinfraError) as error:
        return Result(False, "", f"the connection to {host.name} failed: {error}")


def several(host: Host, asked: Sequence[tuple[str, str]], note: str | None = None) -> list[Result]:
    """Run several commands on `host` one after the other, by one command: a round trip instead of several.

    Args:
        asked: each command with its standard input, as for `run`.
        note: as for `run`.
    """
    mark = f"--{secrets.token_hex(8)}"
    lines = []
    for command, _ in asked:
        lines.append(f'IFS= read -r input; printf %s "$input" | base64 -d | (\n{command}\n)')
        lines.append(f"rc=$?; printf '\\n{mark} %s\\n' $rc; printf '\\n{mark}\\n' >&2")
    given = "\n".join(base64.b64encode(stdin.encode()).decode() for _, stdin in asked)
    got = run(host, "\n".join(lines), given, note)
    outputs = re.split(rf"\n{mark} (\d+)(?:\n|\Z)", got.stdout)
    errors = re.split(rf"\n{mark}(?:\n|\Z)", got.stderr)
    if len(outputs) != 2 * len(asked) + 1 or len(errors) != len(asked) + 1:
        return [Result(False, "", got.stderr or "it was cut off")] * len(asked)
    ended = zip(outputs[:-1:2], outputs[1::2], errors[:-1], strict=True)
    return [Result(code == "0", stdout, stderr) for stdout, code, stderr in ended]


def _at_once(host: Host) -> None:
    """Let what we send to a node go out at once.

    paramiko (4.0) leaves Nagle's algorithm on, which waits for the node's delayed acknowledgement: 40 ms per command.
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(host: Host, file: Path, path: str, note: str, every: float = 15.0) -> Result:
    """Write a large file of this machine to `path` on `host` (mode 0600), without a copy anywhere on the way.

    pyinfra's own upload goes through /tmp on the node when the site says `sudo` (3.10), which may be small.

    Args:
        note: what the progress lines say.
    """
    command = f"umask 077; cat > {shlex.quote(path)}"
    if host.data.get("_sudo"):
        command = f"sudo -H -n sh -c {shlex.quote(command)}"
    size, sent = file.stat().st_size, 0
    try:
        if not host.connected:
            host.connect(raise_exceptions=True)
        transport = host.connector.client.get_transport()  # type: ignore[attr-defined]
        with _told(host, lambda: f"{note}: {sent * 100 // max(size, 1)} %", every), file.open("rb") as content:
            channel = transport.open_session()
            channel.exec_command(command)
            try:
                while block := content.read(256 * 1024):
                    channel.sendall(block)
                    sent += len(block)
                channel.shutdown_write()
            except OSError:
                pass  # the command ended early; it says why
            why = channel.makefile_stderr().read().decode(errors="replace")
            ok = channel.recv_exit_status() == 0 and sent == size
            return Result(ok, "", why or "it did not arrive whole")
    except (TimeoutError, OSError, SSHException, EOFError, PyinfraError) as error:
        return Result(False, "", f"the connection to {host.name} failed: {error}")


class Held:
    """A command on a node that goes on until we end it, or our connection ends."""

    def __init__(self, host: Host, channel: Any, said: str, more: str) -> None:
        self.host = host
        self.said = said
        """Its first line."""
        self.more = more
        """What else it said, when it has ended by itself."""
        self._channel = channel

    @property
    def broken(self) -> bool:
        """It ended, though our connection stands."""
        channel = self._channel
        return bool(channel and channel.exit_status_ready() and channel.get_transport().is_active())

    def end(self) -> None:
        """Let it end."""
        if self._channel:
            self._channel.close()


def hold(host: Host, command: str) -> Held:
    """Start a command that says a line and then waits for the end of its standard input."""
    if host.data.get("_sudo"):
        command = f"sudo -H -n sh -c {shlex.quote(command)}"
    try:
        if not host.connected:
            host.connect(raise_exceptions=True)
        channel = host.connector.client.get_transport().open_session()  # type: ignore[attr-defined]
        channel.exec_command(command)
        output = channel.makefile("rb")
        said = output.readline().decode(errors="replace").strip()
        rest = b"" if said == "held" else output.read() + channel.makefile_stderr("rb").read()
        return Held(host, channel, said, rest.decode(errors="replace").strip())
    except (TimeoutError, OSError, SSHException, EOFError, PyinfraError) as error:
        return Held(host, None, "", f"the connection to {host.name} failed: {error}")


@contextmanager
def _told(host: Host, note: str | Callable[[], str] | None, every: float) -> Iterator[None]:
    """A progress line every `every` seconds while the context lasts; none without a note."""
    started = time.monotonic()

    def tick() -> None:
        while True:
            gevent.sleep(every)
            host.log(f"{note() if callable(note) else note} ({time.monotonic() - started:.0f} s)")

    ticker = gevent.spawn(tick) if note else None
    try:
        yield
    finally:
        if ticker:
            ticker.kill()


def look(state: State, host: Host, bundle: Bundle) -> NodeState | str:
    """Read one node: its state, or the reason why it could not be read."""
    _at_once(host)
    started = time.time()
    try:
        found: NodeState | None = get_fact(
            state, host, NodeFact, kwargs={"look": Look(bundle)}, apply_failed_hosts=False
        )
    except (PyinfraError, ValueError, OSError, SSHException, EOFError) as error:
        return str(error) or type(error).__name__
    ended = time.time()
    if found is None:
        return "the node did not answer the question (see above)"
    middle = (started + ended) / 2
    return replace(found, clock_offset=found.clock - middle, clock_error=(ended - started) / 2)


def look_all(state: State, bundles: Mapping[str, Bundle]) -> dict[str, NodeState | str]:
    """Read every node of `bundles` at the same time, whether or not `--limit` selected it.

    A node that was found unreachable earlier in this run is not tried again.
    """

    def one(host: Host) -> NodeState | str:
        if host in state.failed_hosts and not host.connected:
            return "it could not be reached"
        with ctx_host.use(host):
            return look(state, host, bundles[host.name])

    hosts = [host for host in state.inventory if host.name in bundles]
    jobs = {host.name: gevent.spawn(one, host) for host in hosts}
    gevent.joinall(list(jobs.values()))
    found: dict[str, NodeState | str] = {name: job.get() for name, job in jobs.items()}
    return found


class Once(Generic[T]):
    """Compute something once per run, whichever node's greenlet comes first; the others wait for it.

    pyinfra loads a deploy file in one greenlet per node; a plan for the whole site must be made once.
    A failure is remembered too and raised for every node.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = Semaphore()
        self._value: list[T] = []
        self._error: Exception | None = None

    def get(self) -> T:
        """The value; the first caller makes it."""
        with self._lock:
            if self._error:
                raise self._error
            if not self._value:
                try:
                    self._value.append(self._make())
                except Exception as error:
                    self._error = error
                    raise
            return self._value[0]
