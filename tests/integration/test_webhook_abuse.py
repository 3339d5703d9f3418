"""Senders that stall, lie about lengths, or do not speak HTTP: others are served, and nothing is repeated to them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import pytest
import requests

from tests.conftest import migrate
from tests.web_process import PATH, SECRET, Answer, WebProcess, read_answer

LOGIN = f"X-CXone-Webhook-Secret: {SECRET}"
BODY = b'{"id": "i-1", "channel": "voice"}'
THREADS = 4


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A web process with few threads, so that a few senders could hold them all."""
    folder = tmp_path_factory.mktemp("abuse")
    migrate(f"sqlite:///{folder}/outbox.db", 1)
    environ = {"DATABASE_URL": f"sqlite:///{folder}/outbox.db", "WEB_THREADS": str(THREADS)}
    process = WebProcess(environ, folder / "web.log")
    yield process
    assert process.stop() == 0


def head(*lines: str, first: str = f"POST {PATH} HTTP/1.1") -> bytes:
    """A raw request's head."""
    return "\r\n".join([first, "Host: x", *lines, "", ""]).encode("latin-1")


def connected(web: WebProcess, within: ExitStack) -> socket.socket:
    """A connection that stays open until the block ends."""
    return within.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=30))


def seconds_of_a_health_check(web: WebProcess) -> float:
    """How long another client waits meanwhile."""
    began = monotonic()
    assert requests.get(f"{web.base}/healthz", timeout=60).status_code == 200
    return monotonic() - began


def test_refused_senders_that_stay_connected_hold_up_nobody(web: WebProcess) -> None:
    """Without a secret, one can neither stall the loop that accepts connections nor keep its threads."""
    with ExitStack() as stack:
        began = monotonic()
        for _ in range(2 * THREADS):
            connection = connected(web, stack)
            connection.sendall(head("Content-Length: 0"))
            assert read_answer(connection).status == 401
        seconds_of_a_health_check(web)
        assert monotonic() - began < 8


@pytest.mark.parametrize("start", [b"P", head(LOGIN, "Content-Length: 100") + b"{"], ids=["head", "body"])
def test_requests_that_never_end_give_their_threads_back(web: WebProcess, start: bytes) -> None:
    """Head and body together have ten seconds; then their threads serve others again."""
    with ExitStack() as stack:
        for _ in range(THREADS):
            connected(web, stack).sendall(start)
        assert seconds_of_a_health_check(web) < 15


def test_a_large_request_reads_why_it_is_refused(web: WebProcess) -> None:
    """The answer is not lost to a reset while megabytes are still on their way."""
    for secret, status in (("wrong", 401), (SECRET, 413)):
        assert web.post(b"x" * 5_000_000, secret=secret).status_code == status


def test_a_refused_body_is_never_taken_for_a_request(web: WebProcess) -> None:
    """What follows a 401 on its connection is thrown away, also where it looks like a request."""
    inner = head(LOGIN, f"Content-Length: {len(BODY)}") + BODY
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        connection.sendall(head(f"Content-Length: {len(inner)}") + inner)
        assert read_answer(connection).status == 401
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head("X-CXone-Webhook-Secret canary", "Content-Length: 0"), 400),
        (head("X-CXone-Webhook-Secret: canary\0", "Content-Length: 0"), 400),
        (head("Content-Length: canary"), 400),
        (head("Content-Length: 0", first=f"POST {PATH}?canary HTTP/9"), 400),
        (head("Content-Length: 0", first=f"POST /{'canary' * 1000} HTTP/1.1"), 414),
        (head(f"X-Long: {'canary' * 2000}", "Content-Length: 0"), 431),
        (head(*(f"X-{number}: canary" for number in range(200))), 431),
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
def test_what_is_not_http_is_refused_and_not_repeated(web: WebProcess, request_bytes: bytes, status: int) -> None:
    """Problem details without a word of the request, in the answer and in the log; never a 500."""
    answer = web.raw(request_bytes)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["connection"] == "close"
    assert answer.json["status"] == status
    assert b"canary" not in answer.body
    assert "canary" not in web.log.read_text()


def keyed(web: WebProcess, *lines: str) -> Answer:
    """An interaction with these header lines."""
    return web.raw(head(LOGIN, f"Content-Length: {len(BODY)}", *lines) + BODY)


def test_a_key_given_twice_is_refused(web: WebProcess) -> None:
    """Also the same key twice: joined by a comma, it would be a third one."""
    assert keyed(web, "Idempotency-Key: a").status == 202
    answer = keyed(web, "Idempotency-Key: a", "Idempotency-Key: a")
    assert answer.status == 400
    assert "given once" in answer.json["detail"]
    assert keyed(web, "Idempotency-Key: a,a").json.get("duplicate") is None


def test_a_header_with_underscores_is_no_header_of_ours(web: WebProcess) -> None:
    """WSGI cannot tell it from the real one, so it is dropped before."""
    secret = f"X_CXone_Webhook_Secret: {SECRET}"
    assert web.raw(head(secret, f"Content-Length: {len(BODY)}") + BODY).status == 401
