"""Signing in by an OpenID provider: who gets in, with which role, and for how long."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask

from console.oidc_login import BEGUN_SECONDS, display_name
from console.sessions import IDLE_SECONDS, MAX_SECONDS
from testkit.clock import ManualClock
from testkit.console import form_token, is_signed_in, page_of, sign_in, start_console
from testkit.databases import NewDatabase
from testkit.oidc_provider import (
    OidcProvider,
    come_back,
    oidc_environ,
    sign_in_there,
    visit_provider,
)

OPEN = {"/login", "/login/start", "/login/callback", "/healthz", "/readyz", "/metrics"}
ROLES = "248289761001=operator"
BEGIN_AGAIN = "Begin again."


def test_a_user_signs_in_and_continues_at_the_page(oidc_app: Flask) -> None:
    """An alert's link leads to the login, its link to the provider, and the way back to the page that was asked for."""
    client = oidc_app.test_client()
    assert client.get("/problems?error=too+large").location == "/login"
    login = client.get("/login").get_data(as_text=True)
    assert '<a href="/login/start" role="button">Sign in with 127.0.0.1</a>' in login
    assert "<form" not in login
    page = page_of(sign_in_there(client))
    assert '<meta http-equiv="refresh" content="0; url=/problems?error=too+large">' in page
    assert "Signed in as <strong>ann [248289761001]</strong>, operator" in page_of(client.get("/problems"))


def test_the_session_begins_with_a_page_that_leads_on(oidc_app: Flask) -> None:
    """The session's cookie stays strict; after a redirect instead of a page, browsers would not send it."""
    client = oidc_app.test_client()
    cookies = sign_in_there(client).headers.getlist("Set-Cookie")
    (session,) = [cookie for cookie in cookies if cookie.startswith("console=")]
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(session.split("; "))
    assert client.get_cookie("console-login", path="/login/callback") is None


@pytest.mark.parametrize(
    ("public", "name"), [("http://localhost", "console-login"), ("https://localhost", "__Secure-console-login")]
)
def test_the_way_back_has_a_cookie_of_its_own(
    new_sqlite: NewDatabase, provider: OidcProvider, clock: ManualClock, public: str, name: str
) -> None:
    """Sent only when the provider leads back, for ten minutes; over HTTPS if the console is reached by it."""
    with start_console(new_sqlite(), clock, **oidc_environ(provider, ROLES, CONSOLE_PUBLIC_URL=public)) as app:
        cookie, *attributes = app.test_client().get("/login/start").headers["Set-Cookie"].split("; ")
    assert cookie.startswith(f"{name}=")
    assert {"HttpOnly", "Path=/login/callback", "SameSite=Lax", f"Max-Age={BEGUN_SECONDS}"} <= set(attributes)
    assert ("Secure" in attributes) == public.startswith("https")


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
            assert f"</strong>, {expected}" in page_of(client.get("/"))


@pytest.mark.parametrize(
    ("error", "shown"), [("access_denied", "access_denied"), ("<b>ann@example.com</b>", "no known error")]
)
def test_who_declines_is_told(oidc_app: Flask, lines: list[dict[str, object]], error: str, shown: str) -> None:
    """With the protocol's code and nothing else of what came back; the answer counts once as any other."""
    client = oidc_app.test_client()
    state = parse_qs(urlsplit(str(client.get("/login/start").location)).query)["state"][0]
    answer = {"state": state, "error": error, "error_description": "of ann@example.com"}
    response = client.get("/login/callback", query_string=answer)
    page = page_of(response, 403)
    assert f"127.0.0.1 did not sign you in: {shown}." in page
    assert "Sign in with" in page
    assert "ann@example.com" not in page + repr(lines)
    assert shown in repr(lines)
    assert BEGIN_AGAIN in page_of(client.get("/login/callback", query_string=answer), 400)


def test_a_user_who_declines_there_is_not_signed_in(oidc_app: Flask, provider: OidcProvider) -> None:
    """The provider leads back with an error."""
    provider.user = None
    client = oidc_app.test_client()
    assert "did not sign you in: access_denied" in page_of(sign_in_there(client), 403)
    assert not is_signed_in(client)


def test_an_answer_counts_once(oidc_app: Flask, provider: OidcProvider) -> None:
    """A copy of the address is refused, with the cookie of that time, and the provider is not asked."""
    client = oidc_app.test_client()
    address = visit_provider(client)
    cookie = client.get_cookie("console-login", path="/login/callback")
    assert cookie is not None
    page_of(come_back(client, address))
    asked = list(provider.requests)
    client.post("/logout", data={"csrf_token": form_token(client, "/")})
    client.set_cookie("console-login", cookie.value, path="/login/callback")
    assert BEGIN_AGAIN in page_of(come_back(client, address), 400)
    assert not is_signed_in(client)
    assert provider.requests == asked


def test_an_answer_is_for_the_browser_that_asked(oidc_app: Flask, provider: OidcProvider) -> None:
    """Nobody can sign another browser in: without or with its own login under way, the link is refused."""
    attacker, victim = oidc_app.test_client(), oidc_app.test_client()
    address = visit_provider(attacker)
    asked = list(provider.requests)
    assert BEGIN_AGAIN in page_of(victim.get(address), 400)
    own = visit_provider(victim)
    assert BEGIN_AGAIN in page_of(come_back(victim, address), 400)
    assert not is_signed_in(victim)
    assert provider.requests == [*asked, "/authorize"]
    page_of(come_back(victim, own))


@pytest.mark.parametrize("query", ["", "?code=x", "?state=", "?code=x&state=forged", "?state=%00&error=access_denied"])
def test_an_answer_that_nobody_asked_for_is_refused(oidc_app: Flask, query: str) -> None:
    """Whether or not a login is under way, which goes on."""
    client = oidc_app.test_client()
    assert BEGIN_AGAIN in page_of(client.get(f"/login/callback{query}"), 400)
    address = visit_provider(client)
    assert BEGIN_AGAIN in page_of(come_back(client, f"/login/callback{query}"), 400)
    page_of(come_back(client, address))


def test_an_answer_that_comes_late_is_refused(oidc_app: Flask, clock: ManualClock) -> None:
    """A user has ten minutes."""
    client = oidc_app.test_client()
    address = visit_provider(client)
    clock.now += BEGUN_SECONDS + 1
    assert BEGIN_AGAIN in page_of(come_back(client, address), 400)


def test_a_refused_answer_leaves_the_session_alone(oidc_app: Flask) -> None:
    """A link of another site to the callback does not sign anybody out."""
    client = oidc_app.test_client()
    sign_in_there(client)
    response = come_back(client, "/login/callback?state=forged")
    assert BEGIN_AGAIN in page_of(response, 400)
    assert "Set-Cookie" not in response.headers
    assert is_signed_in(client)


def test_signing_out_ends_the_session_and_leads_nowhere(oidc_app: Flask) -> None:
    """A copy of the cookie is of no use. The provider may still know the user, so nothing leads there by itself."""
    client = oidc_app.test_client()
    sign_in_there(client)
    copied = client.get_cookie("console")
    assert copied is not None
    assert client.post("/logout", data={"csrf_token": form_token(client, "/")}).location == "/login"
    assert "http-equiv" not in page_of(client.get("/login"))
    client.set_cookie("console", copied.value)
    assert not is_signed_in(client)


def test_a_session_has_the_limits_of_any_other(oidc_app: Flask, clock: ManualClock) -> None:
    """It ends when idle, which polling does not count against, and after a working day."""
    client = oidc_app.test_client()
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
    provider.user = {"sub": "248289761001", "groups": ["ops"]}
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
            assert f"</strong>, {role}" in page_of(client.get("/"))


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


def test_every_page_needs_a_login(oidc_app: Flask) -> None:
    """Without a session each route leads to the login, whatever the method; a test lists those that are open."""
    seen = set()
    for rule in oidc_app.url_map.iter_rules():
        path = re.sub("<[^>]*>", "1", rule.rule)
        seen.add(path)
        if path in OPEN or rule.endpoint == "static" or "GET" not in (rule.methods or set()):
            continue
        response = oidc_app.test_client().get(path)
        assert (response.status_code, response.location) == (303, "/login"), path
    assert seen >= OPEN


def test_a_password_is_asked_for_nowhere(oidc_app: Flask) -> None:
    """The form of the other login does not exist, nor do its routes there."""
    client = oidc_app.test_client()
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
