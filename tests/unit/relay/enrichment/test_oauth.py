"""What a response of the token endpoint means; no message quotes it."""

import pytest

from relay.enrichment.oauth import TokenError, parse_token
from relay.http_client import MAX_BODY_BYTES, HttpResult
from relay.settings import RelaySettings

SETTINGS = RelaySettings(kafka_bootstrap_servers="x", schema_registry_url="http://x", cxone_client_id="c")


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (HttpResult(400, "HTTP 400", body=b'{"error": "invalid_client"}'), "invalid_credentials"),
        (HttpResult(400, "HTTP 400", body=b'{"error": "invalid_grant", "hint": "canary"}'), "invalid_credentials"),
        (HttpResult(401, "HTTP 401", body=b"canary"), "invalid_credentials"),
        (HttpResult(400, "HTTP 400", body=b'{"error": "invalid_scope"}'), "lacks_scope"),
        (HttpResult(403, "HTTP 403"), "lacks_scope"),
        (HttpResult(400, "HTTP 400", body=b'{"error": ["canary"]}'), "refused"),
        (HttpResult(302, "HTTP 302"), "refused"),
        (HttpResult(429, "HTTP 429", 5.0), "throttled"),
        (HttpResult(503, "HTTP 503"), "unavailable"),
        (HttpResult(None, "ConnectionError"), "unavailable"),
        (HttpResult(200, body=None), "refused"),
        (HttpResult(200, body=b'["canary"]'), "refused"),
        (HttpResult(200, body=b'{"access_token": ""}'), "refused"),
        (HttpResult(200, body=b'{"access_token": null}'), "refused"),
        (HttpResult(200, body=b"[" * MAX_BODY_BYTES), "refused"),
        (HttpResult(400, "HTTP 400", body=b"[" * MAX_BODY_BYTES), "refused"),
        (HttpResult(200, body=b'{"access_token": "canary", "expires_in": %s}' % (b"9" * 400)), "refused"),
        (HttpResult(200, body=b'{"access_token": "canary\\r\\nX: y"}'), "refused"),
        (HttpResult(200, body='{"access_token": "canaryü"}'.encode()), "refused"),
        (HttpResult(200, body=b'{"access_token": "canary", "expires_in": "soon"}'), "refused"),
    ],
)
def test_each_refusal_has_its_outcome(result: HttpResult, outcome: str) -> None:
    """RFC 6749 puts most errors into the body of a 400; a value that does not fit into a header is no token."""
    with pytest.raises(TokenError) as caught:
        parse_token(result, SETTINGS)
    assert caught.value.outcome == outcome
    assert "canary" not in str(caught.value)


def test_a_token_comes_with_its_lifetime() -> None:
    """An hour if the response does not say, and never less than zero."""
    assert parse_token(HttpResult(200, body=b'{"access_token": "t", "expires_in": "60"}'), SETTINGS) == ("t", 60)
    assert parse_token(HttpResult(200, body=b'{"access_token": "t"}'), SETTINGS) == ("t", 3600)
    assert parse_token(HttpResult(200, body=b'{"access_token": "t", "expires_in": null}'), SETTINGS) == ("t", 3600)
    assert parse_token(HttpResult(200, body=b'{"access_token": "t", "expires_in": -5}'), SETTINGS) == ("t", 0)
