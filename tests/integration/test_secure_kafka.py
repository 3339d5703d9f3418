"""A broker with SASL_SSL, SCRAM-SHA-512 and ACLs: the documented rights are enough, and each is needed."""

import json
import os
import re
import subprocess
from pathlib import Path

from confluent_kafka.admin import AclOperation, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from testkit import ROOT
from testkit.command_line import command, expect
from testkit.rows import new_rows
from testkit.secure_kafka import DESCRIBE, PASSWORD, READ, WRITE, NewSecureDeployment
from testkit.services import SecureKafka
from testkit.services.kafka import ADMIN, install_scripts
from testkit.services.kafka import PASSWORD as ADMIN_PASSWORD
from testkit.waiting import wait_until


def test_the_documented_rights_suffice_and_each_missing_one_is_named(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Rights are granted one after the other while the relay waits; with the last one it sends every row.

    The next relay, which reads the progress record back, needs no more. To look up a record takes one more right.
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
    assert len(hidden_settings) == 1  # however often the shard is taken
    assert "grant DescribeConfigs" in hidden_settings[0]
    relay.stop()
    ids += deployment.record(new_rows(100))
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    hidden = command(deployment.environ, "show", str(ids[0]), "--verify")
    assert hidden.returncode == 1
    assert f"not looked up: no right to read topic {topic}: grant Read and Describe on it" in hidden.stdout
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [READ], prefix=False)
    wait_until(
        lambda: not command(deployment.environ, "show", str(ids[0]), "--verify").returncode, "the record is looked up"
    )
    plan = command(deployment.environ, "reconcile", "--shard", "0", "--since", "1h", "--reason", "drill", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "of 200 records" in plan.stderr


def test_the_documented_commands_set_a_cluster_up(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment, tmp_path: Path
) -> None:
    """An administrator runs what docs/secure-kafka.md shows; then the relay sends and misses nothing."""
    deployment, user = new_secure_deployment(create_topics=False)
    environ = deployment.environ
    login = f'username="{ADMIN}" password="{ADMIN_PASSWORD}"'
    (tmp_path / "admin.properties").write_text(
        f"security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\n"
        f"ssl.truststore.location={secure_kafka.ca_location}\n"
        f"sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required {login};\n"
    )
    install_scripts(tmp_path)
    here = {
        "kafka1.example.com:9093": secure_kafka.bootstrap_servers,
        "cxone-interactions-ml-progress": environ["KAFKA_PROGRESS_TOPIC"],
        "cxone-interactions-ml": environ["KAFKA_TOPIC"],
        "cxone-ml-producer-": environ["KAFKA_TRANSACTIONAL_ID_PREFIX"],
        "cxone-relay": user,
        "password=…": f"password={PASSWORD}",
        "--replication-factor 3": "--replication-factor 1",
        "min.insync.replicas=2": "min.insync.replicas=1",
    }
    page = (ROOT / "docs/secure-kafka.md").read_text()
    blocks = re.findall(r"^```\n((?:kafka-configs|ACLS|TOPICS).*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    script = "set -e\n" + "\n".join(blocks)
    for documented, actual in here.items():
        script = script.replace(documented, actual)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=path, capture_output=True, text=True, check=False, timeout=180
    )
    expect(done, 0)
    ids = deployment.record(new_rows(10))
    relay = deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    expect(command(environ, "check"), 0)
    assert "topic_settings_hidden" not in relay.log.read_text()


def test_kafka_config_applies_to_every_client(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Producer, consumer and admin client use the authority's certificate in KAFKA_CONFIG."""
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
    """With missing topics and no right to create them, it exits with code 1 and the command that creates them."""
    deployment, user = new_secure_deployment(create_topics=False)
    topic = deployment.environ["KAFKA_TOPIC"]
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [WRITE, DESCRIBE], prefix=True)
    relay = deployment.relay()
    assert relay.wait() == 1
    assert f"--create --topic {topic}" in relay.log.read_text()


def test_a_wrong_password_is_named_and_never_shown(new_secure_deployment: NewSecureDeployment) -> None:
    """The relay waits while the broker refuses its login, and names the variables to check."""
    deployment, _ = new_secure_deployment(create_topics=True)
    relay = deployment.relay(KAFKA_SASL_PASSWORD="wrong-canary")
    relay.wait_degraded("kafka", "KAFKA_SASL_PASSWORD")
    assert "wrong-canary" not in relay.log.read_text() + relay.get("/readyz")


def test_a_second_user_with_the_same_rights_replaces_the_first(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """As docs/rotate-secrets.md says: nothing depends on the user, so a relay that restarts as another one goes on."""
    deployment, first = new_secure_deployment(create_topics=True)
    second, topic = f"{first}-2", deployment.environ["KAFKA_TOPIC"]
    secure_kafka.add_user(second, "second-password-canary")
    for user in (first, second):
        for name in (topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]):
            secure_kafka.allow(user, ResourceType.TOPIC, name, [READ, WRITE, DESCRIBE], prefix=False)
        prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
        secure_kafka.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    ids = deployment.record(new_rows(100))
    relay = deployment.relay()
    deployment.wait_drained()
    ids += deployment.record(new_rows(100))
    relay.stop()
    deployment.relay(KAFKA_SASL_USERNAME=second, KAFKA_SASL_PASSWORD="second-password-canary")
    deployment.wait_drained()
    deployment.check_exactly_once(ids)


def test_a_progress_topic_whose_records_expire_is_compacted_or_refused(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Without the right to alter it, the relay exits with code 1 and the command. With the right it compacts it."""
    deployment, user = new_secure_deployment(create_topics=True)
    topic, progress = deployment.environ["KAFKA_TOPIC"], deployment.environ["KAFKA_PROGRESS_TOPIC"]
    entry = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, progress, incremental_configs=[entry])
    admin = secure_kafka.admin()
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    secure_kafka.allow(user, ResourceType.TOPIC, topic, [WRITE, DESCRIBE], prefix=False)
    rights = [READ, WRITE, DESCRIBE, AclOperation.DESCRIBE_CONFIGS]
    secure_kafka.allow(user, ResourceType.TOPIC, progress, rights, prefix=False)
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    ids = deployment.record(new_rows(10))

    refused = deployment.relay()
    assert refused.wait() == 1
    assert f"--topic {progress} --alter --add-config cleanup.policy=compact" in refused.log.read_text()
    secure_kafka.allow(user, ResourceType.TOPIC, progress, [AclOperation.ALTER_CONFIGS], prefix=False)
    deployment.relay()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
