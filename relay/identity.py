"""Whether the settings are those that an outbox was used with; otherwise Kafka's contents belong to another."""

from outbox.errors import OutboxMismatchError
from outbox.models import Identity
from relay.settings import RelaySettings


def changed_settings(settings: RelaySettings, identity: Identity, cluster_id: str | None) -> list[str]:
    """What differs from the settings that the outbox was used with; empty if nothing does, or it was never used.

    Args:
        identity: of the outbox.
        cluster_id: of the Kafka cluster that the settings name; None if it is not known.
    """
    if identity.topic is None:
        return []
    compared = {
        "KAFKA_TOPIC": (identity.topic, settings.kafka_topic),
        "KAFKA_PROGRESS_TOPIC": (identity.progress_topic, settings.kafka_progress_topic),
        "KAFKA_TRANSACTIONAL_ID_PREFIX": (identity.transactional_id_prefix, settings.kafka_transactional_id_prefix),
        "the Kafka cluster": (identity.cluster_id, cluster_id or identity.cluster_id),
    }
    return [f"{name} was {before}, is {now}" for name, (before, now) in compared.items() if before != now]


def ensure_same_identity(settings: RelaySettings, identity: Identity, cluster_id: str | None = None) -> None:
    """Check the settings before anything is concluded from Kafka's contents.

    Args:
        identity: of the outbox.
        cluster_id: as of ``changed_settings``.

    Raises:
        OutboxMismatchError: the outbox was used with other settings.
    """
    if different := changed_settings(settings, identity, cluster_id):
        raise OutboxMismatchError(f"the settings differ from what this outbox was used with: {'; '.join(different)}")
