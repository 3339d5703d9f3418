"""A restored database or broker, a lost progress topic, or other names: no row is lost or silently duplicated."""

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import make_url

from outbox.db.engine import sqlite
from relay.kafka.topic_scan import complete_since, truncated_partitions
from testkit.broker_backup import BrokerBackup
from testkit.command_line import command
from testkit.databases import NewDatabase
from testkit.deployment import Deploy, Deployment, NewDeployment
from testkit.outbox import assert_placed
from testkit.relay_process import RelayProcess
from testkit.rows import new_row, new_rows
from testkit.services import ExternalService, Kafka
from testkit.topic import read_topic
from testkit.waiting import wait_until


class Backup:
    """A backup of the database; no other process may be connected while it is made."""

    def __init__(self, deployment: Deployment) -> None:
        deployment.engine.dispose()
        self._deployment, self._url = deployment, make_url(deployment.url)
        name = str(self._url.database)
        if self._url.get_backend_name() == "sqlite":
            with closing(sqlite.connect(name)) as connection:
                connection.execute(f"VACUUM INTO '{name}.backup'")
        else:
            self._on_server(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"')

    def restore(self) -> None:
        """Restore the backup; on PostgreSQL other processes may be connected."""
        self._deployment.engine.dispose()
        name = str(self._url.database)
        if self._url.get_backend_name() == "sqlite":
            for suffix in ("-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)
            shutil.copy(f"{name}.backup", name)
        else:
            self._on_server(f'DROP DATABASE "{name}" WITH (FORCE)')
            self._on_server(f'CREATE DATABASE "{name}" TEMPLATE "{name}_backup"')

    def _on_server(self, sql: str) -> None:
        url = self._url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.encode())


def arrivals(deployment: Deployment) -> Counter[tuple[int, str, str]]:
    """Count each row's records, by id, interaction and time of receipt, since a restored database reuses ids."""
    return Counter((record.outbox_id, record.key, record.headers["received-at"]) for record in deployment.seen())


def rows_of(deployment: Deployment) -> set[tuple[int, str, str]]:
    """Return every row of the database, by id, interaction and time of receipt."""
    return {
        (row_id, key, str(at))
        for row_id, key, at in deployment.query("SELECT id, interaction_id, received_at FROM outbox")
    }


def drain(deployment: Deployment) -> None:
    """Run a relay with small transactions until the outbox drains."""
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.wait_drained()
    assert running.stop() == 0


def restore_an_older_database(deployment: Deployment) -> None:
    """Restore a backup with 10 rows sent and 30 pending, after those and 20 more were sent; then accept 25 rows."""
    deployment.record(new_rows(10))
    drain(deployment)
    deployment.record(new_rows(30))
    backup = Backup(deployment)
    deployment.record([new_row(f"lost-{number}") for number in range(20)])
    drain(deployment)
    backup.restore()
    deployment.record([new_row(f"after-{number}") for number in range(25)])


def test_a_restored_database_is_reconciled_without_a_duplicate(deployment: Deployment) -> None:
    """The shard stops and reports it; after a reconcile every row, also one with a reused id, is in the topic once."""
    restore_an_older_database(deployment)
    running = deployment.relay()
    running.wait_degraded("shard 0", "relay reconcile --since")
    assert len(deployment.seen()) == 60
    assert "--accept-duplicates" in command(deployment.environ, "status", COLUMNS="400").stdout
    arguments = ("reconcile", "--since", "1h", "--reason", "restored the backup")
    dry_run = command(deployment.environ, *arguments, "--dry-run")
    assert dry_run.returncode == 0, dry_run.stderr
    assert "of 60 records" in dry_run.stderr
    assert "30 unsent here are marked sent" in dry_run.stderr
    assert "20 records of rows that this database does not have" in dry_run.stderr
    assert deployment.pending() == 55
    done = command(deployment.environ, *arguments, "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reconcile: marked 30 rows sent, resumed shard 0\n"
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded")
    sent = arrivals(deployment)
    assert set(sent.values()) == {1}
    assert rows_of(deployment) - set(sent) == set()
    assert len(sent) == 85
    assert_placed(deployment.engine)
    verbs = [verb for (verb,) in deployment.query("SELECT verb FROM outbox_audit ORDER BY id")]
    assert verbs == ["reconcile shard 0", f"reconcile shard 0, settled 1 to {verbs[-1].rsplit(' ', 1)[-1]}"]
    verify = command(deployment.environ, "audit", "--verify")
    assert verify.returncode == 0, verify.stderr


def test_partitions_from_which_retention_has_removed_records_are_found(kafka: Kafka | ExternalService) -> None:
    """A reconcile cannot find records that retention has removed, so it names each partition that may lack some."""
    config = kafka.client_config
    topic = f"lost-{uuid.uuid4().hex[:8]}"
    admin, producer = AdminClient(config), Producer(config)
    admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(10)
    for partition in (0, 1, 2):
        for moment_ms in (1_000, 2_000, 3_000):
            producer.produce(topic, b"value", b"key", partition, timestamp=moment_ms)
    assert producer.flush(20) == 0
    for future in admin.delete_records([TopicPartition(topic, 1, 1), TopicPartition(topic, 2, 3)]).values():
        future.result(10)
    assert [truncated_partitions(admin, topic, since) for since in (-1, 1_500, 2_500)] == [[1, 2], [1, 2], [2]]
    # One partition is empty, so records older than its retention of a week may be missing.
    week_ago = (time.time() - 7 * 24 * 3600) * 1000
    assert abs(complete_since(admin, topic, 0) - week_ago) < 3600 * 1000
    producer.produce(topic, b"value", b"key", 2, timestamp=4_000)
    assert producer.flush(20) == 0
    assert 4_000 <= complete_since(admin, topic, 0) <= 70_000
    assert complete_since(admin, topic, 80_000) == 80_000


def test_duplicates_are_sent_only_if_the_operator_accepts_them(deployment: Deployment) -> None:
    """With ``--accept-duplicates`` the rows pending in the restored database are sent again, and audited."""
    restore_an_older_database(deployment)
    running = deployment.relay()
    running.wait_degraded("shard 0", "--accept-duplicates")
    done = command(
        deployment.environ, "reconcile", "--accept-duplicates", "--reason", "agreed with the consumers", "--yes"
    )
    assert done.returncode == 0, done.stderr
    deployment.wait_drained()
    sent = arrivals(deployment)
    assert rows_of(deployment) - set(sent) == set()
    assert 0 < sum(count - 1 for count in sent.values()) <= 30
    assert max(sent.values()) == 2
    assert_placed(deployment.engine)
    ((verb, reason),) = deployment.query("SELECT verb, reason FROM outbox_audit")
    assert verb.split(",")[0] == "accept duplicates of shard 0"
    assert reason == "agreed with the consumers"


def test_a_database_is_restored_under_a_running_relay(
    new_postgresql: Callable[[], str], kafka: Kafka | ExternalService, deploy: Deploy
) -> None:
    """The relay detects a failover to a stale replica, and duplicates no row before or after the reconcile."""
    deployment = deploy(new_postgresql(), kafka)
    deployment.record(new_rows(20))
    backup = Backup(deployment)
    running = deployment.relay(RELAY_BATCH_SIZE="5")
    deployment.wait_drained()
    backup.restore()
    running.wait_degraded("shard 0", "relay reconcile --since")
    deployment.record(new_rows(20))
    assert len(deployment.seen()) == 20
    done = command(deployment.environ, "reconcile", "--since", "1h", "--reason", "failed over", "--yes")
    assert done.returncode == 0, done.stderr
    deployment.wait_drained()
    assert set(arrivals(deployment).values()) == {1}
    assert set(arrivals(deployment)) == rows_of(deployment)
    assert_placed(deployment.engine)


def test_a_deleted_progress_topic_is_logged_as_an_error(deployment: Deployment) -> None:
    """The relay recreates the topic, logs an error and continues; rows already marked are not sent again."""
    ids = deployment.record(new_rows(50))
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.wait_drained()
    admin = AdminClient(deployment.client_config)
    (future,) = admin.delete_topics([deployment.environ["KAFKA_PROGRESS_TOPIC"]]).values()
    future.result(10)
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    (line,) = [line for line in running.lines() if line.get("action") == "progress_lost"]
    assert line["level"] == "error"
    assert "sent twice" in line["event"]
    assert '"action": "progress_lost"' in running.log.read_text()  # torture and the fuzzers look for this text
    deployment.check_exactly_once(ids)


def test_a_new_outbox_ignores_the_progress_of_the_old_one(new_deployment: NewDeployment) -> None:
    """With the same topics and prefix, all rows of a new outbox are sent, though its ids start again."""
    old = new_deployment()
    old.record(new_rows(30))
    drain(old)
    names = ("KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX")
    new = new_deployment(**{name: old.environ[name] for name in names})
    new.record([new_row(f"new-{number}") for number in range(30)])
    drain(new)
    sent = arrivals(new)
    assert set(sent.values()) == {1}
    assert set(sent) == rows_of(old) | rows_of(new)
    assert_placed(new.engine)


def test_a_relay_leaves_an_outbox_replaced_under_it_to_the_next_relay(new_deployment: NewDeployment) -> None:
    """The running relay asks for a restart and binds nothing; a newly started relay gets every shard."""
    deployment = new_deployment(RELAY_LEASE_SECONDS="600")
    deployment.record(new_rows(10))
    old = deployment.relay()
    deployment.wait_drained()
    # As if an empty outbox had been restored under the running relay, which must not see a part of it.
    with deployment.engine.begin() as connection:
        for table in ("outbox", "outbox_pending", "outbox_sent", "outbox_parked"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql(
            "UPDATE outbox_shard SET owner = NULL, epoch = 0, lease_expires_at = 0, acknowledged_sequence = 0"
        )
        connection.exec_driver_sql(
            f"UPDATE outbox_identity SET outbox_id = '{uuid.uuid4()}', topic = NULL, progress_topic = NULL,"
            " transactional_id_prefix = NULL, cluster_id = NULL"
        )
    old.wait_degraded("shard 0", "restart this relay")
    assert deployment.query("SELECT topic FROM outbox_identity") == [(None,)]
    other = f"{deployment.topic}-other"
    new = deployment.relay(KAFKA_TOPIC=other)
    deployment.record([new_row(f"new-{number}") for number in range(10)])
    deployment.wait_drained()
    assert new.running()
    assert len(read_topic(deployment.client_config, other)) == 10
    assert len(deployment.seen()) == 10
    assert_placed(deployment.engine)


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX"])
def test_a_relay_with_other_names_stops_before_it_fences_another(deployment: Deployment, name: str) -> None:
    """A relay with another topic or prefix exits and names the difference; the running one is not disturbed."""
    ids = deployment.record(new_rows(10))
    running = deployment.relay()
    deployment.wait_drained()
    refused = deployment.relay(None, 1, None, **{name: f"{deployment.environ[name]}-other"})
    assert refused.wait() == 1
    assert f"{name} was" in refused.log.read_text()
    ids += deployment.record(new_rows(10))
    deployment.wait_drained()
    taken = [line for line in running.lines() if line.get("action") == "taken"]
    assert len(taken) == 1, taken
    deployment.check_exactly_once(ids)


def test_another_cluster_is_refused(
    new_sqlite: Callable[[], str], kafka: Kafka | ExternalService, own_kafka: Kafka, deploy: Deploy
) -> None:
    """A relay with the same names on another Kafka cluster exits and names the cluster."""
    deployment = deploy(new_sqlite(), kafka)
    deployment.record(new_rows(10))
    drain(deployment)
    refused = deployment.relay(KAFKA_BOOTSTRAP_SERVERS=own_kafka.bootstrap_servers)
    assert refused.wait() == 1
    assert "the Kafka cluster was" in refused.log.read_text()


def recoveries(running: RelayProcess, verdict: str) -> float:
    """Return how often the relay came to this verdict when it took a shard, from its metrics."""
    return sum(
        float(line.split()[-1])
        for line in running.get("/metrics").splitlines()
        if line.startswith(f'outbox_recoveries_total{{verdict="{verdict}"}}')
    )


def send_around_a_backup(deployment: Deployment, kafka: Kafka, folder: Path) -> tuple[BrokerBackup, RelayProcess]:
    """Send 20 rows, back the broker up, and send 30 more; return the backup and the running relay."""
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.record(new_rows(20))
    deployment.wait_drained()
    backup = BrokerBackup(kafka, folder)
    deployment.record(new_rows(30))
    deployment.wait_drained()
    assert len(deployment.seen()) == 50
    return backup, running


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_rows_that_a_restored_broker_has_lost_are_sent_again(
    deploy: Deploy, new_database: NewDatabase, own_kafka: Kafka, tmp_path: Path, *, restarted: bool
) -> None:
    """The shard reports it at the next transaction of a running relay, or at the start of one.

    After a reconcile every row is in the topic once.
    """
    deployment = deploy(new_database(), own_kafka)
    backup, running = send_around_a_backup(deployment, own_kafka, tmp_path)
    if restarted:
        assert running.stop() == 0
    backup.restore()
    if restarted:
        running = deployment.relay()
    deployment.record([new_row(f"after-{number}") for number in range(5)])
    running.wait_degraded("shard 0", "Kafka went back in time")
    assert recoveries(running, "kafka_went_back") >= 1
    assert "relay reconcile --accept-loss" in command(deployment.environ, "status", COLUMNS="600").stdout
    check = command(deployment.environ, "check", COLUMNS="400")
    assert check.returncode == 4, check.stdout
    assert "Kafka went back in time" in check.stdout
    arguments = ("reconcile", "--reason", "the broker came back with an older disk")
    dry_run = command(deployment.environ, *arguments, "--dry-run")
    assert dry_run.returncode == 0, dry_run.stderr
    assert "30 are missing from the topic and are sent again. Order is not kept" in dry_run.stderr
    done = command(deployment.environ, *arguments, "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reconcile: 30 rows pending again, resumed shard 0\n"
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded")
    sent = arrivals(deployment)
    assert set(sent.values()) == {1}
    assert set(sent) == rows_of(deployment)
    assert len(sent) == 55
    assert_placed(deployment.engine)
    verbs = [verb for (verb,) in deployment.query("SELECT verb FROM outbox_audit ORDER BY id")]
    assert verbs[0] == "send lost rows of shard 0 again"
    assert verbs[1].startswith("reconcile shard 0, settled")
    verify = command(deployment.environ, "audit", "--verify")
    assert verify.returncode == 0, verify.stderr
    again = command(deployment.environ, *arguments, "--yes")
    assert again.returncode == 3, again.stderr
    assert "no shard waits because Kafka went back" in again.stderr


def test_an_idle_shard_detects_a_restored_broker_within_about_a_minute(
    deploy: Deploy, new_sqlite: NewDatabase, own_kafka: Kafka, tmp_path: Path
) -> None:
    """It checks the last progress record even if there is nothing to send; ``--accept-loss`` lets it send again."""
    deployment = deploy(new_sqlite(), own_kafka)
    backup, running = send_around_a_backup(deployment, own_kafka, tmp_path)
    backup.restore()
    wait_until(lambda: "Kafka went back" in running.degraded().get("shard 0", ""), "shard 0 is degraded", 150)
    done = command(deployment.environ, "reconcile", "--accept-loss", "--reason", "the consumers have them", "--yes")
    assert done.returncode == 0, done.stderr
    assert "stays marked sent" in done.stderr
    deployment.record(new_rows(5))
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded")
    assert len(deployment.seen()) == 25
    assert_placed(deployment.engine)
    ((verb,),) = deployment.query("SELECT verb FROM outbox_audit")
    assert verb.startswith("accept the loss of shard 0, settled")
