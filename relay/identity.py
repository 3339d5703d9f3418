"""Compares the settings with those that an outbox was used with: with others, Kafka says nothing about its rows."""

from outbox.errors import OutboxMismatchError
from outbox.models import Identity
from relay.settings import RelaySettings


def changed_settings(settings: RelaySettings, identity: Identity, cluster_id: str | None) -> list[str]:
    """The settings that differ from those the outbox was used with; empty if it has not been used.

    Args:
        settings: of the relay.
        identity: identity of the outbox.
        cluster_id: id of the Kafka cluster that the settings name; None: not known.
    """
    if identity.topic is None:
        return []
    pairs = {
        "KAFKA_TOPIC": (identity.topic, settings.kafka_topic),
        "KAFKA_PROGRESS_TOPIC": (identity.progress_topic, settings.kafka_progress_topic),
        "KAFKA_TRANSACTIONAL_ID_PREFIX": (identity.transactional_id_prefix, settings.kafka_transactional_id_prefix),
        "the Kafka cluster": (identity.cluster_id, cluster_id or identity.cluster_id),
    }
    return [f"{name} was {before}, is {now}" for name, (before, now) in pairs.items() if before != now]


def require_same_settings(settings: RelaySettings, identity: Identity, cluster_id: str | None = None) -> None:
    """Check the settings. Call this before drawing conclusions from what Kafka holds.

    Raises:
        OutboxMismatchError: the outbox was used with other settings.
    """
    if changed := changed_settings(settings, identity, cluster_id):
        raise OutboxMismatchError(f"the settings differ from what this outbox was used with: {'; '.join(changed)}")
