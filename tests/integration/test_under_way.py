"""However a request ends, the next batch does not wait for it."""

import socket
from collections.abc import Iterator

import pytest

from testkit.databases import migrate
from testkit.web_process import PATH, SECRET, WebProcess

VALID = b'{"id": "i-1", "channel": "voice"}'


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Run a web process in which a request that is waited for in vain delays the others until they are refused."""
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    web = WebProcess({"DATABASE_URL": url}, folder / "web.log", "testkit.lingering_webhook:create_app()")
    yield web
    web.kill()


def request(start: str, body: bytes, *headers: str) -> bytes:
    """Return a request that shows the secret."""
    lines = (f"{start} HTTP/1.1", "Host: tests", f"X-CXone-Webhook-Secret: {SECRET}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


def post(body: bytes, *headers: str) -> bytes:
    """Return a request to the webhook."""
    return request(f"POST {PATH}", body, f"Content-Length: {len(body)}", *headers)


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        pytest.param(post(b"{}"), 422, id="invalid"),
        pytest.param(post(b"no JSON"), 400, id="not JSON"),
        pytest.param(post(VALID, "Content-Encoding: gzip"), 415, id="encoded"),
        pytest.param(post(VALID, "Idempotency-Key: a b"), 400, id="bad key"),
        pytest.param(post(b"", "Content-Length: 9999999"), 400, id="two lengths"),
        pytest.param(request(f"POST {PATH}", b"", "Content-Length: 9999999"), 413, id="too large"),
        pytest.param(request(f"POST {PATH}", b"x\r\n", "Transfer-Encoding: chunked"), 400, id="bad chunk"),
        pytest.param(request(f"POST {PATH}", b"", "No colon"), 400, id="no HTTP"),
        pytest.param(request("POST /elsewhere", b""), 404, id="another path"),
        pytest.param(request(f"GET {PATH}", b""), 405, id="another method"),
        pytest.param(request("GET /healthz", b""), 200, id="probe"),
    ],
)
def test_a_refused_request_is_not_waited_for(web: WebProcess, ended: bytes, status: int) -> None:
    """After it a lone interaction is accepted."""
    assert web.raw(ended).status == status
    assert web.post(VALID).status_code == 202


def test_a_request_without_its_client_is_not_waited_for(web: WebProcess) -> None:
    """The client closes in the middle of the body, or before it has the response."""
    for sent in (post(VALID)[:-5], post(VALID), post(b"{}")):
        with socket.create_connection(("127.0.0.1", web.port)) as connection:
            connection.sendall(sent)
        assert web.post(VALID).status_code == 202
