"""Where a bench runs: services, outboxes, topics, and what their processes cost."""

import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import Engine, make_url

from bench.sampling import Sampler
from outbox.db.engine import LONG_ANSWER_SECONDS, create_outbox_engine
from outbox.store import Store
from testkit.databases import identify, migrate
from testkit.deployment import settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_rows
from testkit.services import ExternalService, Kafka, Postgres, Registry, ServiceError
from testkit.waiting import wait_until

BATCH = 5_000
PARTITIONS = 8

Services = tuple[Kafka | ExternalService, Registry | ExternalService, Postgres | ExternalService]


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    """Those that the environment names, as in the tests; the others are started, and stopped at the end.

    Raises:
        SystemExit: one cannot be started; it says why.
    """
    kafka = ExternalService.kafka() or Kafka(folder / "kafka")
    registry = ExternalService.registry() or Registry(folder / "registry")
    postgres = ExternalService.postgres() or Postgres(folder / "postgres")
    started = [service for service in (kafka, registry, postgres) if not isinstance(service, ExternalService)]
    try:
        try:
            for service in started:
                service.start()
        except ServiceError as error:
            sys.exit(f"not run: {error}")
        yield kafka, registry, postgres
    finally:
        for service in started:
            service.stop()


class Outbox(NamedTuple):
    """A database to measure with."""

    url: str
    engine: Engine
    shards: int
    settings: dict[str, str]
    """Of its relays; the topics are there."""

    @property
    def topic(self) -> str:
        """Where its rows go."""
        return self.settings["KAFKA_TOPIC"]


@dataclass(frozen=True)
class Environment:
    """Services that run, and a folder for logs and SQLite files."""

    kafka: Kafka | ExternalService
    registry: Registry | ExternalService
    postgres: Postgres | ExternalService
    folder: Path
    _migrated: dict[tuple[str, int], str] = field(default_factory=dict)

    @contextmanager
    def outbox(self, kind: str, shards: int, like: str | None = None) -> Iterator[Outbox]:
        """An outbox for the block: empty, or a copy of another, named by its URL, that nobody is connected to."""
        url = self.copy(like) if like else self.make(kind, shards)
        engine = create_outbox_engine(url, answer_seconds=LONG_ANSWER_SECONDS)
        try:
            yield Outbox(url, engine, shards, self.settings(url, shards))
        finally:
            engine.dispose()
            self.drop(url)

    def make(self, kind: str, shards: int) -> str:
        """Make an empty outbox; its URL."""
        if (kind, shards) not in self._migrated:
            url = f"sqlite:///{self.folder}/{kind}-{shards}.db"
            if kind == "postgresql":
                url = self.postgres.create_database(f"bench_{uuid.uuid4().hex[:8]}")
            migrate(url, shards)
            self._migrated[kind, shards] = url
        return self.copy(self._migrated[kind, shards])

    def copy(self, url: str) -> str:
        """Copy an outbox that nobody is connected to; the copy's URL, whose identity is its own."""
        name, source = f"bench_{uuid.uuid4().hex[:8]}", make_url(url).database
        if url.startswith("sqlite"):
            copied = f"sqlite:///{self.folder}/{name}.db"
            shutil.copy(str(source), self.folder / f"{name}.db")
        else:
            copied = self.postgres.create_database(name, source)
            copied = copied.replace("postgresql://", "postgresql+psycopg://")
        identify(copied)
        return copied

    def drop(self, url: str) -> None:
        """Remove a database."""
        name = str(make_url(url).database)
        if url.startswith("sqlite"):
            Path(name).unlink()
            return
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    def topic(self, name: str, partitions: int = PARTITIONS, policy: str = "delete") -> None:
        """Make a topic before anything is sent, so that a consumer can wait for its first record."""
        admin = AdminClient(self.client_config)
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

    @property
    def client_config(self) -> dict[str, Any]:
        """What every client of the broker is made with."""
        return {"bootstrap.servers": self.kafka.bootstrap_servers}

    def consumer(self, topic: str) -> Consumer:
        """A ``read_committed`` consumer of what comes from now on."""
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
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        for each in places:
            each.offset = wait_until(partial(_span, consumer, each), f"{topic} has leaders")[1]
        consumer.assign(places)
        return consumer

    def cpu_seconds(self, sender: str, pids: list[int]) -> dict[str, float]:
        """CPU that each part has used so far: the sender with these processes, and services, if we run them."""
        used = {sender: sum(map(cpu_seconds, pids))}
        for name, service in (("broker", self.kafka), ("database", self.postgres)):
            if not isinstance(service, ExternalService):
                used[name] = cpu_seconds(service.process.pid)
        return used


def _span(consumer: Consumer, place: TopicPartition) -> tuple[int, int] | None:
    """First and next offset; None while a new partition has no leader."""
    try:
        return consumer.get_watermark_offsets(place, 30)
    except KafkaException:
        return None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children, the ended ones included."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children()):
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:2])
    return total + sum(process.cpu_times()[2:4])


class Peak(Sampler):
    """Highest resident memory of processes while the block runs, in MB each."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__()
        self._pids, self.mb = pids, 0.0

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                self.mb = max(self.mb, *(psutil.Process(pid).memory_info().rss / 2**20 for pid in self._pids))


def fill(engine: Engine, count: int) -> None:
    """Commit a backlog."""
    store = Store(engine)
    for start in range(0, count, BATCH):
        store.record(new_rows(min(BATCH, count - start), interactions=500))
