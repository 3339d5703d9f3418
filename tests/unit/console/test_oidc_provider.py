"""What an OpenID provider is asked, what it may not say, and what happens while it fails."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, Response
from joserfc import jws

from console.login import EXTENSION as LOGIN
from console.login import MAX_AT_ONCE, LoginLimits
from console.oidc_provider import CACHE_SECONDS, LEEWAY_SECONDS
from testkit.clock import ManualClock
from testkit.console import is_signed_in, page_of, start_console
from testkit.databases import NewDatabase
from testkit.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OidcProvider,
    come_back,
    listen,
    new_key,
    oidc_environ,
    sign_in_there,
    visit_provider,
)

ROLES = "248289761001=operator"


def test_the_provider_is_asked_with_pkce_state_and_nonce(oidc_app: Flask, provider: OidcProvider) -> None:
    """The address has no secret, and leads back to the public address whatever the request's host."""
    client = oidc_app.test_client()
    asked = [client.get("/login/start", headers={"Host": "evil.example"}).location for _ in range(2)]
    first, second = (parse_qs(urlsplit(str(address)).query) for address in asked)
    assert {name: first.pop(name) for name in ("response_type", "client_id", "redirect_uri", "scope")} == {
        "response_type": ["code"],
        "client_id": [CLIENT_ID],
        "redirect_uri": ["http://localhost/login/callback"],
        "scope": ["openid profile"],
    }
    assert first.pop("code_challenge_method") == ["S256"]
    assert set(first) == {"state", "nonce", "code_challenge"}
    assert all(first[name] != second[name] and len(first[name][0]) >= 43 for name in first)
    assert provider.requests == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_the_client_proves_itself_as_the_provider_takes_it(
    oidc_app: Flask, provider: OidcProvider, method: str
) -> None:
    """In a header or in the form, whatever characters the secret has."""
    provider.auth_method = method
    client = oidc_app.test_client()
    page_of(sign_in_there(client))
    assert is_signed_in(client)


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"claims": {"nonce": "another"}}, "invalid_claim (nonce)"),
    "no nonce": ({"claims": {"nonce": None}}, "missing_claim (nonce)"),
    "expired": ({"claims": {"exp": -LEEWAY_SECONDS - 1}}, "expired_token (exp)"),
    "no expiry": ({"claims": {"exp": None}}, "missing_claim (exp)"),
    "issued later": ({"claims": {"iat": LEEWAY_SECONDS + 100}}, "invalid_claim (iat)"),
    "not valid yet": ({"claims": {"nbf": LEEWAY_SECONDS + 100}}, "invalid_claim (nbf)"),
    "another audience": ({"claims": {"aud": "another"}}, "invalid_claim (aud)"),
    "another audience, by us": ({"claims": {"aud": ["another"], "azp": CLIENT_ID}}, "invalid_claim (aud)"),
    "for us, by another": ({"claims": {"aud": [CLIENT_ID, "another"], "azp": "another"}}, "invalid_claim (azp)"),
    "no audience": ({"claims": {"aud": None}}, "missing_claim (aud)"),
    "another issuer": ({"claims": {"iss": "https://another.example"}}, "invalid_claim (iss)"),
    "no issuer": ({"claims": {"iss": None}}, "missing_claim (iss)"),
    "no subject": ({"claims": {"sub": None}}, "missing_claim (sub)"),
    "a number as subject": ({"claims": {"sub": 248289761001}}, "invalid_claim (sub)"),
    "a subject with a space": ({"claims": {"sub": "two words"}}, "printable ASCII"),
    "an empty subject": ({"claims": {"sub": ""}}, "printable ASCII"),
    "another access token": ({"claims": {"at_hash": "another"}}, "invalid_claim (at_hash)"),
    "unsigned": ({"header": {"alg": "none"}}, "unsupported_algorithm"),
    "unsigned, without a key": ({"header": {"alg": "none", "kid": None}}, "unsupported_algorithm"),
    "signed with the secret": ({"header": {"alg": "HS256"}, "secret": CLIENT_SECRET.encode()}, "unsupported_algorithm"),
    "signed with the public key": ({"header": {"alg": "HS256", "kid": None}}, "unsupported_algorithm"),
    "an unknown key": ({"header": {"kid": "unknown"}}, "invalid_key_id"),
    "signed by another": ({"key": new_key()}, "bad_signature"),
}
"""Times are in seconds from now."""


@pytest.mark.parametrize(("change", "reason"), FORGED.values(), ids=FORGED)
def test_a_wrong_id_token_lets_nobody_in(
    oidc_app: Flask,
    provider: OidcProvider,
    clock: ManualClock,
    lines: list[dict[str, object]],
    change: dict[str, Any],
    reason: str,
) -> None:
    """The page and the log say what was wrong with it, and quote nothing of it."""
    provider.secret = provider.published.as_pem(private=False)  # which anybody may read
    for name, value in change.items():
        setattr(provider, name, value)
    for name in {"exp", "iat", "nbf"} & provider.claims.keys():
        provider.claims[name] = provider.claims[name] and int(clock.now) + provider.claims[name]
    client = oidc_app.test_client()
    assert reason in page_of(sign_in_there(client), 503)
    assert not is_signed_in(client)
    (line,) = [line for line in lines if line.get("action") == "login_failed"]
    assert reason in repr(line)
    assert "another" not in repr(lines)
    assert "248289761001" not in repr(lines)


DISCOVERY, KEYS, TOKEN = "/.well-known/openid-configuration", "/keys", "/token"


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        (DISCOVERY, Response("down", 500), "its discovery document: HTTP 500"),
        (DISCOVERY, Response("no such realm", 404), "its discovery document: HTTP 404"),
        (DISCOVERY, Response("", 302, {"Location": "http://127.0.0.1:1/"}), "its discovery document: HTTP 302"),
        (DISCOVERY, Response("<html>a proxy's page</html>"), "its discovery document is no JSON object"),
        (DISCOVERY, Response("[" * 60_000), "its discovery document is no JSON object"),
        (DISCOVERY, Response(" " * 70_000), "its discovery document is no JSON object"),
        (DISCOVERY, Response('["issuer"]'), "its discovery document is no JSON object"),
        (KEYS, Response("down", 500), "its set of keys: HTTP 500"),
        (KEYS, Response("{}"), "malformed (KeyError)"),
        (KEYS, Response('{"keys": 1}'), "malformed (TypeError)"),
        (KEYS, Response('{"keys": []}'), "missing_key"),
        (KEYS, Response('{"keys": [{"kty": "RSA"}]}'), "ID token"),
        (TOKEN, Response('{"error": "invalid_client", "error_description": "x"}', 401), "HTTP 401, invalid_client"),
        (TOKEN, Response('{"error": "ann@example.com"}', 400), "HTTP 400, no known error"),
        (TOKEN, Response("down", 503), "the token endpoint: HTTP 503"),
        (TOKEN, Response("{}"), "the token endpoint gave no ID token"),
        (TOKEN, Response('{"id_token": 1}'), "the token endpoint gave no ID token"),
        (TOKEN, Response('{"id_token": "a.b"}'), "its ID token"),
        (TOKEN, Response('{"id_token": "\\u00e9.b.c"}'), "its ID token"),
    ],
)
def test_a_provider_that_answers_wrongly_is_named(
    oidc_app: Flask, provider: OidcProvider, lines: list[dict[str, object]], path: str, answer: Response, reason: str
) -> None:
    """With what failed; once it answers rightly again, users sign in."""
    client = oidc_app.test_client()
    if path == DISCOVERY:
        provider.answers[path] = answer
        response = client.get("/login/start")
    else:
        address = visit_provider(client)
        provider.answers[path] = answer
        response = come_back(client, address)
    page = page_of(response, 503)
    assert "127.0.0.1 cannot sign you in now" in page
    assert reason in page
    assert reason in repr(lines)
    assert "ann@example.com" not in page + repr(lines)
    provider.answers.clear()
    page_of(sign_in_there(client))


@pytest.mark.parametrize(
    ("discovery", "reason"),
    [
        ({"issuer": "https://another.example"}, "names another issuer"),
        ({"issuer": None}, "names another issuer"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "lacks an endpoint, or one is not https"),
        ({"token_endpoint": "http://provider.example/token"}, "lacks an endpoint, or one is not https"),
        ({"token_endpoint": None}, "lacks an endpoint, or one is not https"),
        ({"jwks_uri": 7}, "lacks an endpoint, or one is not https"),
        ({"authorization_endpoint": "https://provider.example/\ud800"}, "lacks an endpoint, or one is not https"),
        ({"authorization_endpoint": "https://provider.example/a\r\nb"}, "lacks an endpoint, or one is not https"),
    ],
)
def test_a_provider_that_describes_itself_wrongly_is_not_asked(
    oidc_app: Flask, provider: OidcProvider, discovery: dict[str, Any], reason: str
) -> None:
    """Neither the browser nor the secret is sent to an address that is another issuer's, or not protected."""
    provider.discovery = discovery
    client = oidc_app.test_client()
    assert reason in page_of(client.get("/login/start"), 503)
    provider.discovery = {}
    page_of(sign_in_there(client))


def test_the_console_works_while_the_provider_is_away(
    new_sqlite: NewDatabase, clock: ManualClock, lines: list[dict[str, object]]
) -> None:
    """It starts, shows its login, says that nobody can sign in, keeps those who have, and needs no restart."""
    provider = OidcProvider("http://localhost/login/callback", clock, {"sub": "248289761001"})
    with listen(provider):
        port = int(provider.issuer.rpartition(":")[2])
    with start_console(new_sqlite(), clock, **oidc_environ(provider, ROLES)) as app:
        client = app.test_client()
        page_of(client.get("/login"))
        assert client.get("/readyz").status_code == 200
        assert "its discovery document: ConnectionError" in page_of(client.get("/login/start"), 503)
        assert [line["log_level"] for line in lines if line.get("action") == "login_failed"] == ["error"]
        with listen(provider, port):
            page_of(sign_in_there(client))
            address = visit_provider(other := app.test_client())
        assert is_signed_in(client)
        assert "the token endpoint: ConnectionError" in page_of(come_back(other, address), 503)


def test_a_provider_that_never_answers_is_given_up(oidc_app: Flask, provider: OidcProvider) -> None:
    """Within seconds, so that its requests do not occupy the console's threads."""
    provider.running.clear()
    client = oidc_app.test_client()
    assert "its discovery document: timed out" in page_of(client.get("/login/start"), 503)


def test_few_requests_wait_for_the_provider(oidc_app: Flask) -> None:
    """The other threads answer pages; who comes back meanwhile can load the page again."""
    limits: LoginLimits = oidc_app.extensions[LOGIN]
    client = oidc_app.test_client()
    address = visit_provider(client)
    for _ in range(MAX_AT_ONCE):
        assert limits.at_once.acquire(blocking=False)
    for path in ("/login/start", address):
        busy = client.get(path)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
    limits.at_once.release()
    page_of(come_back(client, address))


def test_changed_keys_are_fetched_again(oidc_app: Flask, provider: OidcProvider) -> None:
    """Once for each key that is unknown; otherwise what the provider says about itself is kept."""
    client = oidc_app.test_client()
    for _ in range(2):
        page_of(sign_in_there(client))
    assert (provider.requests.count(DISCOVERY), provider.requests.count(KEYS)) == (1, 1)
    provider.rotate_keys()
    page_of(sign_in_there(client))
    assert (provider.requests.count(DISCOVERY), provider.requests.count(KEYS)) == (1, 2)
    provider.header = {"kid": "unknown"}
    page_of(sign_in_there(client), 503)
    assert provider.requests.count(KEYS) == 3


def test_claims_that_are_nested_too_deeply_are_malformed(oidc_app: Flask, provider: OidcProvider) -> None:
    """Their signature is valid; the page says what is wrong, as for every other token."""
    key, nested = provider.published, '{"sub": ' + "[" * 3_000 + "]" * 3_000 + "}"
    id_token = jws.serialize_compact({"alg": "RS256", "kid": key.kid}, nested, key, ["RS256"])
    provider.answers[TOKEN] = Response(json.dumps({"id_token": id_token}))
    assert "malformed (RecursionError)" in page_of(sign_in_there(oidc_app.test_client()), 503)


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri"])
def test_an_address_with_which_a_login_failed_is_not_kept(oidc_app: Flask, provider: OidcProvider, name: str) -> None:
    """The next login asks the provider again, not that of an hour later."""
    provider.discovery = {name: f"{provider.issuer}/gone"}
    client = oidc_app.test_client()
    assert "HTTP 404" in page_of(sign_in_there(client), 503)
    provider.discovery = {}
    page_of(sign_in_there(client))


def test_keys_with_which_a_login_failed_are_not_kept(oidc_app: Flask, provider: OidcProvider) -> None:
    """Also if they have the name of the right one, and are of another kind."""
    wrong = {"kty": "oct", "k": "A" * 43, "kid": provider.published.kid}
    provider.answers[KEYS] = Response(json.dumps({"keys": [wrong]}))
    client = oidc_app.test_client()
    assert "its ID token" in page_of(sign_in_there(client), 503)
    provider.answers.clear()
    page_of(sign_in_there(client))


def test_a_withdrawn_key_is_not_trusted_for_long(oidc_app: Flask, provider: OidcProvider, clock: ManualClock) -> None:
    """After an hour, what the provider says about itself is fetched again."""
    client = oidc_app.test_client()
    page_of(sign_in_there(client))
    stolen, kid = provider.published, provider.published.kid
    provider.rotate_keys()
    provider.key, provider.header = stolen, {"kid": kid}
    page_of(sign_in_there(client))
    clock.now += CACHE_SECONDS + 1
    assert "invalid_key_id" in page_of(sign_in_there(client), 503)


def test_secrets_stay_out_of_pages_and_log(
    oidc_app: Flask, provider: OidcProvider, lines: list[dict[str, object]]
) -> None:
    """A whole login, a refused one and a failed one: no code, state, token or secret is shown or logged."""
    client, shown = oidc_app.test_client(), ""
    for header in ({}, {"alg": "HS256"}):
        provider.header = header
        address = visit_provider(client)
        shown += come_back(client, address).get_data(as_text=True)
        shown += come_back(client, address).get_data(as_text=True)
        for value in (*parse_qs(urlsplit(address).query)["code"], *parse_qs(urlsplit(address).query)["state"]):
            assert value not in shown + repr(lines)
    assert CLIENT_SECRET not in shown + repr(lines)
    assert not re.search(r"eyJ[\w-]+\.", shown + repr(lines))
