"""What ``relay check`` decides about the registry, inference, and the outbox's earlier use."""

from dataclasses import replace

import pytest

from outbox.models import Identity
from relay.check.finding import Status
from relay.check.inference import check_inference, judge_inference
from relay.check.outbox import judge_identity
from relay.check.registry import judge_refusal
from relay.kafka.schema_registry import RefusedError
from relay.settings import RelaySettings

SETTINGS = RelaySettings(kafka_bootstrap_servers="broker.example:9092", schema_registry_url="http://registry.example")


@pytest.mark.parametrize(
    ("status", "code", "subject", "expected", "remedy"),
    [
        (401, 0, "schema registry", "failure", "SCHEMA_REGISTRY_PASSWORD"),
        (403, 40301, "schema registry", "failure", "the right to read subject t-value"),
        (405, 40501, "schema registry", "failure", "the right to read subject t-value"),
        (422, 42205, "schema registry", "failure", "register relay/kafka/schemas/interaction.avsc"),
        (429, 0, "schema registry", "unknown", "rate limit"),
        (409, 409, "schema", "failure", "compatible"),
        (422, 42201, "schema", "failure", "compatible"),
        (408, 0, "schema registry", "failure", "recover"),
        (503, 0, "schema registry", "failure", "recover"),
    ],
)
def test_each_refusal_of_the_registry_has_its_remedy(
    status: int, code: int, subject: str, expected: str, remedy: str
) -> None:
    """Login and rights, read-only mode, rate limit, schema, outage."""
    found = judge_refusal("registry.example", "t-value", RefusedError(status, code))
    assert found.status == expected
    assert found.subject == subject
    assert found.detail.startswith(f"registry.example answers {status}")
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "ok"),
        (204, "ok"),
        (405, "ok"),
        (501, "ok"),
        (400, "ok"),
        (401, "failure"),
        (404, "warning"),
        (503, "warning"),
    ],
)
def test_most_answers_show_that_inference_exists(status: int, expected: str) -> None:
    """An endpoint need not support OPTIONS."""
    assert judge_inference("host", status).status == expected


@pytest.mark.parametrize(
    ("url", "allowed", "detail"),
    [
        ("http://127.0.0.1:1/x", "other, A.B", "INFERENCE_ALLOWED_HOSTS"),
        ("http://localhost:1/x", "LOCALHOST", "does not answer"),
    ],
)
def test_allowed_hosts_are_compared_as_the_relay_compares_them(url: str, allowed: str, detail: str) -> None:
    """Case does not matter; a host that is not listed is not called."""
    settings = SETTINGS.model_copy(update={"inference_url": url, "inference_allowed_hosts": allowed})
    (found,) = check_inference(settings)
    assert detail in found.detail


UNUSED = Identity("id", 8, None, None, None, None)
USED = Identity(
    "id", 8, SETTINGS.kafka_topic, SETTINGS.kafka_progress_topic, SETTINGS.kafka_transactional_id_prefix, "c"
)


@pytest.mark.parametrize("identity", [UNUSED, USED])
def test_the_settings_of_before_are_in_order(identity: Identity) -> None:
    """An outbox that was never used may be used with any."""
    assert judge_identity(SETTINGS, identity, "c").status == Status.OK


@pytest.mark.parametrize(
    ("identity", "changed"),
    [
        (replace(USED, topic="other"), "KAFKA_TOPIC"),
        (replace(USED, progress_topic="other"), "KAFKA_PROGRESS_TOPIC"),
        (replace(USED, transactional_id_prefix="other-"), "KAFKA_TRANSACTIONAL_ID_PREFIX"),
        (replace(USED, cluster_id="d"), "the Kafka cluster"),
    ],
)
def test_a_changed_setting_is_a_failure(identity: Identity, changed: str) -> None:
    """It is named with its earlier value."""
    found = judge_identity(SETTINGS, identity, "c")
    assert found.status == Status.FAILURE
    assert found.detail.startswith(f"{changed} was ")
