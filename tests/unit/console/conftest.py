"""A console on an empty outbox."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from testkit.clock import ManualClock
from testkit.console import start_console
from testkit.databases import NewDatabase


@pytest.fixture
def clock() -> ManualClock:
    """Return the console's clock."""
    return ManualClock(1_000_000.0)


@pytest.fixture
def app(new_sqlite: NewDatabase, clock: ManualClock) -> Iterator[Flask]:
    """Return a console with a user of each role."""
    with start_console(new_sqlite(), clock) as app:
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return a browser that nobody is signed in with."""
    return app.test_client()
