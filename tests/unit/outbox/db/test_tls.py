"""TLS is required for PostgreSQL on another machine, unless configured otherwise."""

import pytest
from sqlalchemy import make_url

from config.settings import BaseSettings, load
from outbox.db.tls import tls_arguments
from relay.check.finding import Status
from relay.check.transport import check_database_transport

REQUIRED = {"sslmode": "require"}


@pytest.fixture(autouse=True)
def _no_libpq_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment variables of libpq."""
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "rest",
    [
        "u:p@db.example/name",
        "u:p@db.example:5433/name?connect_timeout=3",
        "u:p@10.0.0.5/name",
        "u:p@[2001:db8::1]:5432/name",
        "u:p@/name?host=db.example",
        "u:p@/name?host=localhost:1&host=db.example:5432",
        "u:p@/name?host=localhost,db.example",
        "u:p@localhost/name?hostaddr=10.0.0.5",
        "u:p@/name?hostaddr=10.0.0.5",
    ],
)
def test_tls_is_required_for_another_machine(rest: str) -> None:
    """However the URL names it, also beside this one."""
    assert tls_arguments(make_url(f"postgresql+psycopg://{rest}")) == REQUIRED
    (finding,) = check_database_transport(f"postgresql+psycopg://{rest}")
    assert finding.status is Status.WARNING
    assert "sslmode=verify-full" in finding.remedy


@pytest.mark.parametrize(
    "rest",
    [
        "u:p@localhost/name",
        "u:p@127.0.0.1:5433/name",
        "u:p@[::1]:5432/name",
        "/name",
        "u@/name?host=/run/postgresql",
        "u:p@/name?host=localhost:1&host=127.0.0.1:2",
    ],
)
def test_tls_is_not_required_for_this_machine(rest: str) -> None:
    """A socket, or a loopback address."""
    assert tls_arguments(make_url(f"postgresql+psycopg://{rest}")) == {}
    assert [f.status for f in check_database_transport(f"postgresql+psycopg://{rest}")] == [Status.OK]


@pytest.mark.parametrize(
    ("mode", "verdict", "seen"),
    [
        ("disable", Status.WARNING, "may be read in transit"),
        ("prefer", Status.WARNING, "may be read in transit"),
        ("require", Status.WARNING, "not verified"),
        ("verify-ca", Status.WARNING, "not verified"),
        ("verify-full", Status.OK, "is verified"),
    ],
)
def test_a_configured_sslmode_is_kept_and_checked(mode: str, verdict: Status, seen: str) -> None:
    """Only verify-full protects from an attacker in between; others are accepted with a warning."""
    url = f"postgresql+psycopg://u:canary@db.example/name?sslmode={mode}"
    assert tls_arguments(make_url(url)) == {}
    (finding,) = check_database_transport(url)
    assert finding.status is verdict
    assert seen in finding.detail
    assert "canary" not in str(finding)


def test_libpq_variables_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST names a machine where the URL does not; PGSSLMODE configures TLS."""
    monkeypatch.setenv("PGHOST", "db.example")
    assert tls_arguments(make_url("postgresql+psycopg:///name")) == REQUIRED
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert tls_arguments(make_url("postgresql+psycopg:///name")) == {}


def test_allow_plaintext_credentials_allows_plaintext_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps libpq's default, and a configured sslmode."""
    given = {"DATABASE_URL": "postgres://u:p@db.example/name", "ALLOW_PLAINTEXT_CREDENTIALS": "true"}
    url = load(BaseSettings, given).database_url.get_secret_value()
    assert url == "postgresql+psycopg://u:p@db.example/name?sslmode=prefer"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert "sslmode" not in load(BaseSettings, given).database_url.get_secret_value()
