"""Signing in with a name and a password, and the ways in which a session ends."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from console.access import Role
from console.login import EXTENSION as LOGIN
from console.login import MAX_AT_ONCE, LoginLimits
from console.sessions import IDLE_SECONDS, MAX_SECONDS
from console.users import UsersFile, UsersFileError
from testkit.clock import ManualClock
from testkit.console import KEY, PASSWORD, form_token, is_signed_in, sign_in, start_console, user_line
from testkit.databases import NewDatabase

OPEN = {"/login", "/healthz", "/readyz", "/metrics"}


def test_every_page_needs_a_login(app: Flask) -> None:
    """Without a session each route leads to the login, whatever the method; a test lists those that are open."""
    seen = set()
    for rule in app.url_map.iter_rules():
        path = (
            rule.rule.replace("<typed_id>", "1")
            .replace("<plan_id>", "1")
            .replace("<change_id>", "1")
            .replace("<path:filename>", "console.css")
        )
        assert "<" not in path, "give the test a value for this argument"
        seen.add(path)
        if path in OPEN or rule.endpoint == "static":
            continue
        client = app.test_client()
        token = form_token(client)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            response = client.open(path, method=method, data={"csrf_token": token})
            assert (response.status_code, response.location) == (303, "/login"), (method, path)
    assert seen >= OPEN


def test_a_user_signs_in_and_out(client: FlaskClient) -> None:
    """The name and the role are on each page; afterwards the session's cookie is of no use, even a copy of it."""
    response = sign_in(client, "operator")
    assert (response.status_code, response.location) == (303, "/")
    page = client.get("/").get_data(as_text=True)
    assert "Signed in as <strong>operator</strong>, operator" in page
    copied = client.get_cookie("console")
    assert copied is not None
    client.post("/logout", data={"csrf_token": form_token(client, "/")})
    assert not is_signed_in(client)
    client.set_cookie("console", copied.value)
    assert not is_signed_in(client)


def test_the_login_leads_back_to_the_page(client: FlaskClient) -> None:
    """An alert's link ends at the page that it names; a poll of another tab does not change that."""
    client.get("/problems?error=too+large")
    client.get("/shards", headers={"HX-Request": "true"})
    assert sign_in(client).location == "/problems?error=too+large"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("viewer", "wrong"),
        ("viewer", ""),
        ("nobody", PASSWORD),
        ("", ""),
        ("viewer", PASSWORD + "x" * 300),
        ("ü\0", "x"),
    ],
)
def test_a_wrong_login_says_nothing_about_the_name(client: FlaskClient, name: str, password: str) -> None:
    """The same message for a wrong password and for an unknown name."""
    response = sign_in(client, name, password)
    assert response.status_code == 401
    assert "This name and password do not match." in response.get_data(as_text=True)
    assert not is_signed_in(client)


def test_a_session_ends_when_idle(client: FlaskClient, clock: ManualClock) -> None:
    """Each request keeps it alive."""
    sign_in(client)
    for _ in range(3):
        clock.now += IDLE_SECONDS - 1
        assert is_signed_in(client)
    clock.now += IDLE_SECONDS + 1
    assert not is_signed_in(client)


def test_polling_does_not_keep_a_session_alive(client: FlaskClient, clock: ManualClock) -> None:
    """A page that is left open reads its live part again and again."""
    sign_in(client)
    for _ in range(3):
        clock.now += IDLE_SECONDS / 3 - 1
        assert is_signed_in(client, **{"HX-Request": "true"})
    clock.now += 10
    assert not is_signed_in(client)


def test_a_session_ends_after_a_working_day(client: FlaskClient, clock: ManualClock) -> None:
    """Even if it is used all the time."""
    sign_in(client)
    began = clock.now
    while clock.now < began + MAX_SECONDS - 600:
        clock.now += 600
        assert is_signed_in(client)
    clock.now = began + MAX_SECONDS + 1
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    "line",
    ["", user_line("viewer", "operator"), user_line("viewer", password="another one")],
    ids=["no line", "another role", "another password"],
)
def test_a_changed_line_ends_its_sessions(new_sqlite: NewDatabase, tmp_path: Path, line: str) -> None:
    """At the next request: a removed user, another role, another password. Others stay signed in."""
    users = tmp_path / "users"
    users.write_text(user_line("viewer") + user_line("operator"))
    with start_console(new_sqlite(), CONSOLE_USERS_FILE=str(users)) as app:
        changed, other = app.test_client(), app.test_client()
        sign_in(changed)
        sign_in(other, "operator")
        assert is_signed_in(changed)
        users.write_text(line + user_line("operator"))
        assert not is_signed_in(changed)
        assert is_signed_in(other)


def test_a_file_that_cannot_be_used_lets_nobody_in(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """It is said with 503; sessions go on when it is readable again."""
    users = tmp_path / "users"
    users.write_text(user_line("viewer"))
    with start_console(new_sqlite(), CONSOLE_USERS_FILE=str(users)) as app:
        client = app.test_client()
        sign_in(client)
        users.write_text("viewer:viewer:")
        assert client.get("/").status_code == 503
        users.write_text(user_line("viewer"))
        assert is_signed_in(client)


def test_tries_are_limited_by_name_and_address(app: Flask, clock: ManualClock) -> None:
    """The sixth in a minute is not checked, even with the right password; another name is."""
    client = app.test_client()
    for _ in range(5):
        assert sign_in(client, "viewer", "wrong").status_code == 401
    refused = sign_in(client)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert sign_in(app.test_client(), "operator").status_code == 303
    clock.now += int(refused.headers["Retry-After"])
    assert sign_in(client).status_code == 303


def test_few_passwords_are_checked_at_a_time(app: Flask) -> None:
    """Each takes memory and a core: further tries have to wait, and the other threads answer pages."""
    limits: LoginLimits = app.extensions[LOGIN]
    client = app.test_client()
    for _ in range(MAX_AT_ONCE):
        assert limits.at_once.acquire(blocking=False)
    busy = sign_in(client)
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
    limits.at_once.release()
    assert sign_in(client).status_code == 303


def test_a_try_that_checks_no_password_is_not_counted(app: Flask) -> None:
    """Such tries cost nothing, so with many names they would push those counted out of memory."""
    limits: LoginLimits = app.extensions[LOGIN]
    client = app.test_client()
    for _ in range(MAX_AT_ONCE):
        assert limits.at_once.acquire(blocking=False)
    for _ in range(6):
        assert sign_in(client).headers["Retry-After"] == "1"
    limits.at_once.release()
    assert sign_in(client).status_code == 303


def test_addresses_behind_a_listed_proxy_are_told_apart(new_sqlite: NewDatabase) -> None:
    """Nobody can lock an operator out from elsewhere; from an unlisted peer the header is not believed."""
    with start_console(new_sqlite(), CONSOLE_PROXY_PEERS="127.0.0.1") as app:
        client, data = app.test_client(), {"username": "viewer", "password": "wrong"}
        data["csrf_token"] = form_token(client)

        def try_from(address: str, peer: str) -> int:
            headers = {"X-Forwarded-For": f"6.6.6.6, {address}"}
            return client.post("/login", data=data, headers=headers, environ_base={"REMOTE_ADDR": peer}).status_code

        assert [try_from("192.0.2.1", "127.0.0.1") for _ in range(6)] == [401] * 5 + [429]
        assert try_from("192.0.2.2", "127.0.0.1") == 401
        assert [try_from(f"192.0.2.{each}", "198.51.100.1") for each in range(6)] == [401] * 5 + [429]


def test_each_role_may_do_what_the_lower_ones_may() -> None:
    """The order decides."""
    assert Role.VIEWER < Role.OPERATOR < Role.CUSTODIAN
    assert [role.word for role in Role] == ["viewer", "operator", "custodian"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no user"),
        ("# nobody\n\n", "names no user"),
        ("viewer\n", "line 1: expected name:role:hash"),
        ("\nann:boss:" + user_line("a", "viewer").split(":", 2)[2], "line 2: expected"),
        ("ann:viewer:plain\n", "line 1: expected"),
        ("a b:viewer:" + user_line("a", "viewer").split(":", 2)[2], "line 1: expected"),
        (user_line("viewer") * 2, "line 2: the name has an earlier line"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, text: str, reason: str) -> None:
    """The message quotes nothing of the line, which may have a password in it."""
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(UsersFileError, match=reason) as refused:
        UsersFile(path)
    assert "plain" not in str(refused.value)


def test_a_restart_ends_no_session(new_sqlite: NewDatabase) -> None:
    """The key is a setting, so session and form are good after a restart, and behind a balancer."""
    url = new_sqlite()
    with start_console(url) as app:
        client = app.test_client()
        sign_in(client)
        token = form_token(client, "/")
        cookie = client.get_cookie("console")
    assert cookie is not None
    with start_console(url) as app:
        other = app.test_client()
        other.set_cookie("console", cookie.value)
        assert is_signed_in(other)
        assert other.post("/audit", data={"csrf_token": token}).status_code == 200


def test_a_cookie_with_another_key_is_nobodys(new_sqlite: NewDatabase) -> None:
    """A new key ends all sessions."""
    url = new_sqlite()
    with start_console(url) as app:
        client = app.test_client()
        sign_in(client)
        cookie = client.get_cookie("console")
    assert cookie is not None
    with start_console(url, CONSOLE_SECRET_KEY=KEY[::-1] + "x") as app:
        other = app.test_client()
        other.set_cookie("console", cookie.value)
        assert not is_signed_in(other)
