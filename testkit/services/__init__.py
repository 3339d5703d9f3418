"""Real services on loopback for tests, benchmarks and the demo: Kafka, Kafka Connect, a Schema Registry, PostgreSQL."""

from testkit.services.connect import Connect
from testkit.services.external import ExternalService
from testkit.services.kafka import Kafka, MutualTlsKafka, SecureKafka, StockKafka
from testkit.services.kafka_cluster import KafkaCluster, KafkaNode
from testkit.services.nginx import Nginx
from testkit.services.pgbouncer import PgBouncer
from testkit.services.postgres import Postgres
from testkit.services.process import ServiceError
from testkit.services.registry import Registry, StockRegistry

__all__ = [
    "Connect",
    "ExternalService",
    "Kafka",
    "KafkaCluster",
    "KafkaNode",
    "MutualTlsKafka",
    "Nginx",
    "PgBouncer",
    "Postgres",
    "Registry",
    "SecureKafka",
    "ServiceError",
    "StockKafka",
    "StockRegistry",
]
