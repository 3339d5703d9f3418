"""Fixture: deployments on a broker with SASL_SSL and ACLs, each with a user that has no rights yet."""

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AclOperation, NewTopic

from testkit import topic
from testkit.deployment import Deploy, Deployment
from testkit.services import SecureKafka

WRITE, READ, DESCRIBE, CREATE = AclOperation.WRITE, AclOperation.READ, AclOperation.DESCRIBE, AclOperation.CREATE
PASSWORD = "relay-password-canary"

NewSecureDeployment = Callable[..., tuple[Deployment, str]]


@pytest.fixture
def new_secure_deployment(
    secure_kafka: SecureKafka, new_sqlite: Callable[[], str], deploy: Deploy
) -> NewSecureDeployment:
    """A function that deploys the product and returns the deployment and its Kafka user, who has no rights yet."""

    def make(*, create_topics: bool) -> tuple[Deployment, str]:
        user = f"relay-{uuid.uuid4().hex[:6]}"
        secure_kafka.add_user(user, PASSWORD)
        deployment = deploy(
            new_sqlite(),
            secure_kafka,
            KAFKA_SECURITY_PROTOCOL="SASL_SSL",
            KAFKA_SASL_USERNAME=user,
            KAFKA_SASL_PASSWORD=PASSWORD,
            KAFKA_SSL_CA_LOCATION=secure_kafka.ca_location,
        )
        if create_topics:
            progress = deployment.environ["KAFKA_PROGRESS_TOPIC"]
            topic.create_topics(
                secure_kafka.client_config,
                NewTopic(deployment.topic, 4, 1),
                NewTopic(progress, 1, 1, config={"cleanup.policy": "compact"}),
            )
        return deployment, user

    return make
