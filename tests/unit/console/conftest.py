"""A console on an empty outbox."""

from collections.abc import Iterator

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from testkit.clock import ManualClock
from testkit.console import start_console
from testkit.databases import NewDatabase
from testkit.oidc_provider import OidcProvider, oidc_environ, start_provider


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


@pytest.fixture
def provider(clock: ManualClock) -> Iterator[OidcProvider]:
    """Return an OpenID provider at which ann is signed in."""
    with start_provider("http://localhost/login/callback", clock) as provider:
        provider.user = {"sub": "248289761001", "preferred_username": "ann"}
        yield provider


@pytest.fixture
def oidc_app(new_sqlite: NewDatabase, clock: ManualClock, provider: OidcProvider) -> Iterator[Flask]:
    """Return a console in which the provider's ann is an operator."""
    with start_console(new_sqlite(), clock, **oidc_environ(provider, "248289761001=operator")) as app:
        yield app


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """Collect log lines."""
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc] # its lines are mutable mappings
