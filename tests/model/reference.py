"""The reference model: what was accepted, and what may be in the database and in the topic because of it.

Plain bookkeeping without leases, sequences or progress records. A row is identified by its serial number, which is
stored as its ``traceparent``, because a restored database reuses ids.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class StoredRow(NamedTuple):
    """A row in the database."""

    id: int
    nonce: int
    serial: int
    interaction: str
    state: str
    is_replay: bool
    has_call: bool
    """Whether its inference call was made due."""


class DeliveredRecord(NamedTuple):
    """A committed record in the topic."""

    offset: int
    outbox_id: int
    serial: int
    interaction: str
    is_replay: bool


@dataclass(frozen=True)
class AcceptedRow:
    """A row that was acknowledged to the webhook's client, or to the operator who replayed it."""

    outbox_id: int
    serial: int
    interaction: str
    key: bytes
    payload: bytes
    refusable: bool
    after: frozenset[int] = frozenset()
    """Serials of the rows of its interaction that were acknowledged before it was posted."""
    plan: str | None = None
    """Of a replay."""

    @property
    def is_replay(self) -> bool:
        """Whether it repeats another row."""
        return self.plan is not None

    def replayed(self, outbox_id: int, key: bytes, plan: str) -> "AcceptedRow":
        """The new row that repeats this one."""
        return replace(self, outbox_id=outbox_id, key=key, after=frozenset(), plan=plan)


@dataclass
class Reference:
    """Everything that was accepted so far.

    Args:
        block_behind_parked: whether rows wait behind a parked row of their interaction.
    """

    block_behind_parked: bool
    rows: dict[int, AcceptedRow] = field(default_factory=dict)
    """By outbox id: the rows that the database must contain."""
    known: dict[int, AcceptedRow] = field(default_factory=dict)
    """By serial, without replays: also the rows that a restore removed."""
    replays: Counter[int] = field(default_factory=Counter)
    """How often each serial was replayed."""
    may_repeat: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Rows, by serial and whether they are replays, that may be sent twice after the progress topic was lost."""
    restored: bool = False
    broker_back: bool = False
    refusals: bool = False
    """Whether any row was refusable: then operators may have decided about rows."""
    _backup: dict[int, AcceptedRow] | None = None

    def accept(self, row: AcceptedRow) -> None:
        """Record a row that was acknowledged."""
        assert row.outbox_id not in self.rows, f"id {row.outbox_id} is given to two rows"
        self.rows[row.outbox_id] = row
        self.refusals |= row.refusable
        if row.is_replay:
            self.replays[row.serial] += 1
        else:
            self.known[row.serial] = row

    def acknowledged(self, interaction: str) -> frozenset[int]:
        """Serials of an interaction's rows in the database."""
        return frozenset(r.serial for r in self.rows.values() if r.interaction == interaction and not r.is_replay)

    def by_key(self, key: bytes) -> AcceptedRow | None:
        """The row with a deduplication key."""
        return next((row for row in self.rows.values() if row.key == key), None)

    def back_up(self) -> None:
        """Record that the database is backed up."""
        self._backup = dict(self.rows)

    def restore(self) -> None:
        """Record that the database is restored: it no longer contains what was accepted since the backup."""
        assert self._backup is not None
        self.rows, self.restored = dict(self._backup), True

    # Invariants at any time ----------------------------------------------------------------------

    def check(
        self, rows: Sequence[StoredRow], delivered: Sequence[DeliveredRecord], new: Iterable[DeliveredRecord]
    ) -> None:
        """Compare the database and the topic with what was accepted.

        Args:
            rows: every row of the database.
            delivered: every committed record of the topic.
            new: the records that were not there at the last check.
        """
        expected = {row.outbox_id: row.serial for row in self.rows.values()}
        assert {row.id: row.serial for row in rows} == expected, "the database lost or invented a row"
        self._check_once(delivered)
        self._check_states(rows, Counter((record.serial, record.is_replay) for record in delivered))
        by_serial = {row.serial: row for row in rows if not row.is_replay}
        for record in new:
            self._check_order(record, delivered, by_serial, rows)

    def _check_once(self, delivered: Sequence[DeliveredRecord]) -> None:
        for (serial, is_replay), times in Counter((r.serial, r.is_replay) for r in delivered).items():
            allowed = self.replays[serial] if is_replay else int(serial in self.known)
            allowed += self.may_repeat[serial, is_replay]
            assert times <= allowed, f"row {serial} (replay: {is_replay}) is in the topic {times} times"

    def _check_states(self, rows: Sequence[StoredRow], times: Counter[tuple[int, bool]]) -> None:
        sent = Counter((row.serial, row.is_replay) for row in rows if row.state == "sent")
        for row in rows:
            name = (row.serial, row.is_replay)
            if row.state == "sent":
                delivered = sent[name] <= times[name] or self.broker_back
                assert delivered, f"row {row.serial} is marked sent but is not in the topic"
                assert row.has_call, f"row {row.serial} is marked sent but has no inference call"
            if row.state in {"parked", "discarded"} and not self.restored:
                assert self.known[row.serial].refusable, f"row {row.serial} is parked but was never refused"
                assert row.is_replay or not times[name], f"row {row.serial} is {row.state} but is in the topic"

    def _check_order(
        self,
        record: DeliveredRecord,
        delivered: Sequence[DeliveredRecord],
        by_serial: dict[int, StoredRow],
        rows: Sequence[StoredRow],
    ) -> None:
        """Check that every row that must come before a record did.

        A restored database has forgotten what operators decided, so after a restore this is checked only if no row
        was refusable. After Kafka lost records there is no order any more.
        """
        if record.is_replay or not self.block_behind_parked or self.broker_back or (self.restored and self.refusals):
            return
        before = {r.serial for r in delivered if not r.is_replay and r.offset < record.offset}
        for serial in self.known[record.serial].after - before:
            row = by_serial.get(serial)
            assert row is None or row.state == "discarded", f"row {record.serial} overtook row {serial}"
        for row in rows:
            blocked = row.state == "parked" and row.interaction == record.interaction and row.id < record.outbox_id
            assert not blocked, f"row {record.serial} was sent although row {row.serial} before it is parked"

    # At the end ----------------------------------------------------------------------------------

    def lost(self, rows: Sequence[StoredRow], delivered: Sequence[DeliveredRecord]) -> list[StoredRow]:
        """Rows that are marked sent but are not in the topic."""
        found = {record.outbox_id for record in delivered}
        return [row for row in rows if row.state == "sent" and row.id not in found]

    def sendable(self, rows: Sequence[StoredRow]) -> list[StoredRow]:
        """Pending rows that are not blocked by a parked row."""
        parked = [row for row in rows if row.state == "parked"] if self.block_behind_parked else []

        def blocked(row: StoredRow) -> bool:
            return any(p.interaction == row.interaction and p.id < row.id for p in parked)

        return [row for row in rows if row.state == "pending" and not blocked(row)]
