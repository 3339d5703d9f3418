"""The environment of a benchmark: services, outboxes, topics and processes, and what they cost."""

import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic
from sqlalchemy import Engine, make_url

from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.store import Store
from testkit.background import BackgroundTask
from testkit.databases import assign_new_outbox_id, migrate
from testkit.deployment import Deployment, settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Postgres, Registry, ServiceError
from testkit.topic import create_topics
from testkit.waiting import wait_until

BATCH = 5_000
PARTITIONS = 8


class Outbox(NamedTuple):
    """An outbox to measure with."""

    url: str
    engine: Engine
    shards: int
    settings: dict[str, str]
    """Settings of its relays, whose topics exist."""

    @property
    def topic(self) -> str:
        """The topic of its rows."""
        return self.settings["KAFKA_TOPIC"]


@dataclass(frozen=True)
class Environment:
    """Running services, and a folder for logs and SQLite files."""

    kafka: Kafka | ExternalService
    registry: Registry | ExternalService
    postgres: Postgres | ExternalService
    folder: Path
    _migrated: dict[tuple[str, int], str] = field(default_factory=dict)

    @contextmanager
    def outbox(self, database: str, shards: int, template: str | None = None) -> Iterator[Outbox]:
        """Create an outbox for the block.

        Args:
            database: "sqlite" or "postgresql".
            shards: number of shards.
            template: URL of an outbox to copy, to which nobody is connected; None for an empty outbox.
        """
        url = self.copy(template) if template else self.make(database, shards)
        engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
        try:
            yield Outbox(url, engine, shards, self.settings(url, shards))
        finally:
            engine.dispose()
            self.drop(url)

    def make(self, database: str, shards: int) -> str:
        """Create an empty outbox and return its URL."""
        if (database, shards) not in self._migrated:
            url = f"sqlite:///{self.folder}/{database}-{shards}.db"
            if database == "postgresql":
                url = self.postgres.create_database(f"bench_{uuid.uuid4().hex[:8]}")
            migrate(url, shards)
            self._migrated[database, shards] = url
        return self.copy(self._migrated[database, shards])

    def copy(self, url: str) -> str:
        """Copy an outbox to which nobody is connected, give the copy a new identity, and return its URL."""
        name, source = f"bench_{uuid.uuid4().hex[:8]}", make_url(url).database
        if url.startswith("sqlite"):
            copied = f"sqlite:///{self.folder}/{name}.db"
            shutil.copy(str(source), self.folder / f"{name}.db")
        else:
            copied = self.postgres.create_database(name, source)
            copied = copied.replace("postgresql://", "postgresql+psycopg://")
        assign_new_outbox_id(copied)
        return copied

    def drop(self, url: str) -> None:
        """Drop a database."""
        name = str(make_url(url).database)
        if url.startswith("sqlite"):
            Path(name).unlink()
            return
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    def topic(self, name: str, partitions: int = PARTITIONS, policy: str = "delete") -> None:
        """Create a topic in advance, so that a consumer can be assigned before the first record."""
        create_topics(self.client_config, NewTopic(name, partitions, 1, config={"cleanup.policy": policy}))

    def topics(self, settings: dict[str, str], shards: int) -> None:
        """Create a relay's topics."""
        self.topic(settings["KAFKA_TOPIC"])
        self.topic(settings["KAFKA_PROGRESS_TOPIC"], shards, "compact")

    def settings(self, url: str, shards: int) -> dict[str, str]:
        """Return settings of a relay, and create its topics."""
        settings = settings_for(self.kafka, self.registry, url)
        self.topics(settings, shards)
        return settings

    def deployment(self, database: str, shards: int, **environ: str) -> Deployment:
        """Deploy the product on an empty outbox, with further settings."""
        url = self.make(database, shards)
        settings = {**settings_for(self.kafka, self.registry, url), **environ}
        return Deployment(url, settings, self.client_config, self.folder)

    def relay(self, settings: dict[str, str]) -> RelayProcess:
        """Start a relay."""
        return RelayProcess(settings, self.folder / f"relay-{uuid.uuid4().hex[:6]}.log")

    @property
    def client_config(self) -> dict[str, Any]:
        """Configuration of every client of the broker."""
        return self.kafka.client_config

    def consumer(self, topic: str) -> Consumer:
        """Return a ``read_committed`` consumer of the records that arrive from now on."""
        consumer = Consumer(
            {
                **self.client_config,
                "group.id": "bench",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        for partition in partitions:
            _, partition.offset = wait_until(partial(_offsets, consumer, partition), f"{topic} has leaders")
        consumer.assign(partitions)
        return consumer

    def cpu_seconds(self, sender: str, pids: list[int]) -> dict[str, float]:
        """Return the CPU time used so far by the sender's processes, and by services that we run."""
        used = {sender: sum(map(cpu_seconds, pids))}
        for name, service in (("broker", self.kafka), ("database", self.postgres)):
            if not isinstance(service, ExternalService):
                used[name] = cpu_seconds(service.process.pid)
        return used


@contextmanager
def open_environment(folder: Path) -> Iterator[Environment]:
    """Use the services that environment variables name, and start the others for the block.

    Raises:
        SystemExit: a service cannot run here; the message says why.
    """
    kafka = ExternalService.kafka() or Kafka(folder / "kafka")
    registry = ExternalService.registry() or Registry(folder / "registry")
    postgres = ExternalService.postgres() or Postgres(folder / "postgres")
    with ExitStack() as stack:
        for service in (kafka, registry, postgres):
            if not isinstance(service, ExternalService):
                stack.callback(service.stop)
                try:
                    service.start()
                except ServiceError as error:
                    sys.exit(f"not run: {error}")
        yield Environment(kafka, registry, postgres, folder)


def _offsets(consumer: Consumer, partition: TopicPartition) -> tuple[int, int] | None:
    """Return a partition's first and next offset, or None while it has no leader."""
    try:
        return consumer.get_watermark_offsets(partition, 30)
    except KafkaException:
        return None


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and its children, including those that ended."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children()):
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:2])
    return total + sum(process.cpu_times()[2:4])


class PeakMemory(BackgroundTask):
    """The highest resident memory of any of these processes within the block, in MB."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__()
        self._pids, self.megabytes = pids, 0.0

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                sizes = [psutil.Process(pid).memory_info().rss / 2**20 for pid in self._pids]
                self.megabytes = max(self.megabytes, *sizes)


def fill(engine: Engine, count: int) -> None:
    """Commit a backlog of rows, in batches."""
    store = Store(engine)
    for start in range(0, count, BATCH):
        store.record(new_rows(min(BATCH, count - start), interactions=500))
