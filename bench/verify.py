"""Verify: records a second and memory of ``relay verify``, with and without values.

The rows are generated in the database, and a plain producer writes their records, so that ten million of them are there
in minutes. They are in the topic as relays leave them: in transactions, the shards taking turns.

With ``--keep`` the outbox and its topic stay, and the next run with the same folder only measures. A file in the folder
names database and topics of each outbox.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from bench.environment import BATCH, Environment, Outbox, PeakMemory, cpu_seconds
from bench.report import spread
from bench.rows import add_history
from config.settings import load
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.models import PendingRow, shard_of
from outbox.operators.verification import OutboxReader
from relay.kafka.encoder import Encoder
from relay.kafka.schema_registry import register_or_look_up
from relay.settings import RelaySettings
from testkit import ROOT
from testkit.services import Kafka, Postgres


def measure(
    environment: Environment, database: str, rows: int, rounds: int, shards: int, keep: Path | None
) -> dict[str, Any]:
    """Return the figures of verifications of headers, and of those with values."""
    if keep:
        settings = _kept(environment, database, rows, shards, keep)
        return _compare(settings, rows, rounds)
    with environment.outbox(database, shards) as outbox:
        _fill(environment, outbox, rows)
        return _compare(outbox.settings, rows, rounds)


def _kept(environment: Environment, database: str, rows: int, shards: int, folder: Path) -> dict[str, str]:
    """Return the settings of the outbox that is kept in the folder, which is created if it is missing."""
    if isinstance(environment.kafka, Kafka) or (
        database == "postgresql" and isinstance(environment.postgres, Postgres)
    ):
        sys.exit("--keep needs services that the environment names: those of a benchmark end with it")
    folder.mkdir(parents=True, exist_ok=True)
    named = folder / f"verify-{database}-{rows}-{shards}.json"
    if not named.exists():
        home = replace(environment, folder=folder.resolve())
        url = home.make(database, shards)
        engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
        outbox = Outbox(url, engine, shards, home.settings(url, shards))
        _fill(home, outbox, rows)
        engine.dispose()
        named.write_text(json.dumps(outbox.settings, indent=2))
    settings: dict[str, str] = json.loads(named.read_text())
    return settings


def _fill(environment: Environment, outbox: Outbox, rows: int) -> None:
    add_history(outbox.engine, rows, per_interaction=3)
    _produce(environment, outbox)


def _compare(settings: dict[str, str], rows: int, rounds: int) -> dict[str, Any]:
    """Verify without and with values in turn."""
    found: dict[str, list[dict[str, float]]] = {"headers": [], "values": []}
    for _ in range(rounds):
        found["headers"].append(_verify(settings, rows))
        found["values"].append(_verify(settings, rows, "--values"))
    return {kind: {name: spread([one[name] for one in runs], 1) for name in runs[0]} for kind, runs in found.items()}


def _verify(settings: dict[str, str], rows: int, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "relay", "verify", "--json", *options]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
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
    for rows in reader.rows(reader.id_bounds(0, 2**62), 0, 2**62):
        for row in sorted(reader.values(row.id for row in rows)):
            waiting[shard_of_row(row.interaction_id)].append(row)
        for shard, batch in waiting.items():
            if len(batch) >= BATCH:
                yield batch
                waiting[shard] = []
    yield from filter(None, waiting.values())
