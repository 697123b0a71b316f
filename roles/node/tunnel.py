"""Reach a server through a node: a port here that ends at the server, over the SSH connection that is there anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.server import StreamServer
from paramiko import SSHException
from pyinfra.api.host import Host

from roles.site.errors import StepError


@contextmanager
def tunnel(host: Host, server: str, port: int) -> Iterator[int]:
    """A port on 127.0.0.1 that leads to `server:port` as `host` sees it, while the context lasts.

    Raises:
        StepError: when the node lets nothing through (AllowTcpForwarding in its sshd_config).
    """
    if not host.connected:
        host.connect(raise_exceptions=True)
    transport = host.connector.client.get_transport()  # type: ignore[attr-defined]
    try:
        transport.open_channel("direct-tcpip", (server, port), ("127.0.0.1", 0), timeout=10).close()
    except SSHException as error:
        raise StepError(f"{server}:{port} cannot be reached through {host.name}: {error}") from None

    def serve(local: Any, _: Any) -> None:
        channel = transport.open_channel("direct-tcpip", (server, port), ("127.0.0.1", 0), timeout=10)
        jobs = [gevent.spawn(_pump, local, channel), gevent.spawn(_pump, channel, local)]
        gevent.joinall(jobs, count=1)
        gevent.joinall(jobs, timeout=1)
        channel.close()
        local.close()

    listener = StreamServer(("127.0.0.1", 0), serve)
    listener.start()
    try:
        yield int(listener.server_port or 0)
    finally:
        listener.stop(timeout=1)


def _pump(source: Any, sink: Any) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return
