"""Whether the settings are those that an outbox was used with: with others, what is in Kafka says nothing of it."""

from outbox.errors import OutboxMismatchError
from outbox.models import Identity
from relay.settings import RelaySettings


def differences(settings: RelaySettings, identity: Identity, cluster_id: str | None) -> list[str]:
    """What was different when the outbox was used; empty if nothing was, or it was not used yet.

    Args:
        settings: of the relay.
        identity: of the outbox.
        cluster_id: of the Kafka cluster behind the settings; None: not known.
    """
    if identity.topic is None:
        return []
    now = {
        "KAFKA_TOPIC": (identity.topic, settings.kafka_topic),
        "KAFKA_PROGRESS_TOPIC": (identity.progress_topic, settings.kafka_progress_topic),
        "KAFKA_TRANSACTIONAL_ID_PREFIX": (identity.transactional_id_prefix, settings.kafka_transactional_id_prefix),
        "the Kafka cluster": (identity.cluster_id, cluster_id or identity.cluster_id),
    }
    return [f"{name} was {before}, is {given}" for name, (before, given) in now.items() if before != given]


def ensure_same_identity(settings: RelaySettings, identity: Identity, cluster_id: str | None = None) -> None:
    """To be called before anything is concluded from what Kafka holds.

    Raises:
        OutboxMismatchError: the settings are others than those the outbox was used with.
    """
    if different := differences(settings, identity, cluster_id):
        raise OutboxMismatchError(f"the settings differ from what this outbox was used with: {'; '.join(different)}")
