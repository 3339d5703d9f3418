"""The delivery protocol as an executable model: every interleaving of one shard's web process, two relays, the broker,
the operator, the database, and their faults.

    web       assigns an id; the row becomes visible, perhaps after a later one
    relay     lease, init_transactions, read back, acknowledge, select, produce, request the commit, get
              the answer, mark, park; crash or take over again anywhere (``relay_steps``)
    broker    commits, loses the request or the answer, times a transaction out, forgets a producer id,
              loses the progress topic, is restored from an older copy of its disk
    operator  retry, discard; a replay is a new row; reconcile after an older copy
    database  answer lost, back-up, restore
"""

from collections.abc import Iterator

from tests.model.relay_steps import RelaySteps
from tests.model.states import (
    ASSIGNED,
    BEHIND,
    COMMITTING,
    DISCARDED,
    FENCED,
    FORGOTTEN,
    IN_TXN,
    NO_RECORD,
    NONE,
    ONCE,
    ORDER,
    PARKED,
    PARKED_STAYS,
    PENDING,
    SENT,
    STEP_2,
    VOID,
    WAITS,
    Db,
    Kafka,
    Label,
    Record,
    Relay,
    State,
    Step,
    Txn,
    ViolationError,
    missing,
    with_relay,
    with_state,
)


class Protocol(RelaySteps):
    """The protocol for one configuration, with at most one rule omitted."""

    def start(self) -> State:
        """Nothing has happened yet."""
        return State(Db((NONE,) * self.n, (0,) * self.n, (0,) * self.n), Kafka(), (Relay(), Relay()))

    def successors(self, s: State) -> Iterator[Step]:
        """Everything that can happen next.

        Raises:
            ViolationError: a step breaks an invariant.
        """
        yield from self._web(s)
        yield from self._operator(s)
        yield from self._database(s)
        yield from self._broker(s)
        yield from self.relay(s, 0)
        yield from self.relay(s, 1)

    def ended(self, s: State) -> bool:
        """Whether the protocol has nothing left to do."""
        if any(r.at == WAITS and r.has_lease for r in s.relays):
            return True
        if s.kafka.lost >= 0 and not s.db.reported and missing(s.db, s.kafka):
            return False  # an unnoticed loss
        state = s.db.state
        return not any(x == ASSIGNED or (x == PENDING and not self.waits(state, j)) for j, x in enumerate(state))

    def _web(self, s: State) -> Iterator[Step]:
        db, replay = s.db, self.config.replay
        for i, state in enumerate(db.state):
            if state == ASSIGNED:
                yield ("web: row visible", i), True, s._replace(db=with_state(db, i, PENDING))
            elif state == NONE:
                if replay and i == replay[0] and db.state[replay[1]] != SENT:
                    return
                follows = sum(1 << e for e in self.earlier[i] if PENDING <= db.state[e] <= DISCARDED)
                new = with_state(db, i, ASSIGNED)._replace(
                    nonce=(*db.nonce[:i], int(db.restored), *db.nonce[i + 1 :]),
                    follows=(*db.follows[:i], follows, *db.follows[i + 1 :]),
                )
                yield ("web: id assigned", i), False, s._replace(db=new)
                return

    def _operator(self, s: State) -> Iterator[Step]:
        db = s.db
        for i, state in enumerate(db.state):
            if state == PARKED:
                floor = db.floor if self.mutation == "floor not reset by retry" else 0
                yield ("operator: retry", i), False, s._replace(db=with_state(db, i, PENDING)._replace(floor=floor))
                floor = db.floor if self.mutation == "floor not reset by discard" else 0
                discarded = with_state(db, i, DISCARDED)._replace(floor=floor)
                yield ("operator: discard", i), False, s._replace(db=discarded)
        for a, r in enumerate(s.relays):
            if r.at == WAITS and r.has_lease and s.kafka.lost >= 0:
                yield from self._reconcile(s, a)

    def _reconcile(self, s: State, a: int) -> Iterator[Step]:
        """Make rows pending that are marked sent but missing in the topic, commit a progress record of the acknowledged
        sequence, then acknowledge it; it may be interrupted in between.
        """
        db, kafka, lacking = s.db, s.kafka, missing(s.db, s.kafka)
        sequence, end = max(db.acknowledged_sequence, kafka.record[0]), kafka.end + 1
        db = db._replace(state=tuple(PENDING if i in lacking else x for i, x in enumerate(db.state)), floor=0)
        yield ("operator: a reconcile is interrupted at once", *lacking), False, with_relay(s, a, Relay(), db=db)
        if self.mutation != "reconcile writes no record":
            kafka = kafka._replace(record=(sequence, (), end), end=end)
        if s.kafka.record[1]:  # only once, because each record takes an offset
            interrupted = with_relay(s, a, Relay(), db=db, kafka=kafka)
            yield ("operator: a reconcile is interrupted after its record", *lacking), False, interrupted
        acknowledged = db._replace(acknowledged_sequence=sequence, offset=end, last=())
        done = with_relay(s, a, Relay(), db=acknowledged, kafka=kafka._replace(reconciled=True))
        yield ("operator: reconciles", *lacking), False, done

    def _database(self, s: State) -> Iterator[Step]:
        db, kafka, relays = s
        if not self.config.restore or db.restored:
            return
        if db.backup is None:
            noted = tuple(r._replace(had_lease_at_backup=r.has_lease) for r in relays)
            yield ("database: back-up",), False, State(db._replace(backup=db), kafka, noted)
        else:
            state = tuple(VOID if x == ASSIGNED else x for x in db.backup.state)
            old = db.backup._replace(restored=True, state=state)
            again = tuple(r._replace(has_lease=r.had_lease_at_backup, had_lease_at_backup=False) for r in relays)
            yield ("database: RESTORED",), False, State(old, kafka, again)

    def _broker(self, s: State) -> Iterator[Step]:
        db, kafka, relays = s
        for k, txn in enumerate(kafka.txns):
            rest = kafka.txns[:k] + kafka.txns[k + 1 :]
            if txn.commit_requested:
                yield from self._commit(s, txn, rest)
            if txn.owner >= 0:
                fenced = tuple(r._replace(producer=FENCED) if n == txn.owner else r for n, r in enumerate(relays))
                label: Label = ("broker: transaction times out", txn.refs)
                yield label, False, State(db, kafka._replace(txns=rest), fenced)
        yield from self._losses(s)
        if not kafka.txns:
            lapsed = FORGOTTEN if self.mutation == "same rows again on an expired producer id" else FENCED
            forgotten = tuple(r._replace(producer=lapsed) if r.at >= STEP_2 else r for r in relays)
            yield ("broker: forgets the producer id",), False, State(db, kafka, forgotten)

    def _losses(self, s: State) -> Iterator[Step]:
        """Losses that a broker never has if it keeps what it acknowledged."""
        db, kafka, relays = s
        if self.config.progress_lost and kafka.may_repeat < 0:
            sequence, refs, _ = kafka.record
            unacknowledged = sum(1 << ref for ref in refs if sequence > db.acknowledged_sequence)
            lost = kafka._replace(record=NO_RECORD, may_repeat=unacknowledged, end=0)
            yield ("broker: progress topic LOST",), False, s._replace(kafka=lost)
        if self.config.broker_back and kafka.lost < 0:
            if kafka.copy is None:
                copied = kafka._replace(copy=(kafka.committed, kafka.record, kafka.end))
                yield ("broker: its disk is copied",), False, s._replace(kafka=copied)
                return
            committed, record, end = kafka.copy  # producers may survive; open transactions do not
            back = Kafka(committed, record, end=end, lost=kafka.committed & ~committed)
            fenced = tuple(r._replace(producer=FENCED) if r.at in (IN_TXN, COMMITTING) else r for r in relays)
            yield ("broker: RESTORED FROM AN OLDER COPY",), False, State(db, back, fenced)

    def _commit(self, s: State, txn: Txn, rest: tuple[Txn, ...]) -> Iterator[Step]:
        """The broker receives the commit request, or it is lost."""
        kafka, label = s.kafka, ("broker: commits", txn.refs)
        end = kafka.end + 1 if self.config.broker_back or self.config.progress_lost else 0
        record: Record = (txn.sequence, txn.refs, end)
        if self.mutation == "progress record written after the transaction":
            record = kafka.record
        committed = kafka._replace(committed=self._deliver(s.db, kafka, txn, label), record=record, txns=rest, end=end)
        reported = tuple(r._replace(offset=end) if n == txn.owner else r for n, r in enumerate(s.relays))
        yield label, True, State(s.db, committed, reported)
        lost = rest if txn.owner < 0 else tuple(sorted((*rest, txn._replace(commit_requested=False))))
        yield ("broker: commit request lost",), False, s._replace(kafka=kafka._replace(txns=lost))

    def _deliver(self, db: Db, kafka: Kafka, txn: Txn, label: Label) -> int:
        """Check what consumers see after a commit."""
        batch = sum(1 << ref for ref in txn.refs)
        if kafka.committed & batch & ~max(kafka.may_repeat, 0):
            raise ViolationError(ONCE, label)
        committed = kafka.committed | batch
        for ref in txn.refs:
            j, nonce = ref % self.n, ref // self.n
            if db.nonce[j] != nonce or (db.restored and (self.config.refusable or self.config.poison)):
                continue  # a restored database has forgotten what operators decided
            if db.state[j] in (PARKED, DISCARDED):
                raise ViolationError(PARKED_STAYS, label)
            for i in () if self.config.skip_parked else self.earlier[j]:
                if db.state[i] == PARKED:
                    raise ViolationError(BEHIND, label)
                late = not committed >> (i + self.n * db.nonce[i]) & 1 and db.state[i] != DISCARDED
                if late and db.follows[j] >> i & 1 and kafka.lost < 0:  # a loss leaves no order
                    raise ViolationError(ORDER, label)
        return committed
