"""Consume interactions from Kafka into SQLite, each one once.

It reads committed records only (``read_committed``), and decodes Avro with the schema that each record names. It stores
the records of a batch, then commits their offsets. If it dies between the two it reads the batch again, so it stores a
record only if it has none with the same ``outbox-id`` and ``received-at``. The id alone is not enough: a new or
restored outbox gives ids out again.

A replay is a record of its own, sent again by an operator, with a new ``outbox-id``. ``replay-of`` is the id of the row
that it repeats. Here it is stored beside that row: ``WHERE replay_of IS NULL`` selects what CXone sent.

If ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set it continues the trace that each record's ``traceparent`` names.

Usage::

    pip install confluent-kafka fastavro requests opentelemetry-sdk opentelemetry-exporter-otlp-proto-http
    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 SCHEMA_REGISTRY_URL=http://localhost:8081 python consumer.py interactions.db
"""

import io
import json
import os
import signal
import sqlite3
import sys
from functools import cache
from typing import Any

import fastavro
import requests
from confluent_kafka import Consumer, KafkaException, Message
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TABLE = """
    CREATE TABLE IF NOT EXISTS interactions (
        outbox_id INTEGER, received_at INTEGER, replay_of INTEGER,
        interaction_id TEXT, channel TEXT, timestamp INTEGER, customer_email TEXT, agent_id TEXT,
        PRIMARY KEY (outbox_id, received_at)
    )
"""
INSERT = """
    INSERT OR IGNORE INTO interactions VALUES (
        :outbox_id, :received_at, :replay_of, :interactionId, :channel, :timestamp, :customerEmail, :agentId
    )
"""


@cache
def schema(schema_id: int) -> Any:
    """Fetch the schema with which a record was written."""
    login = (os.environ.get("SCHEMA_REGISTRY_USERNAME", ""), os.environ.get("SCHEMA_REGISTRY_PASSWORD", ""))
    url = f"{os.environ['SCHEMA_REGISTRY_URL']}/schemas/ids/{schema_id}"
    answer = requests.get(url, auth=login if login[0] else None, timeout=10)
    answer.raise_for_status()
    return fastavro.parse_schema(json.loads(answer.json()["schema"]))


def decode(value: bytes) -> Any:
    """Decode Confluent's wire format: a zero byte, the schema's id in four bytes, the Avro value."""
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema(int.from_bytes(value[1:5], "big")))


def start_tracing() -> None:
    """Send spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; without it, spans cost nothing."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider = TracerProvider()  # its last spans are sent at exit
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


def process(database: sqlite3.Connection, message: Message) -> None:
    """Store a record in a span that is a child of its interaction's."""
    headers: dict[str, Any] = dict(message.headers() or [])
    carrier = {"traceparent": (headers.get("traceparent") or b"").decode()}
    with trace.get_tracer("consumer").start_as_current_span(
        "store interaction", TraceContextTextMapPropagator().extract(carrier), trace.SpanKind.CONSUMER
    ):
        store(database, message, headers)


def store(database: sqlite3.Connection, message: Message, headers: dict[str, Any]) -> None:
    """Store a record, unless it is stored already."""
    row = {
        "outbox_id": int(headers["outbox-id"]),
        "received_at": int(headers["received-at"]),
        "replay_of": int(headers["replay-of"]) if "replay-of" in headers else None,
        **decode(message.value() or b""),
    }
    stored = database.execute(INSERT, row).rowcount
    print(f"row {row['outbox_id']}", "stored" if stored else "known", flush=True)


def main(path: str) -> None:
    """Consume until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    start_tracing()
    database = sqlite3.connect(path)
    database.execute(TABLE)
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": os.environ.get("KAFKA_GROUP_ID", "interactions-example"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([os.environ.get("KAFKA_TOPIC", "cxone-interactions-ml")])
    try:
        while True:
            messages = consumer.consume(500, timeout=1)
            with database:  # one transaction
                for message in messages:
                    if message.error():
                        raise KafkaException(message.error())
                    process(database, message)
            if messages:
                consumer.commit(asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main(sys.argv[1])
