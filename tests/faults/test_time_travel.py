"""The database, the progress topic or the settings are not those of before: nothing is lost or silently doubled."""

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import make_url

from outbox.db.engine import sqlite
from relay.kafka.topic_scan import cut_short, kept_since
from testkit.command_line import command
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, NewDeployment, settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_row, new_rows
from testkit.services import ExternalService, Kafka, Registry
from testkit.topic import read_topic
from testkit.waiting import wait_until


class Backup:
    """The database as it is now. Nobody may be connected to it."""

    def __init__(self, deployment: Deployment) -> None:
        deployment.engine.dispose()
        self._world, self._url = deployment, make_url(deployment.url)
        name = str(self._url.database)
        if self._url.get_backend_name() == "sqlite":
            with closing(sqlite.connect(name)) as connection:
                connection.execute(f"VACUUM INTO '{name}.backup'")
        else:
            self._on_server(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"')

    def restore(self) -> None:
        """Put it back, also under processes that are connected (on PostgreSQL)."""
        self._world.engine.dispose()
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
    """How often each row is in the topic: by id, interaction and time of receipt, for ids are handed out again."""
    return Counter((seen.outbox_id, seen.key, seen.headers["received-at"]) for seen in deployment.seen())


def rows_of(deployment: Deployment) -> set[tuple[int, str, str]]:
    """Every row of the database, named likewise."""
    return {
        (row_id, key, str(at))
        for row_id, key, at in deployment.query("SELECT id, interaction_id, received_at FROM outbox")
    }


def drain(deployment: Deployment) -> None:
    """Let a relay send everything in small transactions, and stop it."""
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.wait_drained()
    assert running.stop() == 0


def restored(deployment: Deployment) -> None:
    """10 rows sent, a backup with 30 more unsent; those and 20 later ones sent; the backup put back; 25 accepted."""
    deployment.record(new_rows(10))
    drain(deployment)
    deployment.record(new_rows(30))
    backup = Backup(deployment)
    deployment.record([new_row(f"lost-{number}") for number in range(20)])
    drain(deployment)
    backup.restore()
    deployment.record([new_row(f"after-{number}") for number in range(25)])


def test_a_restored_database_is_reconciled_without_a_duplicate(deployment: Deployment) -> None:
    """The shard says what happened and sends nothing; reconciled, every row is in the topic once, re-used ids too."""
    restored(deployment)
    running = deployment.relay()
    running.wait_degraded("shard 0", "relay reconcile --since")
    assert len(deployment.seen()) == 60
    assert "--accept-duplicates" in command(deployment.environ, "status", COLUMNS="400").stdout
    arguments = ("reconcile", "--since", "1h", "--reason", "restored the backup")
    looked = command(deployment.environ, *arguments, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "of 60 record(s)" in looked.stderr
    assert "30 stand as unsent here and are marked sent" in looked.stderr
    assert "20 record(s) are of rows that this database does not know" in looked.stderr
    assert deployment.pending() == 55
    done = command(deployment.environ, *arguments, "--yes")
    assert (done.returncode, done.stdout) == (0, "reconcile: 30 row(s) marked, shard(s) 0 go on\n"), done.stderr
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded any more")
    seen = arrivals(deployment)
    assert set(seen.values()) == {1}
    assert rows_of(deployment) <= set(seen)
    assert len(seen) == 85
    verbs = [verb for (verb,) in deployment.query("SELECT verb FROM outbox_audit ORDER BY id")]
    assert verbs == ["reconcile shard 0", f"reconcile shard 0, settled 1 to {verbs[-1].rsplit(' ', 1)[-1]}"]
    assert command(deployment.environ, "audit", "--verify").returncode == 0


def test_what_the_topic_has_lost_is_told_before_it_is_sent_again(kafka: Kafka | ExternalService) -> None:
    """Records that retention has removed cannot be found: each partition that may lack some is named."""
    config: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap_servers}
    topic = f"lost-{uuid.uuid4().hex[:8]}"
    admin, producer = AdminClient(config), Producer(config)
    admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(10)
    for partition in (0, 1, 2):
        for moment_ms in (1_000, 2_000, 3_000):
            producer.produce(topic, b"value", b"key", partition, timestamp=moment_ms)
    assert producer.flush(20) == 0
    for future in admin.delete_records([TopicPartition(topic, 1, 1), TopicPartition(topic, 2, 3)]).values():
        future.result(10)
    assert [cut_short(admin, topic, since) for since in (-1, 1_500, 2_500)] == [[1, 2], [1, 2], [2]]
    # One partition is emptied, so nothing is known of what is older than its retention of a week.
    week_ago = (time.time() - 7 * 24 * 3600) * 1000
    assert abs(kept_since(admin, topic, 0) - week_ago) < 3600 * 1000
    producer.produce(topic, b"value", b"key", 2, timestamp=4_000)
    assert producer.flush(20) == 0
    assert 4_000 <= kept_since(admin, topic, 0) <= 70_000
    assert kept_since(admin, topic, 80_000) == 80_000


def test_duplicates_are_accepted_on_purpose_only(deployment: Deployment) -> None:
    """With --accept-duplicates the rows unsent in the restored database are sent again, and that is on record."""
    restored(deployment)
    running = deployment.relay()
    running.wait_degraded("shard 0", "--accept-duplicates")
    done = command(
        deployment.environ, "reconcile", "--accept-duplicates", "--reason", "agreed with the consumers", "--yes"
    )
    assert done.returncode == 0, done.stderr
    deployment.wait_drained()
    times = arrivals(deployment)
    assert rows_of(deployment) <= set(times)
    doubled = sum(count - 1 for count in times.values())
    assert 0 < doubled <= 30
    assert max(times.values()) == 2
    ((verb, reason),) = deployment.query("SELECT verb, reason FROM outbox_audit")
    assert (verb.split(",")[0], reason) == ("accept duplicates of shard 0", "agreed with the consumers")


def test_a_stale_replica_under_a_running_relay(
    new_postgresql: Callable[[], str],
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """The database goes back while the relay runs: it notices, and nothing is doubled before or after the cure."""
    url = new_postgresql()
    deployment = Deployment(
        url, settings_for(kafka, registry, url), {"bootstrap.servers": kafka.bootstrap_servers}, tmp_path
    )
    deployments.append(deployment)
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


def test_a_lost_progress_topic_is_a_loud_warning(deployment: Deployment) -> None:
    """Deleted under a running relay: it is made anew, the relay says so and goes on; what was marked is not doubled."""
    ids = deployment.record(new_rows(50))
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.wait_drained()
    admin = AdminClient(deployment.client_config)
    (future,) = admin.delete_topics([deployment.environ["KAFKA_PROGRESS_TOPIC"]]).values()
    future.result(10)
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    (told,) = [line for line in running.lines() if line.get("action") == "progress_lost"]
    assert (told["level"], "sent twice" in told["event"]) == ("error", True)
    deployment.check_exactly_once(ids)


def test_an_outbox_made_anew_does_not_believe_the_old_ones_progress(new_deployment: NewDeployment) -> None:
    """The same topics and prefix, another outbox: its ids begin again, and all its rows arrive."""
    old = new_deployment()
    old.record(new_rows(30))
    drain(old)
    names = ("KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX")
    new = new_deployment(**{name: old.environ[name] for name in names})
    new.record([new_row(f"new-{number}") for number in range(30)])
    drain(new)
    seen = arrivals(new)
    assert set(seen.values()) == {1}
    assert set(seen) == rows_of(old) | rows_of(new)


def test_an_outbox_made_anew_under_a_running_relay_is_left_to_the_next_one(new_deployment: NewDeployment) -> None:
    """The old relay says what to do, binds nothing and keeps no shard from a relay that is started now."""
    deployment = new_deployment(RELAY_LEASE_SECONDS="600")
    deployment.record(new_rows(10))
    old = deployment.relay()
    deployment.wait_drained()
    # As after a restore of an empty outbox: the running relay is connected to it.
    deployment.execute("DELETE FROM outbox")
    deployment.execute(
        "UPDATE outbox_shard SET owner = NULL, epoch = 0, lease_expires_at = 0, acknowledged_sequence = 0"
    )
    deployment.execute(
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


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC", "KAFKA_TRANSACTIONAL_ID_PREFIX"])
def test_other_names_are_refused_before_anyone_is_fenced(deployment: Deployment, name: str) -> None:
    """A relay with another topic or prefix stops with the difference; the one that runs does not notice it."""
    ids = deployment.record(new_rows(10))
    running = deployment.relay()
    deployment.wait_drained()
    refused = deployment.relay(None, 1, **{name: f"{deployment.environ[name]}-other"})
    assert refused.wait() == 1
    assert f"{name} was" in refused.log.read_text()
    ids += deployment.record(new_rows(10))
    deployment.wait_drained()
    assert [line["action"] for line in running.lines() if line.get("action") == "taken"] == ["taken"]
    deployment.check_exactly_once(ids)


def test_another_cluster_is_refused(
    new_sqlite: Callable[[], str],
    kafka: Kafka | ExternalService,
    own_kafka: Kafka,
    registry: Registry | ExternalService,
    tmp_path: Path,
    deployments: list[Deployment],
) -> None:
    """The same names on another cluster: what was sent is not known there, so the relay stops and names it."""
    url = new_sqlite()
    deployment = Deployment(
        url, settings_for(kafka, registry, url), {"bootstrap.servers": kafka.bootstrap_servers}, tmp_path
    )
    deployments.append(deployment)
    deployment.record(new_rows(10))
    drain(deployment)
    refused = deployment.relay(KAFKA_BOOTSTRAP_SERVERS=own_kafka.bootstrap_servers)
    assert refused.wait() == 1
    assert "the Kafka cluster was" in refused.log.read_text()


class Disk:
    """A broker's disk as it is now; the broker is stopped for the copy, and started again."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self._kafka, self._copy = kafka, folder / "copy"
        kafka.process.stop()
        shutil.copytree(self._data, self._copy)
        kafka.start()

    @property
    def _data(self) -> str:
        return self._kafka.settings["log.dirs"]

    def put_back(self) -> None:
        """Stop the broker, and start it with the older copy."""
        self._kafka.process.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        self._kafka.start()


NewOwnWorld = Callable[..., Deployment]


@pytest.fixture
def new_own_world(
    own_kafka: Kafka, registry: Registry | ExternalService, tmp_path: Path, deployments: list[Deployment]
) -> NewOwnWorld:
    """Makes a world on a database, with a broker of its own."""

    def make(url: str) -> Deployment:
        config = {"bootstrap.servers": own_kafka.bootstrap_servers}
        deployments.append(Deployment(url, settings_for(own_kafka, registry, url), config, tmp_path))
        return deployments[-1]

    return make


def recoveries(running: RelayProcess, verdict: str) -> float:
    """How often the relay found this when it took the shard."""
    return sum(
        float(line.split()[-1])
        for line in running.get("/metrics").splitlines()
        if line.startswith(f'outbox_recoveries_total{{verdict="{verdict}"}}')
    )


def lost_by_kafka(deployment: Deployment, kafka: Kafka, folder: Path) -> tuple[Disk, RelayProcess]:
    """20 rows sent, the broker's disk copied, 30 more sent; the relay runs."""
    running = deployment.relay(RELAY_BATCH_SIZE="10")
    deployment.record(new_rows(20))
    deployment.wait_drained()
    disk = Disk(kafka, folder)
    deployment.record(new_rows(30))
    deployment.wait_drained()
    assert len(deployment.seen()) == 50
    return disk, running


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_broker_from_an_older_copy_is_noticed_and_its_lost_rows_are_sent_again(
    new_own_world: NewOwnWorld, new_database: NewDatabase, own_kafka: Kafka, tmp_path: Path, *, restarted: bool
) -> None:
    """At the next transaction of a relay that runs, or when one is started: the shard says what happened. Reconciled,
    every row is in the topic once.
    """
    deployment = new_own_world(new_database())
    disk, running = lost_by_kafka(deployment, own_kafka, tmp_path)
    if restarted:
        assert running.stop() == 0
    disk.put_back()
    if restarted:
        running = deployment.relay()
    deployment.record([new_row(f"after-{number}") for number in range(5)])
    running.wait_degraded("shard 0", "Kafka went back in time")
    assert recoveries(running, "kafka_went_back") >= 1
    assert "relay reconcile --accept-loss" in command(deployment.environ, "status", COLUMNS="600").stdout
    checked = command(deployment.environ, "check", COLUMNS="400")
    assert (checked.returncode, "Kafka went back in time" in checked.stdout) == (4, True), checked.stdout
    arguments = ("reconcile", "--reason", "the broker came back with an older disk")
    looked = command(deployment.environ, *arguments, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "30 are missing in the topic and are sent again. Order is not kept" in looked.stderr
    done = command(deployment.environ, *arguments, "--yes")
    assert (done.returncode, done.stdout) == (0, "reconcile: 30 row(s) are pending again, shard(s) 0 go on\n"), (
        done.stderr
    )
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded any more")
    seen = arrivals(deployment)
    assert set(seen.values()) == {1}
    assert (set(seen), len(seen)) == (rows_of(deployment), 55)
    verbs = [verb for (verb,) in deployment.query("SELECT verb FROM outbox_audit ORDER BY id")]
    assert verbs[0] == "send lost rows of shard 0 again"
    assert verbs[1].startswith("reconcile shard 0, settled")
    assert command(deployment.environ, "audit", "--verify").returncode == 0
    again = command(deployment.environ, *arguments, "--yes")
    assert (again.returncode, "no shard waits because Kafka went back" in again.stderr) == (3, True)


def test_an_idle_shard_finds_out_within_a_minute_or_so(
    new_own_world: NewOwnWorld, new_sqlite: NewDatabase, own_kafka: Kafka, tmp_path: Path
) -> None:
    """Nothing is sent, so nothing fails. An operator who accepts the loss lets the shard send on."""
    deployment = new_own_world(new_sqlite())
    disk, running = lost_by_kafka(deployment, own_kafka, tmp_path)
    disk.put_back()
    wait_until(lambda: "Kafka went back" in running.degraded().get("shard 0", ""), "it looks", 150)
    done = command(deployment.environ, "reconcile", "--accept-loss", "--reason", "the consumers have them", "--yes")
    assert done.returncode == 0, done.stderr
    assert "stays marked sent" in done.stderr
    deployment.record(new_rows(5))
    deployment.wait_drained()
    wait_until(lambda: not running.degraded(), "nothing is degraded any more")
    assert len(deployment.seen()) == 25
    ((verb,),) = deployment.query("SELECT verb FROM outbox_audit")
    assert verb.startswith("accept the loss of shard 0, settled")
