"""The HTTP contract, over real sockets, on both databases."""

import gzip
import json
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from openapi_spec_validator import validate

from outbox.db.engine import create_outbox_engine
from testkit.databases import NewDatabase
from testkit.waiting import wait_until
from testkit.web_process import PATH, SECRET, WebProcess, read_answer

VALID = {"id": "i-1", "channel": "voice"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def rows(url: str, columns: str = "id, interaction_id, payload, traceparent") -> list[Any]:
    """What is in the outbox, by id."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT {columns} FROM outbox ORDER BY id").all()
    engine.dispose()
    return [tuple(row) for row in found]


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    """A fresh database of each kind."""
    return new_database(1)


StartWeb = Callable[..., WebProcess]


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[StartWeb]:
    """Starts web processes, which are ended with the test."""
    started: list[WebProcess] = []

    def start(url: str, **environ: str) -> WebProcess:
        started.append(WebProcess({"DATABASE_URL": url, **environ}, tmp_path / f"web-{len(started)}.log"))
        return started[-1]

    yield start
    for web in started:
        web.stop()


@pytest.fixture
def web(url: str, start_web: StartWeb) -> WebProcess:
    """The web process on a fresh database."""
    return start_web(url)


def test_the_contract_of_the_answers(web: WebProcess, url: str) -> None:
    """202 after the commit, its duplicate, 409, and each refusal, as the table has them."""
    raw = b'{"id": 42, "channel": "voice", "extra": [1.50, "\xc3\xa9"]}'
    first = web.post(raw, traceparent=TRACE)
    assert (first.status_code, first.json()) == (
        202,
        {"status": "accepted", "interactionId": "42", "outboxId": rows(url)[0][0]},
    )
    assert [(i, bytes(p), t) for _, i, p, t in rows(url)] == [("42", raw, TRACE)]
    assert web.post(raw).json() == {**first.json(), "duplicate": True}
    keyed = web.post(VALID, Idempotency_Key="k-1", traceparent="00-bad")
    assert (keyed.status_code, "duplicate" in keyed.json()) == (202, False)
    assert web.post(VALID, Idempotency_Key="k-1").json()["duplicate"] is True
    assert web.post({**VALID, "x": 1}, Idempotency_Key="k-1").status_code == 409
    assert [(i, t) for _, i, _, t in rows(url)] == [("42", TRACE), ("i-1", None)]
    labelled = web.post(b'{"id": "form", "channel": "chat"}', Content_Type="application/x-www-form-urlencoded")
    assert labelled.status_code == 202
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
def test_a_refusal_is_told_as_problem_details(
    shared_web: tuple[WebProcess, str], body: Any, headers: dict[str, Any], status: int
) -> None:
    """Every refusal has its status, a detail for a person, and stores nothing."""
    web, database = shared_web
    answer = web.post(body, **headers)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["detail"]
    assert bool(told.get("errors")) == (status == 422)
    assert rows(database) == []


@pytest.fixture(scope="module")
def shared_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebProcess, str]]:
    """One web process for refusals, which store nothing."""
    from testkit.databases import migrate

    folder = tmp_path_factory.mktemp("shared-web")
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    process = WebProcess({"DATABASE_URL": url}, folder / "web.log")
    yield process, url
    process.stop()


def head(*lines: str) -> bytes:
    """A raw request's head."""
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def test_a_401_does_not_read_the_body_and_closes(shared_web: tuple[WebProcess, str]) -> None:
    """The answer comes although the body never does, and the connection ends."""
    web, _ = shared_web
    with socket.create_connection(("127.0.0.1", web.port), timeout=5) as connection:
        connection.sendall(head("Content-Length: 1000"))
        answer = read_answer(connection)
        assert (answer.status, answer.json["detail"]) == (401, "Invalid CXone webhook secret")
        assert answer.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_secret_sent_twice_is_no_secret(shared_web: tuple[WebProcess, str]) -> None:
    """Which of two headers counts is not guessed."""
    web, _ = shared_web
    secret = f"X-CXone-Webhook-Secret: {SECRET}"
    assert web.raw(head(secret, secret, "Content-Length: 0")).status == 401


def test_a_chunked_body_is_bounded_as_well(shared_web: tuple[WebProcess, str]) -> None:
    """Without a declared length the bytes are counted: 413."""
    web, _ = shared_web
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    request = head(f"X-CXone-Webhook-Secret: {SECRET}", "Transfer-Encoding: chunked") + chunk * 17 + b"0\r\n\r\n"
    assert web.raw(request).status == 413


def test_a_chunked_interaction_is_accepted(web: WebProcess, url: str) -> None:
    """CXone may send without a length."""
    body = json.dumps(VALID).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = web.raw(head(f"X-CXone-Webhook-Secret: {SECRET}", "Transfer-Encoding: chunked") + chunked)
    assert answer.status == 202
    assert len(rows(url)) == 1


def test_a_body_that_never_ends_does_not_hold_a_thread(shared_web: tuple[WebProcess, str]) -> None:
    """A sender that drips is answered 408 once its time is over."""
    web, _ = shared_web
    answer = web.raw(head(f"X-CXone-Webhook-Secret: {SECRET}", "Content-Length: 100") + b'{"id"')
    assert (answer.status, answer.headers["connection"]) == (408, "close")


def test_the_other_resources(shared_web: tuple[WebProcess, str]) -> None:
    """Health, readiness, a valid OpenAPI document, and problem details for what does not exist."""
    web, _ = shared_web
    assert requests.get(f"{web.base}/healthz", timeout=5).json() == {"status": "ok"}
    assert requests.get(f"{web.base}/readyz", timeout=5).json() == {"status": "ready"}
    validate(requests.get(f"{web.base}/openapi.json", timeout=5).json())
    assert requests.get(f"{web.base}/nowhere", timeout=5).headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", [f"{PATH}/", PATH.title(), "/cxone-data-action", "/", "/healthz/"])
def test_a_wrong_path_is_answered_with_the_right_one(shared_web: tuple[WebProcess, str], path: str) -> None:
    """A slash too many, another case, a prefix left out: 404 that names the path, never a redirect, and counted."""
    web, _ = shared_web
    not_found = 'outbox_webhook_requests_total{outcome="not_found",secret="none"}'
    before = web.metric(not_found)
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
    answer = web.raw(request.encode())
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert f"POST {PATH}" in answer.json["detail"]
    assert web.metric(not_found) == before + 1


@pytest.mark.parametrize(("method", "path", "allow"), [("PUT", PATH, "OPTIONS, POST"), ("POST", "/healthz", "GET")])
def test_a_wrong_method_is_answered_with_the_right_one(
    shared_web: tuple[WebProcess, str], method: str, path: str, allow: str
) -> None:
    """405 with Allow, and a detail that says the same."""
    web, _ = shared_web
    answer = requests.request(method, f"{web.base}{path}", timeout=5)
    assert answer.status_code == 405
    assert allow in answer.headers["Allow"]
    assert answer.headers["Allow"] in answer.json()["detail"]


def refusals(web: WebProcess) -> list[dict[str, Any]]:
    """What its log says of refused requests."""
    lines = [json.loads(line) for line in web.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("action") == "refused"]


def test_what_is_refused_leaves_a_line_without_values(url: str, start_web: StartWeb) -> None:
    """The first refusal of each outcome is logged at once, with label and JSON pointers; names and values never."""
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


def test_guesses_of_the_secret_are_logged_at_a_bounded_rate_and_stop_nobody(url: str, start_web: StartWeb) -> None:
    """Two hundred guesses: each closes its connection and is counted, all have one line and one at the end."""
    web = start_web(url)
    for number in range(200):
        answer = web.raw(head(f"X-CXone-Webhook-Secret: guess-{number}", "Content-Length: 0"))
        assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert web.post(VALID).status_code == 202
    assert web.metric('outbox_webhook_requests_total{outcome="unauthorized",secret="none"}') == 200
    assert len(refusals(web)) == 1
    assert web.stop() == 0
    assert sum(line["count"] for line in refusals(web)) == 200


def test_metrics_stand_behind_their_token(url: str, start_web: StartWeb) -> None:
    """With METRICS_TOKEN the metrics need it as a bearer token; the scheme's case does not matter (RFC 9110, 11.1)."""
    web = start_web(url, METRICS_TOKEN="m-token")
    for shown in ("", "Bearer", "Bearer m-toke", "Bearer m-token2", "Basic m-token", "m-token"):
        assert requests.get(f"{web.base}/metrics", headers={"Authorization": shown}, timeout=5).status_code == 401
    for scheme in ("Bearer", "bearer", "BEARER"):
        known = {"Authorization": f"{scheme} m-token"}
        assert requests.get(f"{web.base}/metrics", headers=known, timeout=5).status_code == 200


def test_limits_are_told_with_when_to_come_again(url: str, start_web: StartWeb) -> None:
    """Over the rate 429, over the backlog 503, both with Retry-After."""
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


def test_sigterm_finishes_what_is_in_hand(web: WebProcess, url: str) -> None:
    """A request whose body is still arriving at SIGTERM is committed and answered."""
    body = json.dumps(VALID).encode()
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        connection.sendall(head(f"X-CXone-Webhook-Secret: {SECRET}", f"Content-Length: {len(body)}") + body[:5])
        # The next request is handled by another thread, so this one is in hand by then.
        assert web.post({"id": "other", "channel": "v"}).status_code == 202
        web.signal(signal.SIGTERM)
        connection.sendall(body[5:])
        assert read_answer(connection).status == 202
    assert web.process.wait(30) == 0
    assert [interaction for _, interaction, _, _ in rows(url)] == ["other", "i-1"]


def test_concurrent_deliveries_of_one_body_store_one_row(web: WebProcess, url: str) -> None:
    """Twenty at once: one row, one that is new, the rest told as its duplicates."""
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
    """While SQLite is held by another writer nothing is accepted; afterwards it is, without a restart."""
    url = new_sqlite()
    web = start_web(url)
    engine = create_outbox_engine(url)
    with engine.begin():
        answer = web.post(VALID)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert requests.get(f"{web.base}/readyz", timeout=20).status_code == 503
    engine.dispose()
    assert web.post(VALID).status_code == 202
    assert len(rows(url)) == 1


def test_a_full_database_answers_503(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """A commit that finds no room is not acknowledged, and nothing of it is stored."""
    url = new_sqlite()
    web = start_web(url)
    assert web.post(VALID).status_code == 202
    # A file-size limit on the process stands for a full disk: writes fail in the same place.
    (worker,) = _children(web.process.pid)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    big = {**VALID, "x": "y" * 200_000}
    assert web.post(big).status_code == 503
    assert len(rows(url)) == 1
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert web.post(big).status_code == 202


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def test_nothing_personal_is_written_anywhere(web: WebProcess, url: str) -> None:
    """Secrets, e-mails and payloads reach no log, no error body and no metric."""
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
