"""Drain: a committed backlog, until a ``read_committed`` consumer has every row and all are marked.

Beside it, in turn: the same bytes, encoded beforehand, through a raw transactional producer with the
same batch; and a transaction for each message.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer
from sqlalchemy import Engine, text

from bench.environment import BATCH, Environment, Outbox, Peak, fill
from bench.report import ratio, spread
from outbox.models import PendingRow
from outbox.store import Store
from relay.kafka.encoder import Encoder
from relay.kafka.producer import Publisher
from relay.kafka.progress import ProgressDestination
from relay.kafka.record import Record
from testkit.relay_process import RelayProcess
from testkit.waiting import wait_until

PATIENCE_SECONDS = 600
SINGLE_MESSAGES = 100
NONCE_BYTES = 16


def measure(place: Environment, kind: str, count: int, rounds: int, shards: int) -> dict[str, Any]:
    """Figures of one kind of database."""
    ours, raw, single = [], [], []
    costs: dict[str, list[float]] = {}
    for _ in range(rounds):
        with place.outbox(kind, shards) as outbox:
            fill(outbox.engine, count)
            records = encoded(outbox.engine, count)
            rate, cost = drain(place, outbox, count)
        ours.append(rate)
        for name, value in cost.items():
            costs.setdefault(name, []).append(value)
        raw.append(_raw(place, records, BATCH))
        single.append(_raw(place, records[:SINGLE_MESSAGES], 1))
    return {
        "shards": shards,
        "rows/s": spread(ours),
        "raw transactional producer, rows/s": spread(raw),
        "of raw": ratio(ours, raw),
        "a transaction per message, rows/s": spread(single),
        "times a transaction per message": ratio(ours, single),
        **{name: spread(values, 2) for name, values in costs.items()},
    }


def drain(place: Environment, outbox: Outbox, count: int) -> tuple[float, dict[str, float]]:
    """Start a relay; see ``follow``."""
    consumer = place.consumer(outbox.topic)
    relay = place.relay(outbox.settings)
    try:
        return follow(place, [relay], consumer, outbox.engine, count)
    finally:
        consumer.close()
        relay.stop()


def follow(
    place: Environment, relays: list[RelayProcess], consumer: Consumer, engine: Engine, count: int
) -> tuple[float, dict[str, float]]:
    """As ``timed``, of relays; ends when all rows are marked, so that no work is left over for later."""

    def all_marked() -> None:
        wait_until(lambda: not pending(engine), "all rows are marked", PATIENCE_SECONDS)

    return timed(place, "relay", [relay.pid for relay in relays], consumer, count, all_marked)


def timed(
    place: Environment, sender: str, pids: list[int], consumer: Consumer, count: int, settled: Callable[[], None]
) -> tuple[float, dict[str, float]]:
    """Rows a second from the first record that the consumer sees to the last, and what it cost until settled."""
    with Peak(pids) as peak:
        already = consume(consumer, 1)
        began, before = time.monotonic(), place.cpu_seconds(sender, pids)
        rest = max(1, count - already)  # a small backlog may come in one look
        consume(consumer, count - already)
        rate = rest / (time.monotonic() - began)
        settled()
        used = {name: value - before[name] for name, value in place.cpu_seconds(sender, pids).items()}
    cost = {f"{name} CPU us/row": seconds / rest * 1e6 for name, seconds in used.items()}
    return rate, {**cost, f"{sender} memory MB": peak.mb}


def pending(engine: Engine) -> int:
    """Rows that are not marked yet."""
    return sum(shard.pending for shard in Store(engine).status())


def consume(consumer: Consumer, wanted: int) -> int:
    """Read until so many records, or a few more, have come."""
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, 0
    while seen < wanted:
        assert time.monotonic() < deadline, f"{seen} of {wanted} records came"
        messages = consumer.consume(BATCH, 0.05)
        seen += sum(message.error() is None for message in messages)
    return seen


def encoded(engine: Engine, count: int) -> list[Record]:
    """The backlog, encoded."""
    columns = (
        "id, nonce, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, replay_of, "
        "received_at, enriched_at, topic"
    )
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY id LIMIT {count}")).all()
    return Encoder(1).records([PendingRow._make(row) for row in found])


def _raw(place: Environment, records: list[Record], batch: int) -> float:
    """Records a second through the relay's own publisher, until a consumer has them."""
    name = f"raw-{uuid.uuid4().hex[:8]}"
    place.topics({"KAFKA_TOPIC": name, "KAFKA_PROGRESS_TOPIC": f"{name}-progress"}, 1)
    config = {**place.client_config, "linger.ms": 5}
    publisher = Publisher(config, name, name, ProgressDestination(f"{name}-progress", 0, b"key"), lambda: False)
    consumer = place.consumer(name)
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
