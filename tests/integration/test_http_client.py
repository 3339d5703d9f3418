"""The HTTP client against servers that misbehave: what it ignores, and what it limits."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from relay.http_client import MAX_BODY_BYTES, READ_TIMEOUT_SECONDS, TIMED_OUT, TLS_FAILED, HttpClient, HttpResult
from testkit.ports import free_port
from testkit.simulator import Simulator


def test_proxies_and_netrc_of_the_environment_are_ignored(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is set for other programs neither redirects a request nor adds a header."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert HttpClient(1).request("POST", f"{simulator.base}/score", json={}).status == 200
    assert "Authorization" not in simulator.requests["score"][0].headers


def test_a_body_that_is_too_large_is_dropped(simulator: Simulator) -> None:
    """The status is kept."""
    simulator.tokens["t"] = time.time() + 60
    simulator.contacts = {"large": {"x": "x" * MAX_BODY_BYTES}, "small": {"x": "x"}}
    client = HttpClient(1, {"Authorization": "Bearer t"})
    result = client.request("GET", f"{simulator.base}/contacts/large")
    assert (result.status, result.body) == (200, None)
    assert client.request("GET", f"{simulator.base}/contacts/small").body == b'{"x": "x"}'


def test_retry_after_is_read_from_429_and_503_only(simulator: Simulator) -> None:
    """With any other status it does not say when the same request may succeed."""
    simulator.behave("score", "429:7", "503:7", "500:7", "502:7", "408:7", "400:7", "301:7")
    client = HttpClient(1)
    seconds = [client.request("POST", f"{simulator.base}/score", json={}).retry_after_seconds for _ in range(7)]
    assert seconds == [7, 7, None, None, None, None, None]


def test_a_missing_response_times_out(simulator: Simulator) -> None:
    """A refused connection fails at once."""
    simulator.behave("score", "hang")
    client, began = HttpClient(1, response_timeout_seconds=0.5), time.monotonic()
    assert client.request("POST", f"{simulator.base}/score", json={}) == HttpResult(None, TIMED_OUT)
    assert time.monotonic() - began < 3
    assert client.request("POST", f"http://127.0.0.1:{free_port()}/score", json={}).error == "ConnectionError"


def test_connecting_has_a_shorter_timeout() -> None:
    """A host that accepts no connections is given up long before a response would be."""
    with socket.socket() as full, ExitStack() as queued:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill the accept queue
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        assert HttpClient(1, connect_timeout_seconds=0.5).request("GET", url) == HttpResult(None, TIMED_OUT)
        assert time.monotonic() - began < READ_TIMEOUT_SECONDS / 2


class Hello(BaseHTTPRequestHandler):
    """Responds and closes the connection; ``/moved`` redirects, with a body without end."""

    def do_GET(self) -> None:
        """Respond."""
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://[no/host")
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b" " * 65_536)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


class QuietServer(ThreadingHTTPServer):
    """Ignores clients that do not trust it."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error."""


def test_a_redirects_body_is_limited_as_any_other() -> None:
    """A body without end is left at once, and the target is ignored."""
    with QuietServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/moved"
        assert HttpClient(1, response_timeout_seconds=5).request("GET", url) == HttpResult(302, "HTTP 302")
        server.shutdown()


@pytest.fixture
def tls_server() -> Iterator[tuple[str, ssl.SSLContext]]:
    """URL and TLS context of a server; the test loads a certificate into the context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with QuietServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/", context
        server.shutdown()


def test_a_private_authority_is_trusted_and_reloaded(tls_server: tuple[str, ssl.SSLContext], tmp_path: Path) -> None:
    """HTTP_CA_LOCATION: without it the connection is refused; a renewed file applies to the next connection."""
    url, context = tls_server
    first, second, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    first.issue_cert("127.0.0.1").configure_cert(context)
    client = HttpClient(1, ca_location=str(file))
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)  # there is no such file
    file.write_text("no certificate")
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    second.cert_pem.write_to_path(str(file))
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    file.write_bytes("# Zertifizierungsstelle für innen\n".encode() + first.cert_pem.bytes())
    assert client.request("GET", url).body == b"ok"
    assert HttpClient(1).request("GET", url) == HttpResult(None, TLS_FAILED)
    second.issue_cert("127.0.0.1").configure_cert(context)
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    second.cert_pem.write_to_path(str(file))
    assert client.request("GET", url).body == b"ok"


def test_a_private_authority_does_not_disable_host_name_checks(
    tls_server: tuple[str, ssl.SSLContext], tmp_path: Path
) -> None:
    """A certificate for another host is refused."""
    url, context = tls_server
    authority = trustme.CA()
    authority.issue_cert("elsewhere.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert HttpClient(1, ca_location=str(tmp_path / "ca.pem")).request("GET", url) == HttpResult(None, TLS_FAILED)


def test_authorities_of_the_environment_are_ignored(
    tls_server: tuple[str, ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables for other programs do not decide whom the relay trusts."""
    url, context = tls_server
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    assert HttpClient(1).request("GET", url) == HttpResult(None, TLS_FAILED)


def test_a_tls_handshake_that_never_ends_is_cut_off() -> None:
    """A byte now and then keeps each read short; the connect timeout applies nevertheless."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            made, _ = server.accept()
            with made:
                made.sendall(b"\x16\x03\x03\x40\x00")  # a handshake record of 16 KiB follows
                try:
                    while not stop.wait(0.2):
                        made.sendall(b"\x02")
                except OSError:
                    return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        began = time.monotonic()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        assert HttpClient(1, response_timeout_seconds=1).request("GET", url) == HttpResult(None, TIMED_OUT)
        assert time.monotonic() - began < 15
        stop.set()
        thread.join()


def test_errors_quote_neither_request_nor_response(simulator: Simulator) -> None:
    """The libraries' errors contain the URL, headers and parts of the response."""
    client = HttpClient(1, {"Authorization": "Bearer canary"})
    for headers in ({"X-Bad": "canary\r\nX-More: canary"}, {"X-Bad": "canary\u2028"}):
        result = client.request("GET", f"{simulator.base}/canary", headers=headers)
        assert result.status is None
        assert "canary" not in str(result)
    for url in (f"http://127.0.0.1:{free_port()}/canary", "http://canary.invalid/", "http://[canary/", "canary"):
        assert "canary" not in str(client.request("GET", url))
