"""Ports that tests give to the processes that they start."""

import socket
from contextlib import ExitStack, suppress

from relay.demo.ports import PORTS
from testkit.ports import PER_WORKER, free_port, ports_of


def test_workers_have_different_ports() -> None:
    """All of them are below the range of outgoing connections."""
    shares = [ports_of(worker) for worker in ("", "gw0", "gw1", "gw19")]
    assert len(set().union(*shares)) == len(shares) * PER_WORKER
    assert PORTS.start <= min(map(min, shares)) <= max(map(max, shares)) < PORTS.stop


def test_no_port_is_handed_out_twice() -> None:
    """Although nobody listens on it yet, and without those that are in use."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    following = range(ports[-1] + 1, ports[-1] + 4)
    with ExitStack() as servers:
        for port in following:
            with suppress(OSError):  # it is in use already
                servers.enter_context(socket.create_server(("127.0.0.1", port)))
        assert free_port() not in following
