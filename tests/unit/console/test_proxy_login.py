"""Users whom a proxy has authenticated: only with its secret, from its address, and with a role."""

from collections.abc import Iterator
from time import time

import pytest
from flask.testing import FlaskClient

from testkit.console import start_console
from testkit.databases import NewDatabase

SECRET = "a-secret-of-the-proxy"
GOOD = {"X-Remote-User": "ann", "X-Console-Proxy-Secret": SECRET}
PROXY = {
    "CONSOLE_AUTH": "proxy",
    "CONSOLE_PROXY_USER_HEADER": "X-Remote-User",
    "CONSOLE_PROXY_ROLES": "ann=operator,bob=viewer",
    "CONSOLE_PROXY_SECRET": SECRET,
    "CONSOLE_PROXY_PEERS": "10.1.0.0/16,2001:db8::7",
}


@pytest.fixture
def client(new_sqlite: NewDatabase) -> Iterator[FlaskClient]:
    """Return a client of a console behind a proxy."""
    with start_console(new_sqlite(), time, **PROXY) as app:
        yield app.test_client()


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"])
def test_the_proxys_user_is_signed_in(client: FlaskClient, peer: str) -> None:
    """The page names user and role, and has no form to sign out."""
    response = client.get("/", headers=GOOD, environ_base={"REMOTE_ADDR": peer})
    assert response.status_code == 200
    page = response.get_data(as_text=True)
    assert "Signed in as <strong>ann</strong>, operator" in page
    assert "Sign out" not in page


@pytest.mark.parametrize(
    ("changed", "peer"),
    [
        ({}, "10.2.0.1"),
        ({}, "2001:db8::8"),
        ({}, ""),
        ({"X-Forwarded-For": "10.1.2.3"}, "127.0.0.1"),
        ({"X-Console-Proxy-Secret": SECRET + "x"}, "10.1.2.3"),
        ({"X-Console-Proxy-Secret": ""}, "10.1.2.3"),
        ({"X-Console-Proxy-Secret": "é"}, "10.1.2.3"),
        ({"X-Remote-User": "eve"}, "10.1.2.3"),
        ({"X-Remote-User": ""}, "10.1.2.3"),
        ({"X-Remote-User": "ann,bob"}, "10.1.2.3"),
    ],
)
def test_anybody_else_is_refused(client: FlaskClient, changed: dict[str, str], peer: str) -> None:
    """Another address, another secret, or a user without a role: on every page."""
    for path in ("/", "/rows", "/audit", "/check"):
        response = client.get(path, headers={**GOOD, **changed}, environ_base={"REMOTE_ADDR": peer})
        assert response.status_code == 403
        assert "Signed in as" not in response.get_data(as_text=True)


def test_there_is_no_login(client: FlaskClient) -> None:
    """The proxy has it. Probes need no proxy."""
    assert client.get("/login", environ_base={"REMOTE_ADDR": "10.1.2.3"}).status_code == 404
    assert client.get("/healthz").status_code == 200


def test_forms_still_need_their_token(client: FlaskClient) -> None:
    """The proxy adds its headers to every request of the browser, also to those that another site asks for."""
    client.environ_base["REMOTE_ADDR"] = "10.1.2.3"
    assert client.post("/audit", headers=GOOD).status_code == 400
    page = client.get("/audit", headers=GOOD).get_data(as_text=True)
    token = page.split('name="csrf_token" value="')[1].split('"')[0]
    assert client.post("/audit", headers=GOOD, data={"csrf_token": token}).status_code == 200
