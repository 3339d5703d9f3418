"""Verifies a range of time, once or pass after pass: reads the rows, then the records, then says what is missing."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from sqlalchemy import Engine

from outbox.errors import InvalidRequestError
from outbox.operators.verification import LOOKUP_IDS, OutboxReader, RowNow
from outbox.states import RowState
from outbox.store import Store
from relay.errors import UnavailableError
from relay.identity import ensure_same_identity
from relay.kafka.client import AdminClient, OffsetRange, admin_client, topic_id
from relay.kafka.errors import LastError
from relay.kafka.schema_registry import SchemaRegistry
from relay.kafka.topic_scan import committed_records, complete_since, is_compacted, ranges_since
from relay.kafka.topics import cluster_id_of
from relay.settings import RelaySettings, kafka_client_config
from relay.verify.comparison import MARGIN_MS, Comparison, Rules
from relay.verify.content import ContentHasher
from relay.verify.row_table import REPORTED, SENT, UNSENT, RowTable
from relay.verify.verdict import Fault, Note, Sample, Verdict

SETTLED_MS = 60_000
"""How long after its receipt a row may become visible: ids and times are assigned before commits."""
MAX_IDS = 100_000_000
"""Ids of one verification: 0.6 gigabytes, one with values."""
END_OF_TIME_MS = 2**62

Report = Callable[[str, int, int], None]
"""Called with what is read, how much of it was read, and how much there is."""


class Verifier:
    """Compares the rows that were received in a range of time with the records of the topics.

    Args:
        engine: the outbox.
        settings: of the relay.
        since_ms: start of the range, in milliseconds since the epoch; None: the oldest row.
        until_ms: its end, not included; None: each pass extends it to the present.
        values: whether to compare the content of records.
        shared_topic: whether other outboxes write to the topics.
        report: is told the progress.
    """

    def __init__(
        self,
        engine: Engine,
        settings: RelaySettings,
        since_ms: int | None,
        until_ms: int | None,
        *,
        values: bool = False,
        shared_topic: bool = False,
        report: Report = lambda _what, _done, _total: None,
    ) -> None:
        self._outbox, self._settings, self._report = OutboxReader(engine), settings, report
        self._config = kafka_client_config(settings)
        identity = Store(engine).identity()
        ensure_same_identity(settings, identity)  # needs no broker, so it comes first
        ensure_same_identity(settings, identity, cluster_id_of(settings))
        oldest = self._outbox.first_row()
        self._since_ms = since_ms if since_ms is not None else oldest[1] if oldest else 0
        self._until_ms = until_ms
        self.verdict = Verdict(self._since_ms, until_ms or self._since_ms, values)
        self._table = RowTable(max(0, self._bounds(self._since_ms)[0] + 1), values=values)
        retention = settings.outbox_retention
        rules = Rules(
            settings.kafka_topics,
            None if retention is None else round(retention * 1000),
            settings.outbox_on_parked == "block",
            shared_topic,
        )
        hasher = ContentHasher(SchemaRegistry(settings).schema) if values else None
        self._comparison = Comparison(self._outbox, self._table, self.verdict, rules, hasher)
        self._read: dict[str, dict[int, OffsetRange]] = {}
        self._topic_ids: dict[str, str] = {}
        self._unsent_reported: set[int] = set()

    def run_pass(self) -> Verdict:
        """Read what was not read yet, and judge it. After an error, only a new verifier can go on.

        Every record that is read has its row in the table: the ends of the topics are determined before the rows are
        read, and a row is committed before it is sent. A row that was marked sent before that has its record below
        the end, so it is missing if it was not read.

        Raises:
            UnavailableError: the topics cannot be read.
            InvalidRequestError: the range has too many rows.
            OutboxError: the database does not answer.
        """
        verdict, last_walk_ms = self.verdict, self.verdict.at_ms
        verdict.at_ms = self._outbox.now_ms()
        verdict.until_ms = self._end_ms  # of a watch, no record that is read is outside of the range
        admin = admin_client(self._config, LastError())
        topics = self._settings.kafka_topics
        since_ms = self._since_ms - MARGIN_MS
        for topic in topics:
            self._ensure_same_topic(admin, topic)
        ranges = {topic: ranges_since(admin, topic, since_ms, self._read.get(topic)) for topic in topics}
        self._read_rows(max(self._since_ms, last_walk_ms - 2 * SETTLED_MS))
        self._read_records(ranges)
        self._judge_sent(admin)
        self._judge_unsent()
        if self._until_ms is None:
            verdict.until_ms = verdict.at_ms
        return verdict

    def _ensure_same_topic(self, admin: AdminClient, topic: str) -> None:
        """Raise UnavailableError if the topic is another one than in the last pass, even if it has as many records."""
        found = topic_id(admin, topic)
        if self._topic_ids.setdefault(topic, found) != found:
            raise UnavailableError(f"topic {topic} was deleted and created again: it is read anew")

    def _bounds(self, since_ms: int) -> tuple[int, int]:
        return self._outbox.id_bounds(since_ms, self._end_ms)

    @property
    def _end_ms(self) -> int:
        return END_OF_TIME_MS if self._until_ms is None else self._until_ms

    def _read_rows(self, walk_since_ms: int) -> None:
        """Add the rows that were received since, and note which of the earlier ones were sent meanwhile."""
        self._note_sent()
        first, last = self._bounds(walk_since_ms)
        oldest = self._outbox.first_row()
        self._table.drop_before(min(oldest[0], first + 1) if oldest else last + 1)
        first = max(first, self._table.first - 1)
        if (ids := last + 1 - self._table.first) > MAX_IDS:
            raise InvalidRequestError(
                f"the range has {ids:,} ids, of which one verification takes {MAX_IDS:,}: "
                "verify it in parts, with --since and --until"
            )
        self._table.extend(last)
        done = 0
        for rows in self._outbox.rows((first, last), self._since_ms, self._end_ms):
            self._comparison.add_rows(rows, self.verdict.at_ms)
            done += len(rows)
            self._report("rows", done, max(done, last - first))

    def _note_sent(self) -> None:
        """Note which rows are marked sent by now, so that their records have to be below the ends of the topics."""
        for row in self._states(self._table.unsent()):
            if row.sent_at_ms is not None and row.sent_at_ms < self.verdict.at_ms:
                self._table.set_state(row.id, SENT)

    def _read_records(self, ranges: dict[str, dict[int, OffsetRange]]) -> None:
        total = sum(max(0, each.end - each.start) for of_topic in ranges.values() for each in of_topic.values())
        already = self.verdict.records
        for topic, of_topic in ranges.items():
            for page in committed_records(self._config, topic, of_topic):
                if page:
                    self._comparison.add_records(topic, page)
                self._report("records", self.verdict.records - already, total)
            self._read[topic] = of_topic

    def _judge_sent(self, admin: AdminClient) -> None:
        """Say which rows that are marked sent have no record."""
        missing = self._table.sent_not_seen()
        kept_ms: int | None = None
        while chunk := list(islice(missing, LOOKUP_IDS)):
            if kept_ms is None:
                kept_ms = self._topics_complete_since(admin)
            expired = self._outbox.received_before(chunk, kept_ms + MARGIN_MS)
            states = {row.id: row.state for row in self._outbox.states(chunk)}
            if kept_ms + MARGIN_MS > self._since_ms:  # the oldest rows may have been pruned since they were read
                expired.update(set(chunk) - set(states))
            resent = {row_id for row_id, state in states.items() if state != RowState.SENT}
            for row_id in chunk:
                if row_id in resent:  # by relay reconcile
                    self._table.set_state(row_id, UNSENT)
                    continue
                self.verdict.found(Note.EXPIRED if row_id in expired else Fault.MISSING, Sample(row_id))
                self._table.set_state(row_id, REPORTED)

    def _topics_complete_since(self, admin: AdminClient) -> int:
        """Return the time since which no topic has lost a record."""
        topics = self._settings.kafka_topics
        if any(is_compacted(admin, topic) for topic in topics):
            return self.verdict.at_ms
        return max(complete_since(admin, topic, self._since_ms - MARGIN_MS) for topic in topics)

    def _judge_unsent(self) -> None:
        """Count the rows that are not marked sent, and say which of them have a record all the same."""
        states: Counter[str | None] = Counter()
        for passing in (Note.NOT_MARKED, Note.LATER):
            self.verdict.counts.pop(passing, None)
            self.verdict.samples.pop(passing, None)
        for row in self._states(self._table.unsent()):
            if row.state == RowState.SENT:
                if not self._table.is_seen(row.id):
                    self.verdict.found(Note.LATER, Sample(row.id))
                continue
            if row.state is None and not self._table.is_seen(row.id):  # nothing would send it
                self.verdict.found(Fault.MISSING, Sample(row.id))
                self._table.set_state(row.id, REPORTED)
                continue
            states[row.state] += 1
            if not self._table.is_seen(row.id):
                continue
            if row.state == RowState.PENDING:
                self.verdict.found(Note.NOT_MARKED, Sample(row.id))
            elif row.id not in self._unsent_reported:
                self.verdict.found(Fault.UNSENT, Sample(row.id))
                self._unsent_reported.add(row.id)
        states[RowState.SENT] = self.verdict.rows - states.total()
        self.verdict.states = Counter({state: states[state] for state in RowState})

    def _states(self, ids: Iterable[int]) -> Iterator[RowNow]:
        wanted = iter(ids)
        while chunk := list(islice(wanted, LOOKUP_IDS)):
            yield from self._outbox.states(chunk)
