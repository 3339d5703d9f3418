"""Certificates renewed on disk are used by the next connection, without a restart of the relay."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.command_line import command
from testkit.databases import NewDatabase
from testkit.deployment import Deploy
from testkit.rows import new_rows
from testkit.services import MutualTlsKafka
from testkit.services.fixtures import run_service
from testkit.waiting import wait_until


@pytest.fixture
def mutual_tls_kafka(tmp_path: Path) -> Iterator[MutualTlsKafka]:
    """A broker that authenticates clients by their certificates."""
    yield from run_service(MutualTlsKafka(tmp_path / "kafka"))


def test_a_relay_uses_renewed_certificates(
    mutual_tls_kafka: MutualTlsKafka,
    new_database: NewDatabase,
    deploy: Deploy,
) -> None:
    """After CA, certificates and keys of both sides are replaced, the relay still sends rows."""
    kafka = mutual_tls_kafka
    deployment = deploy(
        new_database(2),
        kafka,
        KAFKA_SECURITY_PROTOCOL="SSL",
        KAFKA_SSL_CA_LOCATION=kafka.locations["ca"],
        KAFKA_SSL_CERTIFICATE_LOCATION=kafka.locations["certificate"],
        KAFKA_SSL_KEY_LOCATION=kafka.locations["key"],
    )
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    wait_until(lambda: len(deployment.seen()) == len(ids), "consumers see the first rows")
    kafka.process.stop()
    kafka.renew()
    kafka.process.start()
    ids += deployment.record(new_rows(100))
    deployment.wait_drained(120)
    assert relay.running()
    deployment.check_exactly_once(ids)
    wait_until(lambda: not relay.degraded(), "nothing is degraded")
    check = command(deployment.environ, "check")
    assert check.returncode == 0, check.stdout
