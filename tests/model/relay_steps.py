"""The relay's steps in the exhaustive model: taking a shard, then select, commit, mark, park.

A database transaction is one step, since the shard's row is locked; where a mutation leaves out the
lock it is two. A paused relay is one that takes no step for a while, and another may take the lease
at any moment, so every pause and take-over is explored.
"""

from collections.abc import Iterator
from typing import Any

from tests.model.states import (
    ALLOTTED,
    ASKED,
    CHECKED,
    COMMITTED,
    DISCARDED,
    FENCED,
    FORGOTTEN,
    IN_TXN,
    LIVE,
    LOSS,
    NO_RECORD,
    NONE,
    OFF,
    PARK_GUILTY,
    PARK_UNSENT,
    PARKED,
    PARKING,
    PENDING,
    READY,
    SELECTED,
    SENT,
    STEP_1,
    STEP_2,
    STEP_3,
    VOID,
    WAITS,
    WAITS_RIGHTLY,
    Config,
    Db,
    Label,
    Record,
    Refs,
    Relay,
    State,
    Step,
    Txn,
    ViolationError,
    missing,
    with_relay,
    with_state,
)


class RelaySteps:
    """Every step that a relay can take from where it stands.

    Args:
        config: what is explored.
        mutation: the rule that is left out; empty: none.
    """

    def __init__(self, config: Config, mutation: str = "") -> None:
        self.config, self.mutation = config, mutation
        self.n = len(config.interactions)
        names = config.interactions
        self.earlier = [[i for i in range(j) if names[i] == names[j]] for j in range(self.n)]
        self._steps = {
            STEP_1: self._second_of_lease_and_fence,
            STEP_2: self._read_back,
            STEP_3: self._settle_record,
            CHECKED: self._settle_checked,
            READY: self._park_or_select,
            PARKING: self._park,
            SELECTED: self._produce,
            IN_TXN: self._in_transaction,
            ASKED: self._await_commit,
            COMMITTED: self._mark,
        }

    def relay(self, s: State, a: int) -> Iterator[Step]:
        """The steps of relay ``a``; a shard that waits for an operator does nothing but crash."""
        r = s.relays[a]
        if r.at == OFF:
            yield from self._first_of_lease_and_fence(s, a)
            return
        yield (f"relay {a}: crashes",), False, self._leave(s, a)
        step = self._steps.get(r.at)
        if step:
            yield from step(s, a, r)

    def waits(self, state: tuple[int, ...], row: int) -> bool:
        """Whether a row stands behind a parked row of its interaction."""
        return not self.config.passing and any(state[i] == PARKED for i in self.earlier[row])

    # Leaving, and taking the shard ---------------------------------------------------------------

    def _leave(self, s: State, a: int, **memory: Any) -> State:
        """Drop the producer and everything in hand. An open transaction that nobody can commit any
        more is as good as aborted; one that was asked to commit may still do so.
        """
        kept = (t._replace(owner=-1) if t.owner == a else t for t in s.kafka.txns if t.owner != a or t.asked)
        return with_relay(s, a, Relay(**memory), kafka=s.kafka._replace(txns=tuple(sorted(kept))))

    def _anew(self, s: State, a: int, **changes: Any) -> State:
        """Leave, but remember what was learnt about refused rows: take the shard from step 1."""
        r = s.relays[a]
        if self.mutation == "batch kept when the shard is taken anew":
            changes["refs"] = r.refs
        return self._leave(s, a, **{"suspects": r.suspects, "narrow": r.narrow, **changes})

    def _lease(self, s: State, a: int, at: int) -> State:
        """Step 1: a new epoch; nobody else's lease and epoch are good any more."""
        without = s._replace(relays=tuple(r._replace(holds=False) for r in s.relays))
        return with_relay(without, a, without.relays[a]._replace(at=at, holds=True, held_at_backup=False))

    def _fence(self, s: State, a: int, at: int) -> State:
        """Step 2: earlier producers are fenced; what was not committed by now is aborted."""
        if self.mutation == "no fencing":
            return with_relay(s, a, s.relays[a]._replace(at=at, producer=LIVE))
        fenced = s._replace(relays=tuple(r._replace(producer=FENCED) for r in s.relays))
        taken = fenced.relays[a]._replace(at=at, producer=LIVE)
        return with_relay(fenced, a, taken, kafka=s.kafka._replace(txns=()))

    def _first_of_lease_and_fence(self, s: State, a: int) -> Iterator[Step]:
        free = not s.relays[1 - a].holds  # otherwise the holder's lease has to run out: a fault
        if self.mutation == "fencing before the lease":
            yield (f"relay {a}: init_transactions",), free, self._fence(s, a, STEP_1)
        else:
            yield (f"relay {a}: takes the lease",), free, self._lease(s, a, STEP_1)

    def _second_of_lease_and_fence(self, s: State, a: int, _: Relay) -> Iterator[Step]:
        if self.mutation == "fencing before the lease":
            yield (f"relay {a}: takes the lease",), True, self._lease(s, a, STEP_2)
        else:
            yield (f"relay {a}: init_transactions",), True, self._fence(s, a, STEP_2)

    def _read_back(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Step 3."""
        record = NO_RECORD if self.mutation == "no read-back" else s.kafka.record
        yield (f"relay {a}: reads back", record), True, with_relay(s, a, r._replace(at=STEP_3, record=record))

    # Step 4: settling what was read back ---------------------------------------------------------

    def _settle_record(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Lease and epoch are checked under the shard row's lock, then the record is settled."""
        db, (sequence, refs, offset) = s.db, r.record
        mine = tuple(ref for ref in refs if self._matches(db, ref))
        checks = self.mutation != "no lease check in step 4"
        if self.mutation == "lease check in step 4 only if rows":
            checks = any(db.state[ref % self.n] == PENDING for ref in mine)
        if checks and not r.holds:
            yield (f"relay {a}: lease lost, gives up",), True, self._anew(s, a)
        elif self._kafka_went_back(db, r.record):
            yield from self._wait_after_a_loss(s, a, r, mine)
        elif sequence == 0:
            yield (f"relay {a}: nothing to settle",), True, self._nothing_to_settle(s, a, r)
        elif sequence > db.acknowledged_sequence + 1 and self.mutation != "sequence further ahead is settled too":
            label: Label = (f"relay {a}: the database went back, the shard waits",)
            if not db.restored:
                raise ViolationError(WAITS_RIGHTLY, label)
            yield label, True, with_relay(s, a, Relay(WAITS, r.holds))
        elif self.mutation == "tag checked before the marking statement":
            differ = [f for f in refs if db.state[f % self.n] not in (NONE, ALLOTTED, VOID) and f not in mine]
            kept = (sequence, tuple(ref for ref in refs if ref not in differ), offset)
            yield (f"relay {a}: compares tags",), True, with_relay(s, a, r._replace(at=CHECKED, record=kept))
        else:
            yield from self._settled(s, a, r, mine)

    def _kafka_went_back(self, db: Db, record: Record) -> bool:
        """The record is below the settled one, is another one of its sequence, or follows it at no later offset."""
        sequence, refs, offset = record
        if not sequence:
            return False
        if sequence < db.acknowledged_sequence:
            return self.mutation != "a record below the settled one is let pass"
        if not db.offset or self.mutation == "offsets are not compared":
            return False
        if sequence == db.acknowledged_sequence:
            return (offset, refs) != (db.offset, db.last)
        return sequence == db.acknowledged_sequence + 1 and offset <= db.offset

    def _wait_after_a_loss(self, s: State, a: int, r: Relay, mine: Refs) -> Iterator[Step]:
        """What is in Kafka is a fact all the same: its rows are marked, and nothing is settled."""
        db, kafka, label = s.db, s.kafka, (f"relay {a}: Kafka went back, the shard waits",)
        back = kafka.lost >= 0 and (not kafka.reconciled or missing(db, kafka))
        replaced_topic = kafka.excused >= 0 and not db.reported
        if not (db.restored or back or replaced_topic):
            raise ViolationError(WAITS_RIGHTLY, label)
        marked = self._settle(s, 0, mine, label)
        yield label, True, with_relay(s, a, Relay(WAITS, r.holds), db=marked)

    def _nothing_to_settle(self, s: State, a: int, r: Relay) -> State:
        """There is no record; if something was settled, the progress topic was lost: that is reported."""
        db = s.db
        if db.acknowledged_sequence:
            db = db._replace(reported=True)
            if self.mutation != "offset kept when the progress topic is lost":
                db = db._replace(offset=0, last=())
        return with_relay(s, a, self._ready(r, db.acknowledged_sequence), db=db)

    def _settled(self, s: State, a: int, r: Relay, mine: Refs) -> Iterator[Step]:
        (sequence, refs, offset), label = r.record, (f"relay {a}: settles the record read back", r.record[1])
        new = self._settle(s, sequence, mine, label)._replace(offset=offset, last=refs if offset else ())
        if self.mutation == "sequence further ahead is settled too":
            new = new._replace(acknowledged_sequence=max(s.db.acknowledged_sequence, sequence))
        yield label, True, with_relay(s, a, self._ready(r, new.acknowledged_sequence), db=new)
        yield (*label, "answer lost"), False, with_relay(s, a, r, db=new)

    def _settle_checked(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Only under a mutation: rows marked by id, tags having been compared earlier."""
        label = (f"relay {a}: settles by id", r.record[1])
        now = tuple(ref % self.n + self.n * s.db.nonce[ref % self.n] for ref in r.record[1])
        done = Relay(READY, r.holds, r.producer, r.record[0])
        yield label, True, with_relay(s, a, done, db=self._settle(s, r.record[0], now, label))

    def _ready(self, r: Relay, settled: int) -> Relay:
        at = SELECTED if r.refs else READY  # a batch is in hand under a mutation only
        return r._replace(at=at, record=NO_RECORD, acknowledged_sequence=settled)

    def _matches(self, db: Db, ref: int) -> bool:
        i = ref % self.n
        if db.state[i] in (NONE, ALLOTTED, VOID):
            return False
        return self.mutation == "tag not checked" or db.nonce[i] == ref // self.n

    def _settle(self, s: State, sequence: int, refs: Refs, label: Label) -> Db:
        """One database transaction: rows sent, the sequence settled if it is the next, the floor
        raised. What was committed is a fact, so rows are marked whatever the sequence, and also
        those that the database, after a restore, believes parked or discarded.
        """
        db, state = s.db, list(s.db.state)
        unsent = (PENDING,) if self.mutation == "only pending rows are marked" else (PENDING, PARKED, DISCARDED)
        for ref in refs:
            i = ref % self.n
            if state[i] in unsent:
                if not (s.kafka.committed | max(s.kafka.lost, 0)) >> (i + self.n * db.nonce[i]) & 1:
                    raise ViolationError(LOSS, label)
                state[i] = SENT
        settled = sequence if sequence == db.acknowledged_sequence + 1 else db.acknowledged_sequence
        return db._replace(
            state=tuple(state), acknowledged_sequence=settled, floor=self._raised_floor(db, tuple(state), refs)
        )

    def _raised_floor(self, db: Db, state: tuple[int, ...], refs: Refs) -> int:
        """The first id that is pending (waiting ones too), or young enough to be still invisible."""
        if self.mutation == "naive floor":
            return max([db.floor] + [ref % self.n + 1 for ref in refs])
        over_waiting = self.mutation == "floor not reset by discard"
        floor = 0
        while floor < self.n and (
            state[floor] in (SENT, PARKED, DISCARDED, VOID)
            or (over_waiting and state[floor] == PENDING and self.waits(state, floor))
        ):
            floor += 1
        return max(db.floor, floor)

    # Step 5 and the cycle ------------------------------------------------------------------------

    def _park_or_select(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """One snapshot of the shard's row and of the pending rows."""
        db = s.db
        if r.suspects:
            yield from self._park_suspects(s, a, r)
            return
        if (
            db.acknowledged_sequence != r.acknowledged_sequence
            and self.mutation != "select does not compare the settled sequence"
        ):
            yield (f"relay {a}: settled sequence is not ours, takes anew",), True, self._anew(s, a)
            return
        clause = self.mutation != "select does not look for parked rows"
        rows = [
            i for i in range(db.floor, self.n) if db.state[i] == PENDING and not (clause and self.waits(db.state, i))
        ]
        refs = tuple(i + self.n * db.nonce[i] for i in rows[: 1 if r.narrow else self.config.batch])
        if refs:
            yield (f"relay {a}: selects", refs), True, with_relay(s, a, r._replace(at=SELECTED, refs=refs))
        elif (
            db.offset and s.kafka.record[1:] != (db.last, db.offset) and self.mutation != "an idle shard does not look"
        ):
            yield (f"relay {a}: idle, the last record is not the settled one, takes anew",), True, self._anew(s, a)

    def _park_suspects(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        if not r.holds and self.mutation != "no lease check on park":
            yield (f"relay {a}: lease lost, does not park",), True, self._anew(s, a)
        elif self.mutation == "lease check on park without lock":
            yield (f"relay {a}: park checked, not yet committed",), True, with_relay(s, a, r._replace(at=PARKING))
        else:
            yield from self._park(s, a, r)

    def _park(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        db, label = s.db, (f"relay {a}: parks", r.suspects)
        for ref in r.suspects:
            i, same = ref % self.n, db.nonce[ref % self.n] == ref // self.n
            if db.state[i] == PENDING and (same or self.mutation == "park without tag"):
                if s.kafka.committed >> (i + self.n * db.nonce[i]) & 1 and not db.restored:
                    raise ViolationError(PARK_UNSENT, label)
                if i not in self.config.fickle + self.config.poison or not same:
                    raise ViolationError(PARK_GUILTY, label)
                db = with_state(db, i, PARKED)
        yield label, True, with_relay(s, a, r._replace(at=READY, suspects=(), narrow=False), db=db)
        if db != s.db:
            yield (*label, "answer lost"), False, with_relay(s, a, r, db=db)

    def _produce(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Encode, begin the transaction, produce the rows and the progress record."""
        for ref in r.refs:
            if ref % self.n in self.config.fickle:
                suspected = r._replace(at=READY, refs=(), suspects=(ref,))
                yield (f"relay {a}: cannot encode", ref), False, with_relay(s, a, suspected)
        if r.producer != LIVE:
            yield (f"relay {a}: producer refused, takes anew",), True, self._anew(s, a)
            if r.producer == FORGOTTEN:  # only under a mutation
                yield (f"relay {a}: aborts, new producer id, same rows",), False, self._fence(s, a, SELECTED)
        else:
            txns = tuple(sorted((*s.kafka.txns, Txn(a, r.refs, r.acknowledged_sequence + 1, asked=False))))
            begun = with_relay(s, a, r._replace(at=IN_TXN), kafka=s.kafka._replace(txns=txns))
            yield (f"relay {a}: produces", r.refs), True, begun

    def _in_transaction(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Every error takes the same way out; a refused row or batch is remembered."""
        if r.producer != LIVE:
            yield (f"relay {a}: fenced, takes anew",), True, self._anew(s, a)
            return
        yield (f"relay {a}: aborts, takes anew",), False, self._anew(s, a)
        guilty = any(ref % self.n in self.config.fickle + self.config.poison for ref in r.refs)
        always = any(ref % self.n in self.config.poison for ref in r.refs)
        if guilty and (len(r.refs) == 1 or self.mutation == "refused batch parked whole"):
            label = (f"relay {a}: rows refused, aborts, takes anew", r.refs)
            yield label, always, self._anew(s, a, suspects=r.refs)
        elif guilty:
            yield (f"relay {a}: batch refused, aborts, takes anew", r.refs), always, self._anew(s, a, narrow=True)
        if always:
            return
        if self.mutation == "mark before commit":
            yield from self._mark(s, a, r)
        asked = tuple(sorted(t._replace(asked=True) if t.owner == a else t for t in s.kafka.txns))
        asking = with_relay(s, a, r._replace(at=ASKED), kafka=s.kafka._replace(txns=asked))
        yield (f"relay {a}: asks to commit",), True, asking

    def _await_commit(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """No answer means unknown, never "aborted"."""
        mine = [t for t in s.kafka.txns if t.owner == a]
        no_answer = r.producer != LIVE or bool(mine and not mine[0].asked)
        yield (f"relay {a}: outcome unknown, takes anew",), no_answer, self._anew(s, a)
        if self.mutation == "guess that an unknown commit did not happen":
            txns = tuple(t for t in s.kafka.txns if t.owner != a)
            guessed = with_relay(s, a, r._replace(at=READY, refs=()), kafka=s.kafka._replace(txns=txns))
            yield (f"relay {a}: guesses: not committed",), False, guessed
        if r.producer == LIVE and not mine:
            kafka = s.kafka
            if self.mutation == "progress record written after the transaction":
                kafka = kafka._replace(record=(r.acknowledged_sequence + 1, r.refs, 0))
            learnt = with_relay(s, a, r._replace(at=COMMITTED), kafka=kafka)
            yield (f"relay {a}: learns that it committed",), True, learnt

    def _mark(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """The ordinary mark, under the shard row's lock. Without lease and epoch it marks nothing: whoever
        took the shard meanwhile reads back what Kafka has, and only that is a fact.
        """
        sequence, label = r.acknowledged_sequence + 1, (f"relay {a}: marks", r.refs)
        if not r.holds and self.mutation != "no lease check on the mark":
            yield (f"relay {a}: lease lost, does not mark",), True, self._anew(s, a)
            return
        record, mine = (sequence, r.refs, r.offset), tuple(ref for ref in r.refs if self._matches(s.db, ref))
        if sequence == s.db.acknowledged_sequence + 1 and self._kafka_went_back(s.db, record):
            yield from self._wait_after_a_loss(s, a, r, mine)
            return
        new = self._settle(s, sequence, mine, label)
        if sequence == s.db.acknowledged_sequence + 1 and r.offset:
            new = new._replace(offset=r.offset, last=r.refs)
        if self.mutation == "mark raises the settled sequence":
            new = new._replace(acknowledged_sequence=max(s.db.acknowledged_sequence, sequence))
        if self.mutation == "floor computed before the lock":
            if not r.record[0]:
                computed = with_relay(s, a, r._replace(record=(1, (new.floor,), 0)))
                yield (f"relay {a}: computes the floor", new.floor), True, computed
                return
            new = new._replace(floor=r.record[1][0])
        done = Relay(READY, r.holds, r.producer, sequence, held_at_backup=r.held_at_backup)
        yield label, True, with_relay(s, a, done, db=new)
        yield (*label, "answer lost"), False, with_relay(s, a, r, db=new)
