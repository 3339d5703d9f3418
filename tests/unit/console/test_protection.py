"""What protects the pages: tokens, origins, headers, cookies, roles, sizes, and error pages that reveal nothing."""

import re

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from console.access import Role, User, requires
from console.protection import HEADERS
from testkit import ROOT
from testkit.console import PASSWORD, form_token, sign_in, start_console
from testkit.databases import NewDatabase


def test_a_form_without_its_token_does_nothing(client: FlaskClient) -> None:
    """Neither without nor with another session's token."""
    data = {"username": "viewer", "password": PASSWORD}
    assert client.post("/login", data=data).status_code == 400
    other = form_token(client.application.test_client())
    client.get("/login")
    assert client.post("/login", data={**data, "csrf_token": other}).status_code == 400
    assert client.post("/login", data={**data, "csrf_token": form_token(client)}).status_code == 303


def test_a_token_ends_with_its_session(client: FlaskClient) -> None:
    """The token of the login's form is not that of the pages."""
    before = form_token(client)
    sign_in(client)
    assert client.post("/logout", data={"csrf_token": before}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://localhost.example.com"}, 403),
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "nonsense"}, 403),
        ({"Origin": "http://[x"}, 403),
    ],
)
def test_a_form_of_another_origin_does_nothing(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    """Even with the right token. As pages send no referrer, a browser's origin is ``null`` and the rest decides."""
    data = {"username": "viewer", "password": PASSWORD, "csrf_token": form_token(client)}
    assert client.post("/login", data=data, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/login", 303),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/static/console.css", 200),
        ("/static/vendor/htmx.min.js", 200),
        ("/static/../factory.py", 404),
        ("/static/no-such-file", 404),
        ("/no-such-page", 404),
        ("/rows/x", 400),
    ],
)
def test_every_response_has_the_headers(client: FlaskClient, path: str, status: int) -> None:
    """Whatever it is; no cache keeps anything but the files that come with the product."""
    sign_in(client)
    response = client.get(path, buffered=True)
    assert response.status_code == status
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
    expected = "no-cache" if path.startswith("/static/") and status == 200 else "no-store"
    assert response.headers["Cache-Control"] == expected


def test_the_policy_allows_this_origin_only() -> None:
    """No inline script or style, no other origin, no frame."""
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", "console"),
        ("::1", "console"),
        ("localhost", "console"),
        ("0.0.0.0", "__Host-console"),
        ("console.internal", "__Host-console"),
    ],
)
def test_the_cookie_is_for_https_unless_only_this_machine_connects(
    new_sqlite: NewDatabase, host: str, name: str
) -> None:
    """Scripts cannot read it, and other sites' links do not send it."""
    with start_console(new_sqlite(), CONSOLE_HOST=host) as app:
        cookie = app.test_client().get("/login").headers["Set-Cookie"]
    assert cookie.startswith(f"{name}=")
    assert ("Secure" in cookie) == (name != "console")
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


@pytest.mark.parametrize("needed", list(Role))
def test_a_role_is_checked_at_the_action(app: Flask, needed: Role) -> None:
    """The refusal of a lower role names the role that is needed."""

    @requires(needed)
    def act() -> Response:
        return Response("done")

    app.add_url_rule("/act", "act", act, methods=["POST"])
    for role in Role:
        client = app.test_client()
        sign_in(client, role.word)
        response = client.post("/act", data={"csrf_token": form_token(client, "/")})
        assert response.status_code == (200 if role >= needed else 403), role
        if role < needed:
            assert f"This needs the role {needed.word}; yours is {role.word}." in response.get_data(as_text=True)


def test_the_actor_on_record_is_the_login() -> None:
    """It says that the console was used."""
    assert User("ann", Role.VIEWER).actor == "ann (console)"


@pytest.mark.parametrize("path", ["/login", "/", "/no-such-page"])
def test_a_large_body_is_refused(client: FlaskClient, path: str) -> None:
    """Before it is read."""
    response = client.post(path, data={"username": "x" * 2**17})
    assert response.status_code == 413
    assert "Too large" in response.get_data(as_text=True)


def test_methods_that_a_page_does_not_have_are_named(client: FlaskClient) -> None:
    """The answer lists those that it has."""
    response = client.delete("/login", data={"csrf_token": form_token(client)})
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_an_unexpected_error_tells_nothing(app: Flask, lines: list[dict[str, object]]) -> None:
    """Neither page nor log has the message, the address or the form; the log has the place."""

    def fail() -> Response:
        raise ValueError("someone@example.com")

    app.add_url_rule("/fail", "fail", fail)
    response = app.test_client().get("/fail?error=secret-query")
    assert response.status_code == 500
    shown = response.get_data(as_text=True) + repr(lines)
    assert "someone@example.com" not in shown
    assert "secret-query" not in shown
    assert "Traceback" not in response.get_data(as_text=True)
    (line,) = [line for line in lines if line.get("action") == "unexpected"]
    assert "test_protection.py" in str(line["trace"])


def test_a_password_is_not_logged(client: FlaskClient, lines: list[dict[str, object]]) -> None:
    """Nor an unknown name: people type passwords there."""
    sign_in(client, "typed-by-mistake", "wrong-password")
    sign_in(client, "viewer")
    assert "typed-by-mistake" not in repr(lines)
    assert "wrong-password" not in repr(lines)
    assert PASSWORD not in repr(lines)
    assert [line for line in lines if line.get("role") == "viewer"]


def test_without_its_database_the_console_says_so(tmp_path: object, lines: list[dict[str, object]]) -> None:
    """The page is 503, and so is the readiness; the process is alive, and the login works."""
    with start_console(f"sqlite:///{tmp_path}/no.db") as app:
        client = app.test_client()
        sign_in(client)
        response = client.get("/")
        assert response.status_code == 503
        assert "Signed in as" in response.get_data(as_text=True)
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    assert [line for line in lines if line.get("action") == "database"]


def test_metrics_need_the_token_if_there_is_one(new_sqlite: NewDatabase) -> None:
    """They count requests by page, without addresses, and logins by outcome; docs/metrics.md lists them."""
    with start_console(new_sqlite(), METRICS_TOKEN="t0ken") as app:
        client = app.test_client()
        sign_in(client, "viewer", "wrong")
        sign_in(client)
        refused = client.get("/metrics")
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.get("/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
        text = client.get("/metrics", headers={"Authorization": "Bearer t0ken"}).get_data(as_text=True)
    described = (ROOT / "docs/metrics.md").read_text().split("\n## Console\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^# TYPE (outbox_\w+)", text, re.MULTILINE)) == set(
        re.findall(r"^\| `(\w+)`", described, re.MULTILINE)
    )
    assert 'outbox_console_logins_total{outcome="refused"} 1.0' in text
    assert 'outbox_console_logins_total{outcome="throttled"} 0.0' in text
    assert 'outbox_console_changes_total{verb="replay"} 0.0' in text
    assert 'outbox_console_logins_total{outcome="accepted"} 1.0' in text
    assert 'outbox_console_requests_total{page="login.sign_in",status="303"} 1.0' in text


@pytest.mark.parametrize("sent", ["", "/ops/console"])
def test_below_a_path_every_address_has_it(new_sqlite: NewDatabase, sent: str) -> None:
    """Whether or not the proxy removes the path: links, forms, files and redirects work."""
    with start_console(new_sqlite(), CONSOLE_PREFIX="/ops/console") as app:
        client = app.test_client()
        assert client.get(f"{sent}/problems").location == "/ops/console/login"
        assert sign_in(client, path=f"{sent}/login").location == "/ops/console/problems"
        page = client.get(f"{sent}/").get_data(as_text=True)
        assert client.get(f"{sent}/healthz").status_code == 200
    links = [part.split('"')[1] for name in ("href=", "src=", "action=", "hx-get=") for part in page.split(name)[1:]]
    assert [link for link in links if not link.startswith(("/ops/console/", "#", "data:"))] == []
    assert len(links) > 10


def test_pages_without_a_user_show_no_navigation(client: FlaskClient) -> None:
    """An error page asks for nothing that could fail again."""
    page = client.get("/no-such-page").get_data(as_text=True)
    assert "<nav" not in page
    assert 'href="#content"' in page


def test_a_link_from_another_site_keeps_the_session(client: FlaskClient) -> None:
    """Browsers send no cookie with it: the page leads to the same address, and sets no cookie over the session's."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = client.get("/problems?error=a%22%3E%26b&x=1", headers=link)
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert 'content="0; url=/problems?error=a%22%3E%26b&amp;x=1"' in answer.get_data(as_text=True)
    again = client.get("/problems?error=a%22%3E%26b&x=1", headers={**link, "Sec-Fetch-Site": "same-origin"})
    assert again.location == "/login"
    sign_in(client)
    assert client.get("/problems", headers=link).status_code == 200
