"""Fixtures for the services: started at first use, and stopped at the end of the session or test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from testkit.services import (
    Connect,
    ExternalService,
    Kafka,
    Nginx,
    PgBouncer,
    Postgres,
    Registry,
    SecureKafka,
    ServiceError,
    StockKafka,
    StockRegistry,
)

S = TypeVar("S", bound=Kafka | Connect | Registry | Postgres | PgBouncer | Nginx)


def skip_or_fail(error: ServiceError) -> NoReturn:
    """Fail in CI because a service is missing; elsewhere skip the test."""
    if os.environ.get("CI"):
        pytest.fail(f"a required service is missing: {error}")
    pytest.skip(f"NOT TESTED, a required service is missing: {error}")


def run_service(service: S) -> Iterator[S]:
    """Start a service for a fixture, and stop it at the fixture's end."""
    try:
        service.start()
    except ServiceError as error:
        skip_or_fail(error)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | ExternalService]:
    """A broker shared by the session; each test uses unique topics."""
    if external := ExternalService.kafka():
        yield external
    else:
        yield from run_service(Kafka(tmp_path_factory.mktemp("kafka") / "kafka"))


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker for one test, which may stop, kill and pause it."""
    yield from run_service(Kafka(tmp_path / "kafka"))


@pytest.fixture(scope="session")
def stock_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockKafka]:
    """A broker with the settings it ships with."""
    yield from run_service(StockKafka(tmp_path_factory.mktemp("stock-kafka") / "kafka"))


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A broker with SASL_SSL, SCRAM-SHA-512 and ACLs."""
    yield from run_service(SecureKafka(tmp_path_factory.mktemp("secure-kafka") / "kafka"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry | ExternalService]:
    """A Schema Registry with basic authentication."""
    if external := ExternalService.registry():
        yield external
    else:
        yield from run_service(Registry(tmp_path_factory.mktemp("registry")))


@pytest.fixture(scope="session")
def stock_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockRegistry]:
    """A Schema Registry with its defaults: no login, compatibility NONE."""
    yield from run_service(StockRegistry(tmp_path_factory.mktemp("stock-registry")))


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Registry]:
    """A Schema Registry for one test."""
    yield from run_service(Registry(tmp_path / "registry"))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres | ExternalService]:
    """A PostgreSQL server shared by the session; each test uses its own databases."""
    if external := ExternalService.postgres():
        yield external
    else:
        yield from run_service(Postgres(tmp_path_factory.mktemp("postgres") / "postgres"))


@pytest.fixture
def pgbouncer(
    request: pytest.FixtureRequest, postgres: Postgres | ExternalService, tmp_path: Path
) -> Iterator[PgBouncer]:
    """A pooler in transaction mode in front of the PostgreSQL server, for one test. Its parameter: its settings."""
    yield from run_service(PgBouncer(tmp_path / "pgbouncer", postgres.url, **getattr(request, "param", {})))


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL server for one test, which may stop, kill and pause it."""
    yield from run_service(Postgres(tmp_path / "postgres"))
