"""Comparing records with rows, on both databases: what counts as which fault, and what as none."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message
from sqlalchemy import Engine, text

from outbox.models import NewRow, PendingRow
from outbox.operators.verification import ComparedRow, OutboxReader
from outbox.states import RowState
from outbox.store import Store
from relay.kafka.avro import SCHEMA_TEXT
from relay.kafka.encoder import Encoder
from relay.verify.comparison import MARGIN_MS, MAX_OVERLAPPING, SLOTS, Comparison, Rules
from relay.verify.content import ContentHasher
from relay.verify.row_table import RowTable
from relay.verify.verdict import Verdict
from testkit.outbox import record, set_state
from testkit.rows import new_row

TOPIC, LATER_TOPIC = "interactions", "replays"
FOREVER_MS = 2**60
RETENTION_MS = 3_600_000
ON_POSTGRESQL = pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)


class Scene:
    """Rows that are marked sent, and the verification that their records are shown to.

    Args:
        engine: of an empty outbox.
        new: the rows.
        rules: of the verification.
        topics: by index, the topic of rows that are replays.
        sent: by index, the transaction that sent the row, and the time of receipt in milliseconds.
    """

    def __init__(
        self,
        engine: Engine,
        new: list[NewRow],
        rules: Rules | None = None,
        topics: Mapping[int, str] | None = None,
        sent: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.engine = engine
        self.ids = record(Store(engine), new)
        for index, topic in (topics or {}).items():
            self.execute(f"UPDATE outbox SET topic = '{topic}' WHERE id = {self.ids[index]}")
        set_state(engine, "true", RowState.SENT)
        for row_id, (sequence, received_at_ms) in zip(self.ids, sent, strict=False):
            self.execute(f"UPDATE outbox_sent SET sequence = {sequence} WHERE id = {row_id}")
            self.execute(f"UPDATE outbox SET received_at = {received_at_ms} WHERE id = {row_id}")
        self.outbox = OutboxReader(engine)
        self.verdict = Verdict(0, FOREVER_MS, values=True, at_ms=self.outbox.now_ms())
        self.rows = self.read()
        self.table = RowTable(self.ids[0], values=True)
        self.table.extend(self.ids[-1])
        rules = rules or Rules((TOPIC, LATER_TOPIC), RETENTION_MS)
        hasher = ContentHasher(lambda _id: SCHEMA_TEXT)
        self._comparison = Comparison(self.outbox, self.table, self.verdict, rules, hasher)
        self._comparison.add_rows(self.compared, self.verdict.at_ms)
        self._offsets: Iterator[int] = iter(range(1_000))

    @property
    def compared(self) -> list[ComparedRow]:
        """The rows as a verification reads them."""
        pages = self.outbox.rows(self.outbox.id_bounds(0, FOREVER_MS), 0, FOREVER_MS)
        return [row for page in pages for row in page]

    def read(self) -> dict[int, PendingRow]:
        """Return the rows as a relay reads them."""
        return {row.id: row for row in self.outbox.values(self.ids)}

    def message(self, row_id: int, **changes: Any) -> Message:
        """Return the record of a row, with some of its parts changed."""
        row = self.rows[row_id]
        ((key, value, headers, _),) = Encoder(7).records([row])
        given = {**dict(headers), **changes.pop("headers", {})}
        values = {"key": key, "value": value, "partition": 0, **changes}
        return Message(
            topic=TOPIC,
            offset=next(self._offsets),
            headers=list(given.items()),
            timestamp=(TIMESTAMP_CREATE_TIME, row.received_at_ms),
            **values,
        )

    def show(self, *messages: Message, topic: str = TOPIC) -> dict[str, int]:
        """Show a page of records; return everything that was found so far."""
        self._comparison.add_records(topic, messages)
        return {str(kind): count for kind, count in self.verdict.counts.items() if count}

    def execute(self, sql: str) -> None:
        """Change the database directly."""
        with self.engine.begin() as connection:
            connection.execute(text(sql))


@pytest.fixture
def scene(engine: Engine) -> Scene:
    """Return three rows of one interaction and one of another, and of the replays' topic none."""
    return Scene(engine, [new_row("i-1"), new_row("i-1"), new_row("i-2"), new_row("i-1")])


def test_each_record_once_is_no_finding(scene: Scene) -> None:
    """The rows are in the topic; the second record of one is not counted as a row again."""
    assert scene.show(*map(scene.message, scene.ids)) == {}
    assert (scene.verdict.rows, scene.verdict.in_topic, scene.verdict.records) == (4, 4, 4)
    assert scene.show(scene.message(scene.ids[2])) == {"doubled": 1}
    assert (scene.verdict.in_topic, scene.verdict.records) == (4, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"i-9"},
        {"headers": {"received-at": b"5"}},
        {"headers": {"outbox-id": b"999999"}},
        {"headers": {"outbox-id": b"-1"}},
        {"headers": {"outbox-id": b"x"}},
        {"headers": {"outbox-id": None}},
        {"headers": {"received-at": None}},
        {"headers": {"outbox-id": b"9" * 30}},
        {"headers": {"received-at": b"9" * 5000}},
    ],
    ids=lambda changes: str(changes)[:80],
)
def test_a_record_with_another_identity_is_unknown(scene: Scene, changes: dict[str, Any]) -> None:
    """Id, key and time of receipt all have to be the row's, which stays without a record."""
    assert scene.show(scene.message(scene.ids[0], **changes)) == {"unknown": 1}
    assert scene.verdict.in_topic == 0


def test_a_damaged_copy_of_a_record_is_unknown(scene: Scene) -> None:
    """A number that is not written as the relay writes it, or a key that is no text, is not the row's."""
    first, _, other, _ = scene.ids
    scene.execute(f"UPDATE outbox SET interaction_id = '\ufffd' WHERE id = {other}")
    copies = [
        *(scene.message(first, headers={"outbox-id": form % first}) for form in (b"0%d", b"+%d", b" %d", b"%d_0")),
        scene.message(first, headers={"received-at": b"0%d" % scene.rows[first].received_at_ms}),
        scene.message(other, key=b"\xff"),
    ]
    assert scene.show(*copies) == {"unknown": len(copies)}
    assert scene.verdict.in_topic == 0


def test_the_last_of_repeated_headers_counts(scene: Scene) -> None:
    """As for consumers, which look a header up by its name."""
    message = scene.message(scene.ids[0])
    message.set_headers([*(message.headers() or []), ("outbox-id", b"%d" % scene.ids[2])])
    assert scene.show(message) == {"unknown": 1}


class UnreadableHeaders(Message):
    """A record with a header whose name is not UTF-8."""

    def headers(self) -> Any:
        """Fail as the client does."""
        raise SystemError("returned a result with an exception set")


def test_a_record_whose_headers_cannot_be_read_is_unknown(scene: Scene) -> None:
    """Anybody who may write to the topic could end the verification with it."""
    row = scene.rows[scene.ids[0]]
    written = (TIMESTAMP_CREATE_TIME, row.received_at_ms)
    assert scene.show(UnreadableHeaders(topic=TOPIC, key=b"i-1", partition=0, offset=0, timestamp=written)) == {
        "unknown": 1
    }


def test_a_record_in_the_topic_of_replays_is_unknown(scene: Scene) -> None:
    """The topic belongs to the identity as well."""
    assert scene.show(scene.message(scene.ids[0]), topic=LATER_TOPIC) == {"unknown": 1}


def test_the_order_within_an_interaction_counts(scene: Scene) -> None:
    """A record behind a later one of its interaction is out of order, whether in one page or in two."""
    first, second, other, last = scene.ids
    assert scene.show(scene.message(other), scene.message(second)) == {}
    assert scene.show(scene.message(last), scene.message(first)) == {"out_of_order": 1}
    assert [sample.id for sample in scene.verdict.samples["out_of_order"]] == [first]


def test_the_order_between_topics_does_not_count(engine: Engine) -> None:
    """A later row of the interaction in another topic was read before it: that says nothing of their order."""
    scene = Scene(engine, [new_row("i-1"), new_row("i-2"), new_row("i-1")], topics={0: LATER_TOPIC, 1: LATER_TOPIC})
    replayed, other, again = scene.ids
    assert scene.show(scene.message(again)) == {}
    assert scene.show(scene.message(other), scene.message(replayed), topic=LATER_TOPIC) == {}
    assert scene.verdict.in_topic == 3


def test_the_order_between_interactions_does_not_count(scene: Scene) -> None:
    """A record behind a later one of another interaction is in order."""
    assert scene.show(*map(scene.message, (scene.ids[2], scene.ids[0], scene.ids[1], scene.ids[3]))) == {}


def test_the_order_counts_across_shards(scene: Scene) -> None:
    """As after a reshard, when later rows of an interaction were sent by another shard."""
    first, second, _, last = scene.ids
    scene.execute(f"UPDATE outbox_sent SET shard = 7 WHERE id = {first}")
    assert scene.show(scene.message(second)) == {}
    assert scene.show(scene.message(first), scene.message(last)) == {"out_of_order": 1}


@pytest.mark.parametrize(
    ("sequence", "after_ms", "kind"),
    [
        (1, 900, "reordered"),
        (1, -900, "reordered"),
        (1, 60_000, "out_of_order"),
        (1, -60_000, "out_of_order"),
        (2, 900, "out_of_order"),
        (3, 900, "out_of_order"),
    ],
)
def test_rows_of_requests_that_overlap_have_no_order(engine: Engine, sequence: int, after_ms: int, kind: str) -> None:
    """The first was committed after the second was sent, so nobody had posted the second after an answer to the first.

    That takes half a minute at most. What was sent in the same transaction, or an earlier one, had been committed. And
    SQLite commits rows in the order of their ids: there the relay itself must have changed the order.
    """
    scene = Scene(engine, [new_row("i-1"), new_row("i-1")], sent=[(2, 100_000), (sequence, 100_000 + after_ms)])
    first, second = scene.ids
    expected = "out_of_order" if engine.dialect.name == "sqlite" else kind
    assert scene.show(scene.message(second), scene.message(first)) == {expected: 1}


def test_a_row_has_to_overlap_all_later_ones_that_were_sent_before_it(engine: Engine) -> None:
    """The first and the second are of one transaction: that both overlap the third does not excuse their order."""
    scene = Scene(engine, [new_row("i-1") for _ in range(3)], sent=[(5, 100_000), (5, 100_001), (4, 100_002)])
    first, second, third = scene.ids
    found = scene.show(*map(scene.message, (third, second, first)))
    assert found == ({"out_of_order": 2} if engine.dialect.name == "sqlite" else {"reordered": 1, "out_of_order": 1})


@ON_POSTGRESQL
def test_a_row_that_is_not_marked_yet_may_overlap_one_that_is(engine: Engine) -> None:
    """A relay that was killed between commit and mark leaves it pending: it is of the shard's last transaction."""
    scene = Scene(engine, [new_row("i-1") for _ in range(3)], sent=[(4, 100_000)] * 3)
    first, second, third = scene.ids
    set_state(scene.engine, f"id IN ({first}, {second})", RowState.PENDING)
    assert scene.show(*map(scene.message, (third, second))) == {"reordered": 1}
    assert scene.show(scene.message(first)) == {"reordered": 1, "out_of_order": 1}


@ON_POSTGRESQL
def test_many_rows_in_reverse_are_out_of_order(engine: Engine) -> None:
    """No requests overlap a hundred others, and a topic whose order was lost altogether is still compared."""
    count = 300
    sent = [(count - number, 100_000) for number in range(count)]
    scene = Scene(engine, [new_row("i-1") for _ in range(count)], sent=sent)
    found = scene.show(*map(scene.message, reversed(scene.ids)))
    assert found == {"reordered": MAX_OVERLAPPING, "out_of_order": count - 1 - MAX_OVERLAPPING}


def test_the_order_between_partitions_does_not_count(scene: Scene) -> None:
    """As after partitions were added: nothing says which record of two partitions was written first."""
    first, second, *_ = scene.ids
    assert scene.show(scene.message(second, partition=1), scene.message(first, partition=0)) == {}


def test_the_order_between_partitions_does_not_count_in_a_shared_slot(engine: Engine) -> None:
    """Another interaction with the same checksum makes the record look late; its own later row is elsewhere."""
    scene = Scene(engine, [new_row(name) for name in ("i-1909", "i-2404", "i-1909", "i-2404")])
    first, other, second, last = scene.ids
    assert scene.show(scene.message(second, partition=1), scene.message(last), scene.message(other)) == {
        "out_of_order": 1
    }
    assert scene.show(scene.message(first)) == {"out_of_order": 1}
    assert [sample.id for sample in scene.verdict.samples["out_of_order"]] == [other]


def test_interactions_that_share_a_slot_are_told_apart(engine: Engine) -> None:
    """The highest id that was read is held for a checksum of the interaction: others may have the same."""
    assert crc32(b"i-1909") % SLOTS == crc32(b"i-2404") % SLOTS
    scene = Scene(engine, [new_row(name) for name in ("i-1909", "i-1909", "i-1909", "i-2404", "i-1909")])
    first, second, third, other, last = scene.ids
    assert scene.show(*map(scene.message, (other, first, third))) == {}
    assert scene.show(*map(scene.message, (second, last))) == {"out_of_order": 1}


@pytest.mark.parametrize("column", ["channel", "customer_email", "agent_id"])
def test_a_changed_value_is_found(scene: Scene, column: str) -> None:
    """Each field of the record is compared with the row."""
    other: dict[str, Any] = {column: "other"}
    ((_, value, _, _),) = Encoder(7).records([scene.rows[scene.ids[1]]._replace(**other)])
    assert scene.show(scene.message(scene.ids[1], value=value)) == {"changed": 1}


def test_a_row_that_is_completed_before_it_is_sent_is_not_changed(scene: Scene) -> None:
    """A verification that goes on may have added it before: it is compared as it is now."""
    scene.execute(f"UPDATE outbox SET agent_id = 'of CXone', enriched_at = 1 WHERE id = {scene.ids[1]}")
    scene.rows = scene.read()
    assert scene.show(scene.message(scene.ids[1])) == {}
    assert scene.verdict.in_topic == 1


def test_a_record_that_claims_to_be_a_replay_is_changed(scene: Scene) -> None:
    """The header replay-of is compared with the row."""
    assert scene.show(scene.message(scene.ids[1], headers={"replay-of": b"1"})) == {"changed": 1}


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0", b"\1nonsense"])
def test_a_value_that_is_none_is_changed(scene: Scene, value: bytes | None) -> None:
    """A record without a value, or with one that cannot be decoded, differs from the row."""
    assert scene.show(scene.message(scene.ids[1], value=value)) == {"changed": 1}


def test_an_erased_row_is_not_compared(scene: Scene) -> None:
    """A record with what was erased since is no fault."""
    before = scene.message(scene.ids[0], value=b"\0\0\0\0\7 as it was")
    empty = "x''" if scene.engine.dialect.name == "sqlite" else "''"
    scene.execute(f"UPDATE outbox SET payload = {empty} WHERE id = {scene.ids[0]}")
    assert scene.show(before) == {"erased": 1}


def test_a_pruned_row_is_not_unknown(engine: Engine) -> None:
    """What is older than the oldest row, or than the retention, may have been pruned; anything else was never here."""
    scene = Scene(engine, [new_row(f"i-{number}") for number in range(4)])
    old = b"%d" % (scene.verdict.at_ms - RETENTION_MS - 1)
    fresh = scene.message(scene.ids[2], headers={"outbox-id": b"77"})
    aged = scene.message(scene.ids[2], headers={"outbox-id": b"77", "received-at": old})
    older = scene.message(scene.ids[2], headers={"outbox-id": b"%d" % (scene.ids[0] - 1)})
    assert scene.show(fresh) == {"unknown": 1}
    assert scene.show(aged, older) == {"unknown": 1, "pruned": 2}


def test_a_row_that_was_pruned_meanwhile_is_not_unknown(scene: Scene) -> None:
    """Rows go on being pruned, and an older one that cannot be pruned stays the oldest."""
    old = b"%d" % (scene.verdict.at_ms - RETENTION_MS)
    record = scene.message(scene.ids[2], headers={"outbox-id": b"77", "received-at": old})
    scene.verdict.at_ms -= 60_000  # it began a minute ago
    assert scene.show(record) == {"pruned": 1}


def test_a_row_is_missing_only_if_its_record_must_have_been_read(scene: Scene) -> None:
    """A row that was marked sent after the end of the topic was determined may have its record behind the end."""
    table = RowTable(scene.ids[0], values=True)
    table.extend(scene.ids[-1])
    late = [row._replace(sent_at_ms=scene.verdict.at_ms) for row in scene.compared[2:]]
    rows = [*scene.compared[:2], *late]
    comparison = Comparison(scene.outbox, table, scene.verdict, Rules((TOPIC,)), ContentHasher(lambda _id: SCHEMA_TEXT))
    comparison.add_rows(rows, scene.verdict.at_ms)
    assert list(table.sent_not_seen()) == scene.ids[:2]
    assert list(table.unsent()) == scene.ids[2:]


def test_records_of_other_times_are_passed_over(engine: Engine) -> None:
    """A record that was neither received nor written in the range is of no concern, whether or not its row exists."""
    scene = Scene(engine, [new_row("i-1")])
    scene.verdict.since_ms = scene.verdict.at_ms + 1_000
    assert scene.show(scene.message(scene.ids[0], headers={"outbox-id": b"77"})) == {}


@pytest.mark.parametrize(("before_ms", "found"), [(MARGIN_MS - 1_000, {}), (MARGIN_MS + 1_000, {"unknown": 1})])
def test_a_record_with_a_time_of_long_ago_is_unknown(scene: Scene, before_ms: int, found: dict[str, int]) -> None:
    """What was written an hour before the range is not read: its producer has set another time."""
    scene.verdict.since_ms = scene.verdict.at_ms - 1_000
    written = (TIMESTAMP_CREATE_TIME, scene.verdict.since_ms - before_ms)
    assert scene.show(Message(topic=TOPIC, key=b"i-1", partition=0, offset=0, timestamp=written)) == found


def test_the_last_verdict_is_kept(scene: Scene) -> None:
    """It is stored as it was given, with the faults that were found, and a later one replaces it."""
    store = Store(scene.engine)
    assert store.last_verdict() is None
    for page in (scene.ids, scene.ids[:1]):
        scene.show(*map(scene.message, page))
        store.store_verdict(scene.verdict.stored)
    assert store.last_verdict() == scene.verdict.stored
    assert scene.verdict.stored.faults == {"doubled": 1}
