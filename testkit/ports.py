"""Ports for processes that tests are about to start."""

import os
import re
import secrets
from itertools import cycle, islice

from relay.demo.ports import PORTS, is_free

WORKER = "PYTEST_XDIST_WORKER"
"""Environment variable that names a worker of pytest-xdist: gw0, gw1, ..."""
PER_WORKER = 1_000


def ports_of(worker: str) -> range:
    """Return the ports of a worker; a process without a name has ports of its own, too."""
    number = int(match[0]) + 1 if (match := re.search(r"\d+$", worker)) else 0
    first = PORTS.start + number % (len(PORTS) // PER_WORKER) * PER_WORKER
    return range(first, first + PER_WORKER)


# From a random one on: another process may have the same ports, such as the pytest that a test starts.
_ports = islice(cycle(ports_of(os.environ.get(WORKER, ""))), secrets.randbelow(PER_WORKER), None)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is not in use, and that no outgoing connection will be given.

    On a busy machine a process takes seconds until it listens on its port. Until then no other test gets it: workers
    have different ports, and each hands them out in turn.
    """
    return next(filter(is_free, _ports))
