"""A broker with SASL_SSL, SCRAM-SHA-512 and ACLs: the documented rights are enough, and each is needed."""

import json
from pathlib import Path

from confluent_kafka.admin import AclOperation, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from testkit.command_line import command
from testkit.rows import new_rows
from testkit.secure_kafka import DESCRIBE, PASSWORD, READ, WRITE, NewSecureDeployment
from testkit.services import SecureKafka
from testkit.waiting import wait_until


def test_the_documented_rights_are_enough_and_each_is_named_when_missing(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Rights are granted one after the other under a waiting relay; with the last one everything is sent.

    They are enough for the next relay as well, which reads back what the first one committed. To look a record
    up takes one more.
    """
    deployment, user = new_secure_deployment(create_topics=True)
    topic, progress = deployment.environ["KAFKA_TOPIC"], deployment.environ["KAFKA_PROGRESS_TOPIC"]
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    relay.wait_degraded("kafka", "grant Write and Describe on the topic")
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [WRITE, DESCRIBE], prefix=False)
    secure_kafka.allow(user, ResourceType.TOPIC, progress, [READ, WRITE, DESCRIBE], prefix=False)
    relay.wait_degraded("shard 0", "grant Write and Describe on TransactionalId")
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert PASSWORD not in relay.log.read_text()
    hidden_settings = [line["event"] for line in relay.lines() if line.get("action") == "topic_settings_hidden"]
    assert len(hidden_settings) == 1  # however often the shard was taken
    assert "grant DescribeConfigs" in hidden_settings[0]
    relay.stop()
    ids += deployment.record(new_rows(100))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    hidden = command(deployment.environ, "show", str(ids[0]), "--verify")
    assert hidden.returncode == 1
    assert f"not looked up: the topic may not be read: grant Read and Describe on {topic}" in hidden.stdout
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [READ], prefix=False)
    wait_until(lambda: not command(deployment.environ, "show", str(ids[0]), "--verify").returncode, "it is looked up")
    looked = command(deployment.environ, "reconcile", "--shard", "0", "--since", "1h", "--reason", "drill", "--dry-run")
    assert (looked.returncode, "of 200 record(s)" in looked.stderr) == (0, True), looked.stderr


def test_a_setting_of_kafka_config_reaches_every_client(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """The authority's certificate given in KAFKA_CONFIG serves producer, consumer and admin client alike."""
    deployment, user = new_secure_deployment(create_topics=True)
    for name in ("KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC"):
        secure_kafka.allow(user, ResourceType.TOPIC, deployment.environ[name], [READ, WRITE, DESCRIBE], prefix=False)
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    del deployment.environ["KAFKA_SSL_CA_LOCATION"]
    ids = deployment.record(new_rows(10))
    deployment.relay(KAFKA_CONFIG=json.dumps({"ssl.ca.pem": Path(secure_kafka.ca_location).read_text()}))
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_a_relay_that_may_not_create_its_topics_names_the_command(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Missing topics and no right to create them: exit 1, with the command that creates them."""
    deployment, user = new_secure_deployment(create_topics=False)
    topic = deployment.environ["KAFKA_TOPIC"]
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [WRITE, DESCRIBE], prefix=True)
    relay = deployment.relay()
    assert relay.wait() == 1
    assert f"--create --topic {topic}" in relay.log.read_text()


def test_a_wrong_password_is_named_and_never_shown(new_secure_deployment: NewSecureDeployment) -> None:
    """A login that the broker refuses is waited out, with the variables to check."""
    deployment, _ = new_secure_deployment(create_topics=True)
    relay = deployment.relay(KAFKA_SASL_PASSWORD="wrong-canary")
    relay.wait_degraded("kafka", "KAFKA_SASL_PASSWORD")
    assert "wrong-canary" not in relay.log.read_text() + relay.get("/readyz")


def test_a_progress_topic_that_expires_and_may_not_be_altered_is_refused(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Seen, and not ours to change: exit 1 with the command; with the right to alter it the relay puts it right."""
    deployment, user = new_secure_deployment(create_topics=True)
    topic, progress = deployment.environ["KAFKA_TOPIC"], deployment.environ["KAFKA_PROGRESS_TOPIC"]
    entry = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, progress, incremental_configs=[entry])
    admin = secure_kafka.admin()
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [WRITE, DESCRIBE], prefix=False)
    seeing = [READ, WRITE, DESCRIBE, AclOperation.DESCRIBE_CONFIGS]
    secure_kafka.allow(user, ResourceType.TOPIC, progress, seeing, prefix=False)
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    ids = deployment.record(new_rows(10))

    def refused() -> str:
        relay = deployment.relay()
        return relay.log.read_text() if relay.wait() == 1 else ""

    assert f"--topic {progress} --alter --add-config cleanup.policy=compact" in refused()
    secure_kafka.allow(user, ResourceType.TOPIC, progress, [AclOperation.ALTER_CONFIGS], prefix=False)
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
