"""The delivery protocol made executable: every interleaving of one shard's web process, two relays,
the broker, the operator, the database, and the faults between them.

    web       an id is handed out; its row becomes visible, perhaps after a later id's
    relay     lease, init_transactions, read back, settle, select, produce, ask to commit, learn the
              answer, mark, park; crash or drop everything anywhere (``relay_steps``)
    broker    commits, loses the request or the answer, times a transaction out, forgets a producer id
    operator  retry, discard; a replay is a new row
    database  answer lost, back-up, restore
"""

from collections.abc import Iterator

from tests.model.relay_steps import RelaySteps
from tests.model.states import (
    ALLOTTED,
    BEHIND,
    DISCARDED,
    FENCED,
    FORGOTTEN,
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
    Relay,
    State,
    Step,
    Txn,
    ViolationError,
    with_state,
)


class Protocol(RelaySteps):
    """The protocol for one configuration, with at most one rule left out."""

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
        """Whether nothing is left that the protocol has to do by itself."""
        if any(r.at == WAITS and r.holds for r in s.relays):
            return True
        state = s.db.state
        return not any(x == ALLOTTED or (x == PENDING and not self.waits(state, j)) for j, x in enumerate(state))

    def _web(self, s: State) -> Iterator[Step]:
        db, replay = s.db, self.config.replay
        for i, state in enumerate(db.state):
            if state == ALLOTTED:
                yield ("web: row visible", i), True, s._replace(db=with_state(db, i, PENDING))
            elif state == NONE:
                if replay and i == replay[0] and db.state[replay[1]] != SENT:
                    return
                follows = sum(1 << e for e in self.earlier[i] if PENDING <= db.state[e] <= DISCARDED)
                new = with_state(db, i, ALLOTTED)._replace(
                    tag=(*db.tag[:i], int(db.restored), *db.tag[i + 1 :]),
                    follows=(*db.follows[:i], follows, *db.follows[i + 1 :]),
                )
                yield ("web: id handed out", i), False, s._replace(db=new)
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

    def _database(self, s: State) -> Iterator[Step]:
        db, kafka, relays = s
        if not self.config.restore or db.restored:
            return
        if db.backup is None:
            noted = tuple(r._replace(held_at_backup=r.holds) for r in relays)
            yield ("database: back-up",), False, State(db._replace(backup=db), kafka, noted)
        else:
            state = tuple(VOID if x == ALLOTTED else x for x in db.backup.state)
            old = db.backup._replace(restored=True, state=state)
            again = tuple(r._replace(holds=r.held_at_backup, held_at_backup=False) for r in relays)
            yield ("database: RESTORED",), False, State(old, kafka, again)

    def _broker(self, s: State) -> Iterator[Step]:
        db, kafka, relays = s
        for k, txn in enumerate(kafka.txns):
            rest = kafka.txns[:k] + kafka.txns[k + 1 :]
            if txn.asked:
                yield from self._commit(s, txn, rest)
            if txn.owner >= 0:
                fenced = tuple(r._replace(producer=FENCED) if n == txn.owner else r for n, r in enumerate(relays))
                label: Label = ("broker: transaction times out", txn.refs)
                yield label, False, State(db, kafka._replace(txns=rest), fenced)
        if self.config.progress_lost and kafka.excused < 0:
            sequence, refs = kafka.record
            unsettled = sum(1 << ref for ref in refs if sequence > db.settled)
            lost = kafka._replace(record=(0, ()), excused=unsettled)
            yield ("broker: progress topic LOST",), False, s._replace(kafka=lost)
        if not kafka.txns:
            lapsed = FORGOTTEN if self.mutation == "same rows again on an expired producer id" else FENCED
            forgotten = tuple(r._replace(producer=lapsed) if r.at >= STEP_2 else r for r in relays)
            yield ("broker: forgets the producer id",), False, State(db, kafka, forgotten)

    def _commit(self, s: State, txn: Txn, rest: tuple[Txn, ...]) -> Iterator[Step]:
        """The broker takes the request to commit, or it is lost."""
        kafka, label = s.kafka, ("broker: commits", txn.refs)
        record = (txn.sequence, txn.refs)
        if self.mutation == "progress record written after the transaction":
            record = kafka.record
        committed = Kafka(self._deliver(s.db, kafka, txn, label), record, rest, kafka.excused)
        yield label, True, s._replace(kafka=committed)
        lost = rest if txn.owner < 0 else tuple(sorted((*rest, txn._replace(asked=False))))
        yield ("broker: request to commit lost",), False, s._replace(kafka=kafka._replace(txns=lost))

    def _deliver(self, db: Db, kafka: Kafka, txn: Txn, label: Label) -> int:
        """The commit is decided: check what the consumer will see."""
        batch = sum(1 << ref for ref in txn.refs)
        if kafka.committed & batch & ~max(kafka.excused, 0):
            raise ViolationError(ONCE, label)
        committed = kafka.committed | batch
        for ref in txn.refs:
            j, tag = ref % self.n, ref // self.n
            if db.tag[j] != tag or (db.restored and (self.config.fickle or self.config.poison)):
                continue  # after a restore the database has forgotten what operators decided
            if db.state[j] in (PARKED, DISCARDED):
                raise ViolationError(PARKED_STAYS, label)
            for i in () if self.config.passing else self.earlier[j]:
                if db.state[i] == PARKED:
                    raise ViolationError(BEHIND, label)
                late = not committed >> (i + self.n * db.tag[i]) & 1 and db.state[i] != DISCARDED
                if late and db.follows[j] >> i & 1:
                    raise ViolationError(ORDER, label)
        return committed
