"""The state of the exhaustive model: one shard's rows, its topics, and two relays.

A row is identified by its "ref": id + number of ids * nonce. A restored database reuses ids, but not nonces.
Everything is a plain tuple of small numbers, because millions of states are kept and compared.
"""

from typing import NamedTuple

# Invariants ----------------------------------------------------------------------------------------

ONCE = "no row is committed twice"
LOSS = "a row is marked sent only if it was committed"
ORDER = "rows of one interaction are committed in order"
PARKED_STAYS = "a parked or discarded row is not committed"
BEHIND = "a row behind a parked row of its interaction is not sent"
PARK_UNSENT = "a committed row is not parked"
PARK_GUILTY = "only a row that Kafka refuses alone is parked"
WAITS_RIGHTLY = "a shard is blocked only after a restore or a loss"
END = "the end is reachable without faults"
"""From every reachable state, a path without faults leads to the end: all rows are sent, parked, discarded, or blocked
behind a parked row, or, after a restore, the shard is blocked. With "marked sent only if committed", it means that no
acknowledged row is missing in the end. After a broker was restored from an older copy, the end also means that each
row marked sent is in Kafka, or the shard is blocked, or the loss of the progress topic was reported."""
LIMIT = "more states than the limit of the configuration"

# Places --------------------------------------------------------------------------------------------

NONE, ASSIGNED, PENDING, SENT, PARKED, DISCARDED, VOID = range(7)
"""States of a row. Assigned: it has an id, but its transaction is not committed. Void: that was lost by a restore."""
OFF, STEP_1, STEP_2, STEP_3, CHECKED, READY, SELECTED, IN_TXN, COMMITTING, COMMITTED, PARKING, WAITS = range(12)
"""Steps of a relay: those of the takeover, then those of the cycle."""
FENCED, LIVE, FORGOTTEN = range(3)
"""States of a producer."""

Refs = tuple[int, ...]
Label = tuple[object, ...]


class Config(NamedTuple):
    """What is explored: how many rows, and which faults besides those that are always possible."""

    name: str
    interactions: str
    """One letter for each row id."""
    batch: int = 2
    refusable: Refs = ()
    """Rows that the encoder or the broker may refuse, and may accept later."""
    poison: Refs = ()
    """Rows that the broker always refuses."""
    replay: Refs = ()
    """Id of the new row, id of the row it repeats."""
    skip_parked: bool = False
    """``OUTBOX_ON_PARKED=skip``: later rows do not wait for a parked row."""
    restore: bool = False
    """The database may go back in time, once."""
    progress_lost: bool = False
    """The progress topic may be lost, once."""
    broker_back: bool = False
    """The broker may come back from an older copy of its disk, once."""
    limit: int = 6_000_000
    """States."""


class Db(NamedTuple):
    """The database: each row, and the shard's row."""

    state: tuple[int, ...]
    nonce: tuple[int, ...]
    """Per id: 0, or 1 for a row inserted after a restore."""
    follows: tuple[int, ...]
    """Bookkeeping, per id: bits of the rows of its interaction that were acknowledged before it was posted."""
    acknowledged_sequence: int = 0
    floor: int = 0
    backup: "Db | None" = None
    restored: bool = False
    offset: int = 0
    """Of the progress record that was acknowledged last; 0 if there is none, or it is not known."""
    last: Refs = ()
    """Its rows, instead of the record's digest."""
    reported: bool = False
    """Whether the loss of the progress topic was reported."""


class Txn(NamedTuple):
    """An open Kafka transaction."""

    owner: int
    """-1 if the relay is gone; its commit request may still be in flight."""
    refs: Refs
    sequence: int
    commit_requested: bool


Record = tuple[int, Refs, int]
"""A progress record: sequence, rows, offset."""
NO_RECORD: Record = (0, (), 0)


class Kafka(NamedTuple):
    """The topics and the open transactions."""

    committed: int = 0
    """A bit for each ref."""
    record: Record = NO_RECORD
    """The last progress record."""
    txns: tuple[Txn, ...] = ()
    may_repeat: int = -1
    """Bits of rows that may be sent twice after the loss of the progress topic; -1 if it was not lost."""
    end: int = 0
    """Offset of the last record in the progress partition."""
    copy: "tuple[int, Record, int] | None" = None
    """An older copy of the broker's disk: the rows committed, the last progress record, the end."""
    lost: int = -1
    """Bits of rows that were lost when the broker was restored from an older copy; -1 if it was not."""
    reconciled: bool = False


class Relay(NamedTuple):
    """One relay: its step, and what it remembers."""

    at: int = OFF
    has_lease: bool = False
    """Whether the database still has this relay's lease and epoch."""
    producer: int = FENCED
    acknowledged_sequence: int = 0
    """As this relay knows it."""
    refs: Refs = ()
    """The rows of the present batch."""
    record: Record = NO_RECORD
    """As read back in step 3."""
    rejected: Refs = ()
    """Rows to park."""
    bisecting: bool = False
    """Whether a batch was refused: then rows are sent one at a time until the row at fault is found."""
    had_lease_at_backup: bool = False
    offset: int = 0
    """Of the progress record of its last transaction, from the delivery report."""


class State(NamedTuple):
    """Everything at one time."""

    db: Db
    kafka: Kafka
    relays: tuple[Relay, ...]


Step = tuple[Label, bool, State]
"""What happens, whether it happens without faults, and the next state."""


class ViolationError(Exception):
    """A step breaks an invariant."""

    def __init__(self, invariant: str, label: Label) -> None:
        super().__init__(invariant)
        self.invariant, self.label = invariant, label


def missing(db: Db, kafka: Kafka) -> list[int]:
    """Rows marked sent that the topic does not have."""
    return [
        i for i, x in enumerate(db.state) if x == SENT and not kafka.committed >> (i + len(db.state) * db.nonce[i]) & 1
    ]


def with_state(db: Db, row: int, state: int) -> Db:
    """The database with one row in another state."""
    return db._replace(state=(*db.state[:row], state, *db.state[row + 1 :]))


def with_relay(state: State, which: int, relay: Relay, db: Db | None = None, kafka: Kafka | None = None) -> State:
    """The state with one relay replaced, and optionally the database or Kafka."""
    relays = (relay, state.relays[1]) if which == 0 else (state.relays[0], relay)
    return State(db or state.db, kafka or state.kafka, relays)
