"""Debezium's outbox event router: one tuned connector, and the outbox table that it reads."""

import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import make_url, text

from bench.drain import time_delivery
from bench.environment import BATCH, Environment
from bench.latency import Figures, at_rates, in_groups
from outbox.db.engine import create_outbox_engine
from outbox.models import PendingRow
from relay.kafka.encoder import Encoder
from relay.kafka.record import Record
from testkit.services import Connect
from testkit.topic import assert_exactly_once, read_topic
from testkit.waiting import wait_until

NAME = "outbox"
VALUE = Encoder(1).records([PendingRow(1, 0, "i-1", "voice", 1, "someone@example.com", "agent-7", None, None, 1)])[0][1]
TABLE = """
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        aggregatetype text NOT NULL,
        aggregateid text NOT NULL,
        type text NOT NULL,
        payload bytea NOT NULL
    )"""
INSERT = text("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES (:topic, :key, 'new', :value)")
CONNECTOR = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "exactly.once.support": "required",
    "transaction.boundary": "poll",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "filtered",
    "table.include.list": "public.outbox",
    "snapshot.mode": "no_data",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "header.converter": "org.apache.kafka.connect.storage.StringConverter",
}
TUNED = {
    "poll.interval.ms": "5",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "statistics.metrics.enabled": "false",
    "producer.override.batch.size": "262144",
    "producer.override.linger.ms": "0",
    # The first records of a transaction are rejected while the broker is still ending the previous one.
    "producer.override.retry.backoff.ms": "5",
}


class Debezium:
    """A connector whose task runs only while it is measured.

    Its table is in a separate database and contains keys and encoded Avro values.
    """

    def __init__(self, environment: Environment, connect: Connect) -> None:
        self._environment, self._connect = environment, connect
        url = make_url(environment.postgres.create_database(f"debezium_{uuid.uuid4().hex[:8]}"))
        address = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        self._engine = create_outbox_engine(address)
        with self._engine.begin() as connection:
            connection.execute(text(TABLE))
        database = {
            "database.hostname": str(url.host),
            "database.port": str(url.port),
            "database.user": str(url.username),
            "database.dbname": str(url.database),
            "slot.name": str(url.database),
            "topic.prefix": str(url.database),
        }
        connect.create(NAME, {**database, **CONNECTOR, **TUNED})
        connect.stop_connector(NAME)

    def close(self) -> None:
        """Drop the database and its replication slot, which would retain WAL; the connector ends with its worker."""
        self._connect.stop_connector(NAME)
        wait_until(self._slot_is_free, "the connector has released its slot")
        self._engine.dispose()
        self._environment.drop(self._engine.url.render_as_string(hide_password=False))

    def _slot_is_free(self) -> bool:
        query = text("SELECT NOT active FROM pg_replication_slots WHERE slot_name = current_database()")
        with self._engine.connect() as connection:
            return bool(connection.execute(query).scalar_one())

    def drain(self, records: Sequence[Record]) -> tuple[float, dict[str, float]]:
        """Drain a backlog with the keys and values of these records; see ``bench.drain.drain``."""
        topic = self._topic()
        rows = [{"topic": topic, "key": key.decode(), "value": value} for key, value, *_ in records]
        for start in range(0, len(rows), BATCH):
            self._insert(rows[start : start + BATCH])
        consumer = self._environment.consumer(topic)
        self._connect.resume_connector(NAME)
        pid = self._connect.process.pid
        figures = time_delivery(self._environment, "connector", [pid], consumer, len(rows), lambda: None)
        consumer.close()
        self._finish(topic)
        return figures

    def latency(self, rates: list[int], seconds: float) -> dict[str, Figures]:
        """Measure latency from a commit in the table; see ``bench.latency.at_rates``."""
        topic = self._topic()

        def commit(interactions: list[str]) -> float:
            self._insert([{"topic": topic, "key": interaction, "value": VALUE} for interaction in interactions])
            return time.perf_counter()

        consumer = self._environment.consumer(topic)
        self._connect.resume_connector(NAME)
        figures = at_rates(partial(in_groups, commit), consumer, rates, seconds)
        consumer.close()
        self._finish(topic)
        return figures

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            connection.execute(INSERT, rows)

    def _topic(self) -> str:
        name = f"debezium-{uuid.uuid4().hex[:8]}"
        self._environment.topic(name)
        return name

    def _finish(self, topic: str) -> None:
        """Stop the task and assert that each row is in the topic once and in order."""
        self._connect.stop_connector(NAME)
        query = text("SELECT id FROM outbox WHERE aggregatetype = :topic")
        with self._engine.connect() as connection:
            ids = list(connection.execute(query, {"topic": topic}).scalars())
        seen = read_topic(self._environment.client_config, topic)
        assert_exactly_once([record._replace(headers={"outbox-id": record.headers["id"]}) for record in seen], ids)
