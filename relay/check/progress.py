"""The shards' progress: whether what the database has settled is what Kafka holds."""

from functools import partial

from confluent_kafka.admin import AdminClient

from outbox.db.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.models import Identity
from outbox.progress import KAFKA_WENT_BACK, ProgressVerdict
from outbox.store import Store
from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.errors import RelayError
from relay.kafka import progress
from relay.kafka.progress import StoredProgress
from relay.settings import RelaySettings, kafka_client_config
from relay.shard.recovery import ShardInspection, inspect_shard

SUBJECT = "progress"


def check_progress(admin: AdminClient, settings: RelaySettings, identity: Identity) -> list[Finding]:
    """Compare each shard's row with its last progress record; nobody is fenced for it."""
    config = kafka_client_config(settings)

    def read_back(shard: int) -> StoredProgress | None:
        place = (settings.kafka_progress_topic, shard)
        return progress.read_back(config, admin, place, progress.key_of(identity.outbox_id, shard), lambda: False)

    engine = create_outbox_engine(settings.database_url.get_secret_value())
    try:
        found = map(partial(inspect_shard, Store(engine), read_back), range(identity.shards))
        return judge_progress(list(found))
    except (RelayError, OutboxError) as error:
        return [unknown(SUBJECT, str(error), "correct what it names, and check again")]
    finally:
        engine.dispose()


def judge_progress(looks: list[ShardInspection]) -> list[Finding]:
    """A finding for each shard that is not in order, or one for all."""
    findings = [finding for each in looks if (finding := _judge(each))]
    return findings or [ok(SUBJECT, f"Kafka holds what the database has settled of {len(looks)} shard(s)")]


def _judge(each: ShardInspection) -> Finding | None:
    subject, settled = f"{SUBJECT} of shard {each.shard}", each.row.acknowledged_sequence
    if each.verdict is ProgressVerdict.KAFKA_WENT_BACK and each.found:
        seen = (
            f"{KAFKA_WENT_BACK}: transaction {settled} is settled, the last progress record is of "
            f"{each.found.ref.sequence} at offset {each.found.ref.offset}"
        )
        return failure(subject, seen, "relay reconcile, or relay reconcile --accept-loss")
    if each.verdict is ProgressVerdict.DATABASE_WENT_BACK and each.found:
        seen = (
            f"the database went back in time: transaction {settled} is settled, the last progress record is of "
            f"{each.found.ref.sequence}"
        )
        return failure(subject, seen, "relay reconcile --since TIME, or relay reconcile --accept-duplicates")
    if each.verdict is ProgressVerdict.PROGRESS_LOST:
        seen = f"there is no progress record, and transaction {settled} is settled: the progress topic was lost"
        cure = f"the relay sends on; if the rows' topic was lost, too: relay reconcile --shard {each.shard}"
        return warning(subject, seen, cure)
    return None
