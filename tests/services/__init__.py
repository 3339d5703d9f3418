"""Real services on loopback for tests, benches and the demo: Kafka, a Schema Registry, PostgreSQL."""

from tests.services.given import Given
from tests.services.kafka import Kafka, MutualTlsKafka, SecureKafka, StockKafka
from tests.services.pgbouncer import PgBouncer
from tests.services.postgres import Postgres
from tests.services.process import ServiceError
from tests.services.registry import Registry, StockRegistry

__all__ = [
    "Given",
    "Kafka",
    "MutualTlsKafka",
    "PgBouncer",
    "Postgres",
    "Registry",
    "SecureKafka",
    "ServiceError",
    "StockKafka",
    "StockRegistry",
]
