"""PostgreSQL on another machine: TLS is required, unless somebody says otherwise."""

import pytest
from sqlalchemy import make_url

from config.settings import BaseSettings, load
from outbox.network import tls_arguments
from relay.check.finding import Status
from relay.check.transport import check_database_transport

REQUIRED = {"sslmode": "require"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of libpq from outside."""
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
def test_another_machine_is_asked_for_tls(rest: str) -> None:
    """However it is named, be it beside this one."""
    assert tls_arguments(make_url(f"postgresql+psycopg://{rest}")) == REQUIRED
    (finding,) = check_database_transport(f"postgresql+psycopg://{rest}")
    assert (finding.status, "sslmode=verify-full" in finding.remedy) == (Status.WARNING, True)


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
def test_this_machine_is_not(rest: str) -> None:
    """A socket, or an address that nobody else hears."""
    assert tls_arguments(make_url(f"postgresql+psycopg://{rest}")) == {}
    assert [f.status for f in check_database_transport(f"postgresql+psycopg://{rest}")] == [Status.OK]


@pytest.mark.parametrize(
    ("mode", "verdict", "told"),
    [
        ("disable", Status.WARNING, "may be read in transit"),
        ("prefer", Status.WARNING, "may be read in transit"),
        ("require", Status.WARNING, "not verified"),
        ("verify-ca", Status.WARNING, "not verified"),
        ("verify-full", Status.OK, "is verified"),
    ],
)
def test_who_chooses_an_sslmode_keeps_it_and_is_told_what_it_does(mode: str, verdict: Status, told: str) -> None:
    """Only verify-full withstands somebody on the way; less is taken, and warned of."""
    url = f"postgresql+psycopg://u:canary@db.example/name?sslmode={mode}"
    assert tls_arguments(make_url(url)) == {}
    (finding,) = check_database_transport(url)
    assert (finding.status, told in finding.detail, "canary" in str(finding)) == (verdict, True, False)


def test_variables_of_libpq_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST names a machine where the URL names none; PGSSLMODE is a choice."""
    monkeypatch.setenv("PGHOST", "db.example")
    assert tls_arguments(make_url("postgresql+psycopg:///name")) == REQUIRED
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert tls_arguments(make_url("postgresql+psycopg:///name")) == {}


def test_one_setting_allows_plaintext_to_the_database_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLOW_PLAINTEXT_CREDENTIALS=true leaves libpq's own default in force, and whatever was chosen."""
    given = {"DATABASE_URL": "postgres://u:p@db.example/name", "ALLOW_PLAINTEXT_CREDENTIALS": "true"}
    url = load(BaseSettings, given).database_url.get_secret_value()
    assert url == "postgresql+psycopg://u:p@db.example/name?sslmode=prefer"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert "sslmode" not in load(BaseSettings, given).database_url.get_secret_value()
