"""What a status and a ``Retry-After`` header mean, and how a late response is cut off."""

import socket
import time
from contextlib import closing
from email.utils import formatdate

import pytest

from relay.http_client import MAX_RETRY_AFTER_SECONDS, HttpResult, Outcome, classify, parse_json, parse_retry_after
from relay.total_timeout import TotalTimeout

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.SUCCESS) for status in (200, 201, 202, 204, 299)),
        *((status, Outcome.RETRY) for status in (None, 103, 408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Outcome.REJECTED) for status in (301, 302, 307, 400, 401, 403, 404, 409, 410, 413, 422, 499)),
    ],
)
def test_status_classes(status: int | None, outcome: Outcome) -> None:
    """2xx succeeds, what may be temporary is retried, everything else is final, redirects included."""
    assert classify(HttpResult(status)) is outcome


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 0 ", 0),
        ("999999999999999999", MAX_RETRY_AFTER_SECONDS),
        (formatdate(NOW + 30, usegmt=True), 30),
        (formatdate(NOW - 30, usegmt=True), 0),
        (formatdate(NOW + 9e6, usegmt=True), MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    """Both forms of RFC 9110 are read and capped; a date in the past means now."""
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "Wed, 99 Nov 2026"])
def test_a_malformed_retry_after_is_ignored(value: str | None) -> None:
    """It counts as absent."""
    assert parse_retry_after(value, NOW) is None


@pytest.mark.parametrize(
    "value", ["Sun Nov  6 08:49:37 1994", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 -0000"]
)
def test_a_date_without_a_zone_is_in_gmt(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the older forms of RFC 9110 are, whatever the relay's own time zone."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert parse_retry_after(value, 784_111_777 - 30) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("body", [None, b"", b"\xff", b"{", b"[" * 60_000])
def test_a_body_that_is_not_json_is_refused(body: bytes | None) -> None:
    """One that was cut off, is no JSON, or is nested too deeply raises one kind of error."""
    with pytest.raises(ValueError):
        parse_json(HttpResult(200, body=body))


def test_a_socket_is_watched_only_within_its_block() -> None:
    """A connection is kept for the next request: the deadline of the previous one must not end that."""
    timeout = TotalTimeout()
    done, peer_of_done = socket.socketpair()
    late, peer_of_late = socket.socketpair()
    with closing(done), closing(peer_of_done), closing(late), closing(peer_of_late):
        with timeout.until(time.monotonic()):
            timeout.watch(done)
        with timeout.until(time.monotonic()):
            timeout.watch(late)
            late.settimeout(30)
            assert late.recv(1) == b""  # shut down at its deadline, which is the later one
        peer_of_done.sendall(b"x")
        assert done.recv(1) == b"x"
