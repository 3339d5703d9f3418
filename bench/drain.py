"""Drain: time from a committed backlog until a ``read_committed`` consumer has every row and all are marked.

Compared, in alternation, with a raw transactional producer that sends the same encoded records in batches of the
same size, and with one transaction per message.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer
from sqlalchemy import Engine, text

from bench.environment import BATCH, Environment, Outbox, PeakMemory, fill
from bench.report import ratio, spread
from outbox.models import PendingRow
from outbox.store import Store
from relay.kafka.encoder import Encoder
from relay.kafka.producer import Publisher
from relay.kafka.progress import ProgressDestination
from relay.kafka.record import Record
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

TIMEOUT_SECONDS = 600
SINGLE_MESSAGES = 100
NONCE_BYTES = 16


def measure(environment: Environment, database: str, count: int, rounds: int, shards: int) -> dict[str, Any]:
    """Return the figures for one kind of database."""
    relay, raw, single = [], [], []
    costs: dict[str, list[float]] = {}
    for _ in range(rounds):
        with environment.outbox(database, shards) as outbox:
            fill(outbox.engine, count)
            records = encoded(outbox.engine, count)
            rate, cost = drain(environment, outbox, count)
        relay.append(rate)
        for name, value in cost.items():
            costs.setdefault(name, []).append(value)
        raw.append(_raw_producer_rate(environment, records, BATCH))
        single.append(_raw_producer_rate(environment, records[:SINGLE_MESSAGES], 1))
    return {
        "shards": shards,
        "rows/s": spread(relay),
        "raw producer, rows/s": spread(raw),
        "relay / raw producer": ratio(relay, raw),
        "one transaction per message, rows/s": spread(single),
        "relay / one transaction per message": ratio(relay, single),
        **{name: spread(values, 2) for name, values in costs.items()},
    }


def drain(environment: Environment, outbox: Outbox, count: int) -> tuple[float, dict[str, float]]:
    """Start a relay and time its drain of the outbox; see ``time_relays``."""
    consumer = environment.consumer(outbox.topic)
    relay = environment.relay(outbox.settings)
    try:
        return time_relays(environment, [relay], consumer, outbox.engine, count)
    finally:
        consumer.close()
        relay.stop()


def time_relays(
    environment: Environment, relays: list[RelayProcess], consumer: Consumer, engine: Engine, count: int
) -> tuple[float, dict[str, float]]:
    """Time running relays until all rows are marked; see ``time_delivery``."""

    def wait_marked() -> None:
        wait_until(lambda: not pending(engine), "all rows are marked", TIMEOUT_SECONDS)

    return time_delivery(environment, "relay", [relay.pid for relay in relays], consumer, count, wait_marked)


def time_delivery(
    environment: Environment,
    sender: str,
    pids: list[int],
    consumer: Consumer,
    count: int,
    wait_finished: Callable[[], None],
) -> tuple[float, dict[str, float]]:
    """Return the rows/s from the first record at the consumer to the last, and the cost until the sender finished.

    Args:
        environment: the services, whose CPU time is measured.
        sender: name of the sending side, for the figures.
        pids: processes of the sender.
        consumer: consumer of the topic.
        count: number of rows.
        wait_finished: waits until the sender has finished its work for these rows.
    """
    with PeakMemory(pids) as peak:
        first = consume(consumer, 1)
        began, before = time.monotonic(), environment.cpu_seconds(sender, pids)
        rest = max(1, count - first)  # a small backlog may arrive in one poll
        consume(consumer, count - first)
        rate = rest / (time.monotonic() - began)
        wait_finished()
        used = {name: value - before[name] for name, value in environment.cpu_seconds(sender, pids).items()}
    cost = {f"{name} CPU us/row": seconds / rest * 1e6 for name, seconds in used.items()}
    return rate, {**cost, f"{sender} memory MB": peak.megabytes}


def pending(engine: Engine) -> int:
    """Return the number of pending rows."""
    return sum(shard.pending for shard in Store(engine).status())


def consume(consumer: Consumer, wanted: int) -> int:
    """Consume at least this many records and return how many."""
    deadline, count = time.monotonic() + TIMEOUT_SECONDS, 0
    while count < wanted:
        assert time.monotonic() < deadline, f"only {count} of {wanted} records arrived in {TIMEOUT_SECONDS} s"
        messages = consumer.consume(BATCH, 0.05)
        count += sum(message.error() is None for message in messages)
    return count


def encoded(engine: Engine, count: int) -> list[Record]:
    """Return the first rows of the outbox as encoded records."""
    columns = (
        "id, nonce, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, replay_of, "
        "received_at, enriched_at, topic"
    )
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY id LIMIT {count}")).all()
    return Encoder(1).records([PendingRow._make(row) for row in rows])


def _raw_producer_rate(environment: Environment, records: list[Record], batch: int) -> float:
    """Send records through the relay's publisher and return the records/s until a consumer has them."""
    name = f"raw-{uuid.uuid4().hex[:8]}"
    environment.topics({"KAFKA_TOPIC": name, "KAFKA_PROGRESS_TOPIC": f"{name}-progress"}, 1)
    config = {**environment.client_config, "linger.ms": 5}
    publisher = Publisher(config, name, name, ProgressDestination(f"{name}-progress", 0, b"key"), lambda: False)
    consumer = environment.consumer(name)
    publisher.fence()
    publisher.publish(records[:1], b"")
    consume(consumer, 1)
    began = time.monotonic()
    for start in range(0, len(records), batch):
        publisher.publish(records[start : start + batch], b"x" * batch * NONCE_BYTES)
    consume(consumer, len(records))
    rate = len(records) / (time.monotonic() - began)
    publisher.close()
    consumer.close()
    return rate
