"""A whole product for one test: a fresh database, topics of its own, and relays to start (fixtures)."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from outbox.db.engine import create_outbox_engine
from outbox.models import Accepted, NewRow
from outbox.store import Store
from testkit.relay_process import RelayProcess
from testkit.services import ExternalService, Kafka, Registry
from testkit.topic import ConsumedRecord, assert_exactly_once, read_topic
from testkit.waiting import DEADLINE_SECONDS, wait_until
from testkit.web_process import WebProcess


@dataclass
class Deployment:
    """One outbox, its topics, and the relays that a test starts; all are ended with the test."""

    url: str
    environ: dict[str, str]
    client_config: dict[str, Any]
    folder: Path
    relays: list[RelayProcess] = field(default_factory=list)
    webs: list[WebProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = create_outbox_engine(self.url)
        self.store = Store(self.engine)
        self.topic = self.environ["KAFKA_TOPIC"]

    def relay(
        self, kill_at: str | None = None, times: int = 1, freeze_at: str | None = None, **environ: str
    ) -> RelayProcess:
        """Start a relay."""
        log = self.folder / f"relay-{len(self.relays)}.log"
        self.relays.append(RelayProcess({**self.environ, **environ}, log, kill_at, times, freeze_at))
        return self.relays[-1]

    def web(self, **environ: str) -> WebProcess:
        """Start a web process."""
        log = self.folder / f"web-{len(self.webs)}.log"
        self.webs.append(WebProcess({"DATABASE_URL": self.url, **environ}, log))
        return self.webs[-1]

    def record(self, rows: Sequence[NewRow]) -> list[int]:
        """Commit rows to the outbox; their ids."""
        outcomes = [o for start in range(0, len(rows), 1000) for o in self.store.record(rows[start : start + 1000])]
        return [outcome.outbox_id for outcome in outcomes if isinstance(outcome, Accepted)]

    def pending(self) -> int:
        """Rows not settled yet."""
        return sum(shard.pending for shard in self.store.status())

    def wait_drained(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until nothing is pending."""
        wait_until(lambda: not self.pending(), "the outbox is drained", seconds)

    def seen(self) -> list[ConsumedRecord]:
        """What consumers see in the topic."""
        return read_topic(self.client_config, self.topic)

    def check_exactly_once(self, ids: Sequence[int]) -> None:
        """Each id is in the topic once and in order, and marked sent."""
        assert_exactly_once(self.seen(), ids)
        states = self.query("SELECT state, count(*) FROM outbox GROUP BY state")
        assert states == [("sent", len(ids))]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def execute(self, sql: str) -> None:
        """Change the database behind the product's back."""
        with self.engine.begin() as connection:
            connection.execute(text(sql))


NewDeployment = Callable[..., Deployment]


def settings_for(kafka: Kafka | ExternalService, registry: Registry | ExternalService, url: str) -> dict[str, str]:
    """The relay's settings, with topics and a prefix that nobody else uses."""
    name = uuid.uuid4().hex[:8]
    return {
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_TOPIC": f"interactions-{name}",
        "KAFKA_PROGRESS_TOPIC": f"interactions-{name}-progress",
        "KAFKA_TRANSACTIONAL_ID_PREFIX": f"relay-{name}-",
        "SCHEMA_REGISTRY_URL": registry.url,
        "SCHEMA_REGISTRY_USERNAME": registry.username,
        "SCHEMA_REGISTRY_PASSWORD": registry.password,
    }


@pytest.fixture
def deployments(tmp_path: Path) -> Iterator[list[Deployment]]:
    """Every world that the test makes; its processes are ended with the test, however it ends."""
    made: list[Deployment] = []
    yield made
    for deployment in made:
        for relay in deployment.relays:
            relay.kill()
        for web in deployment.webs:
            web.kill()
        deployment.engine.dispose()


@pytest.fixture
def new_deployment(
    new_database: Callable[..., str],
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> NewDeployment:
    """Makes a world on the session's services; the test runs once for each kind of database."""

    def make(shards: int = 1, **environ: str) -> Deployment:
        url = new_database(shards)
        config = {"bootstrap.servers": kafka.bootstrap_servers}
        deployments.append(Deployment(url, {**settings_for(kafka, registry, url), **environ}, config, tmp_path))
        return deployments[-1]

    return make


@pytest.fixture
def deployment(new_deployment: NewDeployment) -> Deployment:
    """A world with one shard."""
    return new_deployment()
