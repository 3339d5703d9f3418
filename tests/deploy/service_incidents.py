"""Incidents of services that no other test uses meanwhile: a broker and a PostgreSQL."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from testkit.broker_backup import BrokerBackup
from testkit.command_line import command
from testkit.databases import migrate
from testkit.services import Kafka, Postgres
from testkit.topic import alter_topic
from testkit.waiting import wait_until
from tests.deploy.incidents import Incident, nothing, operate
from tests.deploy.monitored_system import MonitoredSystem
from tests.deploy.scaled_rules import WEEK_SECONDS


def broker_stopped(kafka: Kafka) -> Incident:
    """The only broker."""
    return Incident(
        "the broker is stopped",
        ("BacklogOld", "NothingCommitted", "RelayDegraded"),
        lambda system: stop_idle(system, kafka),
        lambda _: kafka.process.start(),
    )


def database_stopped(postgres: Postgres) -> Incident:
    """PostgreSQL ends at once, without waiting for its clients."""
    return Incident(
        "PostgreSQL is stopped",
        ("WebhookErrors", "BacklogUncounted", "RelayDegraded"),
        lambda _: postgres.process.stop(signal.SIGINT),
        lambda _: postgres.process.start(),
    )


def database_read_only(postgres: Postgres) -> Incident:
    """As after a failover to a replica, or on a full disk: it can be read."""

    def set_read_only(value: str) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")

    return Incident(
        "PostgreSQL is read-only",
        ("WebhookErrors",),
        lambda _: set_read_only("on"),
        lambda _: set_read_only("off"),
    )


def database_slow() -> Incident:
    """Each commit of an interaction takes a second and a half, as on a disk that is too slow."""

    def begin(system: MonitoredSystem) -> None:
        system.deployment.execute(
            "CREATE FUNCTION wait_for_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END'"
        )
        system.deployment.execute(
            "CREATE CONSTRAINT TRIGGER slow_disk AFTER INSERT ON outbox DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait_for_disk()"
        )

    def end(system: MonitoredSystem) -> None:
        system.deployment.execute("DROP FUNCTION wait_for_disk() CASCADE")

    return Incident("the database's commits are slow", ("IngestSlow",), begin, end)


def disk_low(disk: Path) -> Incident:
    """The disk of a SQLite file is nearly full, until it is enlarged. It is a file system in memory, of another web."""

    def resize(size: str) -> Callable[[MonitoredSystem], object]:
        remount = ["mount", "-o", f"remount,size={size}", str(disk)]
        return lambda _: subprocess.run(remount, check=True)

    def prepare(system: MonitoredSystem) -> None:
        url = f"sqlite:///{disk}/outbox.db"
        migrate(url, 1)
        paused = command({**system.environ, "DATABASE_URL": url}, "pause", "--reason", "it has no relay")
        assert paused.returncode == 0, paused.stdout + paused.stderr
        system.scrape_also("another-outbox", system.deployment.web(DATABASE_URL=url).port)
        wait_until(lambda: system.prometheus.query("outbox_disk_free_bytes > 3e9"), "the disk is known")

    return Incident("the disk of the SQLite file is nearly full", ("DiskLow",), resize("1g"), resize("4g"), prepare)


def progress_refused() -> Incident:
    """Somebody lowers the limit of the progress topic below the size of a record; only a transaction's end fits."""

    def limit(size: int) -> Callable[[MonitoredSystem], object]:
        return lambda system: alter_topic(
            system.deployment.client_config, system.environ["KAFKA_PROGRESS_TOPIC"], "max.message.bytes", str(size)
        )

    return Incident("the progress topic refuses each record", ("TransactionsFail",), limit(90), limit(1_048_588))


def kafka_went_back(kafka: Kafka, folder: Path) -> Incident:
    """The broker comes back with an older disk."""
    backups: list[BrokerBackup] = []

    def prepare(system: MonitoredSystem) -> None:
        with idle(system):
            backups.append(BrokerBackup(kafka, folder))
        committed = system.relay.committed_transactions()
        wait_until(lambda: system.relay.committed_transactions() > committed + 50, "more is sent after the backup")

    def begin(system: MonitoredSystem) -> None:
        with idle(system):
            backups[0].restore()

    def end(system: MonitoredSystem) -> None:
        wait_until(lambda: {"shard 0", "shard 1"} <= system.relay.degraded().keys(), "both shards have stopped")
        operate(system, "reconcile", "--reason", "the broker came back with an older disk", "--yes")

    return Incident("the broker comes back with an older disk", ("KafkaWentBack",), begin, end, prepare)


def progress_lost() -> Incident:
    """Somebody deletes the progress topic."""

    def begin(system: MonitoredSystem) -> None:
        admin = AdminClient(system.deployment.client_config)
        with idle(system):
            (future,) = admin.delete_topics([system.environ["KAFKA_PROGRESS_TOPIC"]]).values()
            future.result(10)

    return Incident("the progress topic is deleted", ("ProgressLost",), begin, nothing)


def interactions_stop() -> Incident:
    """CXone sends nothing any more; last week it did."""

    def has_history(system: MonitoredSystem) -> bool:
        accepted = 'outbox_webhook_requests_total{outcome="accepted"}'
        return bool(system.prometheus.query(f"sum(increase({accepted}[60s] offset {WEEK_SECONDS}s)) > 300"))

    def prepare(system: MonitoredSystem) -> None:
        wait_until(lambda: has_history(system), "interactions arrived last week", 2 * WEEK_SECONDS + 60)

    return Incident(
        "CXone sends nothing any more",
        ("WebhookSilent",),
        lambda system: setattr(system.sender, "is_silent", True),
        lambda system: setattr(system.sender, "is_silent", False),
        prepare,
    )


def record_copied() -> Incident:
    """Somebody else writes a record of the topic again."""

    def begin(system: MonitoredSystem) -> None:
        record = system.deployment.seen()[-1]
        producer = Producer(system.deployment.client_config)
        headers: list[tuple[str, str | bytes | None]] = [(name, value) for name, value in record.headers.items()]
        producer.produce(system.deployment.topic, record.value, record.key, record.partition, headers=headers)
        assert producer.flush(30) == 0

    return Incident(
        "somebody else writes a record again", ("VerifyFault",), begin, nothing, MonitoredSystem.start_verification
    )


def verification_hindered(kafka: Kafka) -> Incident:
    """The broker is stopped, and nothing can be verified."""
    return Incident(
        "the broker is stopped under the verification",
        ("VerifyStale",),
        lambda system: stop_idle(system, kafka),
        lambda _: kafka.process.start(),
        MonitoredSystem.start_verification,
    )


def verification_ended() -> Incident:
    """Its process has ended, until it is taken from Prometheus's configuration."""
    return Incident(
        "the verification has ended",
        ("ProcessMissing",),
        MonitoredSystem.end_verification,
        MonitoredSystem.forget_verification,
        MonitoredSystem.start_verification,
    )


@contextmanager
def idle(system: MonitoredSystem) -> Iterator[None]:
    """Let no transaction be open during the block: a lone broker may come back with one left open."""
    deployment = system.deployment
    with system.sender.holding():
        deployment.wait_drained()
        ((sent,),) = deployment.query("SELECT count(*) FROM outbox_sent")
        wait_until(lambda: len(deployment.seen()) >= sent, "consumers see every row")
        yield


def stop_idle(system: MonitoredSystem, kafka: Kafka) -> None:
    """Stop the broker while no transaction is open."""
    with idle(system):
        kafka.process.stop()
