"""Where a bench runs: services of its own, databases, topics, and what their processes cost."""

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import Engine

from outbox.store import Store
from tests.relay_process import RelayProcess
from tests.services import Kafka, Postgres, Registry
from tests.support import new_rows
from tests.world import settings_for

BATCH = 5_000
PARTITIONS = 8


@dataclass(frozen=True)
class Place:
    """Services, started, and a folder for logs."""

    kafka: Kafka
    registry: Registry
    postgres: Postgres
    folder: Path
    make: Callable[[str, int], str]
    """Makes a migrated database of a kind with so many shards; its URL."""

    def topic(self, name: str, partitions: int = PARTITIONS, policy: str = "delete") -> None:
        """Make a topic before anything is sent, so that a consumer can wait for its first record."""
        admin = AdminClient(self.kafka.client_config)
        wanted = NewTopic(name, partitions, 1, config={"cleanup.policy": policy})
        admin.create_topics([wanted])[name].result(30)

    def topics(self, settings: dict[str, str], shards: int) -> None:
        """Make a relay's topics."""
        self.topic(settings["KAFKA_TOPIC"])
        self.topic(settings["KAFKA_PROGRESS_TOPIC"], shards, "compact")

    def settings(self, url: str, shards: int, **further: str) -> dict[str, str]:
        """Settings of a relay with topics of its own, which are there."""
        settings = {**settings_for(self.kafka, self.registry, url), **further}
        self.topics(settings, shards)
        return settings

    def relay(self, settings: dict[str, str]) -> RelayProcess:
        """Start a relay."""
        return RelayProcess(settings, self.folder / f"relay-{uuid.uuid4().hex[:6]}.log")

    def consumer(self, topic: str) -> Consumer:
        """A ``read_committed`` consumer at the topic's beginning."""
        consumer = Consumer(
            {
                **self.kafka.client_config,
                "group.id": "bench",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        return consumer

    def cpu_seconds(self, sender: str, pids: list[int]) -> dict[str, float]:
        """CPU that each part has used so far; the sender's part is that of these processes."""
        return {
            sender: sum(map(cpu_seconds, pids)),
            "broker": cpu_seconds(self.kafka.process.pid),
            "database": cpu_seconds(self.postgres.process.pid),
        }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children, the ended ones included."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children()):
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:2])
    return total + sum(process.cpu_times()[2:4])


class Peak:
    """Highest resident memory of processes while the block runs, in MB each."""

    def __init__(self, pids: list[int]) -> None:
        self._pids, self._stop, self.mb = pids, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                self.mb = max(self.mb, *(psutil.Process(pid).memory_info().rss / 2**20 for pid in self._pids))


def fill(engine: Engine, count: int) -> None:
    """Commit a backlog."""
    store = Store(engine)
    for start in range(0, count, BATCH):
        store.record(new_rows(min(BATCH, count - start), interactions=500))
