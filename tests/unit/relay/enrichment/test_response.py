"""What a response of CXone says of an interaction."""

import json
from typing import Any

import pytest

from outbox.models import EnrichedFields
from relay.enrichment.oauth import TokenError
from relay.enrichment.response import NOTHING_KNOWN, RetryLaterError, ThrottledError, read_fields
from relay.errors import UnavailableError
from relay.http_client import MAX_BODY_BYTES, HttpResult
from relay.settings import RelaySettings

EMAIL, AGENT = "/customer/email,/fromAddress,/fromAddr", "/agent/id,/agentId"


def settings(email: str = EMAIL, agent: str = AGENT) -> RelaySettings:
    """Settings with these pointers."""
    return RelaySettings(
        kafka_bootstrap_servers="x",
        schema_registry_url="http://x",
        cxone_enrich_email_path=email,
        cxone_enrich_agent_path=agent,
    )


def read(document: Any, **pointers: str) -> EnrichedFields:
    """The fields read from a 200 with this document."""
    return read_fields(HttpResult(200, body=json.dumps(document).encode()), settings(**pointers))


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({"customer": {"email": "a@b"}, "agent": {"id": "x"}}, EnrichedFields("a@b", "x")),
        ({"fromAddress": "a@b", "agentId": 7}, EnrichedFields("a@b", "7")),
    ],
)
def test_the_first_pointer_that_finds_a_value_counts(document: object, fields: EnrichedFields) -> None:
    """A number becomes text."""
    assert read(document) == fields


def test_pointers_follow_rfc_6901() -> None:
    """With escapes and array indexes; one that leads nowhere finds nothing."""
    assert read({"x/y": [{"~": "a@b"}]}, email="/x~1y/0/~0").customer_email == "a@b"
    assert read({"x": ["c@d"], "y": "a@b"}, email="/x/1,/x/-,/x/0/z,/y").customer_email == "a@b"


@pytest.mark.parametrize(
    "value", ["", None, True, 1.5, [], {}, "+49 30 1234", "a@" + "b" * 320, "a@\0", "a@\ud800", ["a@b"]]
)
def test_a_value_that_is_no_email_address_is_ignored(value: object) -> None:
    """Such as a telephone number, a text that is too long, or one that no database can store."""
    assert read({"fromAddress": value}).customer_email is None


@pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}, "a" * 257, "\0", "\ud800"])
def test_a_value_that_is_no_agent_id_is_ignored(value: object) -> None:
    """Such as a text that is empty or too long, or one that no database can store."""
    assert read({"agentId": value}).agent_id is None


@pytest.mark.parametrize("document", [[], 1, None, "x", {}])
def test_any_json_document_is_accepted(document: object) -> None:
    """It may contain none of the fields."""
    assert read(document) == NOTHING_KNOWN


@pytest.mark.parametrize("status", [204, 404, 400, 410, 422])
def test_after_a_rejection_nothing_is_known(status: int) -> None:
    """The same request would be rejected again, and the rows behind it would wait forever."""
    assert read_fields(HttpResult(status, f"HTTP {status}"), settings()) == NOTHING_KNOWN


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_a_wrong_setting(status: int) -> None:
    """Rows wait: if they were sent, they would count as complete for good."""
    with pytest.raises(UnavailableError, match=rf"CXONE_ENRICH_URL returned a redirect \({status}\)"):
        read_fields(HttpResult(status, f"HTTP {status}"), settings())


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_web_page_is_not_a_response_of_cxone(status: int) -> None:
    """Any server returns one for an unknown path: rows wait, rather than being sent without what CXone knows."""
    with pytest.raises(UnavailableError, match="check its host and path"):
        read_fields(HttpResult(status, f"HTTP {status}", body=b"\n<!DOCTYPE html><p>Not Found"), settings())


@pytest.mark.parametrize(
    "result",
    [
        HttpResult(None, "ConnectionError"),
        HttpResult(500, "HTTP 500"),
        HttpResult(200, body=None),
        HttpResult(200, body=b"\xff"),
        HttpResult(200, body=b"[" * MAX_BODY_BYTES),
    ],
)
def test_what_may_be_temporary_is_waited_for(result: HttpResult) -> None:
    """No response, 5xx, and a response that is incomplete or no JSON."""
    with pytest.raises(UnavailableError):
        read_fields(result, settings())


@pytest.mark.parametrize("seconds", [9.0, None])
def test_429_means_that_cxone_works(seconds: float | None) -> None:
    """It comes with or without a ``Retry-After``."""
    with pytest.raises(ThrottledError) as caught:
        read_fields(HttpResult(429, "HTTP 429", seconds), settings())
    assert caught.value.retry_after_seconds == (seconds or 0)


def test_503_is_a_failure_with_retry_after() -> None:
    """It does not say that CXone works."""
    with pytest.raises(RetryLaterError) as caught:
        read_fields(HttpResult(503, "HTTP 503", 9.0), settings())
    assert caught.value.retry_after_seconds == 9
    assert not isinstance(caught.value, ThrottledError)


@pytest.mark.parametrize(("status", "outcome"), [(401, "invalid_credentials"), (403, "lacks_scope")])
def test_a_denied_token_is_named_as_such(status: int, outcome: str) -> None:
    """Credentials or the client's scope have to be corrected."""
    with pytest.raises(TokenError) as caught:
        read_fields(HttpResult(status, f"HTTP {status}"), settings())
    assert caught.value.outcome == outcome
