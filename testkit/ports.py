"""Ports for processes that tests are about to start."""

import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress

from relay.demo.ports import PORTS

WORKER = "PYTEST_XDIST_WORKER"
"""Environment variable that names a worker of pytest-xdist: gw0, gw1, ..."""
PER_WORKER = 1_000


def _in_turn(ports: range) -> Iterator[int]:
    """Yield ports in turn, from anyone on: another process may have the same ones."""
    at = secrets.randbelow(len(ports))
    while True:
        yield ports[at]
        at = (at + 1) % len(ports)


def ports_of(worker: str) -> range:
    """Return the ports of a worker; those of a process that is none are its own as well."""
    number = int(match[0]) + 1 if (match := re.search(r"\d+$", worker)) else 0
    shares = len(PORTS) // PER_WORKER
    first = PORTS.start + number % shares * PER_WORKER
    return range(first, first + PER_WORKER)


_ports = _in_turn(ports_of(os.environ.get(WORKER, "")))


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is not in use, and that no outgoing connection will be given.

    It takes its process seconds to listen on it, on a busy machine. Until then no other test gets it: workers have
    different ports, and each hands them out in turn.
    """
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("ports never end")
