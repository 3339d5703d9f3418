"""The relay's steps in the exhaustive model: takeover, select, commit, mark, park.

A database transaction is one step, because the shard's row is locked; a mutation that omits the lock makes it two. A
frozen relay is one that takes no step for a while, and the other may take the lease at any time, so every freeze and
every takeover is explored.
"""

from collections.abc import Iterator
from typing import Any

from tests.model.states import (
    ASSIGNED,
    CHECKED,
    COMMITTED,
    COMMITTING,
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
    """Every step that a relay can take from its present state.

    Args:
        config: what is explored.
        mutation: the rule that is omitted; empty for none.
    """

    def __init__(self, config: Config, mutation: str = "") -> None:
        self.config, self.mutation = config, mutation
        self.n = len(config.interactions)
        names = config.interactions
        self.earlier = [[i for i in range(j) if names[i] == names[j]] for j in range(self.n)]
        self._steps = {
            STEP_1: self._second_of_lease_and_fence,
            STEP_2: self._read_back,
            STEP_3: self._acknowledge_record,
            CHECKED: self._acknowledge_by_id,
            READY: self._park_or_select,
            PARKING: self._park,
            SELECTED: self._produce,
            IN_TXN: self._in_transaction,
            COMMITTING: self._await_commit,
            COMMITTED: self._mark,
        }

    def relay(self, s: State, a: int) -> Iterator[Step]:
        """The steps of relay ``a``; a blocked shard can only crash."""
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
        return not self.config.skip_parked and any(state[i] == PARKED for i in self.earlier[row])

    # Leaving, and taking the shard ---------------------------------------------------------------

    def _leave(self, s: State, a: int, **memory: Any) -> State:
        """Drop the producer and the batch. An open transaction that nobody can commit any more counts as aborted; one
        whose commit was requested may still be committed.
        """
        kept = (t._replace(owner=-1) if t.owner == a else t for t in s.kafka.txns if t.owner != a or t.commit_requested)
        return with_relay(s, a, Relay(**memory), kafka=s.kafka._replace(txns=tuple(sorted(kept))))

    def _take_over_again(self, s: State, a: int, **changes: Any) -> State:
        """Leave, but remember which rows were refused, and take the shard over from step 1."""
        r = s.relays[a]
        if self.mutation == "batch kept at the next takeover":
            changes["refs"] = r.refs
        return self._leave(s, a, **{"rejected": r.rejected, "bisecting": r.bisecting, **changes})

    def _lease(self, s: State, a: int, at: int) -> State:
        """Step 1: a new epoch, which invalidates every other lease."""
        without = s._replace(relays=tuple(r._replace(has_lease=False) for r in s.relays))
        return with_relay(without, a, without.relays[a]._replace(at=at, has_lease=True, had_lease_at_backup=False))

    def _fence(self, s: State, a: int, at: int) -> State:
        """Step 2: fence earlier producers; what is not committed now is aborted."""
        if self.mutation == "no fencing":
            return with_relay(s, a, s.relays[a]._replace(at=at, producer=LIVE))
        fenced = s._replace(relays=tuple(r._replace(producer=FENCED) for r in s.relays))
        taken = fenced.relays[a]._replace(at=at, producer=LIVE)
        return with_relay(fenced, a, taken, kafka=s.kafka._replace(txns=()))

    def _first_of_lease_and_fence(self, s: State, a: int) -> Iterator[Step]:
        free = not s.relays[1 - a].has_lease  # otherwise the other lease has to expire, which is a fault
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

    # Step 4: acknowledge the record read back ---------------------------------------------------------

    def _acknowledge_record(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Check lease and epoch under the shard row's lock, then acknowledge the record."""
        db, (sequence, refs, offset) = s.db, r.record
        mine = tuple(ref for ref in refs if self._matches(db, ref))
        checks = self.mutation != "no lease check in step 4"
        if self.mutation == "lease check in step 4 only if rows":
            checks = any(db.state[ref % self.n] == PENDING for ref in mine)
        if checks and not r.has_lease:
            yield (f"relay {a}: lease lost, takes over again",), True, self._take_over_again(s, a)
        elif self._kafka_went_back(db, r.record):
            yield from self._block_after_loss(s, a, r, mine)
        elif sequence == 0:
            yield (f"relay {a}: no record",), True, self._no_record(s, a, r)
        elif sequence > db.acknowledged_sequence + 1 and self.mutation != "sequence further ahead is acknowledged too":
            label: Label = (f"relay {a}: the database went back, the shard is blocked",)
            if not db.restored:
                raise ViolationError(WAITS_RIGHTLY, label)
            yield label, True, with_relay(s, a, Relay(WAITS, r.has_lease))
        elif self.mutation == "nonce checked before the marking statement":
            differ = [f for f in refs if db.state[f % self.n] not in (NONE, ASSIGNED, VOID) and f not in mine]
            kept = (sequence, tuple(ref for ref in refs if ref not in differ), offset)
            yield (f"relay {a}: compares nonces",), True, with_relay(s, a, r._replace(at=CHECKED, record=kept))
        else:
            yield from self._acknowledge_read_back(s, a, r, mine)

    def _kafka_went_back(self, db: Db, record: Record) -> bool:
        """Whether the record is below the acknowledged one, another of its sequence, or the next at no later offset."""
        sequence, refs, offset = record
        if not sequence:
            return False
        if sequence < db.acknowledged_sequence:
            return self.mutation != "a record below the acknowledged one is accepted"
        if not db.offset or self.mutation == "offsets are not compared":
            return False
        if sequence == db.acknowledged_sequence:
            return (offset, refs) != (db.offset, db.last)
        return sequence == db.acknowledged_sequence + 1 and offset <= db.offset

    def _block_after_loss(self, s: State, a: int, r: Relay, mine: Refs) -> Iterator[Step]:
        """Mark the rows that are in Kafka, but do not acknowledge the record."""
        db, kafka, label = s.db, s.kafka, (f"relay {a}: Kafka went back, the shard is blocked",)
        back = kafka.lost >= 0 and (not kafka.reconciled or missing(db, kafka))
        replaced_topic = kafka.may_repeat >= 0 and not db.reported
        if not (db.restored or back or replaced_topic):
            raise ViolationError(WAITS_RIGHTLY, label)
        marked = self._mark_rows(s, 0, mine, label)
        yield label, True, with_relay(s, a, Relay(WAITS, r.has_lease), db=marked)

    def _no_record(self, s: State, a: int, r: Relay) -> State:
        """Without a record, although one was acknowledged, the progress topic was lost; that is reported."""
        db = s.db
        if db.acknowledged_sequence:
            db = db._replace(reported=True)
            if self.mutation != "offset kept when the progress topic is lost":
                db = db._replace(offset=0, last=())
        return with_relay(s, a, self._ready(r, db.acknowledged_sequence), db=db)

    def _acknowledge_read_back(self, s: State, a: int, r: Relay, mine: Refs) -> Iterator[Step]:
        (sequence, refs, offset), label = r.record, (f"relay {a}: acknowledges the record read back", r.record[1])
        new = self._mark_rows(s, sequence, mine, label)._replace(offset=offset, last=refs if offset else ())
        if self.mutation == "sequence further ahead is acknowledged too":
            new = new._replace(acknowledged_sequence=max(s.db.acknowledged_sequence, sequence))
        yield label, True, with_relay(s, a, self._ready(r, new.acknowledged_sequence), db=new)
        yield (*label, "answer lost"), False, with_relay(s, a, r, db=new)

    def _acknowledge_by_id(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Only with a mutation: mark rows by id, after comparing nonces earlier."""
        label = (f"relay {a}: marks by id", r.record[1])
        now = tuple(ref % self.n + self.n * s.db.nonce[ref % self.n] for ref in r.record[1])
        done = Relay(READY, r.has_lease, r.producer, r.record[0])
        yield label, True, with_relay(s, a, done, db=self._mark_rows(s, r.record[0], now, label))

    def _ready(self, r: Relay, acknowledged: int) -> Relay:
        at = SELECTED if r.refs else READY  # only with a mutation is there a batch
        return r._replace(at=at, record=NO_RECORD, acknowledged_sequence=acknowledged)

    def _matches(self, db: Db, ref: int) -> bool:
        i = ref % self.n
        if db.state[i] in (NONE, ASSIGNED, VOID):
            return False
        return self.mutation == "nonce not checked" or db.nonce[i] == ref // self.n

    def _mark_rows(self, s: State, sequence: int, refs: Refs, label: Label) -> Db:
        """One database transaction: mark the rows, acknowledge the sequence if it is the next one, raise the floor.

        What was committed is a fact, so rows are marked whatever the sequence is, even if a restored database has
        them parked or discarded.
        """
        db, state = s.db, list(s.db.state)
        unsent = (PENDING,) if self.mutation == "only pending rows are marked" else (PENDING, PARKED, DISCARDED)
        for ref in refs:
            i = ref % self.n
            if state[i] in unsent:
                if not (s.kafka.committed | max(s.kafka.lost, 0)) >> (i + self.n * db.nonce[i]) & 1:
                    raise ViolationError(LOSS, label)
                state[i] = SENT
        acknowledged = sequence if sequence == db.acknowledged_sequence + 1 else db.acknowledged_sequence
        return db._replace(
            state=tuple(state), acknowledged_sequence=acknowledged, floor=self._raised_floor(db, tuple(state), refs)
        )

    def _raised_floor(self, db: Db, state: tuple[int, ...], refs: Refs) -> int:
        """The first id that is pending, blocked rows included, or that may still become visible."""
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
        """Read the shard's row and the pending rows in one snapshot."""
        db = s.db
        if r.rejected:
            yield from self._park_rejected(s, a, r)
            return
        if not r.has_lease and self.mutation != "select does not compare the lease":
            yield (f"relay {a}: lease lost, does not select",), True, self._take_over_again(s, a)
            return
        if (
            db.acknowledged_sequence != r.acknowledged_sequence
            and self.mutation != "select does not compare the acknowledged sequence"
        ):
            yield (
                (f"relay {a}: acknowledged sequence is not ours, takes over again",),
                True,
                self._take_over_again(s, a),
            )
            return
        clause = self.mutation != "select ignores parked rows"
        rows = [
            i for i in range(db.floor, self.n) if db.state[i] == PENDING and not (clause and self.waits(db.state, i))
        ]
        refs = tuple(i + self.n * db.nonce[i] for i in rows[: 1 if r.bisecting else self.config.batch])
        if refs:
            yield (f"relay {a}: selects", refs), True, with_relay(s, a, r._replace(at=SELECTED, refs=refs))
        elif (
            db.offset and s.kafka.record[1:] != (db.last, db.offset) and self.mutation != "an idle shard does not check"
        ):
            yield (
                (f"relay {a}: idle, the last record is not the acknowledged one, takes over again",),
                True,
                self._take_over_again(s, a),
            )

    def _park_rejected(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        if not r.has_lease and self.mutation != "no lease check on park":
            yield (f"relay {a}: lease lost, does not park",), True, self._take_over_again(s, a)
        elif self.mutation == "lease check on park without lock":
            yield (f"relay {a}: park checked, not yet committed",), True, with_relay(s, a, r._replace(at=PARKING))
        else:
            yield from self._park(s, a, r)

    def _park(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        db, label = s.db, (f"relay {a}: parks", r.rejected)
        for ref in r.rejected:
            i, same = ref % self.n, db.nonce[ref % self.n] == ref // self.n
            if db.state[i] == PENDING and (same or self.mutation == "park without nonce"):
                if s.kafka.committed >> (i + self.n * db.nonce[i]) & 1 and not db.restored:
                    raise ViolationError(PARK_UNSENT, label)
                if i not in self.config.refusable + self.config.poison or not same:
                    raise ViolationError(PARK_GUILTY, label)
                db = with_state(db, i, PARKED)
        yield label, True, with_relay(s, a, r._replace(at=READY, rejected=(), bisecting=False), db=db)
        if db != s.db:
            yield (*label, "answer lost"), False, with_relay(s, a, r, db=db)

    def _produce(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Encode, begin the transaction, and produce the rows and the progress record."""
        for ref in r.refs:
            if ref % self.n in self.config.refusable:
                with_rejected = r._replace(at=READY, refs=(), rejected=(ref,))
                yield (f"relay {a}: cannot encode", ref), False, with_relay(s, a, with_rejected)
        if r.producer != LIVE:
            yield (f"relay {a}: producer refused, takes over again",), True, self._take_over_again(s, a)
            if r.producer == FORGOTTEN:  # only under a mutation
                yield (f"relay {a}: aborts, new producer id, same rows",), False, self._fence(s, a, SELECTED)
        else:
            txns = tuple(sorted((*s.kafka.txns, Txn(a, r.refs, r.acknowledged_sequence + 1, commit_requested=False))))
            begun = with_relay(s, a, r._replace(at=IN_TXN), kafka=s.kafka._replace(txns=txns))
            yield (f"relay {a}: produces", r.refs), True, begun

    def _in_transaction(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Handle every error alike, but remember a refused row or batch."""
        if r.producer != LIVE:
            yield (f"relay {a}: fenced, takes over again",), True, self._take_over_again(s, a)
            return
        yield (f"relay {a}: aborts, takes over again",), False, self._take_over_again(s, a)
        guilty = any(ref % self.n in self.config.refusable + self.config.poison for ref in r.refs)
        always = any(ref % self.n in self.config.poison for ref in r.refs)
        if guilty and (len(r.refs) == 1 or self.mutation == "refused batch parked whole"):
            label = (f"relay {a}: rows refused, aborts, takes over again", r.refs)
            yield label, always, self._take_over_again(s, a, rejected=r.refs)
        elif guilty:
            yield (
                (f"relay {a}: batch refused, aborts, takes over again", r.refs),
                always,
                self._take_over_again(s, a, bisecting=True),
            )
        if always:
            return
        if self.mutation == "mark before commit":
            yield from self._mark(s, a, r)
        requested = tuple(sorted(t._replace(commit_requested=True) if t.owner == a else t for t in s.kafka.txns))
        committing = with_relay(s, a, r._replace(at=COMMITTING), kafka=s.kafka._replace(txns=requested))
        yield (f"relay {a}: requests the commit",), True, committing

    def _await_commit(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """No answer means that the outcome is unknown, never that it was aborted."""
        mine = [t for t in s.kafka.txns if t.owner == a]
        no_answer = r.producer != LIVE or bool(mine and not mine[0].commit_requested)
        yield (f"relay {a}: outcome unknown, takes over again",), no_answer, self._take_over_again(s, a)
        if self.mutation == "guess that an unknown commit did not happen":
            txns = tuple(t for t in s.kafka.txns if t.owner != a)
            guessed = with_relay(s, a, r._replace(at=READY, refs=()), kafka=s.kafka._replace(txns=txns))
            yield (f"relay {a}: guesses: not committed",), False, guessed
        if r.producer == LIVE and not mine:
            kafka = s.kafka
            if self.mutation == "progress record written after the transaction":
                kafka = kafka._replace(record=(r.acknowledged_sequence + 1, r.refs, 0))
            learnt = with_relay(s, a, r._replace(at=COMMITTED), kafka=kafka)
            yield (f"relay {a}: commit confirmed",), True, learnt

    def _mark(self, s: State, a: int, r: Relay) -> Iterator[Step]:
        """Mark the rows under the shard row's lock. Without the lease nothing is marked: the next owner reads back what
        Kafka has, and only that is a fact. Rows that are not pending are marked in a transaction of their own.
        """
        sequence, label = r.acknowledged_sequence + 1, (f"relay {a}: marks", r.refs)
        if not r.has_lease and self.mutation != "no lease check on the mark":
            yield (f"relay {a}: lease lost, does not mark",), True, self._take_over_again(s, a)
            return
        record, mine = (sequence, r.refs, r.offset), tuple(ref for ref in r.refs if self._matches(s.db, ref))
        if sequence == s.db.acknowledged_sequence + 1 and self._kafka_went_back(s.db, record):
            yield from self._block_after_loss(s, a, r, mine)
            return
        pending = tuple(ref for ref in mine if s.db.state[ref % self.n] == PENDING)
        if pending != mine and sequence == s.db.acknowledged_sequence + 1:
            first = self._acknowledge_and_mark(s, r, pending, label)
            yield (*label, "those that are pending"), False, with_relay(s, a, r, db=first)
        new = self._acknowledge_and_mark(s, r, mine, label)
        if self.mutation == "mark raises the acknowledged sequence":
            new = new._replace(acknowledged_sequence=max(s.db.acknowledged_sequence, sequence))
        if self.mutation == "floor computed before the lock":
            if not r.record[0]:
                computed = with_relay(s, a, r._replace(record=(1, (new.floor,), 0)))
                yield (f"relay {a}: computes the floor", new.floor), True, computed
                return
            new = new._replace(floor=r.record[1][0])
        done = Relay(READY, r.has_lease, r.producer, sequence, had_lease_at_backup=r.had_lease_at_backup)
        yield label, True, with_relay(s, a, done, db=new)
        yield (*label, "answer lost"), False, with_relay(s, a, r, db=new)

    def _acknowledge_and_mark(self, s: State, r: Relay, refs: Refs, label: Label) -> Db:
        """One database transaction, which also stores the progress record if it is the next."""
        sequence = r.acknowledged_sequence + 1
        new = self._mark_rows(s, sequence, refs, label)
        if sequence == s.db.acknowledged_sequence + 1 and r.offset:
            new = new._replace(offset=r.offset, last=r.refs)
        return new
