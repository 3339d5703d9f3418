"""What the exhaustive model knows of the world: one shard's rows, its topics, and two relays.

A row is named by its "ref": id + number of ids * tag. Ids are used again after a restore, tags are
not. Everything is a plain tuple of small numbers, for millions of states are kept and compared.
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
WAITS_RIGHTLY = "a shard waits for an operator only after a restore or a loss"
END = "the end is reachable without faults"
"""From every reachable state, a path without faults leads to all rows sent, parked, discarded, or
waiting behind a parked row, or, after a restore, to a shard that waits for an operator. With "marked
sent only if committed" it says that no acknowledged row is missing at the end. After a broker came back
from an older copy the end is this, too: each row marked sent is in Kafka, or the shard waits, or the
loss of the progress topic was reported."""
LIMIT = "more states than the limit of the configuration"

# Places --------------------------------------------------------------------------------------------

NONE, ALLOTTED, PENDING, SENT, PARKED, DISCARDED, VOID = range(7)
"""Of a row. Allotted: its id is handed out, its transaction not committed. Void: that was lost by a restore."""
OFF, STEP_1, STEP_2, STEP_3, CHECKED, READY, SELECTED, IN_TXN, ASKED, COMMITTED, PARKING, WAITS = range(12)
"""Of a relay: the steps of taking a shard, then those of the cycle."""
FENCED, LIVE, FORGOTTEN = range(3)
"""Of a producer."""

Refs = tuple[int, ...]
Label = tuple[object, ...]


class Config(NamedTuple):
    """What is explored: how many rows, and which faults beside those that are always there."""

    name: str
    interactions: str
    """One letter for each row id."""
    batch: int = 2
    fickle: Refs = ()
    """Rows that the encoder or the broker may refuse, and may take after all."""
    poison: Refs = ()
    """Rows that the broker always refuses."""
    replay: Refs = ()
    """Id of the new row, id of the row it repeats."""
    passing: bool = False
    """``OUTBOX_ON_PARKED=skip``: later rows do not wait for a parked one."""
    restore: bool = False
    """The database may go back in time, once."""
    progress_lost: bool = False
    """The progress topic may be lost, once."""
    broker_back: bool = False
    """The broker may come back from an older copy of its disk, once."""
    limit: int = 6_000_000
    """States."""


class Db(NamedTuple):
    """The outbox: each row, and the shard's row."""

    state: tuple[int, ...]
    nonce: tuple[int, ...]
    """Per id: 0, or 1 for a row inserted after a restore."""
    follows: tuple[int, ...]
    """Bookkeeping of the model, per id: bits of the rows of its interaction acknowledged before it was posted."""
    acknowledged_sequence: int = 0
    floor: int = 0
    backup: "Db | None" = None
    restored: bool = False
    offset: int = 0
    """Of the progress record that was settled last; 0: there is none, or it is not known."""
    last: Refs = ()
    """Its rows, for the digest of the whole record."""
    reported: bool = False
    """That the progress topic was lost."""


class Txn(NamedTuple):
    """An open Kafka transaction."""

    owner: int
    """-1: the relay is gone, its request to commit may still be under way."""
    refs: Refs
    sequence: int
    asked: bool


Record = tuple[int, Refs, int]
"""A progress record: sequence, rows, offset."""
NO_RECORD: Record = (0, (), 0)


class Kafka(NamedTuple):
    """The topics and the transactions under way."""

    committed: int = 0
    """A bit for each ref."""
    record: Record = NO_RECORD
    """The last progress record."""
    txns: tuple[Txn, ...] = ()
    excused: int = -1
    """Bits of rows that the loss of the progress topic may double; -1: it was not lost."""
    end: int = 0
    """Offset of the last progress record that its partition has."""
    copy: "tuple[int, Record, int] | None" = None
    """An older copy of the broker's disk: the rows committed, the last progress record, the end."""
    lost: int = -1
    """Bits of rows that a broker from an older copy has lost; -1: it did not come back so."""
    reconciled: bool = False


class Relay(NamedTuple):
    """One relay: where it stands, and what it remembers."""

    at: int = OFF
    holds: bool = False
    """The database still names this relay's lease and epoch."""
    producer: int = FENCED
    acknowledged_sequence: int = 0
    """The settled sequence as this relay knows it."""
    refs: Refs = ()
    """The batch in hand."""
    record: Record = NO_RECORD
    """As read back in step 3."""
    suspects: Refs = ()
    """Rows to park."""
    narrow: bool = False
    """A batch was refused: one row at a time until the culprit is found."""
    held_at_backup: bool = False
    offset: int = 0
    """Of the progress record of its last transaction, as the delivery report said."""


class State(NamedTuple):
    """Everything at one moment."""

    db: Db
    kafka: Kafka
    relays: tuple[Relay, ...]


Step = tuple[Label, bool, State]
"""What happens, whether it happens when nothing goes wrong any more, and what is then."""


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
    """The state in which one relay is ``relay``, and perhaps the database or Kafka has changed, too."""
    relays = (relay, state.relays[1]) if which == 0 else (state.relays[0], relay)
    return State(db or state.db, kafka or state.kafka, relays)
