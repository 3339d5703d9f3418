"""A broker in memory with the transaction semantics of the real one: it passes the same contract test.

Transactional ids with epochs, fencing, time-outs and expiry; one log a partition in which control
records take offsets; a last stable offset that stops at the first open transaction. Its clock moves
only when it is told to, so a test decides what times out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

Place = tuple[str, int]
"""Topic and partition."""

TRANSACTIONAL_ID_EXPIRATION_SECONDS = 7 * 24 * 3600.0
MAX_MESSAGE_BYTES = 1_048_588
RECORD_OVERHEAD_BYTES = 70
"""Of a batch of one record, roughly: what the real broker counts beside key and value."""


class BrokerError(Exception):
    """The broker refuses a request, with the code of its answer."""

    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code


class Sent(NamedTuple):
    """One record as a producer sends it."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """As the broker counts it, roughly."""
        return RECORD_OVERHEAD_BYTES + len(self.key) + len(self.value) + sum(len(n) + len(v) for n, v in self.headers)


class Session(NamedTuple):
    """What ``init_transactions`` gives a producer; a later epoch or another producer id fences it."""

    transactional_id: str
    producer_id: int
    epoch: int


@dataclass
class Transaction:
    """One transaction, from its first record on."""

    begun: float
    places: set[Place] = field(default_factory=set)
    decided: bool | None = None
    """Whether it was committed; None: it is open."""
    ended: bool = False
    """Its control records are written: a little after the decision, and before the id's next transaction."""


class Entry(NamedTuple):
    """What takes one offset of a log."""

    transaction: Transaction
    record: Sent | None
    """None: the control record that ends the transaction in this partition."""


Copy = dict[Place, list[Entry]]
"""Every log as it was."""


@dataclass
class _Holder:
    """The latest holder of a transactional id."""

    session: Session
    timeout_seconds: float
    used: float
    transaction: Transaction | None = None


class Broker:
    """One broker.

    Args:
        expiration_seconds: after which an idle transactional id is forgotten.
    """

    def __init__(self, expiration_seconds: float = TRANSACTIONAL_ID_EXPIRATION_SECONDS) -> None:
        self.now = 0.0
        self.late: list[Callable[[], object]] = []
        """Requests that left their client, and have not arrived yet."""
        self.limits: dict[str, int] = {}
        """``max.message.bytes`` of topics that have one of their own."""
        self._logs: dict[Place, list[Entry]] = {}
        self._holders: dict[str, _Holder] = {}
        self._producer_ids = 0
        self._expiration_seconds = expiration_seconds

    # Topics --------------------------------------------------------------------------------------

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic, or make it anew and empty."""
        self._logs |= {(topic, partition): [] for partition in range(partitions)}

    def partitions(self, topic: str) -> int:
        """How many the topic has."""
        return sum(name == topic for name, _ in self._logs)

    def bounds(self, place: Place, *, committed: bool) -> tuple[int, int]:
        """Low and high end as readers of this isolation see them: the last stable offset, or the high watermark."""
        log = self._log(place)
        stable = next((offset for offset, entry in enumerate(log) if not entry.transaction.ended), len(log))
        return 0, stable if committed else len(log)

    def fetch(self, place: Place, offset: int, *, committed: bool) -> tuple[int, Sent | None]:
        """The next record at or after an offset, and its offset; None: the position at the end of the log."""
        _, end = self.bounds(place, committed=committed)
        log = self._log(place)
        if not 0 <= offset <= len(log):
            raise BrokerError(KafkaError.OFFSET_OUT_OF_RANGE)
        for position in range(offset, end):
            transaction, record = log[position]
            if record is not None and (transaction.decided or not committed):
                return position, record
        return max(offset, end), None

    def committed(self, place: Place) -> list[tuple[int, Sent]]:
        """Offset and record of everything whose commit is decided, whether readers get that far already or not."""
        log = self._log(place)
        return [(n, entry.record) for n, entry in enumerate(log) if entry.record and entry.transaction.decided]

    def not_aborted(self, place: Place) -> list[tuple[int, Sent]]:
        """The same with what may still be committed."""
        log = self._log(place)
        return [
            (n, entry.record) for n, entry in enumerate(log) if entry.record and entry.transaction.decided is not False
        ]

    # Going back in time --------------------------------------------------------------------------

    def copy(self) -> Copy:
        """A copy of the disk: of what is decided by now; what is open in it can only be aborted."""
        copied: dict[int, Transaction] = {}

        def of(transaction: Transaction) -> Transaction:
            decided = Transaction(transaction.begun, set(), bool(transaction.decided), ended=True)
            return copied.setdefault(id(transaction), decided)

        return {place: [Entry(of(each), record) for each, record in log] for place, log in self._logs.items()}

    def go_back(self, copy: Copy, *, forgets_ids: bool) -> None:
        """Come back with an older copy. What is under way is gone, and its producers are fenced.

        Args:
            copy: of the disk.
            forgets_ids: whether the transactional ids are as lost as the records.
        """
        self._logs = {place: list(log) for place, log in copy.items()}
        self.late.clear()
        for name, holder in list(self._holders.items()):
            if forgets_ids:
                del self._holders[name]
            elif holder.transaction is not None:
                if holder.transaction.decided is None:
                    holder.session = holder.session._replace(epoch=holder.session.epoch + 1)
                holder.transaction = None

    # Transactions --------------------------------------------------------------------------------

    def init(self, transactional_id: str, timeout_seconds: float) -> Session:
        """Fence the earlier holder of the id, finish its transaction, and give it to the caller."""
        holder = self._holders.get(transactional_id)
        if holder is None:
            self._producer_ids += 1
            session = Session(transactional_id, self._producer_ids, 0)
        else:
            self._decide(holder, committed=False)
            self._write_markers(holder)
            session = holder.session._replace(epoch=holder.session.epoch + 1)
        self._holders[transactional_id] = _Holder(session, timeout_seconds, self.now)
        return session

    def append(self, session: Session, place: Place, records: list[Sent]) -> int:
        """Take a batch into the session's transaction, which begins with its first batch; all of it, or nothing.

        Returns:
            The offset of its first record.
        """
        holder = self._holder(session)
        self._write_markers(holder)
        if holder.transaction is None:
            holder.transaction = Transaction(self.now)
        if any(record.size_bytes > self.limits.get(place[0], MAX_MESSAGE_BYTES) for record in records):
            raise BrokerError(KafkaError.MSG_SIZE_TOO_LARGE)
        holder.transaction.places.add(place)
        log = self._log(place)
        log.extend(Entry(holder.transaction, record) for record in records)
        return len(log) - len(records)

    def end(self, session: Session, *, committed: bool) -> None:
        """Commit or abort the session's transaction: decided at once, seen by readers a little later."""
        self._decide(self._holder(session), committed=committed)

    def pass_time(self, seconds: float) -> None:
        """Move the clock: what was decided is seen, transactions time out, idle ids are forgotten."""
        self.now += seconds
        for name, holder in list(self._holders.items()):
            self._write_markers(holder)
            if holder.transaction and self.now >= holder.transaction.begun + holder.timeout_seconds:
                self._decide(holder, committed=False)
                self._write_markers(holder)
                holder.session = holder.session._replace(epoch=holder.session.epoch + 1)  # its producer is fenced
            if not holder.transaction and self.now >= holder.used + self._expiration_seconds:
                del self._holders[name]

    def time_out_transactions(self) -> None:
        """Let as much time pass as the open transactions need to time out."""
        due = [h.transaction.begun + h.timeout_seconds for h in self._holders.values() if h.transaction]
        self.pass_time(max([0.0, *(moment - self.now for moment in due)]))

    def forget_idle_ids(self) -> None:
        """Let every transactional id without an open transaction expire, however short ago it was used."""
        self.pass_time(0)
        for name, holder in list(self._holders.items()):
            if not holder.transaction:
                del self._holders[name]

    def deliver_late(self) -> None:
        """The oldest request that was under way arrives; nobody waits for its answer any more."""
        try:
            self.late.pop(0)()
        except BrokerError:
            return  # fenced, or ended meanwhile

    def _decide(self, holder: _Holder, *, committed: bool) -> None:
        holder.used = self.now
        if holder.transaction is not None and holder.transaction.decided is None:
            holder.transaction.decided = committed

    def _write_markers(self, holder: _Holder) -> None:
        transaction = holder.transaction
        if transaction is None or transaction.decided is None:
            return
        for place in sorted(transaction.places):
            self._log(place).append(Entry(transaction, None))
        transaction.ended, holder.transaction = True, None

    def _holder(self, session: Session) -> _Holder:
        holder = self._holders.get(session.transactional_id)
        if holder is None:
            raise BrokerError(KafkaError.INVALID_PRODUCER_ID_MAPPING)
        if holder.session != session:
            raise BrokerError(KafkaError.INVALID_PRODUCER_EPOCH)
        return holder

    def _log(self, place: Place) -> list[Entry]:
        if place not in self._logs:
            raise BrokerError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return self._logs[place]
