"""The webhook: bytes on the socket of a real server (``request``), and bodies of valid requests (``body``).

It never answers 5xx, hangs or logs an unexpected error. A 202 means one committed row with the bytes that were sent,
anything else means none. No error and no log line quotes the secret or a value of the sender.
"""

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from outbox.db.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.store import Store
from relay.errors import RowsAtFaultError
from relay.kafka.encoder import Encoder
from testkit.web_fixtures import web_on_sqlite
from testkit.web_process import PATH, SECRET, WebProcess
from tests.fuzz.corpus import Input, fill_length
from tests.fuzz.log import LogWatch

CANARY = "canary-5f1d"
"""Stands in values of the corpus."""
ANSWER_SECONDS = 0.05
"""Without an answer for this long, the client ends its sending direction, so that the server awaits no more."""
HANG_SECONDS = 20.0
MAX_BYTES = 65_536
MAX_MEMORY_BYTES = 400 * 2**20
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_POINTER = re.compile(rb'"pointer": "(?:[^"\\]|\\.)*"')
_ACCEPTED = re.compile(rb'\{"status": "accepted", (?:"(?:[^"\\]|\\.)*"|[^"}])*\}')
_NOT_IMPLEMENTED = 501
"""The answer to an unknown transfer coding (RFC 9112, 6.1)."""
_INT64 = range(-(2**63), 2**63)


class Webhook:
    """A web process on SQLite.

    Args:
        web: the process.
        url: of its database.
    """

    def __init__(self, web: WebProcess, url: str) -> None:
        self._web, self._url = web, url
        self._outbox = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self._log = LogWatch(web.log, secrets=(SECRET, CANARY))
        self._connection = HTTPConnection("127.0.0.1", web.port, timeout=HANG_SECONDS)
        self._last_id = 0

    def check(self, given: Input) -> None:
        """Send a request or a body, and check answers, rows and log."""
        if given.part == "body":
            self._check_body(given.data)
        else:
            self._check_request(given.data)
        self._log.check()

    def finish(self) -> None:
        """Check that each row can be sent, that the server works, and that it has not grown."""
        self._connection.close()
        self._outbox.close()
        _check_encodable(self._url)
        worker, *others = psutil.Process(self._web.process.pid).children()
        assert not others
        assert worker.memory_info().rss < MAX_MEMORY_BYTES, worker.memory_info()
        assert self._web.post({"id": "at the end", "channel": "voice"}).status_code == 202

    def _check_body(self, body: bytes) -> None:
        self._connection.request("POST", PATH, body, {"X-CXone-Webhook-Secret": SECRET})
        response = self._connection.getresponse()
        answer = response.read()
        if response.will_close:
            self._connection.close()
        _check_answer(response.status, answer)
        rows = self._new_rows()
        if response.status != 202:
            assert not rows, f"{response.status}, and a row"
            return
        accepted = json.loads(answer)
        assert [row[0] for row in rows] == ([] if "duplicate" in accepted else [accepted["outboxId"]])
        self._check_row(accepted)
        (payload,) = self._row("payload", accepted["outboxId"])
        assert payload == body
        _check_strict(body)

    def _check_request(self, data: bytes) -> None:
        data = fill_length(data)
        answers = self._exchange(data)
        accepted = [json.loads(each) for each in _ACCEPTED.findall(answers)]
        statuses = [int(each) for each in _STATUS.findall(answers)]
        for status in statuses:
            _check_answer(status, _ACCEPTED.sub(b"", answers))
        assert statuses.count(202) == len(accepted)
        rows = self._new_rows()
        assert [row[0] for row in rows] == [each["outboxId"] for each in accepted if "duplicate" not in each]
        for each in accepted:
            assert SECRET.encode() in data
            self._check_row(each)
            (payload,) = self._row("payload", each["outboxId"])
            assert _is_sent(payload, data), payload
            _check_strict(payload)

    def _exchange(self, data: bytes) -> bytes:
        """Send bytes on a new connection; return everything that is answered until the server closes."""
        answers = b""
        with socket.create_connection(("127.0.0.1", self._web.port), timeout=HANG_SECONDS) as connection:
            with suppress(ConnectionError):  # it has refused, and closed
                connection.sendall(data)
            connection.settimeout(ANSWER_SECONDS)
            while True:
                try:
                    received = connection.recv(65536)
                except ConnectionError:
                    return answers
                except TimeoutError:
                    assert connection.gettimeout() != HANG_SECONDS, f"neither answered nor closed after {answers!r}"
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(HANG_SECONDS)
                    continue
                if not received:
                    return answers
                answers += received

    def _new_rows(self) -> list[tuple[Any, ...]]:
        rows = self._outbox.execute("SELECT id FROM outbox WHERE id > ? ORDER BY id", [self._last_id]).fetchall()
        if rows:
            self._last_id = rows[-1][0]
        return rows

    def _row(self, columns: str, row_id: int) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._outbox.execute(f"SELECT {columns} FROM outbox WHERE id = ?", [row_id]).fetchone()
        return row

    def _check_row(self, accepted: dict[str, Any]) -> None:
        assert set(accepted) <= {"status", "interactionId", "outboxId", "duplicate"}, accepted
        (interaction,) = self._row("interaction_id", accepted["outboxId"])
        assert interaction == accepted["interactionId"]


def _check_answer(status: int, answer: bytes) -> None:
    assert status < 500 or status == _NOT_IMPLEMENTED, answer
    assert SECRET.encode() not in answer, answer
    if status != 202:
        assert CANARY.encode() not in _POINTER.sub(b"", answer), answer


def _check_strict(body: bytes) -> None:
    """Assert that an accepted body is JSON that every consumer reads alike (RFC 8259, 4 to 8)."""

    def check_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key is repeated"
        return dict(pairs)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(body.decode().removeprefix("\ufeff"), object_pairs_hook=check_object, parse_constant=refuse)
    assert isinstance(document, dict)
    pending: list[Any] = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending += [*node, *node.values()]
        elif isinstance(node, list):
            pending += node
        elif isinstance(node, str):
            assert "\0" not in node, "NUL"
            node.encode()  # fails for a lone surrogate
        elif isinstance(node, int | float):
            assert int(node) in _INT64, "beyond 64 bits"


def _is_sent(payload: bytes, data: bytes) -> bool:
    """Whether these bytes stand in a request in one piece, or, in a chunked one, in pieces in this order."""
    if payload in data:
        return True
    rest = iter(data)
    return b"chunked" in data.lower() and all(byte in rest for byte in payload)


def _check_encodable(url: str) -> None:
    engine = create_outbox_engine(url)
    try:
        lease = Leases(engine, "fuzz", 60).take(0)
        assert lease is not None
        Encoder(1).records(Store(engine).pending(lease, 10**9))
    except RowsAtFaultError as error:
        raise AssertionError(f"accepted, and cannot be sent: {error.errors}") from None
    finally:
        engine.dispose()


@contextmanager
def open_webhook(folder: Path) -> Iterator[Webhook]:
    """Start the web process."""
    with web_on_sqlite(folder, WEBHOOK_MAX_BYTES=str(MAX_BYTES), WEB_THREADS="4") as (web, url):
        yield Webhook(web, url)
