"""What an answer of CXone tells of an interaction, which rows may go, and how fast it is asked: pure decisions."""

import json
from random import Random
from typing import Any

import pytest

from outbox.models import EnrichedFields, PendingRow
from relay.enrichment.enricher import REST_CAP_SECONDS, Bucket, Failing, failing, sendable
from relay.enrichment.oauth import TokenError
from relay.enrichment.response import NOTHING_KNOWN, LaterError, ThrottledError, fields_of
from relay.errors import UnavailableError
from relay.http_client import ANSWER_BYTES, HttpResult

EMAIL, AGENT = "/customer/email,/fromAddress,/fromAddr", "/agent/id,/agentId"


def told(document: Any, email: str = EMAIL, agent: str = AGENT) -> EnrichedFields:
    """What such an answer tells."""
    return fields_of(HttpResult(200, body=json.dumps(document).encode()), email, agent)


def test_the_first_path_that_finds_something_counts() -> None:
    """JSON Pointers, with their escapes and array indexes; a number becomes text."""
    assert told({"customer": {"email": "a@b"}, "agent": {"id": "x"}}) == EnrichedFields("a@b", "x")
    assert told({"fromAddress": "a@b", "agentId": 7}) == EnrichedFields("a@b", "7")
    assert told({"x/y": [{"~": "a@b"}]}, email="/x~1y/0/~0").customer_email == "a@b"
    assert told({"x": ["c@d"], "y": "a@b"}, email="/x/1,/x/-,/x/0/z,/y").customer_email == "a@b"


@pytest.mark.parametrize(
    "value", ["", None, True, 1.5, [], {}, "+49 30 1234", "a@" + "b" * 320, "a@\0", "a@\ud800", ["a@b"]]
)
def test_what_is_no_address_is_not_taken_for_one(value: object) -> None:
    """A telephone number, an over-long text, one that no database can hold: nothing is known then."""
    assert told({"fromAddress": value}).customer_email is None


@pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}, "a" * 257, "\0", "\ud800"])
def test_what_is_no_agent_is_not_taken_for_one(value: object) -> None:
    """Likewise."""
    assert told({"agentId": value}).agent_id is None


@pytest.mark.parametrize("document", [[], 1, None, "x", {}])
def test_any_json_is_an_answer(document: object) -> None:
    """One that tells nothing, perhaps."""
    assert told(document) == NOTHING_KNOWN


@pytest.mark.parametrize("status", [204, 404, 400, 410, 422])
def test_no_such_interaction_means_that_nothing_more_is_known(status: int) -> None:
    """Also a refusal of this very request: it would be refused again, and the rows behind it would wait for ever."""
    assert fields_of(HttpResult(status, f"HTTP {status}"), EMAIL, AGENT) == NOTHING_KNOWN


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_a_mistake_in_the_settings(status: int) -> None:
    """It is told and waited for: rows that go without would be taken for complete for ever."""
    with pytest.raises(UnavailableError, match=f"CXONE_ENRICH_URL answers {status}"):
        fields_of(HttpResult(status, f"HTTP {status}"), EMAIL, AGENT)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_web_page_is_no_answer_of_cxone(status: int) -> None:
    """Any server has one for a path that it does not know: rows wait, rather than go without what CXone knows."""
    with pytest.raises(UnavailableError, match="check its host and path"):
        fields_of(HttpResult(status, f"HTTP {status}", body=b"\n<!DOCTYPE html><p>Not Found"), EMAIL, AGENT)


def test_what_may_pass_is_waited_for() -> None:
    """No answer, 5xx, 429 with or without a time, an answer that broke off; only 429 means that CXone works."""
    broken = (HttpResult(200, body=None), HttpResult(200, body=b"\xff"), HttpResult(200, body=b"[" * ANSWER_BYTES))
    for answer in (HttpResult(None, "ConnectionError"), HttpResult(500, "HTTP 500"), *broken):
        with pytest.raises(UnavailableError):
            fields_of(answer, EMAIL, AGENT)
    with pytest.raises(ThrottledError) as caught:
        fields_of(HttpResult(429, "HTTP 429", 9.0), EMAIL, AGENT)
    assert caught.value.seconds == 9
    with pytest.raises(ThrottledError) as caught:
        fields_of(HttpResult(429, "HTTP 429"), EMAIL, AGENT)
    assert caught.value.seconds == 0
    with pytest.raises(LaterError) as away:
        fields_of(HttpResult(503, "HTTP 503", 9.0), EMAIL, AGENT)
    assert away.value.seconds == 9
    assert not isinstance(away.value, ThrottledError)
    with pytest.raises(TokenError, match="invalid or expired"):
        fields_of(HttpResult(401, "HTTP 401"), EMAIL, AGENT)


class Highest(Random):
    """Jitter at its upper bound."""

    def uniform(self, _a: float, b: float) -> float:
        """The upper bound."""
        return b


def row(number: int, interaction: str, email: str | None) -> PendingRow:
    """A row of a shard."""
    return PendingRow(number, number, interaction, "voice", 1, email, "agent", None, None, 1)


def test_rows_go_without_waiting_for_those_of_other_interactions() -> None:
    """An incomplete row holds itself and what follows in its interaction, unless rows go as they are."""
    rows = [row(1, "a", "x@y"), row(2, "a", None), row(3, "b", "x@y"), row(4, "a", "x@y")]
    assert [each.id for each in sendable(rows, (), as_they_are=False)] == [1, 3]
    assert sendable(rows, (), as_they_are=True) == rows


def test_interactions_that_are_given_up_hold_nobody() -> None:
    """Their rows go as they are, and those behind them."""
    rows = [row(1, "a", None), row(2, "b", None), row(3, "a", "x@y"), row(4, "b", "x@y")]
    assert [each.id for each in sendable(rows, {"a": "why"}, as_they_are=False)] == [1, 3]


def test_a_failure_counts_only_if_others_were_told_of_since_the_one_before() -> None:
    """CXone down as a whole says nothing about an interaction; after each failure that counts it rests longer."""
    state, told = failing(None, 7, 100.0, Random(1), "HTTP 500"), 7
    for _ in range(50):
        state = failing(state, told, 100.0, Random(1), "HTTP 500")
    assert state == Failing(0, state.rest_until, 7, "HTTP 500")
    assert state.rest_until <= 101
    rests = []
    for told in range(8, 18):
        state = failing(state, told, 100.0, Highest(), "HTTP 500")
        rests.append(state.rest_until - 100)
    assert state.failures == 10
    assert rests == [1, 2, 4, 8, 16, 32, REST_CAP_SECONDS, REST_CAP_SECONDS, REST_CAP_SECONDS, REST_CAP_SECONDS]


def test_the_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    """Tokens of the future are handed out with the wait for them."""
    bucket = Bucket(10, 5)
    assert [round(bucket.take(100.0), 3) for _ in range(7)] == [0, 0, 0, 0, 0, 0.1, 0.2]
    assert bucket.take(200.0) == 0
