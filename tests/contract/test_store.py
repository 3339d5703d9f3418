"""The rules that exactly-once delivery depends on, on both databases."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from app.validation import InvalidInteractionError, parse
from outbox.db.engine import create_outbox_engine
from outbox.errors import LeaseLostError, OutboxMismatchError
from outbox.leases import Leases
from outbox.models import Accepted, Identity, KeyReused, Lease, RecordRef, RowRef, RowRefused, shard_of
from outbox.progress import ProgressVerdict
from outbox.store import Store
from relay.kafka.encoder import Encoder
from testkit.databases import NewDatabase
from testkit.outbox import mark, record_ref
from testkit.rows import new_row, new_rows


@pytest.fixture
def lease(engine: Engine) -> Lease:
    """The lease of shard 0."""
    taken = Leases(engine, "owner-1", 10).take(0)
    assert taken is not None
    return taken


def states_by_id(engine: Engine) -> list[str]:
    """Return the state of each row, by id."""
    with engine.connect() as connection:
        return [row.state for row in connection.exec_driver_sql("SELECT state FROM outbox_rows ORDER BY id")]


def add_rows(store: Store, count: int = 1) -> None:
    """Record rows of one interaction."""
    store.record([new_row("i-1") for _ in range(count)])


def test_each_row_of_a_batch_has_its_own_outcome(store: Store) -> None:
    """New, repeated in the batch, repeated later, key reused for another body, and refused by the database."""
    first, bad = new_row(key="key:a"), new_row(key="key:bad", timestamp_ms=-1)
    outcomes = store.record([first, first, bad, new_row(key="key:b")])
    accepted = outcomes[0]
    assert isinstance(accepted, Accepted)
    assert not accepted.duplicate
    assert outcomes[1] == Accepted(accepted.outbox_id, "i-1", duplicate=True)
    assert isinstance(outcomes[2], RowRefused)
    assert isinstance(outcomes[3], Accepted)
    assert store.record([first, new_row(key="key:a", payload=b"{}")]) == [outcomes[1], KeyReused()]


@pytest.mark.parametrize("count", [3, 2_500])
def test_each_outcome_has_the_id_of_its_row(store: Store, engine: Engine, count: int) -> None:
    """In batches of any size, also with repeated rows."""
    first, known, second = new_rows(count), new_rows(2), new_rows(count)
    store.record(known)
    rows = [*first, known[1], *second, known[0]]
    outcomes = [outcome for batch in (first, rows[count:]) for outcome in store.record(batch)]
    ids = {o.outbox_id: row.key for row, o in zip(rows, outcomes, strict=True) if isinstance(o, Accepted)}
    repeated = [row for row, o in zip(rows, outcomes, strict=True) if isinstance(o, Accepted) and o.duplicate]
    assert repeated == [known[1], known[0]]
    with engine.connect() as connection:
        found = {row.id: row.key for row in connection.exec_driver_sql("SELECT id, key FROM outbox")}
    assert ids == found
    assert len(found) == 2 * count + 2


def test_rows_are_selected_in_the_order_of_a_batch(store: Store, lease: Lease) -> None:
    """Ids follow the order of the rows in a batch."""
    store.record([new_row("i-1", timestamp_ms=number) for number in range(200)])
    assert [row.timestamp_ms for row in store.pending(lease, 1000)] == list(range(200))


def test_a_row_waits_only_behind_a_parked_row_of_its_interaction(store: Store, lease: Lease) -> None:
    """Only later rows of the interaction wait; none does if parked rows do not block."""
    store.record([new_row(name) for name in ("a", "b", "a", "b", "a")])
    rows = store.pending(lease, 10)
    assert store.park(lease, {rows[2].ref: "refused"}) == 1
    assert [row.id for row in store.pending(lease, 10)] == [rows[0].id, rows[1].id, rows[3].id]
    assert len(store.pending(lease, 10, block_behind_parked=False)) == 4
    (status,) = store.status()
    assert (status.pending, status.waiting, status.parked) == (4, 1, 1)


def test_marking_compares_id_and_nonce(store: Store, engine: Engine, lease: Lease) -> None:
    """Another row with the same id, as after a restore, is not marked."""
    add_rows(store, 2)
    first, second = store.pending(lease, 10)
    mark(store, 1, [first.ref, RowRef(second.id, second.nonce + 1)])
    assert states_by_id(engine) == ["sent", "pending"]


def test_only_the_next_sequence_is_acknowledged(store: Store, lease: Lease) -> None:
    """Neither a repeated nor a skipped sequence changes the acknowledged one."""
    assert [mark(store, sequence, []) for sequence in (1, 3, 1, 2)] == [1, 1, 1, 2]
    with pytest.raises(LeaseLostError, match="acknowledged"):
        store.pending(lease, 10)


def test_rows_are_not_selected_if_another_sequence_is_acknowledged(store: Store, lease: Lease) -> None:
    """A database that failed over to a stale replica shows sent rows as pending: none of them is returned."""
    add_rows(store)
    assert mark(store, 1, []) == 1
    with pytest.raises(LeaseLostError, match="database has acknowledged sequence 1, this relay 0"):
        store.pending(lease, 10)
    assert len(store.pending(lease._replace(acknowledged_sequence=1), 10)) == 1


def test_marking_skips_rows_between(store: Store, engine: Engine, lease: Lease) -> None:
    """Rows that were committed late, or wait, have ids between those of a transaction and are not part of it."""
    add_rows(store, 5)
    rows = store.pending(lease, 10)
    store.park(lease, {rows[4].ref: "refused"})
    mark(store, 1, [rows[0].ref, rows[2].ref, rows[4].ref])
    assert states_by_id(engine) == ["sent", "pending", "sent", "pending", "sent"]


def test_rows_of_a_progress_record_are_marked_in_every_unsent_state(store: Store, engine: Engine, lease: Lease) -> None:
    """A parked row may be in Kafka; a record at or below the acknowledged one marks its rows, too."""
    add_rows(store, 3)
    rows = store.pending(lease, 10)
    store.park(lease, {rows[0].ref: "refused"})
    assert store.acknowledge_record(lease, record_ref(1), [row.ref for row in rows[:2]], inference=True).marked == 2
    assert states_by_id(engine) == ["sent", "sent", "pending"]
    assert store.acknowledge_record(lease, record_ref(1), [rows[2].ref], inference=True).marked == 1
    assert store.read_progress(0) == (1, record_ref(1))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM outbox_inference_call").scalar_one() == 3


def test_a_record_further_ahead_marks_nothing(store: Store, engine: Engine, lease: Lease) -> None:
    """The database went back in time: nothing is acknowledged, and the caller learns why."""
    add_rows(store)
    (row,) = store.pending(lease, 10)
    done = store.acknowledge_record(lease, record_ref(2), [row.ref], inference=False)
    assert done == (ProgressVerdict.DATABASE_WENT_BACK, 0, (0, None))
    assert store.read_progress(0) == (0, None)
    assert states_by_id(engine) == ["pending"]


def test_without_the_lease_nothing_is_selected_acknowledged_marked_or_parked(
    store: Store, engine: Engine, lease: Lease
) -> None:
    """Even if there is nothing to mark: the new owner reads back what Kafka has."""
    add_rows(store)
    (row,) = store.pending(lease, 10)
    newer = Leases(engine, "owner-1", 10).take(0)
    assert newer is not None
    assert newer.epoch == lease.epoch + 1
    with pytest.raises(LeaseLostError):
        store.pending(lease, 10)
    with pytest.raises(LeaseLostError):
        store.acknowledge_record(lease, None, [], inference=False)
    with pytest.raises(LeaseLostError):
        store.park(lease, {row.ref: "refused"})
    with pytest.raises(LeaseLostError):
        store.mark_sent(lease, record_ref(1), [row.ref], inference=False)
    assert states_by_id(engine) == ["pending"]
    assert store.read_progress(0) == (0, None)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (record_ref(2), ProgressVerdict.IN_ORDER),
        (record_ref(3), ProgressVerdict.IN_ORDER),
        (record_ref(1), ProgressVerdict.KAFKA_WENT_BACK),
        (record_ref(2)._replace(offset=3), ProgressVerdict.KAFKA_WENT_BACK),
        (record_ref(2)._replace(digest="another"), ProgressVerdict.KAFKA_WENT_BACK),
        (record_ref(3)._replace(offset=4), ProgressVerdict.KAFKA_WENT_BACK),
        (record_ref(4), ProgressVerdict.DATABASE_WENT_BACK),
        (None, ProgressVerdict.PROGRESS_LOST),
    ],
)
def test_a_record_is_compared_with_the_acknowledged_one(
    store: Store, engine: Engine, lease: Lease, found: RecordRef | None, verdict: ProgressVerdict
) -> None:
    """Kafka went back if the record is lower, another one of the same sequence, or the next with no higher offset.

    Its rows are marked, but nothing is acknowledged, so that the next read finds it again.
    """
    add_rows(store)
    for sequence in (1, 2):
        mark(store, sequence, [])
    (row,) = store.pending(lease._replace(acknowledged_sequence=2), 10)
    done = store.acknowledge_record(lease, found, [row.ref], inference=False)
    assert done.verdict is verdict
    assert states_by_id(engine) == ["sent" if done.marked else "pending"]
    assert done.marked == (found is not None and verdict is not ProgressVerdict.DATABASE_WENT_BACK)
    expected = (
        (found.sequence, found) if found and verdict is ProgressVerdict.IN_ORDER else (2, found and record_ref(2))
    )
    assert store.read_progress(0) == expected


def test_marking_acknowledges_nothing_if_kafka_went_back(store: Store, engine: Engine, lease: Lease) -> None:
    """The record's offset is not above the one before: its rows are in Kafka, the acknowledged record is not."""
    mark(store, 1, [])
    add_rows(store)
    (row,) = store.pending(lease._replace(acknowledged_sequence=1), 10)
    done = store.mark_sent(lease._replace(acknowledged_sequence=1), RecordRef(2, 2, "x"), [row.ref], inference=False)
    assert (done.verdict, done.marked) == (ProgressVerdict.KAFKA_WENT_BACK, 1)
    assert states_by_id(engine) == ["sent"]
    assert store.read_progress(0) == (1, record_ref(1))


def test_a_sequence_without_a_record_accepts_one(store: Store, engine: Engine, lease: Lease) -> None:
    """A reshard gives a shard that was used before its sequence only; the record becomes known when it is taken."""
    mark(store, 1, [])
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE outbox_shard SET acknowledged_sequence = 2, progress_offset = NULL, progress_digest = NULL"
        )
    assert store.read_progress(0) == (2, None)
    assert (
        store.acknowledge_record(lease, record_ref(1), [], inference=False).verdict is ProgressVerdict.KAFKA_WENT_BACK
    )
    other = RecordRef(2, 0, "other")
    assert store.acknowledge_record(lease, other, [], inference=False).verdict is ProgressVerdict.IN_ORDER
    assert store.read_progress(0) == (2, other)


def test_parking_compares_id_and_nonce(store: Store, engine: Engine, lease: Lease) -> None:
    """Another row with the same id is not parked."""
    add_rows(store)
    (row,) = store.pending(lease, 10)
    assert store.park(lease, {RowRef(row.id, row.nonce + 1): "refused"}) == 0
    assert states_by_id(engine) == ["pending"]


def test_a_lease_is_exclusive_until_it_expires_or_its_owner_is_dead(engine: Engine) -> None:
    """Another owner gets it after release, expiry, or if the owner is named dead; renewing needs the epoch."""
    first, second = Leases(engine, "first", 600), Leases(engine, "second", 600)
    lease = first.take(0)
    assert lease is not None
    assert second.take(0) is None
    taken = second.take(0, dead_owner="first")
    assert taken is not None
    with pytest.raises(LeaseLostError):
        first.renew(lease, 1.0)
    second.renew(taken, 1.0)
    first.release(lease)
    assert first.take(0) is None
    second.release(taken)
    assert first.take(0) is not None
    expired = Leases(engine, "first", 0).take(0)
    assert expired is not None
    assert second.take(0) is not None


def test_an_outbox_requires_what_it_was_used_with(store: Store) -> None:
    """The first use is stored; another topic, prefix or cluster is refused by name."""
    known = store.identity()
    used = Identity(known.outbox_id, known.shards, "t", "p", "x-", "cluster")
    store.bind_identity(used)
    store.bind_identity(used)
    with pytest.raises(OutboxMismatchError, match="cluster id was 'cluster', is 'other'"):
        store.bind_identity(Identity(known.outbox_id, known.shards, "t", "p", "x-", "other"))


def test_a_repeated_row_whose_original_is_pruned_meanwhile_is_new(new_postgresql: NewDatabase) -> None:
    """The insert found the key, the query after it did not: a new row, and the others are not affected."""
    engine = create_outbox_engine(new_postgresql())
    store, row = Store(engine), new_row()
    (first,) = store.record([row])
    assert isinstance(first, Accepted)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE FUNCTION prune() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN DELETE FROM outbox WHERE id = {first.outbox_id}; RETURN NULL; END $$
        """)
        connection.exec_driver_sql(
            "CREATE TRIGGER prune AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION prune()"
        )
    again = store.record([row, new_row(), row])
    assert [outcome.duplicate for outcome in again if isinstance(outcome, Accepted)] == [False, False, True]
    engine.dispose()


def test_a_batch_survives_connections_that_the_server_closed(new_postgresql: NewDatabase) -> None:
    """Connections in the pool are replaced before they are used."""
    engine = create_outbox_engine(new_postgresql())
    store = Store(engine)
    with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            connection.exec_driver_sql("SELECT 1")
    outside = create_outbox_engine(engine.url.render_as_string(hide_password=False))
    with outside.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    outside.dispose()
    assert isinstance(store.record([new_row()])[0], Accepted)
    engine.dispose()


def test_the_shard_is_computed_by_the_insert(new_database: NewDatabase) -> None:
    """From the hash of the interaction id and the number of shards in the database."""
    from outbox.db.engine import create_outbox_engine

    engine = create_outbox_engine(new_database(5))
    Store(engine).record(new_rows(50, interactions=50))
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT interaction_id, shard FROM outbox_rows").all()
    assert all(shard == shard_of(interaction, 5) for interaction, shard in found)
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE outbox SET nonce = NULL",
        "UPDATE outbox SET key = substr(key, 2)",
        "UPDATE outbox SET interaction_hash = -1",
        "UPDATE outbox SET replay_of = 1",
        "INSERT INTO outbox_pending SELECT * FROM outbox_pending",
        "INSERT INTO outbox_sent (id, shard, sequence, sent_at) VALUES (1, 0, 1, NULL)",
        "INSERT INTO outbox_parked VALUES (1, 1, 0, 'i-1', 'parked', NULL, 1)",
        "INSERT INTO outbox_parked VALUES (1, 1, 0, 'i-1', 'waiting', 'x', 1)",
    ],
)
def test_the_schema_refuses_inconsistent_rows(store: Store, engine: Engine, statement: str) -> None:
    """CHECK constraints forbid what the code must never write."""
    add_rows(store)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.exec_driver_sql(statement)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
_bodies = st.fixed_dictionaries(
    {"id": _text | st.integers(-(2**63), 2**63 - 1), "channel": _text},
    optional={
        "timestamp": st.integers(0, 2**63 - 1),
        "customer": st.fixed_dictionaries({"email": st.none() | _text}),
        "agent": st.fixed_dictionaries({"id": st.none() | _text | st.integers(-(2**63), 2**63 - 1)}),
    },
)


@given(st.lists(_bodies, min_size=1, max_size=5), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_valid_interaction_is_stored_and_encoded_unchanged(
    store: Store,
    engine: Engine,
    bodies: list[dict[str, object]],
    escaped: bool,  # noqa: FBT001 - hypothesis draws it
) -> None:
    """Both databases store, and the Avro schema encodes, whatever the webhook accepts."""
    import json
    import time

    rows = []
    for number, document in enumerate(bodies):
        raw = json.dumps(document, ensure_ascii=escaped).encode()
        try:
            taken = parse(raw)
        except InvalidInteractionError as error:  # the strategy makes valid bodies only
            raise AssertionError(error.problems) from None
        changes = {"customer_email": taken.customer_email, "agent_id": taken.agent_id, "payload": raw}
        key = f"{time.monotonic_ns()}-{number}"
        rows.append(
            new_row(
                taken.interaction_id, key=key, channel=taken.channel, timestamp_ms=taken.timestamp_ms or 0, **changes
            )
        )
    outcomes = store.record(rows)
    taken_lease = Leases(engine, "owner", 600).take(0)
    assert taken_lease is not None
    pending = store.pending(taken_lease, 10)
    assert [outcome.outbox_id for outcome in outcomes if isinstance(outcome, Accepted)] == [row.id for row in pending]
    for row, found in zip(rows, pending, strict=True):
        assert (row.interaction_id, row.channel, row.timestamp_ms, row.customer_email, row.agent_id) == found[2:7]
    assert len(Encoder(1).records(pending)) == len(rows)
    with engine.connect() as connection:
        payloads = connection.exec_driver_sql(
            "SELECT o.payload FROM outbox AS o JOIN outbox_pending AS w ON w.id = o.id ORDER BY o.id"
        )
        assert [bytes(payload) for (payload,) in payloads] == [row.payload for row in rows]
    mark(store, taken_lease.acknowledged_sequence + 1, [row.ref for row in pending])
