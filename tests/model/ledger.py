"""The reference: what was accepted, and what may be seen in the database and in the topic because of it.

Plain bookkeeping that knows nothing of leases, sequences or progress records. A row is known by its
serial number, which travels with it as ``traceparent``; ids are used again by a restored database.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class OwnedShard(NamedTuple):
    """A row as the database holds it."""

    id: int
    nonce: int
    serial: int
    interaction: str
    state: str
    is_replay: bool
    has_call: bool
    """Its inference call was made due."""


class Delivered(NamedTuple):
    """A committed record of the topic."""

    offset: int
    outbox_id: int
    serial: int
    interaction: str
    is_replay: bool


@dataclass(frozen=True)
class Accepted:
    """One row that the webhook, or a replay, was told is committed."""

    outbox_id: int
    serial: int
    interaction: str
    key: str
    payload: bytes
    refusable: bool
    after: frozenset[int] = frozenset()
    """Serials of its interaction's rows that were acknowledged before it was posted."""
    is_replay: bool = False

    def replayed(self, outbox_id: int, key: str) -> "Accepted":
        """The new row that repeats this one."""
        return replace(self, outbox_id=outbox_id, key=key, after=frozenset(), is_replay=True)


@dataclass
class Ledger:
    """Everything accepted so far.

    Args:
        waiting: whether rows wait behind a parked row of their interaction.
    """

    waiting: bool
    rows: dict[int, Accepted] = field(default_factory=dict)
    """By outbox id: what the database has to hold."""
    known: dict[int, Accepted] = field(default_factory=dict)
    """By serial, replays left out: also what a restore took away."""
    replays: Counter[int] = field(default_factory=Counter)
    """How often each serial was replayed."""
    excused: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Rows, by serial and whether they are replays, that the loss of the progress topic may double."""
    restored: bool = False
    broker_back: bool = False
    refusals: bool = False
    """Whether there ever was a row that may be refused: then operators decide."""
    _moment: dict[int, Accepted] | None = None

    def accept(self, row: Accepted) -> None:
        """A row was acknowledged."""
        assert row.outbox_id not in self.rows, f"id {row.outbox_id} is handed out twice"
        self.rows[row.outbox_id] = row
        self.refusals |= row.refusable
        if row.is_replay:
            self.replays[row.serial] += 1
        else:
            self.known[row.serial] = row

    def acknowledged(self, interaction: str) -> frozenset[int]:
        """Serials of an interaction's rows that stand in the database."""
        return frozenset(r.serial for r in self.rows.values() if r.interaction == interaction and not r.is_replay)

    def by_key(self, key: str) -> Accepted | None:
        """The row that has taken a key."""
        return next((row for row in self.rows.values() if row.key == key), None)

    def remember(self) -> None:
        """The database is backed up."""
        self._moment = dict(self.rows)

    def go_back(self) -> None:
        """The database is restored: what was accepted since is not in it any more."""
        assert self._moment is not None
        self.rows, self.restored = dict(self._moment), True

    # What must hold at any time ------------------------------------------------------------------

    def check(self, held: Sequence[OwnedShard], delivered: Sequence[Delivered], new: Iterable[Delivered]) -> None:
        """Hold the database and the topic against what was accepted.

        Args:
            held: every row of the database.
            delivered: every committed record of the topic.
            new: those that were not there at the last check.
        """
        wanted = {row.outbox_id: row.serial for row in self.rows.values()}
        assert {row.id: row.serial for row in held} == wanted, "the database lost a row, or made one up"
        self._check_once(delivered)
        self._check_states(held, Counter((record.serial, record.is_replay) for record in delivered))
        by_serial = {row.serial: row for row in held if not row.is_replay}
        for record in new:
            self._check_place(record, delivered, by_serial, held)

    def _check_once(self, delivered: Sequence[Delivered]) -> None:
        for (serial, is_replay), times in Counter((r.serial, r.is_replay) for r in delivered).items():
            wanted = self.replays[serial] if is_replay else int(serial in self.known)
            wanted += self.excused[serial, is_replay]
            assert times <= wanted, f"row {serial} (replay: {is_replay}) is in the topic {times} times"

    def _check_states(self, held: Sequence[OwnedShard], times: Counter[tuple[int, bool]]) -> None:
        sent = Counter((row.serial, row.is_replay) for row in held if row.state == "sent")
        for row in held:
            name = (row.serial, row.is_replay)
            if row.state == "sent":
                there = sent[name] <= times[name] or self.broker_back
                assert there, f"row {row.serial} is marked sent, and is not in the topic"
                assert row.has_call, f"row {row.serial} is marked sent without an inference call"
            if row.state in {"parked", "discarded"} and not self.restored:
                assert self.known[row.serial].refusable, f"row {row.serial} is parked, and nobody refuses it"
                assert row.is_replay or not times[name], f"row {row.serial} is {row.state}, and is in the topic"

    def _check_place(
        self,
        record: Delivered,
        delivered: Sequence[Delivered],
        by_serial: dict[int, OwnedShard],
        held: Sequence[OwnedShard],
    ) -> None:
        """Nothing that had to come before it is missing. After a restore the database has forgotten
        what operators decided, so then it is asked for only where nothing is refused. Once Kafka has lost
        records, no order is left.
        """
        if record.is_replay or not self.waiting or self.broker_back or (self.restored and self.refusals):
            return
        before = {r.serial for r in delivered if not r.is_replay and r.offset < record.offset}
        for serial in self.known[record.serial].after - before:
            row = by_serial.get(serial)
            assert row is None or row.state == "discarded", f"row {record.serial} overtook row {serial}"
        for row in held:
            blocked = row.state == "parked" and row.interaction == record.interaction and row.id < record.outbox_id
            assert not blocked, f"row {record.serial} was sent though row {row.serial} before it is parked"

    # What must hold at the end -------------------------------------------------------------------

    def lost(self, held: Sequence[OwnedShard], delivered: Sequence[Delivered]) -> list[OwnedShard]:
        """Rows that are marked sent, and not in the topic."""
        there = {record.outbox_id for record in delivered}
        return [row for row in held if row.state == "sent" and row.id not in there]

    def left_to_send(self, held: Sequence[OwnedShard]) -> list[OwnedShard]:
        """Pending rows that nothing holds back."""
        parked = [row for row in held if row.state == "parked"] if self.waiting else []

        def waits(row: OwnedShard) -> bool:
            return any(p.interaction == row.interaction and p.id < row.id for p in parked)

        return [row for row in held if row.state == "pending" and not waits(row)]
