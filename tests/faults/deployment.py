"""A whole product on services of its own that may be harmed, under load and watched by a consumer."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from time import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from testkit.deployment import Deployment
from testkit.proxied_services import ProxiedKafka, ProxiedPostgres
from testkit.relay_process import RelayProcess
from testkit.web_process import WebProcess

LEASE_SECONDS = 3
TRANSACTION_SECONDS = 5
PARTITIONS = 4
RELAYS = 2
"""On SQLite the second one is a standby."""
SETTINGS = {
    "RELAY_BATCH_SIZE": "50",
    "RELAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "KAFKA_CONFIG": f'{{"transaction.timeout.ms": {TRANSACTION_SECONDS}000, "message.timeout.ms": 4900}}',
}


class Stage:
    """One product: its web process, its relays, and the services behind proxies.

    Args:
        world: the outbox and its topics.
        kafka: the broker.
        postgres: the database server, or None with SQLite.
        relays: how many.
    """

    def __init__(
        self, deployment: Deployment, kafka: ProxiedKafka, postgres: ProxiedPostgres | None, relays: int
    ) -> None:
        self.deployment, self.kafka, self._postgres = deployment, kafka, postgres
        self._product = {"DATABASE_URL": postgres.proxied(deployment.url) if postgres else deployment.url}
        # A service is started by threads that live as long as it: the kernel ends it with the one that started it.
        self.threads = ThreadPoolExecutor(2)
        self.relays: list[RelayProcess] = []
        topic = NewTopic(deployment.topic, PARTITIONS, 1)
        admin = AdminClient(deployment.client_config)
        admin.create_topics([topic])[topic.topic].result(30)
        self.audience = Audience(deployment)
        self.start_web()
        for place in range(relays):
            self.start_relay(place)

    @property
    def web(self) -> WebProcess:
        """The one that serves now."""
        return self.deployment.webs[-1]

    @property
    def database(self) -> ProxiedPostgres:
        """The database server."""
        assert self._postgres is not None, "SQLite has no server"
        return self._postgres

    def start_web(self) -> None:
        """Start a web process, in place of the one before."""
        self.deployment.web(**self._product)

    def start_relay(self, place: int) -> None:
        """Start a relay, in place of the one before."""
        self.relays[place : place + 1] = [self.deployment.relay(**self._product)]  # type: ignore[arg-type] # all are texts

    def close(self) -> None:
        """End all that was started here."""
        self.audience.stop()
        self.threads.shutdown()
        for relay in self.deployment.relays:
            relay.kill()
        for web in self.deployment.webs:
            web.kill()
        self.deployment.engine.dispose()


class Audience:
    """A ``read_committed`` consumer that notes when records arrive.

    Args:
        world: whose topic it reads.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.arrivals: list[float] = []
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                **deployment.client_config,
                "group.id": "audience",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 500,
            },
            logger=logging.getLogger("audience"),
        )
        self._consumer.assign([TopicPartition(deployment.topic, number, 0) for number in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                self.arrivals.append(time())
        self._consumer.close()

    def stop(self) -> None:
        """Leave."""
        self._stop.set()
        self._thread.join()
