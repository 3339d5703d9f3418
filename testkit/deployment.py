"""Fixtures that deploy the product: a fresh database, unique topics, and web and relay processes to start."""

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
from testkit.outbox import assert_placed
from testkit.relay_process import RelayProcess
from testkit.services import ExternalService, Kafka, KafkaCluster, Registry
from testkit.topic import ConsumedRecord, assert_exactly_once, read_topic
from testkit.waiting import DEADLINE_SECONDS, wait_until
from testkit.web_process import WebProcess


@dataclass
class Deployment:
    """One outbox, its topics, and the web and relay processes that a test starts."""

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
        """Start a relay.

        Args:
            kill_at: step of the relay at which it kills itself (-9).
            times: occurrence of the step.
            freeze_at: step at which it stops itself (SIGSTOP).
            environ: further settings.
        """
        log = self.folder / f"relay-{len(self.relays)}.log"
        self.relays.append(RelayProcess({**self.environ, **environ}, log, kill_at, times, freeze_at))
        return self.relays[-1]

    def web(self, **environ: str) -> WebProcess:
        """Start a web process."""
        log = self.folder / f"web-{len(self.webs)}.log"
        self.webs.append(WebProcess({"DATABASE_URL": self.url, **environ}, log))
        return self.webs[-1]

    def record(self, rows: Sequence[NewRow]) -> list[int]:
        """Commit rows to the outbox and return the ids of those accepted."""
        outcomes = [o for start in range(0, len(rows), 1000) for o in self.store.record(rows[start : start + 1000])]
        return [outcome.outbox_id for outcome in outcomes if isinstance(outcome, Accepted)]

    def pending(self) -> int:
        """Return the number of pending rows."""
        return sum(shard.pending for shard in self.store.status())

    def wait_drained(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until no row is pending."""
        wait_until(lambda: not self.pending(), "the outbox drains", seconds)

    def seen(self) -> list[ConsumedRecord]:
        """Return every record that a ``read_committed`` consumer sees in the topic."""
        return read_topic(self.client_config, self.topic)

    def check_exactly_once(self, ids: Sequence[int]) -> None:
        """Assert that each row is in the topic exactly once and in order, that no other is, and that all are sent."""
        assert_exactly_once(self.seen(), ids)
        states = self.query("SELECT state, count(*) FROM outbox_rows GROUP BY state")
        assert states == [("sent", len(ids))]
        assert_placed(self.engine)

    def close(self) -> None:
        """Kill every process and close the database connections."""
        for relay in self.relays:
            relay.kill()
        for web in self.webs:
            web.kill()
        self.engine.dispose()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def execute(self, sql: str) -> None:
        """Run a statement on the database directly, bypassing the product."""
        with self.engine.begin() as connection:
            connection.execute(text(sql))


Deploy = Callable[..., Deployment]
"""Takes a database URL, a broker, and further settings."""
NewDeployment = Callable[..., Deployment]
"""Takes a number of shards, and further settings."""


def settings_for(
    kafka: Kafka | KafkaCluster | ExternalService, registry: Registry | ExternalService, url: str
) -> dict[str, str]:
    """Return settings for a relay, with unique topic names and transactional id prefix."""
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
    """The test's deployments, in order of creation; all their processes are killed when the test ends."""
    created: list[Deployment] = []
    yield created
    for deployment in created:
        deployment.close()


@pytest.fixture
def deploy(registry: Registry | ExternalService, tmp_path: Path, deployments: list[Deployment]) -> Deploy:
    """A function that deploys the product on a database URL and a broker, with further settings."""

    def deploy_on(url: str, kafka: Kafka | ExternalService, **environ: str) -> Deployment:
        settings = {**settings_for(kafka, registry, url), **environ}
        deployments.append(Deployment(url, settings, kafka.client_config, tmp_path))
        return deployments[-1]

    return deploy_on


@pytest.fixture
def new_deployment(new_database: Callable[..., str], kafka: Kafka | ExternalService, deploy: Deploy) -> NewDeployment:
    """A function that deploys the product on the session's services; the test runs once for each kind of database."""
    return lambda shards=1, **environ: deploy(new_database(shards), kafka, **environ)


@pytest.fixture
def deployment(new_deployment: NewDeployment) -> Deployment:
    """A deployment with one shard."""
    return new_deployment()
