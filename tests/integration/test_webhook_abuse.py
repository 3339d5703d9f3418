"""Clients that stall or send malformed requests neither block others nor get quoted."""

import json
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import psutil
import pytest
import requests

from outbox.db.engine import create_outbox_engine
from testkit.databases import NewDatabase
from testkit.response_times import assert_none_waited
from testkit.waiting import wait_until
from testkit.web_fixtures import StartWeb, web_on_sqlite
from testkit.web_process import PATH, SECRET, RawResponse, WebProcess, read_response

LOGIN = f"X-CXone-Webhook-Secret: {SECRET}"
BODY = b'{"id": "i-1", "channel": "voice"}'
THREADS = 4


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A web process with few threads, which a few clients could occupy."""
    with web_on_sqlite(tmp_path_factory.mktemp("abuse"), WEB_THREADS=str(THREADS)) as (process, _):
        yield process
        assert process.stop() == 0


def head(*lines: str, first: str = f"POST {PATH} HTTP/1.1") -> bytes:
    """The head of a raw request."""
    return "\r\n".join([first, "Host: x", *lines, "", ""]).encode("latin-1")


def connect(web: WebProcess, stack: ExitStack) -> socket.socket:
    """Open a connection that is closed with the stack."""
    return stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=30))


def time_health_check(web: WebProcess) -> float:
    """Seconds that a health check takes."""
    began = monotonic()
    assert requests.get(f"{web.base}/healthz", timeout=60).status_code == 200
    return monotonic() - began


def time_post(web: WebProcess, number: int) -> float:
    """Seconds that an interaction takes to be accepted."""
    began = monotonic()
    assert web.post(interaction(number)).status_code == 202
    return monotonic() - began


def time_others(web: WebProcess) -> list[float]:
    """Seconds that each of forty requests of well-behaved clients takes."""
    return [seconds for number in range(20) for seconds in (time_post(web, number), time_health_check(web))]


def interaction(number: object) -> dict[str, object]:
    """A body with a new id."""
    return {"id": f"{uuid4()}-{number}", "channel": "voice"}


AUTHENTICATED_HEAD = head(LOGIN, "Content-Length: 100")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"P", id="head"),
        pytest.param(head("Content-Length: 100"), id="body-without-the-secret"),
        pytest.param(AUTHENTICATED_HEAD + b"{", id="body"),
        pytest.param(head(LOGIN, "Transfer-Encoding: chunked") + b"5\r\n{", id="chunk"),
        pytest.param(head(LOGIN, "Transfer-Encoding: chunked") + b"5;a=b\r\n{", id="chunk-with-an-extension"),
        pytest.param(head("Content-Length: 100", first="GET /healthz HTTP/1.1"), id="body-of-a-probe"),
        pytest.param(head("Content-Length: 100", first="GET /nowhere HTTP/1.1"), id="body-of-nothing"),
    ],
)
def test_stalled_requests_occupy_no_thread(web: WebProcess, sent: bytes) -> None:
    """With ten times as many stalled clients as threads, others are served, and each stalled connection is closed."""
    with ExitStack() as stack:
        stalled = [connect(web, stack) for _ in range(10 * THREADS)]
        for connection in stalled:
            connection.sendall(sent)
        assert_none_waited(time_others(web), "the other requests")
        for connection in stalled:
            while connection.recv(65536):
                pass
    if sent == b"P":
        assert web.metric('outbox_webhook_connections_closed_total{reason="head_too_slow"}') >= 10 * THREADS


def test_clients_that_never_read_occupy_no_thread(web: WebProcess) -> None:
    """Their responses wait in the poller until the timeout."""
    with ExitStack() as stack:
        stalled = []
        for _ in range(10 * THREADS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.settimeout(0.1)
            connection.connect(("127.0.0.1", web.port))
            with suppress(OSError):  # the server reads no more, or has closed
                connection.sendall(head(first="GET /openapi.json HTTP/1.1") * 2_000)
            stalled.append(connection)
        assert_none_waited(time_others(web), "the other requests")
        wait_until(lambda: connections_of(web) == 0, "they are closed")


def connections_of(web: WebProcess) -> int:
    """Number of open connections to its processes."""
    children = psutil.Process(web.process.pid).children()
    return sum(c.status == psutil.CONN_ESTABLISHED for child in children for c in child.net_connections("tcp"))


def test_an_authenticated_client_that_never_reads_is_closed(web: WebProcess) -> None:
    """Its unread responses are limited, and the connection is closed after the timeout."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(0.2)
        connection.connect(("127.0.0.1", web.port))
        endless = head(LOGIN, first="GET /openapi.json HTTP/1.1") * 100
        with suppress(OSError):  # the server reads no more, or has closed
            for _ in range(1_000):
                connection.sendall(endless)
        wait_until(lambda: connections_of(web) == 0, "it is closed")
        assert_none_waited(time_others(web), "the requests afterwards")


def test_refused_clients_that_stay_connected_block_nobody(web: WebProcess) -> None:
    """Without a secret they occupy neither the poller nor its threads."""
    taken = []
    with ExitStack() as stack:
        for _ in range(10 * THREADS):
            began = monotonic()
            connection = connect(web, stack)
            connection.sendall(head("Content-Length: 0"))
            assert read_response(connection).status == 401
            taken.append(monotonic() - began)
        taken.append(time_health_check(web))
    assert_none_waited(taken, "the refusals")


def test_too_many_connections_close_idle_strangers_first(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """When descriptors run out, connections without a request are closed first; an authenticated one stays."""
    web = start_web(new_sqlite(1))
    with requests.Session() as session, ExitStack() as stack:
        session.headers["X-CXone-Webhook-Secret"] = SECRET
        url = f"{web.base}{PATH}"
        assert session.post(url, json=interaction(0), timeout=30).status_code == 202
        before = [c.sock.getsockname() for c in _pooled(session)]
        (worker,) = psutil.Process(web.process.pid).children()
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.num_fds() + 60, 20_000))
        for number in range(400):
            connect(web, stack)
            if number % 40 == 0:
                assert web.post(interaction(number)).status_code == 202
        assert session.post(url, json=interaction(1), timeout=30).status_code == 202
        assert [c.sock.getsockname() for c in _pooled(session)] == before
        assert web.metric('outbox_webhook_connections_closed_total{reason="too_many"}') > 100


def test_accepting_resumes_after_all_connections_were_busy(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """With as many requests waiting for the database as connections are allowed, a further one is served later."""
    url = new_sqlite(1)
    web = start_web(url, WEB_THREADS="2", GUNICORN_CMD_ARGS="--worker-connections 6")
    with ExitStack() as stack:
        engine = create_outbox_engine(url)
        with engine.begin():  # blocks every other writer
            senders = [connect(web, stack) for _ in range(6)]
            for number, sender in enumerate(senders):
                body = json.dumps(interaction(number)).encode()
                sender.sendall(head(LOGIN, f"Content-Length: {len(body)}") + body)
            wait_until(lambda: connections_of(web) == len(senders), "they are connected")
            late = connect(web, stack)
            body = json.dumps(interaction("late")).encode()
            late.sendall(head(LOGIN, f"Content-Length: {len(body)}") + body)
        assert {read_response(sender).status for sender in senders} <= {202, 503}
        assert read_response(late).status == 202
        engine.dispose()


def _pooled(session: requests.Session) -> list[Any]:
    """The open connections of a session."""
    adapter: Any = session.get_adapter("http://")
    pools = [adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys()]  # noqa: SIM118 - no iteration
    return [c for pool in pools for c in list(pool.pool.queue) if c is not None]


def test_only_authenticated_connections_are_kept_open(web: WebProcess) -> None:
    """After any other response the connection is closed."""
    for request in (
        head("Content-Length: 0"),
        head(first="GET /healthz HTTP/1.1"),
        head(first="GET /readyz HTTP/1.1"),
        head(first="GET /metrics HTTP/1.1"),
        head(first="GET /openapi.json HTTP/1.1"),
        head(first="GET /nowhere HTTP/1.1"),
        head(first="OPTIONS / HTTP/1.1"),
    ):
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
            connection.sendall(request)
            assert read_response(connection).headers["connection"] == "close"
            assert connection.recv(1) == b""
    assert send_with(web, "Idempotency-Key: kept").headers["connection"] == "keep-alive"


def test_pipelined_requests_are_answered_in_order(web: WebProcess) -> None:
    """Authenticated requests are answered once each; a wrong secret among them ends the connection."""
    ids = [f"{uuid4()}" for _ in range(30)]
    bodies = [json.dumps({"id": each, "channel": "voice"}).encode() for each in ids]
    whole = b"".join(head(LOGIN, f"Content-Length: {len(body)}") + body for body in bodies)
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(whole + head("Content-Length: 2") + b"{}" + whole)
        with connection.makefile("rb") as answers:
            text = answers.read().decode()
    answered = re.findall(r'"interactionId": "([^"]+)"', text)
    assert answered == ids
    assert text.count("HTTP/1.1 202") == len(ids)
    assert text.count("HTTP/1.1 401") == 1


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_request_may_arrive_in_pieces(web: WebProcess, size: int) -> None:
    """Wherever the network splits it, even inside the empty line after the head."""
    body = json.dumps({**interaction(size), "text": "x" * 50}).encode()
    request = head(LOGIN, f"Content-Length: {len(body)}") + body
    chunked = head(LOGIN, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for whole, duplicate in ((request, None), (chunked, True)):
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), size):
                connection.sendall(whole[start : start + size])
            answer = read_response(connection)
            assert answer.status == 202, answer
            assert answer.json.get("duplicate") == duplicate


def test_an_empty_line_after_a_body_gets_no_response(web: WebProcess) -> None:
    """Some clients send one (RFC 9112, 2.2) and would read a 408 as the response to their next request."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head(LOGIN, f"Content-Length: {len(BODY)}") + BODY + b"\r\n")
        assert read_response(connection).status == 202
        assert connection.recv(65536) == b""


def test_100_continue_is_sent_only_if_the_body_is_wanted(web: WebProcess) -> None:
    """Without the secret, or with a body that is too large, the response is the refusal."""
    expect = "Expect: 100-continue"
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head(LOGIN, expect, f"Content-Length: {len(BODY)}"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert read_response(connection).status == 202
    assert web.raw(head(expect, f"Content-Length: {len(BODY)}")).status == 401
    assert web.raw(head(LOGIN, expect, "Content-Length: 5000000")).status == 413


def test_a_client_that_has_closed_its_side_gets_its_response(web: WebProcess) -> None:
    """It has sent a complete request, and waits for the response."""
    body = json.dumps(interaction("half")).encode()
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head(LOGIN, f"Content-Length: {len(body)}") + body)
        connection.shutdown(socket.SHUT_WR)
        assert read_response(connection).status == 202
        assert connection.recv(1) == b""


def test_headers_of_proxies_are_ignored(web: WebProcess) -> None:
    """Headers about schemes, addresses and protocols do not cause a refusal."""
    lines = [
        "X-Forwarded-Proto: https",
        "X-Forwarded-Protocol: ssl",
        "X-Forwarded-Ssl: off",
        "X-Forwarded-For: 192.0.2.1, 2001:db8::1",
        "Forwarded: for=192.0.2.1;proto=http",
        "Via: 1.1 a, HTTP/2.0 b",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Script_Name: /x",
    ]
    assert send_with(web, *lines).status == 202
    absolute = head(LOGIN, f"Content-Length: {len(BODY)}", first=f"POST http://proxied.example{PATH} HTTP/1.1") + BODY
    assert web.raw(absolute).status == 202


@pytest.mark.parametrize(
    "path", ["//metrics", "///readyz", "/%6detrics", "/metrics/", "/./metrics", "/x/../metrics", "/metrics#x"]
)
def test_a_resource_has_one_path(web: WebProcess, path: str) -> None:
    """Other spellings, by which a proxy rule could be bypassed, are not found."""
    assert web.raw(head(first=f"GET {path} HTTP/1.1")).status == 404
    assert web.raw(head(first=f"GET http://x{path} HTTP/1.1")).status == 404


def test_the_refusal_of_a_large_request_reaches_the_client(web: WebProcess) -> None:
    """It is not lost to a connection reset while the client still sends megabytes."""
    for secret, status in (("wrong", 401), (SECRET, 413)):
        assert web.post(b"x" * 5_000_000, secret=secret).status_code == status


def test_a_refused_body_is_never_parsed_as_a_request(web: WebProcess) -> None:
    """What follows a 401 on its connection is discarded, even if it looks like a request."""
    inner = head(LOGIN, f"Content-Length: {len(BODY)}") + BODY
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head(f"Content-Length: {len(inner)}") + inner)
        assert read_response(connection).status == 401
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head("X-CXone-Webhook-Secret canary", "Content-Length: 0"), 400),
        (head("X-CXone-Webhook-Secret: canary\0", "Content-Length: 0"), 400),
        (head("Content-Length: canary"), 400),
        (head("Content-Length: 0", first=f"POST {PATH}?canary HTTP/9"), 400),
        (head("Content-Length: 0", first="POST  /canary HTTP/1.1"), 400),
        (head("Content-Length: 0", first="POST /canary  HTTP/1.1"), 400),
        (head("Content-Length: 0", first=f"POST /{'canary' * 1000} HTTP/1.1"), 414),
        (head(f"X-Long: {'canary' * 2000}", "Content-Length: 0"), 431),
        (head(*(f"X-{number}: canary" for number in range(200))), 431),
        (head(*(f"X-{number}: {'canary' * 200}" for number in range(20))), 431),
        (b"POST / HTTP/1.1\r\n" + b"X-A: canary\r\n" * 60_000, 431),
        (b"\r\n" * 100_000, 400),
        (b"canary" * 10_000, 431),
        (b"GET /canary HTTP/1.1\nHost: x\n\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\r\n", 400),
        (head("Expect: canary", "Content-Length: 0"), 417),
        (head(LOGIN, "Transfer-Encoding: canary"), 501),
        (head(LOGIN, "Content-Length: 33", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (head(LOGIN, "Content-Length: 33", "Content-Length: 33") + BODY, 400),
        (head(LOGIN, "Transfer-Encoding: chunked") + b"canary\r\n", 400),
        (head(LOGIN, "Transfer-Encoding: chunked") + b"2\r\n{}canary", 400),
        (head(LOGIN, "Transfer-Encoding: chunked") + b"2;canary\0=\r\n{}\r\n", 400),
        (head(LOGIN, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nAuthorization: canary\r\n\r\n", 400),
        (b"canary\r\n\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_not_quoted(web: WebProcess, request_bytes: bytes, status: int) -> None:
    """Neither the problem details nor the log quote the request, and the status is never 500."""
    answer = web.raw(request_bytes)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.json["status"] == status
    assert b"canary" not in answer.body
    assert "canary" not in web.log.read_text()


def send_with(web: WebProcess, *lines: str) -> RawResponse:
    """Send an interaction with these header lines."""
    return web.raw(head(LOGIN, f"Content-Length: {len(BODY)}", *lines) + BODY)


def test_a_key_given_twice_is_refused(web: WebProcess) -> None:
    """Joined by a comma, two keys would be a third one."""
    assert send_with(web, "Idempotency-Key: a").status == 202
    answer = send_with(web, "Idempotency-Key: a", "Idempotency-Key: a")
    assert answer.status == 400
    assert "given once" in answer.json["detail"]
    assert send_with(web, "Idempotency-Key: a,a").json.get("duplicate") is None


def test_a_header_with_underscores_is_dropped(web: WebProcess) -> None:
    """In the WSGI environment it would have the same name as the real one."""
    secret = f"X_CXone_Webhook_Secret: {SECRET}"
    assert web.raw(head(secret, f"Content-Length: {len(BODY)}") + BODY).status == 401


def test_another_parser_is_not_used_even_if_it_is_installed(
    new_sqlite: NewDatabase, start_web: StartWeb, tmp_path: Path
) -> None:
    """Gunicorn prefers its parser in C, with which nothing here was tested."""
    (tmp_path / "gunicorn_h1c.py").write_text("raise RuntimeError('loaded')\n")
    web = start_web(new_sqlite(), PYTHONPATH=str(tmp_path))
    assert web.post(BODY).status_code == 202
