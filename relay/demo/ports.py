"""Ports for processes that are about to be started."""

import secrets
import socket
from contextlib import suppress

PORTS = range(11_000, 32_768)
"""Below the range of outgoing connections, one of which could take a port before the process that it is meant for, and
without 10080, which browsers refuse."""


def is_free(port: int) -> bool:
    """Whether a TCP port of 127.0.0.1 is not in use."""
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is not in use, and that no outgoing connection will be given."""
    while not is_free(port := PORTS.start + secrets.randbelow(len(PORTS))):
        pass
    return port
