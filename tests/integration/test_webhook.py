"""The HTTP contract, over real sockets, on both databases."""

import gzip
import json
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from openapi_spec_validator import validate

from outbox.db.engine import create_outbox_engine
from testkit.databases import NewDatabase
from testkit.waiting import wait_until
from testkit.web_fixtures import StartWeb, web_on_sqlite
from testkit.web_process import PATH, SECRET, WebProcess, read_response

VALID = {"id": "i-1", "channel": "voice"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rows(url: str, columns: str = "id, interaction_id, payload, traceparent") -> list[Any]:
    """Rows of the outbox in the order of ids."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT {columns} FROM outbox ORDER BY id").all()
    engine.dispose()
    return [tuple(row) for row in found]


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    """A fresh database on SQLite and on PostgreSQL."""
    return new_database(1)


@pytest.fixture
def web(url: str, start_web: StartWeb) -> WebProcess:
    """The web process on a fresh database."""
    return start_web(url)


def test_accepted_duplicate_and_reused_key(web: WebProcess, url: str) -> None:
    """202 with the id of the stored row, 202 marked as a duplicate, and 409 for another body under the same key."""
    raw = b'{"id": 42, "channel": "voice", "extra": [1.50, "\xc3\xa9"]}'
    first = web.post(raw, traceparent=TRACE)
    assert first.status_code == 202, first.text
    assert first.json() == {"status": "accepted", "interactionId": "42", "outboxId": rows(url)[0][0]}
    assert [(i, bytes(p), t) for _, i, p, t in rows(url)] == [("42", raw, TRACE)]
    assert web.post(raw).json() == {**first.json(), "duplicate": True}
    keyed = web.post(VALID, Idempotency_Key="k-1", traceparent="00-bad")
    assert keyed.status_code == 202, keyed.text
    assert "duplicate" not in keyed.json()
    assert web.post(VALID, Idempotency_Key="k-1").json()["duplicate"] is True
    assert web.post({**VALID, "x": 1}, Idempotency_Key="k-1").status_code == 409
    assert [(i, t) for _, i, _, t in rows(url)] == [("42", TRACE), ("i-1", None)]
    form = web.post(b'{"id": "form", "channel": "chat"}', Content_Type="application/x-www-form-urlencoded")
    assert form.status_code == 202
    assert web.metric("outbox_webhook_form_labelled_total") == 1
    assert web.metric('outbox_webhook_requests_total{outcome="accepted",secret="tests"}') == 3


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b'{"id": NaN, "channel": "v"}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"\xff", {}, 400),
        (VALID, {"Idempotency_Key": "a b"}, 400),
        (VALID, {"Idempotency_Key": "x" * 256}, 400),
        (VALID, {"Idempotency_Key": "ä".encode().decode("latin-1")}, 400),
        (VALID, {"secret": None}, 401),
        (VALID, {"secret": "wrong"}, 401),
        (VALID, {"secret": "ü".encode().decode("latin-1") * 12}, 401),
        (b"{" + b" " * 2**20 + b"}", {}, 413),
        (gzip.compress(json.dumps(VALID).encode(), mtime=0), {"Content_Encoding": "gzip"}, 415),
        ({"channel": "v"}, {}, 422),
        ({"id": "\ud800", "channel": "v"}, {}, 422),
        ({"id": "a\0b", "channel": "v"}, {}, 422),
        ({"id": 2**63, "channel": "v"}, {}, 422),
        (b'{"id": ' + b"9" * 5000 + b', "channel": "v"}', {}, 422),
        (b'{"id": 1, "channel": "v", "x": 1e400}', {}, 422),
        (b'{"id": 1, "id": 1, "channel": "v"}', {}, 422),
    ],
)
def test_refusals_are_problem_details(
    shared_web: tuple[WebProcess, str], body: Any, headers: dict[str, Any], status: int
) -> None:
    """Every refusal has a status and a detail, and stores nothing."""
    web, database = shared_web
    answer = web.post(body, **headers)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert bool(problem.get("errors")) == (status == 422), problem
    assert rows(database) == []


@pytest.fixture(scope="module")
def shared_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebProcess, str]]:
    """One web process for requests that store nothing."""
    with web_on_sqlite(tmp_path_factory.mktemp("shared-web")) as found:
        yield found


def head(*lines: str) -> bytes:
    """The head of a raw request."""
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def test_a_401_does_not_read_the_body_and_closes(shared_web: tuple[WebProcess, str]) -> None:
    """The response does not wait for the body, and the connection closes."""
    web, _ = shared_web
    with socket.create_connection(("127.0.0.1", web.port), timeout=5) as connection:
        connection.sendall(head("Content-Length: 1000"))
        answer = read_response(connection)
        assert answer.status == 401, answer
        assert answer.json["detail"] == "Invalid CXone webhook secret"
        assert answer.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_secret_sent_twice_is_refused(shared_web: tuple[WebProcess, str]) -> None:
    """The server does not guess which of two headers counts."""
    web, _ = shared_web
    secret = f"X-CXone-Webhook-Secret: {SECRET}"
    assert web.raw(head(secret, secret, "Content-Length: 0")).status == 401


def test_the_size_of_a_chunked_body_is_limited(shared_web: tuple[WebProcess, str]) -> None:
    """Without a declared length, the bytes are counted: 413."""
    web, _ = shared_web
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    request = head(f"X-CXone-Webhook-Secret: {SECRET}", "Transfer-Encoding: chunked") + chunk * 17 + b"0\r\n\r\n"
    assert web.raw(request).status == 413


def test_a_chunked_interaction_is_accepted(web: WebProcess, url: str) -> None:
    """A chunked body is stored as one row."""
    body = json.dumps(VALID).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = web.raw(head(f"X-CXone-Webhook-Secret: {SECRET}", "Transfer-Encoding: chunked") + chunked)
    assert answer.status == 202
    assert len(rows(url)) == 1


def test_a_body_that_never_completes_is_refused(shared_web: tuple[WebProcess, str]) -> None:
    """After the timeout: 408."""
    web, _ = shared_web
    answer = web.raw(head(f"X-CXone-Webhook-Secret: {SECRET}", "Content-Length: 100") + b'{"id"')
    assert answer.status == 408, answer
    assert answer.headers["connection"] == "close"


def test_health_openapi_and_unknown_paths(shared_web: tuple[WebProcess, str]) -> None:
    """Liveness, readiness, a valid OpenAPI document, and problem details for a path that does not exist."""
    web, _ = shared_web
    assert requests.get(f"{web.base}/healthz", timeout=5).json() == {"status": "ok"}
    ready = {"status": "ready"}  # not at once on a busy machine: a request waits only one second for the first check
    wait_until(lambda: requests.get(f"{web.base}/readyz", timeout=30).json() == ready, "it is ready")
    validate(requests.get(f"{web.base}/openapi.json", timeout=5).json())
    assert requests.get(f"{web.base}/nowhere", timeout=5).headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", [f"{PATH}/", PATH.title(), "/cxone-data-action", "/", "/healthz/"])
def test_a_404_names_the_path_of_the_webhook(shared_web: tuple[WebProcess, str], path: str) -> None:
    """An extra slash, another case, a missing prefix: counted, and never a redirect."""
    web, _ = shared_web
    not_found = 'outbox_webhook_requests_total{outcome="not_found",secret="none"}'
    before = web.metric(not_found)
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
    answer = web.raw(request.encode())
    assert answer.status == 404, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"POST {PATH}" in answer.json["detail"]
    assert web.metric(not_found) == before + 1


@pytest.mark.parametrize(("method", "path", "allow"), [("PUT", PATH, "OPTIONS, POST"), ("POST", "/healthz", "GET")])
def test_a_405_names_the_allowed_methods(
    shared_web: tuple[WebProcess, str], method: str, path: str, allow: str
) -> None:
    """405 with the allowed methods in Allow and in the detail."""
    web, _ = shared_web
    answer = requests.request(method, f"{web.base}{path}", timeout=5)
    assert answer.status_code == 405
    assert allow in answer.headers["Allow"]
    assert answer.headers["Allow"] in answer.json()["detail"]


def refusals(web: WebProcess) -> list[dict[str, Any]]:
    """Log lines about refused requests."""
    lines = [json.loads(line) for line in web.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("action") == "refused"]


def test_refusals_are_logged_without_values(url: str, start_web: StartWeb) -> None:
    """The first refusal of each outcome is logged with its label and JSON Pointers, without names or values."""
    web = start_web(url)
    canary = "canary-mail@example.com"
    bad_agent = {**VALID, "agent": {"id": [canary]}, canary: "\0", "customer": {canary: "\0"}}
    assert web.post({**VALID, "timestamp": canary}).status_code == 422
    assert web.post(f"{canary}".encode()).status_code == 400
    assert web.post(VALID, secret=f"{canary}-secret").status_code == 401
    for _ in range(30):
        assert web.post(bad_agent).status_code == 422
    seen = {(line["outcome"], line["secret"], line["count"], *line["pointers"]) for line in refusals(web)}
    assert seen == {
        ("invalid", "tests", 1, "/timestamp"),
        ("not_json", "tests", 1),
        ("unauthorized", "none", 1),
    }
    assert canary not in web.log.read_text()
    assert "127.0.0.1" not in "".join(line["event"] for line in refusals(web))


def test_wrong_secrets_are_logged_at_a_limited_rate(url: str, start_web: StartWeb) -> None:
    """Two hundred guesses are counted, each closes its connection, and the log has one line at once and one at exit."""
    web = start_web(url)
    for number in range(200):
        answer = web.raw(head(f"X-CXone-Webhook-Secret: guess-{number}", "Content-Length: 0"))
        assert answer.status == 401, answer
        assert answer.headers["connection"] == "close"
    assert web.post(VALID).status_code == 202
    assert web.metric('outbox_webhook_requests_total{outcome="unauthorized",secret="none"}') == 200
    assert len(refusals(web)) == 1
    assert web.stop() == 0
    assert sum(line["count"] for line in refusals(web)) == 200


def test_metrics_require_the_token(url: str, start_web: StartWeb) -> None:
    """With METRICS_TOKEN set, a bearer token is required; the case of the scheme is ignored (RFC 9110, 11.1)."""
    web = start_web(url, METRICS_TOKEN="m-token")
    for given in ("", "Bearer", "Bearer m-toke", "Bearer m-token2", "Basic m-token", "m-token"):
        assert requests.get(f"{web.base}/metrics", headers={"Authorization": given}, timeout=5).status_code == 401
    for scheme in ("Bearer", "bearer", "BEARER"):
        known = {"Authorization": f"{scheme} m-token"}
        assert requests.get(f"{web.base}/metrics", headers=known, timeout=5).status_code == 200


def test_refusals_by_a_limit_have_retry_after(url: str, start_web: StartWeb) -> None:
    """429 over the rate limit, 503 over the backlog limit."""
    web = start_web(url, WEBHOOK_BACKLOG_LIMIT="1")
    assert web.post(VALID).status_code == 202
    refusals = wait_until(
        lambda: [a for a in [web.post({**VALID, "x": 1})] if a.status_code == 503], "the backlog is noticed"
    )
    full = refusals[0]
    assert int(full.headers["Retry-After"]) >= 1
    web.stop()
    web = start_web(url, WEBHOOK_RATE_LIMIT="1")
    answers = [web.post({**VALID, "x": number}) for number in range(20)]
    (limited, *_) = [answer for answer in answers if answer.status_code == 429]
    assert limited.headers["Retry-After"] == "1"


def test_sigterm_lets_running_requests_finish(web: WebProcess, url: str) -> None:
    """A request whose body is still arriving at SIGTERM is committed and answered."""
    body = json.dumps(VALID).encode()
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        connection.sendall(head(f"X-CXone-Webhook-Secret: {SECRET}", f"Content-Length: {len(body)}") + body[:5])
        # Once the next request is answered, the server has read the start of this one.
        assert web.post({"id": "other", "channel": "v"}).status_code == 202
        web.signal(signal.SIGTERM)
        connection.sendall(body[5:])
        assert read_response(connection).status == 202
    assert web.process.wait(30) == 0
    assert [interaction for _, interaction, _, _ in rows(url)] == ["other", "i-1"]


def test_concurrent_deliveries_of_one_body_store_one_row(web: WebProcess, url: str) -> None:
    """Of twenty, one is new, and the others are its duplicates."""
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(web.post(VALID).json())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(url)) == 1
    assert len({answer["outboxId"] for answer in answers}) == 1
    assert sum("duplicate" not in answer for answer in answers) == 1


def test_a_locked_database_answers_503_and_recovers(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """While another writer locks SQLite nothing is accepted; afterwards it is, without a restart."""
    url = new_sqlite()
    web = start_web(url)
    engine = create_outbox_engine(url)
    with engine.begin():
        answer = web.post(VALID)
        assert answer.status_code == 503, answer.text
        assert answer.headers["Retry-After"] == "2"
        assert requests.get(f"{web.base}/readyz", timeout=20).status_code == 503
    engine.dispose()
    assert web.post(VALID).status_code == 202
    assert len(rows(url)) == 1


def test_a_full_database_answers_503(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """A commit that fails for lack of space is not acknowledged, and stores nothing."""
    url = new_sqlite()
    web = start_web(url)
    assert web.post(VALID).status_code == 202
    # A file-size limit simulates a full disk: writes fail in the same place.
    (worker,) = _children(web.process.pid)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    big = {**VALID, "x": "y" * 200_000}
    assert web.post(big).status_code == 503
    assert len(rows(url)) == 1
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert web.post(big).status_code == 202


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def test_no_personal_data_in_log_errors_or_metrics(web: WebProcess, url: str) -> None:
    """Neither do secrets and payloads appear there."""
    canaries = ["canary-secret-0123456", "canary-mail@example.com", "canary-payload", "canary-key"]
    secret, mail, payload, key = canaries
    full = {**VALID, "customer": {"email": mail}, "note": payload}
    bodies = [
        web.post(full, Idempotency_Key=key),
        web.post({**full, "x": 1}, Idempotency_Key=key),
        web.post(full, secret=secret),
        web.post({**full, "id": {"email": mail}, "channel": [payload]}),
        web.post(json.dumps(full).encode()[:-1]),
        web.post({**full, "timestamp": mail}),
    ]
    assert [answer.status_code for answer in bodies] == [202, 409, 401, 422, 400, 422]
    written = "".join(answer.text + str(answer.headers) for answer in bodies)
    written += requests.get(f"{web.base}/metrics", timeout=5).text
    web.stop()
    written += web.log.read_text()
    assert [canary for canary in [*canaries, SECRET] if canary in written] == []
