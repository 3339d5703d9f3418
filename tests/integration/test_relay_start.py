"""What a relay refuses at its start, and what it waits for."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from testkit import ROOT
from testkit.databases import NewDatabase, migrate
from testkit.deployment import Deployment, NewDeployment, settings_for
from testkit.rows import new_rows
from testkit.services import Kafka, Postgres, Registry


def test_the_start_is_refused_if_relay_shards_differs(new_deployment: NewDeployment) -> None:
    """The error names both numbers; with the right number the relay starts."""
    deployment = new_deployment(shards=2)
    refused = deployment.relay(RELAY_SHARDS="4")
    assert refused.wait() == 1
    assert "RELAY_SHARDS=4, but this outbox has 2 shards" in refused.log.read_text()
    ids = deployment.record(new_rows(10))
    deployment.relay(RELAY_SHARDS="2")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_the_start_is_refused_if_the_port_is_in_use(new_sqlite: NewDatabase, tmp_path: Path) -> None:
    """The error is one line that names RELAY_METRICS_PORT."""
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        services = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}
        environ = {**os.environ, **services, "DATABASE_URL": new_sqlite(), "RELAY_METRICS_PORT": port}
        command = [sys.executable, "-m", "relay", "run"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"RELAY_METRICS_PORT={port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_relay_waits_for_postgresql_at_its_start(
    own_postgres: Postgres, kafka: Kafka, registry: Registry, tmp_path: Path, deployments: list[Deployment]
) -> None:
    """It is degraded while the database is down, and sends once it is up."""
    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, 1)
    config = {"bootstrap.servers": kafka.bootstrap_servers}
    deployment = Deployment(url, settings_for(kafka, registry, url), config, tmp_path)
    deployments.append(deployment)
    ids = deployment.record(new_rows(10))
    deployment.engine.dispose()
    own_postgres.process.kill()
    relay = deployment.relay()
    relay.wait_degraded("database", "database error")
    own_postgres.process.start()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
