"""The product under fault injection, and a consumer of its topic."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import time
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from testkit.deployment import Deployment
from testkit.relay_process import RelayProcess
from testkit.topic import create_topics
from testkit.web_process import WebProcess

LEASE_SECONDS = 3
TRANSACTION_SECONDS = 5
PARTITIONS = 4
RELAYS = 2
"""On SQLite the second relay is a standby."""
SETTINGS = {
    "RELAY_BATCH_SIZE": "50",
    "RELAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "KAFKA_CONFIG": f'{{"transaction.timeout.ms": {TRANSACTION_SECONDS}000, "message.timeout.ms": 4900}}',
}


Inject = Callable[["SystemUnderTest", Random], None]
"""Injects a fault; on return everything runs again."""


class Fault(NamedTuple):
    """A fault to inject."""

    name: str
    subject: str
    """What it affects; two simultaneous faults affect different subjects."""
    inject: Inject


class SystemUnderTest:
    """The web process and relays of one deployment, and a consumer of its topic.

    Args:
        deployment: the outbox and its topics, as tests reach them.
        faults: every fault that can be injected.
        environ: settings with which web and relays reach the services, where they differ from the deployment's.
        relays: number of relays.
        replicas: number of replicas of each partition.
        web_environ: settings of the web process alone.
    """

    def __init__(
        self,
        deployment: Deployment,
        faults: Sequence[Fault],
        environ: Mapping[str, str],
        relays: int,
        replicas: int = 1,
        web_environ: Mapping[str, str] | None = None,
    ) -> None:
        self.deployment, self.faults, self._environ = deployment, faults, environ
        self._web_environ = {**environ, **(web_environ or {})}
        # The kernel kills a service when the thread that started it ends, so these threads outlive the services.
        self.fault_threads = ThreadPoolExecutor(2)
        self.relays: list[RelayProcess] = []
        create_topics(deployment.client_config, NewTopic(deployment.topic, PARTITIONS, replicas))
        self.consumer = ArrivalRecorder(deployment)
        self.start_web()
        for index in range(relays):
            self.start_relay(index)

    @property
    def web(self) -> WebProcess:
        """The current web process."""
        return self.deployment.webs[-1]

    def start_web(self) -> None:
        """Start a web process that replaces the current one."""
        self.deployment.web(**self._web_environ)

    def start_relay(self, index: int) -> None:
        """Start a relay that replaces the one at this index."""
        self.relays[index : index + 1] = [self.deployment.relay(**self._environ)]  # type: ignore[arg-type] # all are strings

    def close(self) -> None:
        """Stop the consumer and every process."""
        self.consumer.stop()
        self.fault_threads.shutdown()
        self.deployment.close()


class ArrivalRecorder:
    """A ``read_committed`` consumer that records when each record of the deployment's topic arrives."""

    def __init__(self, deployment: Deployment) -> None:
        self.arrivals: dict[int, list[float]] = {}
        """Arrival times by partition, in seconds since the epoch."""
        self.rows: dict[int, float] = {}
        """When the first record of each row arrived."""
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                **deployment.client_config,
                "group.id": "arrivals",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,  # its broker fails on purpose
                # Find a partition's new leader soon: what is measured is the relays' pause, not this consumer's.
                "topic.metadata.refresh.interval.ms": 1_000,
                "socket.timeout.ms": 2_000,
            },
            logger=logging.getLogger("arrivals"),
        )
        self._consumer.assign([TopicPartition(deployment.topic, number, 0) for number in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self._thread.start()

    def _consume(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                at = time()
                self.arrivals.setdefault(message.partition() or 0, []).append(at)
                self.rows.setdefault(int(dict(message.headers() or [])["outbox-id"] or 0), at)
        self._consumer.close()

    def stop(self) -> None:
        """Stop consuming."""
        self._stop.set()
        self._thread.join()
