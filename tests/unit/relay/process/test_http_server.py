"""The relay's HTTP server: who may read what, and what hostile clients cost."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from time import monotonic
from typing import NamedTuple

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from relay.errors import MisconfiguredError
from relay.health import Health
from relay.process.http_server import ACCEPT_BATCH, MAX_CONNECTIONS, STALLED_SECONDS, MetricsServer
from testkit.clock import ManualClock
from testkit.waiting import wait_until
from testkit.web_process import RawResponse, read_response


class Served(NamedTuple):
    """A server with its health and clock."""

    server: MetricsServer
    health: Health
    clock: ManualClock

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=10)

    def request(self, path: str, method: str = "GET", **headers: str) -> RawResponse:
        """Send one request."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with self.connect() as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
            return read_response(connection)


TOKEN = "tökénà"


def serve(token: str | None = None) -> Served:
    """A server on a free port."""
    registry, clock = CollectorRegistry(), ManualClock(0.0)
    Gauge("things", "Some.", registry=registry).set(7)
    Counter("events", "Some.", registry=registry).inc()
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
    """Each on its path, with any query; other paths answer 404, other methods 405."""
    metrics = served.request("/metrics").body.decode()
    assert "things 7.0" in metrics
    assert "events_total 1.0" in metrics
    assert "_created" not in metrics, "they double the number of series"
    assert served.request("/metrics?name=x").status == 200
    assert served.request("/healthz").json == {"status": "ok"}
    served.health.degraded("shard 0", "no broker")
    assert served.request("/readyz").json["degraded"] == [{"subject": "shard 0", "reason": "no broker"}]
    assert served.request("/").status == 404
    refused = served.request("/metrics", "POST")
    assert refused.status == 405
    assert refused.headers["allow"] == "GET, HEAD"


def test_a_head_request_is_answered_without_a_body(served: Served) -> None:
    """Status and headers are those of GET."""
    with served.connect() as connection:
        connection.sendall(b"HEAD /healthz HTTP/1.1\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/metrics/", "/./metrics", "/%6detrics", "http://x/metrics"])
@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", "Bearer ÿ", TOKEN])
def test_metrics_need_the_token_however_the_path_is_spelled(guarded: Served, path: str, sent: str | None) -> None:
    """Only the exact path has metrics; no other credentials are accepted, non-ASCII ones included."""
    answer = guarded.request(path, **({"Authorization": sent} if sent is not None else {}))
    assert answer.status == (401 if path == "/metrics" else 404)
    assert b"things" not in answer.body


def test_the_token_gives_access_to_metrics_and_reasons(guarded: Served) -> None:
    """Without it, readiness shows which subjects are degraded, but not why; health needs no token."""
    guarded.health.degraded("shard 0", "paused by alice: payroll")
    assert guarded.request("/readyz").json == {"status": "ok", "degraded": [{"subject": "shard 0"}]}
    assert guarded.request("/healthz").status == 200
    authorized = {"Authorization": f"bearer {TOKEN}"}
    assert guarded.request("/readyz", **authorized).json["degraded"][0]["reason"] == "paused by alice: payroll"
    assert guarded.request("/metrics", **authorized).status == 200


def test_health_fails_when_the_main_loop_stalls(served: Served) -> None:
    """After 120 s, so that the relay is restarted; it recovers when the loop runs again."""
    served.clock.now = STALLED_SECONDS - 1
    assert served.request("/healthz").status == 200
    served.clock.now = STALLED_SECONDS
    answer = served.request("/healthz")
    assert answer.status == 503
    assert answer.json["status"] == "stalled"
    assert served.request("/readyz").status == 200
    served.health.record_liveness()
    assert served.request("/healthz").status == 200


HOSTILE = {
    "silent": b"",
    "half a head": b"GET /metrics HTTP/1.1\r\nX: ",
    "never read": b"GET /metrics HTTP/1.1\r\n\r\n" * 50,
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
}


def connections_of(server: MetricsServer) -> int:
    """How many connections the server has open."""
    found = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == server.port and each.status != psutil.CONN_LISTEN for each in found)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_thousand_hostile_connections_cost_little(served: Served, kind: str) -> None:
    """Descriptors and threads stay bounded, and other requests are answered at once, meanwhile and afterwards."""
    process = psutil.Process()
    threads = process.num_threads()
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(closing(served.connect()))
            with suppress(OSError):  # it is closed already
                connection.sendall(HOSTILE[kind])
            if number % 100 == 99:
                assert served.request("/healthz").status == 200
                assert connections_of(served.server) <= MAX_CONNECTIONS + ACCEPT_BATCH
        began = monotonic()
        assert served.request("/metrics").status == 200
        assert monotonic() - began < 2
        assert process.num_threads() <= threads
        wait_until(lambda: connections_of(served.server) <= MAX_CONNECTIONS, "the server has few connections open")
    assert json.loads(served.request("/healthz").body) == {"status": "ok"}


def test_a_client_that_sends_no_complete_head_is_refused(served: Served) -> None:
    """With 408 after three seconds; then the connection is closed."""
    with served.connect() as connection:
        connection.sendall(b"GET /metrics")
        assert read_response(connection).status == 408
        assert connection.recv(1) == b""


def test_a_head_that_is_too_large_is_refused(served: Served) -> None:
    """With 431."""
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
def test_an_address_that_cannot_be_used_is_an_error(served: Served, host: str, names: str) -> None:
    """In one line that names the setting."""
    with pytest.raises(MisconfiguredError) as caught:
        MetricsServer(host, served.server.port, CollectorRegistry(), Health())
    assert str(caught.value).startswith(names)
    assert "\n" not in str(caught.value)


def test_it_can_listen_on_ipv4_and_ipv6() -> None:
    """``::`` listens on IPv4 as well."""
    server = MetricsServer("::", 0, CollectorRegistry(), Health())
    for address in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((address, server.port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_response(connection).status == 200
    server.close()
