"""A topic, and what the relay requires of it."""

from dataclasses import dataclass

from relay.settings import RelaySettings

MAX_RECORD_BYTES = 8_192
"""More than the largest record: texts that the webhook accepts take up to 4 kB in UTF-8, and the body is not sent."""
PROGRESS_BYTES_PER_ROW, PROGRESS_BYTES = 20, 500
"""Upper bounds of a progress record: id and nonce of each row, and the rest."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it."""

    name: str
    allowed: frozenset[str]
    """Operations that this user may perform, as ``WRITE``."""
    partitions: int
    leaderless: int
    """Partitions without a leader."""
    replicas: int
    """Replicas of the partition that has the fewest."""
    in_sync: int
    """In-sync replicas of the partition that has the fewest."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the relay needs of a topic."""

    operations: tuple[str, ...]
    """Operations that the relay performs, as ``WRITE``."""
    partitions: int | None
    """Fewest partitions; None: any number, or not known."""
    compacted: bool
    record_bytes: int
    """Size of the largest record."""


def requirements(settings: RelaySettings, shards: int | None) -> dict[str, Requirements]:
    """The requirements of each topic: those that rows may go to, and the progress topic."""
    progress_bytes = PROGRESS_BYTES + settings.relay_batch_size * PROGRESS_BYTES_PER_ROW
    rows = Requirements(("WRITE", "DESCRIBE"), None, compacted=False, record_bytes=MAX_RECORD_BYTES)
    progress = Requirements(("READ", "WRITE", "DESCRIBE"), shards, compacted=True, record_bytes=progress_bytes)
    return {**dict.fromkeys(settings.kafka_topics, rows), settings.kafka_progress_topic: progress}
