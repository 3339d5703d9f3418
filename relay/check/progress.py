"""The shards' progress: Kafka holds what the database has acknowledged."""

from functools import partial

from confluent_kafka.admin import AdminClient

from outbox.db.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.models import Identity
from outbox.progress import KAFKA_WENT_BACK_PREFIX, ProgressVerdict
from outbox.store import Store
from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.errors import RelayError
from relay.kafka.progress import ProgressReader
from relay.settings import RelaySettings, kafka_client_config
from relay.shard.recovery import ShardInspection, inspect_shard

SUBJECT = "progress"


def check_progress(admin: AdminClient, settings: RelaySettings, identity: Identity) -> list[Finding]:
    """Compare each shard's row with its last progress record. No producer is fenced."""
    reader = ProgressReader(
        kafka_client_config(settings), admin, settings.kafka_progress_topic, identity.outbox_id, lambda: False
    )
    engine = create_outbox_engine(settings.database_url.get_secret_value())
    try:
        return judge_progress(list(map(partial(inspect_shard, Store(engine), reader.last), range(identity.shards))))
    except (RelayError, OutboxError) as error:
        return [unknown(SUBJECT, str(error), "correct this, then run the check again")]
    finally:
        engine.dispose()


def judge_progress(shards: list[ShardInspection]) -> list[Finding]:
    """A finding for each shard that is not in order, otherwise one for all."""
    findings = [finding for each in shards if (finding := _judge(each))]
    return findings or [ok(SUBJECT, f"Kafka holds what the database has acknowledged, in {len(shards)} shard(s)")]


def _judge(each: ShardInspection) -> Finding | None:
    subject = f"{SUBJECT} of shard {each.shard}"
    acknowledged = f"transaction {each.row.acknowledged_sequence} is acknowledged"
    if each.verdict is ProgressVerdict.KAFKA_WENT_BACK and each.found:
        ref = each.found.ref
        detail = (
            f"{KAFKA_WENT_BACK_PREFIX}: {acknowledged}, but the last progress record is of transaction {ref.sequence}, "
            f"at offset {ref.offset}"
        )
        return failure(subject, detail, "relay reconcile, or relay reconcile --accept-loss")
    if each.verdict is ProgressVerdict.DATABASE_WENT_BACK and each.found:
        detail = (
            f"the database went back in time: {acknowledged}, but the last progress record is of transaction "
            f"{each.found.ref.sequence}"
        )
        return failure(subject, detail, "relay reconcile --since TIME, or relay reconcile --accept-duplicates")
    if each.verdict is ProgressVerdict.PROGRESS_LOST:
        detail = f"{acknowledged}, but there is no progress record: the progress topic was lost"
        remedy = f"none, the relay continues; if the rows' topic was lost as well: relay reconcile --shard {each.shard}"
        return warning(subject, detail, remedy)
    return None
