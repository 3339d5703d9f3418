"""A topic that somebody sets to refuse the time of every record: no row is parked, and the shard says what to do."""

from collections.abc import Callable

from confluent_kafka.admin import NewTopic

from testkit.proxied_services import ProxiedKafka
from testkit.rows import new_rows
from testkit.topic import alter_topic, create_topics
from testkit.waiting import wait_until
from tests.faults.conftest import NewProxiedDeployment

LIMIT, HOUR = "message.timestamp.before.max.ms", "3600000"
PARTITIONS = 64
"""A broker writes the markers of a transaction one after the other, all with one time. The first may be accepted within
its millisecond; so many are not."""


def test_no_row_is_parked_and_all_are_sent_after_the_remedies(
    new_postgresql: Callable[[], str], proxied_kafka: ProxiedKafka, new_proxied_deployment: NewProxiedDeployment
) -> None:
    """With a limit of 0 ms each record is too old, and the end of its transaction as well, which Kafka never tries
    again. The shard names the setting, then the broker. When both remedies are done, it sends by itself.
    """
    deployment = new_proxied_deployment(new_postgresql())
    create_topics(deployment.client_config, NewTopic(deployment.topic, PARTITIONS, 1))
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    wait_until(lambda: len(deployment.seen()) == len(ids), "consumers see the first rows")
    alter_topic(deployment.client_config, deployment.topic, LIMIT, "0")
    ids += deployment.record(new_rows(200, interactions=200))
    relay.wait_degraded("shard 0", f"refused as a whole by {deployment.topic}")
    relay.wait_degraded("shard 0", "restart the broker")
    (status,) = deployment.store.status()
    assert LIMIT in (status.condition or "")
    alter_topic(deployment.client_config, deployment.topic, LIMIT, HOUR)
    proxied_kafka.process.stop()
    proxied_kafka.process.start()
    deployment.wait_drained()
    wait_until(lambda: not relay.degraded(), "nothing is degraded")
    assert not [line for line in relay.lines() if line.get("action") == "batch_refused"]
    deployment.check_exactly_once(ids)
