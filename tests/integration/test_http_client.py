"""The client of other people's services, against one that misbehaves: what it does not do, and where it stops."""

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

from relay.http_client import ANSWER_BYTES, READ_SECONDS, TIMED_OUT, TLS_FAILED, Client, HttpResult
from testkit.services.process import free_port
from testkit.simulator import Simulator


def test_the_environment_names_no_proxy_and_no_login(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is set for other programs of the machine sends no call elsewhere, and adds no header."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert Client(1).request("POST", f"{simulator.base}/score", json={}).status == 200
    assert "Authorization" not in simulator.requests["score"][0].headers


def test_an_answer_that_is_too_large_is_not_kept(simulator: Simulator) -> None:
    """The status decides; of the body there is nothing."""
    simulator.tokens["t"] = time.time() + 60
    simulator.contacts = {"large": {"x": "x" * ANSWER_BYTES}, "small": {"x": "x"}}
    client = Client(1, {"Authorization": "Bearer t"})
    answer = client.request("GET", f"{simulator.base}/contacts/large")
    assert (answer.status, answer.body) == (200, None)
    assert client.request("GET", f"{simulator.base}/contacts/small").body == b'{"x": "x"}'


def test_a_connection_is_watched_for_one_answer_only(simulator: Simulator) -> None:
    """It is kept for the next one: its time must not run out in the middle of that. So, too, after a failure."""
    client = Client(1)
    for behaviour in ("ok", "drop", "cut"):
        simulator.behave("score", behaviour)
        client.request("POST", f"{simulator.base}/score", json={})
        assert not client._watch._sockets, behaviour


def test_retry_after_is_taken_from_those_who_ask_for_patience(simulator: Simulator) -> None:
    """429 and 503: beside another status it says nothing, so a call that fails with it is charged as any other."""
    simulator.behave("score", "429:7", "503:7", "500:7", "502:7", "408:7", "400:7", "301:7")
    client = Client(1)
    named = [client.request("POST", f"{simulator.base}/score", json={}).retry_after_seconds for _ in range(7)]
    assert named == [7, 7, None, None, None, None, None]


def test_who_says_nothing_is_not_waited_for(simulator: Simulator) -> None:
    """A request that is taken and not answered ends as a time-out; one that nobody takes, at once."""
    simulator.behave("score", "hang")
    client, began = Client(1, answer_seconds=0.5), time.monotonic()
    assert client.request("POST", f"{simulator.base}/score", json={}) == HttpResult(None, "no answer in time")
    assert time.monotonic() - began < 3
    assert client.request("POST", f"http://127.0.0.1:{free_port()}/score", json={}).error == "ConnectionError"


def test_a_connection_that_does_not_come_about_is_waited_for_less_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes no more connections, as one behind a firewall, is found out long before an answer is due."""
    monkeypatch.setattr("relay.http_client.CONNECT_SECONDS", 0.5)
    with socket.socket() as full, ExitStack() as queued:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill what waits to be accepted
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        assert Client(1).request("GET", url) == HttpResult(None, "no answer in time")
        assert time.monotonic() - began < READ_SECONDS / 2


class Hello(BaseHTTPRequestHandler):
    """Answers, over a connection that ends with it; ``/moved`` redirects, in a body without end."""

    def do_GET(self) -> None:
        """A short answer."""
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
        """Quiet."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that do not trust it."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """No concern of the test."""


def test_of_a_redirect_no_more_is_read_than_of_any_answer() -> None:
    """Neither its target nor its body matters: the status is known, and a body without end is left at once."""
    with Quiet(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/moved"
        assert Client(1, answer_seconds=5).request("GET", url) == HttpResult(302, "HTTP 302")
        server.shutdown()


@pytest.fixture
def private() -> Iterator[tuple[str, ssl.SSLContext]]:
    """The address of a server over TLS, and its context, which a test gives a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Quiet(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/", context
        server.shutdown()


def test_a_private_authority_is_trusted_beside_the_public_ones_and_read_anew(
    private: tuple[str, ssl.SSLContext], tmp_path: Path
) -> None:
    """HTTP_CA_LOCATION: without it the connection is refused; a renewed file counts for the next connection."""
    url, context = private
    first, second, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    first.issue_cert("127.0.0.1").configure_cert(context)
    client = Client(1, ca_location=str(file))
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)  # there is no such file
    file.write_text("no certificate")
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    second.cert_pem.write_to_path(str(file))
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    file.write_bytes("# Zertifizierungsstelle für innen\n".encode() + first.cert_pem.bytes())
    assert client.request("GET", url).body == b"ok"
    assert Client(1).request("GET", url) == HttpResult(None, TLS_FAILED)
    second.issue_cert("127.0.0.1").configure_cert(context)
    assert client.request("GET", url) == HttpResult(None, TLS_FAILED)
    second.cert_pem.write_to_path(str(file))
    assert client.request("GET", url).body == b"ok"


def test_the_name_in_a_certificate_counts_with_a_private_authority(
    private: tuple[str, ssl.SSLContext], tmp_path: Path
) -> None:
    """A certificate of the same authority for another host is refused."""
    url, context = private
    authority = trustme.CA()
    authority.issue_cert("elsewhere.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert Client(1, ca_location=str(tmp_path / "ca.pem")).request("GET", url) == HttpResult(None, TLS_FAILED)


def test_the_environment_names_no_authority(
    private: tuple[str, ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may set a variable for all programs of the machine does not decide whom the relay trusts."""
    url, context = private
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    assert Client(1).request("GET", url) == HttpResult(None, TLS_FAILED)


def test_a_tls_handshake_that_never_ends_is_cut_off() -> None:
    """A byte of a record now and then keeps each read short; the time to connect counts all the same."""
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
        assert Client(1, answer_seconds=1).request("GET", url) == HttpResult(None, TIMED_OUT)
        assert time.monotonic() - began < 15
        stop.set()
        thread.join()


def test_what_went_wrong_quotes_nothing(simulator: Simulator) -> None:
    """No error of the libraries is passed on: their texts hold the URL, headers and parts of the answer."""
    client = Client(1, {"Authorization": "Bearer canary"})
    for headers in ({"X-Bad": "canary\r\nX-More: canary"}, {"X-Bad": "canary\u2028"}):
        answer = client.request("GET", f"{simulator.base}/canary", headers=headers)
        assert answer.status is None
        assert "canary" not in str(answer)
    for url in (f"http://127.0.0.1:{free_port()}/canary", "http://canary.invalid/", "http://[canary/", "canary"):
        assert "canary" not in str(client.request("GET", url))
