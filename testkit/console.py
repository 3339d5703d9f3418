"""A console for tests, with a user of each role."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from config.settings import load
from console.changes import Changes
from console.dependencies import EXTENSION
from console.factory import create_app
from console.pages.overview import SAMPLER
from console.pages.plans import CHANGES
from console.settings import ConsoleSettings
from relay.operator_settings import OperatorSettings
from testkit.waiting import wait_until

PASSWORD = "a password of the tests"
KEY = "k" * 32
FAST = "scrypt:1024:8:1"
"""Little work, for tests."""


@cache
def user_line(name: str, role: str | None = None, password: str = PASSWORD) -> str:
    """Return a line of the file of users."""
    return f"{name}:{role or name}:{generate_password_hash(password, FAST)}\n"


def write_users(folder: Path) -> Path:
    """Write a file of users with one of each role, named as the role."""
    path = folder / "users"
    path.write_text("".join(map(user_line, ("viewer", "operator", "custodian"))))
    return path


@contextmanager
def start_console(url: str, clock: Callable[[], float] = time, **environ: str) -> Iterator[Flask]:
    """Create a console.

    Args:
        url: of the database.
        clock: for sessions.
        environ: further settings.
    """
    with TemporaryDirectory() as folder:
        users = write_users(Path(folder))
        settings = {
            "DATABASE_URL": url,
            "ALLOW_PLAINTEXT_CREDENTIALS": "true",
            "CONSOLE_AUTH": "file",
            "CONSOLE_USERS_FILE": str(users),
            "CONSOLE_SECRET_KEY": KEY,
        }
        environ = {**settings, **environ}
        app = create_app(load(ConsoleSettings, environ), load(OperatorSettings, environ), clock)
        try:
            yield app
        finally:
            _stop_changes(app)
            _stop_sampling(app)
            app.extensions[EXTENSION].engine.dispose()


def _stop_changes(app: Flask) -> None:
    """End the changes that run, so that they hold no connection."""
    changes: Changes = app.extensions[CHANGES]
    for change in changes.running().values():
        change.stop()
    wait_until(lambda: not changes.running(), "all changes have ended")


def _stop_sampling(app: Flask) -> None:
    """End the thread that counts the backlog, so that it holds no connection."""
    app.extensions[SAMPLER].stop()
    for thread in threading.enumerate():
        if thread.name == "backlog sampler":
            thread.join(10)


def sign_in(client: FlaskClient, name: str = "viewer", password: str = PASSWORD, path: str = "/login") -> TestResponse:
    """Sign in through the form."""
    token = form_token(client, path)
    return client.post(path, data={"csrf_token": token, "username": name, "password": password})


def signed_in(app: Flask, name: str) -> FlaskClient:
    """Return a browser of a user who is signed in."""
    client = app.test_client()
    sign_in(client, name)
    return client


def form_token(client: FlaskClient, path: str = "/login") -> str:
    """Return the token of a page's forms."""
    page = client.get(path).get_data(as_text=True)
    (token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', page))
    return str(token)


def is_signed_in(client: FlaskClient, **headers: str) -> bool:
    """Whether the overview is shown."""
    status = client.get("/", headers=headers).status_code
    assert status in (200, 303)
    return status == 200


def page_of(response: TestResponse, status: int = 200) -> str:
    """Return the text of a page, which has this status."""
    page = unescape(response.get_data(as_text=True))
    assert response.status_code == status, page
    return page
