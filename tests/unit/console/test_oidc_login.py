"""Signing in by an OpenID provider: who gets in, what is refused, and what a provider that fails leads to."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog
from flask import Flask, Response
from flask.testing import FlaskClient
from joserfc.jwk import RSAKey
from werkzeug.test import TestResponse

from console.login import EXTENSION as LOGIN
from console.login import MAX_AT_ONCE, LoginLimits
from console.oidc_login import BEGUN_SECONDS, display_name
from console.oidc_provider import CACHE_SECONDS, LEEWAY_SECONDS
from console.sessions import IDLE_SECONDS, MAX_SECONDS
from testkit.clock import ManualClock
from testkit.console import form_token, sign_in, start_console
from testkit.databases import NewDatabase
from testkit.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OidcProvider,
    come_back,
    listen,
    oidc_environ,
    start_provider,
    visit_provider,
)

OPEN = {"/login", "/login/start", "/login/callback", "/healthz", "/readyz", "/metrics"}
ANN = {"sub": "248289761001", "preferred_username": "ann"}
ROLES = "248289761001=operator"
BEGIN_AGAIN = "Begin again."


@pytest.fixture
def provider(clock: ManualClock) -> Iterator[OidcProvider]:
    """Return a provider at which ann is signed in."""
    with start_provider("http://localhost/login/callback", clock) as provider:
        provider.user = dict(ANN)
        yield provider


@pytest.fixture
def app(new_sqlite: NewDatabase, clock: ManualClock, provider: OidcProvider) -> Iterator[Flask]:
    """Return a console in which ann is an operator."""
    with start_console(new_sqlite(), clock, **oidc_environ(provider, ROLES)) as app:
        yield app


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """Collect log lines."""
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc] # its lines are mutable mappings


def sign_in_there(client: FlaskClient) -> TestResponse:
    """Go to the provider and come back."""
    return come_back(client, visit_provider(client))


def is_signed_in(client: FlaskClient, **headers: str) -> bool:
    """Whether the overview is shown."""
    status = client.get("/", headers=headers).status_code
    assert status in (200, 303)
    return status == 200


def page_of(response: TestResponse, status: int) -> str:
    """Return the text of a page that has this status."""
    page = unescape(response.get_data(as_text=True))
    assert response.status_code == status, page
    return page


def test_a_user_signs_in_and_continues_at_the_page(app: Flask) -> None:
    """An alert's link leads to the login, its link to the provider, and the way back to the page that was asked for."""
    client = app.test_client()
    assert client.get("/problems?error=too+large").location == "/login"
    login = client.get("/login").get_data(as_text=True)
    assert '<a href="/login/start" role="button">Sign in with 127.0.0.1</a>' in login
    assert "<form" not in login
    page = page_of(sign_in_there(client), 200)
    assert '<meta http-equiv="refresh" content="0; url=/problems?error=too+large">' in page
    assert "Signed in as <strong>ann [248289761001]</strong>, operator" in page_of(client.get("/problems"), 200)


def test_the_session_begins_with_a_page_that_leads_on(app: Flask) -> None:
    """The session's cookie stays strict; after a redirect instead of a page, browsers would not send it."""
    client = app.test_client()
    cookies = sign_in_there(client).headers.getlist("Set-Cookie")
    (session,) = [cookie for cookie in cookies if cookie.startswith("console=")]
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(session.split("; "))
    assert client.get_cookie("console-login", path="/login/callback") is None


@pytest.mark.parametrize(
    ("public", "name"), [("http://localhost", "console-login"), ("https://localhost", "__Secure-console-login")]
)
def test_the_way_back_has_a_cookie_of_its_own(
    new_sqlite: NewDatabase, provider: OidcProvider, public: str, name: str
) -> None:
    """Sent only when the provider leads back, for ten minutes; over HTTPS if the console is reached by it."""
    with start_console(new_sqlite(), **oidc_environ(provider, ROLES, CONSOLE_PUBLIC_URL=public)) as app:
        cookie, *attributes = app.test_client().get("/login/start").headers["Set-Cookie"].split("; ")
    assert cookie.startswith(f"{name}=")
    assert {"HttpOnly", "Path=/login/callback", "SameSite=Lax", f"Max-Age={BEGUN_SECONDS}"} <= set(attributes)
    assert ("Secure" in attributes) == public.startswith("https")


def test_the_provider_is_asked_with_pkce_state_and_nonce(app: Flask, provider: OidcProvider) -> None:
    """The address has no secret, and leads back to the public address whatever the request's host."""
    client = app.test_client()
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
def test_the_client_proves_itself_as_the_provider_takes_it(app: Flask, provider: OidcProvider, method: str) -> None:
    """In a header or in the form, whatever characters the secret has."""
    provider.auth_method = method
    client = app.test_client()
    page_of(sign_in_there(client), 200)
    assert is_signed_in(client)


@pytest.mark.parametrize(
    ("roles", "claim", "user", "expected"),
    [
        ("ann=viewer", None, {"sub": "ann"}, "viewer"),
        ("ann=operator,bob=viewer", None, {"sub": "ann"}, "operator"),
        ("ann=custodian", None, {"sub": "ann"}, "custodian"),
        ("ann=viewer", None, {"sub": "Ann"}, None),
        ("ann=viewer", None, {"sub": "248", "preferred_username": "ann", "email": "ann", "name": "ann"}, None),
        ("ann=viewer", None, {"sub": "248", "groups": ["ann"]}, None),
        ("ops=operator", "groups", {"sub": "248", "groups": ["staff", "ops"]}, "operator"),
        ("ops=operator,all=viewer", "groups", {"sub": "248", "groups": ["all", "ops"]}, "operator"),
        ("ops=operator,dpo=custodian", "groups", {"sub": "248", "groups": ["dpo", "ops"]}, "custodian"),
        ("ops=viewer", "https://example.com/groups", {"sub": "248", "https://example.com/groups": ["ops"]}, "viewer"),
        ("ops=viewer", "groups", {"sub": "248", "groups": "ops"}, "viewer"),
        ("ops=viewer", "groups", {"sub": "248", "groups": ["ops2", "OPS", "/ops"]}, None),
        ("ops=viewer", "groups", {"sub": "248", "groups": [["ops"], {"ops": 1}, None]}, None),
        ("ops=viewer", "groups", {"sub": "248", "groups": {"ops": True}}, None),
        ("ops=viewer", "groups", {"sub": "ops"}, None),
    ],
)
def test_roles_are_given_by_subject_or_group(
    new_sqlite: NewDatabase,
    provider: OidcProvider,
    clock: ManualClock,
    roles: str,
    claim: str | None,
    user: dict[str, Any],
    expected: str | None,
) -> None:
    """Exact ones only, the highest of several; everybody else gets a page that says so, and no session."""
    provider.user = user
    environ = oidc_environ(provider, roles, **({"CONSOLE_OIDC_GROUPS_CLAIM": claim} if claim else {}))
    with start_console(new_sqlite(), clock, **environ) as app:
        client = app.test_client()
        response = sign_in_there(client)
        if expected is None:
            lacking = (
                f"your subject {user['sub']} has no role here" if claim is None else "none of your groups has a role"
            )
            assert f"You are signed in at 127.0.0.1, but {lacking}" in page_of(response, 403)
            assert not is_signed_in(client)
        else:
            assert f"</strong>, {expected}" in page_of(client.get("/"), 200)


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
    "unsigned": ({"header": {"alg": "none"}}, "refused: "),
    "unsigned, without a key": ({"header": {"alg": "none", "kid": None}}, "refused: "),
    "signed with the secret": ({"header": {"alg": "HS256"}, "secret": CLIENT_SECRET.encode()}, "refused: "),
    "signed with the public key": ({"header": {"alg": "HS256", "kid": None}}, "refused: "),
    "an unknown key": ({"header": {"kid": "unknown"}}, "invalid_key_id"),
    "signed by another": ({"key": RSAKey.generate_key(2048)}, "bad_signature"),
}
"""Times are in seconds from now."""


@pytest.mark.parametrize(("change", "reason"), FORGED.values(), ids=FORGED)
def test_a_wrong_id_token_lets_nobody_in(
    app: Flask,
    provider: OidcProvider,
    clock: ManualClock,
    lines: list[dict[str, object]],
    change: dict[str, Any],
    reason: str,
) -> None:
    """The page and the log say what was wrong with it, and quote nothing of it."""
    provider.secret = provider.published.as_pem(private=False)
    for name, value in change.items():
        setattr(provider, name, value)
    for name in {"exp", "iat", "nbf"} & provider.claims.keys():
        provider.claims[name] = provider.claims[name] and int(clock.now) + provider.claims[name]
    client = app.test_client()
    assert reason in page_of(sign_in_there(client), 503)
    assert not is_signed_in(client)
    (line,) = [line for line in lines if line.get("action") == "login"]
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
    app: Flask, provider: OidcProvider, lines: list[dict[str, object]], path: str, answer: Response, reason: str
) -> None:
    """With what failed; once it answers rightly again, users sign in."""
    client = app.test_client()
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
    page_of(sign_in_there(client), 200)


@pytest.mark.parametrize(
    ("discovery", "reason"),
    [
        ({"issuer": "https://another.example"}, "names another issuer"),
        ({"issuer": None}, "names another issuer"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "lacks an endpoint, or one is not https"),
        ({"token_endpoint": "http://provider.example/token"}, "lacks an endpoint, or one is not https"),
        ({"token_endpoint": None}, "lacks an endpoint, or one is not https"),
        ({"jwks_uri": 7}, "lacks an endpoint, or one is not https"),
    ],
)
def test_a_provider_that_describes_itself_wrongly_is_not_asked(
    app: Flask, provider: OidcProvider, discovery: dict[str, Any], reason: str
) -> None:
    """Neither the browser nor the secret is sent to an address that is another issuer's, or not protected."""
    provider.discovery = discovery
    client = app.test_client()
    assert reason in page_of(client.get("/login/start"), 503)
    provider.discovery = {}
    page_of(sign_in_there(client), 200)


def test_the_console_works_while_the_provider_is_away(
    new_sqlite: NewDatabase, clock: ManualClock, lines: list[dict[str, object]]
) -> None:
    """It starts, shows its login, says that nobody can sign in, keeps those who have, and needs no restart."""
    provider = OidcProvider("http://localhost/login/callback", clock, dict(ANN))
    with listen(provider):
        port = int(provider.issuer.rpartition(":")[2])
    with start_console(new_sqlite(), clock, **oidc_environ(provider, ROLES)) as app:
        client = app.test_client()
        page_of(client.get("/login"), 200)
        assert client.get("/readyz").status_code == 200
        assert "its discovery document: ConnectionError" in page_of(client.get("/login/start"), 503)
        assert [line["log_level"] for line in lines if line.get("action") == "login"] == ["error"]
        with listen(provider, port):
            page_of(sign_in_there(client), 200)
            address = visit_provider(other := app.test_client())
        assert is_signed_in(client)
        assert "the token endpoint: ConnectionError" in page_of(come_back(other, address), 503)


def test_a_provider_that_never_answers_is_given_up(app: Flask, provider: OidcProvider) -> None:
    """Within seconds, so that its requests do not occupy the console's threads."""
    provider.running.clear()
    client = app.test_client()
    assert "its discovery document: timed out" in page_of(client.get("/login/start"), 503)


def test_few_requests_wait_for_the_provider(app: Flask) -> None:
    """The other threads answer pages; who comes back meanwhile can load the page again."""
    limits: LoginLimits = app.extensions[LOGIN]
    client = app.test_client()
    address = visit_provider(client)
    for _ in range(MAX_AT_ONCE):
        assert limits.at_once.acquire(blocking=False)
    for path in ("/login/start", address):
        busy = client.get(path)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
    limits.at_once.release()
    page_of(come_back(client, address), 200)


@pytest.mark.parametrize(
    ("error", "shown"), [("access_denied", "access_denied"), ("<b>ann@example.com</b>", "no known error")]
)
def test_who_declines_is_told(app: Flask, lines: list[dict[str, object]], error: str, shown: str) -> None:
    """With the protocol's code and nothing else of what came back; the answer counts once as any other."""
    client = app.test_client()
    state = parse_qs(urlsplit(str(client.get("/login/start").location)).query)["state"][0]
    answer = {"state": state, "error": error, "error_description": "of ann@example.com"}
    response = client.get("/login/callback", query_string=answer)
    page = page_of(response, 403)
    assert f"127.0.0.1 did not sign you in: {shown}." in page
    assert "Sign in with" in page
    assert "ann@example.com" not in page + repr(lines)
    assert shown in repr(lines)
    assert BEGIN_AGAIN in page_of(client.get("/login/callback", query_string=answer), 400)


def test_a_user_who_declines_there_is_not_signed_in(app: Flask, provider: OidcProvider) -> None:
    """The provider leads back with an error."""
    provider.user = None
    client = app.test_client()
    assert "did not sign you in: access_denied" in page_of(sign_in_there(client), 403)
    assert not is_signed_in(client)


def test_an_answer_counts_once(app: Flask, provider: OidcProvider) -> None:
    """A copy of the address is refused, with the cookie of that time, and the provider is not asked."""
    client = app.test_client()
    address = visit_provider(client)
    cookie = client.get_cookie("console-login", path="/login/callback")
    assert cookie is not None
    page_of(come_back(client, address), 200)
    asked = list(provider.requests)
    client.post("/logout", data={"csrf_token": form_token(client, "/")})
    client.set_cookie("console-login", cookie.value, path="/login/callback")
    assert BEGIN_AGAIN in page_of(come_back(client, address), 400)
    assert not is_signed_in(client)
    assert provider.requests == asked


def test_an_answer_is_for_the_browser_that_asked(app: Flask, provider: OidcProvider) -> None:
    """Nobody can sign another browser in: without or with its own login under way, the link is refused."""
    attacker, victim = app.test_client(), app.test_client()
    address = visit_provider(attacker)
    asked = list(provider.requests)
    assert BEGIN_AGAIN in page_of(victim.get(address), 400)
    own = visit_provider(victim)
    assert BEGIN_AGAIN in page_of(come_back(victim, address), 400)
    assert not is_signed_in(victim)
    assert provider.requests == [*asked, "/authorize"]
    page_of(come_back(victim, own), 200)


@pytest.mark.parametrize("query", ["", "?code=x", "?state=", "?code=x&state=forged", "?state=%00&error=access_denied"])
def test_an_answer_that_nobody_asked_for_is_refused(app: Flask, query: str) -> None:
    """Whether or not a login is under way, which goes on."""
    client = app.test_client()
    assert BEGIN_AGAIN in page_of(client.get(f"/login/callback{query}"), 400)
    address = visit_provider(client)
    assert BEGIN_AGAIN in page_of(come_back(client, f"/login/callback{query}"), 400)
    page_of(come_back(client, address), 200)


def test_an_answer_that_comes_late_is_refused(app: Flask, clock: ManualClock) -> None:
    """A user has ten minutes."""
    client = app.test_client()
    address = visit_provider(client)
    clock.now += BEGUN_SECONDS + 1
    assert BEGIN_AGAIN in page_of(come_back(client, address), 400)


def test_a_refused_answer_leaves_the_session_alone(app: Flask) -> None:
    """A link of another site to the callback does not sign anybody out."""
    client = app.test_client()
    sign_in_there(client)
    response = come_back(client, "/login/callback?state=forged")
    assert BEGIN_AGAIN in page_of(response, 400)
    assert "Set-Cookie" not in response.headers
    assert is_signed_in(client)


def test_changed_keys_are_fetched_again(app: Flask, provider: OidcProvider) -> None:
    """Once for each key that is unknown; otherwise what the provider says about itself is kept."""
    client = app.test_client()
    for _ in range(2):
        page_of(sign_in_there(client), 200)
    assert (provider.requests.count(DISCOVERY), provider.requests.count(KEYS)) == (1, 1)
    provider.rotate_keys()
    page_of(sign_in_there(client), 200)
    assert (provider.requests.count(DISCOVERY), provider.requests.count(KEYS)) == (1, 2)
    provider.header = {"kid": "unknown"}
    page_of(sign_in_there(client), 503)
    assert provider.requests.count(KEYS) == 3


def test_a_withdrawn_key_is_not_trusted_for_long(app: Flask, provider: OidcProvider, clock: ManualClock) -> None:
    """After an hour, what the provider says about itself is fetched again."""
    client = app.test_client()
    page_of(sign_in_there(client), 200)
    stolen, kid = provider.published, provider.published.kid
    provider.rotate_keys()
    provider.key, provider.header = stolen, {"kid": kid}
    page_of(sign_in_there(client), 200)
    clock.now += CACHE_SECONDS + 1
    assert "invalid_key_id" in page_of(sign_in_there(client), 503)


def test_signing_out_ends_the_session_and_leads_nowhere(app: Flask) -> None:
    """A copy of the cookie is of no use. The provider may still know the user, so nothing leads there by itself."""
    client = app.test_client()
    sign_in_there(client)
    copied = client.get_cookie("console")
    assert copied is not None
    assert client.post("/logout", data={"csrf_token": form_token(client, "/")}).location == "/login"
    assert "http-equiv" not in page_of(client.get("/login"), 200)
    client.set_cookie("console", copied.value)
    assert not is_signed_in(client)


def test_a_session_has_the_limits_of_any_other(app: Flask, clock: ManualClock) -> None:
    """It ends when idle, which polling does not count against, and after a working day."""
    client = app.test_client()
    sign_in_there(client)
    for _ in range(3):
        clock.now += IDLE_SECONDS / 3 - 1
        assert is_signed_in(client, **{"HX-Request": "true"})
    clock.now += 10
    assert not is_signed_in(client)
    sign_in_there(client)
    began = clock.now
    while clock.now < began + MAX_SECONDS - 600:
        clock.now += 600
        assert is_signed_in(client)
    clock.now = began + MAX_SECONDS + 1
    assert not is_signed_in(client)


GROUPS = {"CONSOLE_OIDC_GROUPS_CLAIM": "groups"}


@pytest.mark.parametrize(
    ("before", "changed", "role"),
    [
        ({}, {}, "operator"),
        ({}, {"CONSOLE_OIDC_ROLES": "248289761001=viewer"}, "viewer"),
        ({}, {"CONSOLE_OIDC_ROLES": "another=operator"}, None),
        ({}, {"CONSOLE_OIDC_ISSUER": "https://another.example"}, None),
        ({}, {"CONSOLE_OIDC_CLIENT_ID": "another"}, None),
        ({}, {"CONSOLE_AUTH": "file"}, None),
        ({}, GROUPS, None),
        (GROUPS, {**GROUPS, "CONSOLE_OIDC_ROLES": "ops=viewer"}, "viewer"),
        (GROUPS, {"CONSOLE_OIDC_ROLES": "ops=viewer"}, None),
    ],
)
def test_changed_settings_apply_to_sessions(
    new_sqlite: NewDatabase,
    provider: OidcProvider,
    clock: ManualClock,
    before: dict[str, str],
    changed: dict[str, str],
    role: str | None,
) -> None:
    """From the restart on: another role, none any more, or another provider, whose subjects are other people."""
    provider.user = {**ANN, "groups": ["ops"]}
    url, environ = new_sqlite(), oidc_environ(provider, "248289761001=operator,ops=operator")
    with start_console(url, clock, **{**environ, **before}) as app:
        client = app.test_client()
        sign_in_there(client)
        cookie = client.get_cookie("console")
        assert cookie is not None
    with start_console(url, clock, **{**environ, **changed}) as app:
        client = app.test_client()
        client.set_cookie("console", cookie.value)
        if role is None:
            assert not is_signed_in(client)
        else:
            assert f"</strong>, {role}" in page_of(client.get("/"), 200)


def test_a_session_of_a_password_is_none_here(
    new_sqlite: NewDatabase, provider: OidcProvider, clock: ManualClock
) -> None:
    """Even if the file's name is a subject that has a role."""
    url = new_sqlite()
    with start_console(url, clock) as app:
        client = app.test_client()
        sign_in(client, "operator")
        cookie = client.get_cookie("console")
        assert cookie is not None
    with start_console(url, clock, **oidc_environ(provider, "operator=operator")) as app:
        client = app.test_client()
        client.set_cookie("console", cookie.value)
        assert not is_signed_in(client)


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"sub": "248"}, "248"),
        ({"sub": "248", "preferred_username": "ann"}, "ann [248]"),
        ({"sub": "ann", "preferred_username": "ann"}, "ann"),
        ({"sub": "248", "preferred_username": "ann [7]"}, "248"),
        ({"sub": "248", "preferred_username": "ann\u202e"}, "248"),
        ({"sub": "248", "preferred_username": "\u0430nn"}, "248"),
        ({"sub": "248", "preferred_username": "a" * 65}, "248"),
        ({"sub": "248", "preferred_username": ["ann"]}, "248"),
        ({"sub": "248", "name": "Ann", "email": "ann@example.com"}, "248"),
    ],
)
def test_no_user_can_be_named_like_another(claims: dict[str, Any], name: str) -> None:
    """The subject is always part of the name; a user name only if it is plain."""
    assert display_name(claims) == name


def test_secrets_stay_out_of_pages_and_log(app: Flask, provider: OidcProvider, lines: list[dict[str, object]]) -> None:
    """A whole login, a refused one and a failed one: no code, state, token or secret is shown or logged."""
    client, shown = app.test_client(), ""
    for header in ({}, {"alg": "HS256"}):
        provider.header = header
        address = visit_provider(client)
        shown += come_back(client, address).get_data(as_text=True)
        shown += come_back(client, address).get_data(as_text=True)
        for value in (*parse_qs(urlsplit(address).query)["code"], *parse_qs(urlsplit(address).query)["state"]):
            assert value not in shown + repr(lines)
    assert CLIENT_SECRET not in shown + repr(lines)
    assert not re.search(r"eyJ[\w-]+\.", shown + repr(lines))


def test_every_page_needs_a_login(app: Flask) -> None:
    """Without a session each route leads to the login, whatever the method; a test lists those that are open."""
    seen = set()
    for rule in app.url_map.iter_rules():
        path = re.sub("<[^>]*>", "1", rule.rule)
        seen.add(path)
        if path in OPEN or rule.endpoint == "static" or "GET" not in (rule.methods or set()):
            continue
        response = app.test_client().get(path)
        assert (response.status_code, response.location) == (303, "/login"), path
    assert seen >= OPEN


def test_a_password_is_asked_for_nowhere(app: Flask) -> None:
    """The form of the other login does not exist, nor do its routes there."""
    client = app.test_client()
    sign_in_there(client)
    token = form_token(client, "/")
    data = {"csrf_token": token, "username": "viewer", "password": "x"}
    assert client.post("/login", data=data).status_code == 404
    assert client.get("/login").location == "/"


def test_other_logins_have_no_callback(new_sqlite: NewDatabase) -> None:
    """Its routes exist with a provider only."""
    with start_console(new_sqlite()) as app:
        assert app.test_client().get("/login/callback").status_code == 404
        assert app.test_client().get("/login/start").status_code == 404


@pytest.mark.parametrize("sent", ["", "/ops/console"])
def test_below_a_path_the_provider_leads_back_there(
    new_sqlite: NewDatabase, clock: ManualClock, provider: OidcProvider, sent: str
) -> None:
    """Whether or not the proxy removes the path."""
    provider.redirect_uri = "http://localhost/ops/console/login/callback"
    with start_console(new_sqlite(), clock, **oidc_environ(provider, ROLES, CONSOLE_PREFIX="/ops/console")) as app:
        client = app.test_client()
        assert client.get(f"{sent}/problems").location == "/ops/console/login"
        assert 'href="/ops/console/login/start"' in client.get(f"{sent}/login").get_data(as_text=True)
        assert "url=/ops/console/problems" in page_of(
            come_back(client, visit_provider(client, f"{sent}/login/start")), 200
        )
