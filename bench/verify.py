"""Verify: records a second and memory of ``relay verify``, with and without values.

The rows are generated in the database, and a plain producer writes their records, so that ten million of them are there
in minutes. They are in the topic as relays leave them: in transactions, the shards taking turns.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from confluent_kafka import Producer

from bench.environment import BATCH, Environment, Outbox, PeakMemory, cpu_seconds
from bench.rows import add_history
from config.settings import load
from outbox.models import PendingRow, shard_of
from outbox.operators.verification import OutboxReader
from relay.kafka.encoder import Encoder
from relay.kafka.schema_registry import register_or_look_up
from relay.settings import RelaySettings
from testkit import ROOT


def measure(environment: Environment, database: str, rows: int, shards: int) -> dict[str, Any]:
    """Return the figures of a verification of headers, and of one with values."""
    with environment.outbox(database, shards) as outbox:
        add_history(outbox.engine, rows, per_interaction=3)
        _produce(environment, outbox)
        return {
            "headers": _verify(outbox, rows),
            "values": _verify(outbox, rows, "--values"),
        }


def _verify(outbox: Outbox, rows: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "relay", "verify", "--json", *options]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **outbox.settings}, stdout=subprocess.PIPE, text=True
    ) as process:
        with PeakMemory([process.pid]) as peak:
            printed = process.stdout.read() if process.stdout else ""
        seconds = time.monotonic() - began
        used = cpu_seconds(process.pid)
    found = json.loads(printed)
    if (found["rows"], found["in_topic"], found["verdict"]) != (rows, rows, "ok"):
        raise SystemExit(f"the verification is wrong: {printed}")
    return {
        "records/s": round(rows / seconds),
        "seconds": round(seconds, 1),
        "CPU seconds": round(used, 1),
        "peak memory MB": round(peak.megabytes),
    }


def _produce(environment: Environment, outbox: Outbox) -> None:
    """Write each row's record, in transactions as the relays' are."""
    settings = load(RelaySettings, outbox.settings)
    encoder = Encoder(register_or_look_up(settings, outbox.topic))
    producer = Producer(
        {
            **environment.client_config,
            "transactional.id": f"bench-{uuid.uuid4().hex[:8]}",
            "partitioner": "murmur2_random",
            "linger.ms": 5,
        }
    )
    producer.init_transactions(30)
    for batch in _batches(outbox):
        producer.begin_transaction()
        for key, value, headers, _ in encoder.records(batch):
            producer.produce(outbox.topic, value, key, headers=headers)
        producer.commit_transaction(60)
        producer.poll(0)  # takes the reports of deliveries, which would fill the queue


def _batches(outbox: Outbox) -> Iterator[list[PendingRow]]:
    """Yield the rows of each shard in id order, a batch of each shard in turn."""
    reader = OutboxReader(outbox.engine)
    waiting: dict[int, list[PendingRow]] = {shard: [] for shard in range(outbox.shards)}
    shard_of_row = partial(shard_of, shards=outbox.shards)
    for rows in reader.rows(reader.id_bounds(0, 2**62), 0, 2**62, values=True):
        for row in rows:
            waiting[shard_of_row(row.interaction_id)].append(row.pending)
        for shard, batch in waiting.items():
            if len(batch) >= BATCH:
                yield batch
                waiting[shard] = []
    yield from filter(None, waiting.values())
