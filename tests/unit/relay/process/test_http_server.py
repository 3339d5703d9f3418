"""The relay's own HTTP port: who may read what, and what strangers cost."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from time import monotonic
from typing import NamedTuple

import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from relay.errors import MisconfiguredError
from relay.health import Health
from relay.process.http_server import MAX_CONNECTIONS, STALLED_SECONDS, MetricsServer
from testkit.waiting import wait_until
from testkit.web_process import RawResponse, read_response


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


class Served(NamedTuple):
    """A server, and what it reports."""

    server: MetricsServer
    health: Health
    clock: Clock

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=10)

    def ask(self, path: str, method: str = "GET", **headers: str) -> RawResponse:
        """One request."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with self.connect() as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
            return read_response(connection)


TOKEN = "tökénà"


def serve(token: str | None = None) -> Served:
    """A server on a free port."""
    registry, clock = CollectorRegistry(), Clock()
    Gauge("things", "Some.", registry=registry).set(7)
    health = Health(clock)
    return Served(MetricsServer("127.0.0.1", 0, registry, health, token.encode() if token else None), health, clock)


@pytest.fixture
def served() -> Iterator[Served]:
    """A server without a token."""
    found = serve()
    yield found
    found.server.close()


@pytest.fixture
def guarded() -> Iterator[Served]:
    """A server with a token."""
    found = serve(TOKEN)
    yield found
    found.server.close()


def test_metrics_health_and_readiness(served: Served) -> None:
    """Each on its path, however the query; anything else is 404, any other method 405."""
    assert "things 7.0" in served.ask("/metrics").body.decode()
    assert served.ask("/metrics?name=x").status == 200
    assert served.ask("/healthz").json == {"status": "ok"}
    served.health.degraded("shard 0", "no broker")
    assert served.ask("/readyz").json["degraded"] == [{"subject": "shard 0", "reason": "no broker"}]
    assert served.ask("/").status == 404
    refused = served.ask("/metrics", "POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


def test_a_head_has_no_body(served: Served) -> None:
    """HEAD answers as GET does, without the body."""
    with served.connect() as connection:
        connection.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/metrics/", "/./metrics", "/%6detrics", "http://x/metrics"])
@pytest.mark.parametrize("shown", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", "Bearer ÿ", TOKEN])
def test_without_the_token_no_path_leads_to_the_metrics(guarded: Served, path: str, shown: str | None) -> None:
    """However the path is spelt and whatever is shown, text outside ASCII included."""
    answer = guarded.ask(path, **({"Authorization": shown} if shown is not None else {}))
    assert answer.status == (401 if path == "/metrics" else 404)
    assert b"things" not in answer.body


def test_the_token_opens_metrics_and_reasons(guarded: Served) -> None:
    """With a token set, strangers learn which subjects wait, but not why; health needs none."""
    guarded.health.degraded("shard 0", "paused by alice: payroll")
    assert guarded.ask("/readyz").json == {"status": "ok", "degraded": [{"subject": "shard 0"}]}
    assert guarded.ask("/healthz").status == 200
    known = {"Authorization": f"bearer {TOKEN}"}
    assert guarded.ask("/readyz", **known).json["degraded"][0]["reason"] == "paused by alice: payroll"
    assert guarded.ask("/metrics", **known).status == 200


def test_a_loop_that_does_not_turn_is_not_healthy(served: Served) -> None:
    """After 120 s without a turn ``/healthz`` fails, so that the relay is restarted; a turn makes it well again."""
    served.clock.now = STALLED_SECONDS - 1
    assert served.ask("/healthz").status == 200
    served.clock.now = STALLED_SECONDS
    answer = served.ask("/healthz")
    assert (answer.status, answer.json["status"]) == (503, "stalled")
    assert served.ask("/readyz").status == 200
    served.health.turned()
    assert served.ask("/healthz").status == 200


HOSTILE = {
    "silent": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\nX: ",
    "never read": b"GET /metrics HTTP/1.1\r\n\r\n" * 50,
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
}


def connections_of(server: MetricsServer) -> int:
    """How many descriptors of this process are connections that the server has accepted."""
    found = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == server.port and each.status != psutil.CONN_LISTEN for each in found)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_thousand_hostile_connections_cost_nothing(served: Served, kind: str) -> None:
    """Descriptors and threads stay bounded, and who asks is answered at once, while they last and afterwards."""
    process = psutil.Process()
    threads = process.num_threads()
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(closing(served.connect()))
            with suppress(OSError):  # it is cut already
                connection.sendall(HOSTILE[kind])
            if number % 100 == 99:
                assert served.ask("/healthz").status == 200
        began = monotonic()
        assert served.ask("/metrics").status == 200
        assert monotonic() - began < 2
        assert process.num_threads() <= threads
        wait_until(lambda: connections_of(served.server) <= MAX_CONNECTIONS, "few descriptors are the server's")
    assert json.loads(served.ask("/healthz").body) == {"status": "ok"}


def test_a_silent_connection_ends_by_itself(served: Served) -> None:
    """Three seconds for a head, then 408 and the end: no connection lasts."""
    with served.connect() as connection:
        connection.sendall(b"GET /metrics")
        assert read_response(connection).status == 408
        assert connection.recv(1) == b""


def test_an_endless_head_is_refused(served: Served) -> None:
    """What is read of a head is bounded."""
    with served.connect() as connection, suppress(ConnectionError):
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        assert read_response(connection).status == 431


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", "RELAY_METRICS_PORT="),
        ("192.0.2.1", "RELAY_METRICS_HOST="),
        ("no such host", "RELAY_METRICS_HOST="),
    ],
)
def test_what_cannot_be_listened_on_is_named(served: Served, host: str, names: str) -> None:
    """A port in use, an address of another host: one line that names the variable."""
    with pytest.raises(MisconfiguredError) as caught:
        MetricsServer(host, served.server.port, CollectorRegistry(), Health())
    assert str(caught.value).startswith(names)
    assert "\n" not in str(caught.value)


def test_every_address_of_both_kinds() -> None:
    """``::`` listens on IPv4 as well, as containers want it."""
    server = MetricsServer("::", 0, CollectorRegistry(), Health())
    for address in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((address, server.port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_response(connection).status == 200
    server.close()
