"""A broker and a database server that the product reaches through a proxy, and tests reach directly."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from testkit.ports import free_port
from testkit.proxy import Proxy, ask_kafka, kafka_messages
from testkit.services import Kafka, Postgres, ServiceError
from testkit.waiting import wait_until

SHORT_TRANSACTION_TIMEOUTS = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "transactional.id.expiration.ms": "3000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    "producer.id.expiration.ms": "3000",
    "producer.id.expiration.check.interval.ms": "500",
}
"""Broker settings that abort timed-out transactions and expire idle ids within seconds, not minutes or days."""
LIST_TRANSACTIONS = 66
"""API key of the request that lists a coordinator's transactions."""
RESTART_SECONDS = 300.0


def restart_service(start: Callable[[], object]) -> None:
    """Start a service that was stopped or killed, and retry until it runs.

    The first attempts may fail on a busy machine, or while the previous process is still ending.
    """

    def try_start() -> bool:
        try:
            start()
        except ServiceError:
            return False
        return True

    wait_until(try_start, "the service has restarted", RESTART_SECONDS)


class ProxiedKafka(Kafka):
    """A broker with two listeners: a direct one for tests, and one whose advertised address is the proxy.

    Args:
        directory: folder for its data, settings and log.
        settings: broker settings that override the defaults.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, {**SHORT_TRANSACTION_TIMEOUTS, **(settings or {})})

    def _listeners(self, controller: int) -> dict[str, str]:
        port = free_port()
        self.proxy = Proxy(port, kafka_messages)
        self.proxied_servers = f"127.0.0.1:{self.proxy.port}"
        direct = f"PLAINTEXT://{self.bootstrap_servers}"
        return {
            "listeners": f"{direct},PROXIED://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"{direct},PROXIED://{self.proxied_servers}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }

    def stop(self) -> None:
        """Stop the broker and the proxy."""
        super().stop()
        self.proxy.close()

    def transactions(self, *states: str) -> bytes:
        """Return the broker's undecoded list of transactions, all or in these states; it contains their ids as text."""
        names = b"".join(bytes([len(name) + 1]) + name.encode() for name in states)
        # Header: key, version 0, correlation id, no client id, no tagged fields; body: two arrays, no tagged fields.
        request = struct.pack(">hhihB", LIST_TRANSACTIONS, 0, 1, -1, 0) + bytes([len(states) + 1]) + names + b"\x01\x00"
        return ask_kafka(self.bootstrap_servers, request)


class ProxiedPostgres(Postgres):
    """A PostgreSQL server behind a proxy.

    Args:
        directory: folder for its data and log.
        settings: server settings.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        super().__init__(directory, **settings)
        self.proxy = Proxy(self.port)

    def proxied_url(self, url: str) -> str:
        """Return the URL of a database of this server, through the proxy."""
        return url.replace(f"127.0.0.1:{self.port}/", f"127.0.0.1:{self.proxy.port}/")

    @property
    def processes(self) -> list[psutil.Process]:
        """The postmaster and its children."""
        postmaster = psutil.Process(self.process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """Kill (-9) every process of the server; a process left over would prevent a restart."""
        _, *children = self.processes
        self.process.kill()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children, 10)

    def stop(self) -> None:
        """Stop the server and the proxy."""
        super().stop()
        self.proxy.close()
