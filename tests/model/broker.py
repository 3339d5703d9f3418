"""An in-memory broker with the transaction semantics of a real one; it passes the same contract test.

Transactional ids with epochs, fencing, timeouts and expiry; one log per partition in which control records take
offsets; a last stable offset that stops at the first open transaction. Its clock moves only when the test moves it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

Partition = tuple[str, int]
"""Topic and partition."""

TRANSACTIONAL_ID_EXPIRATION_SECONDS = 7 * 24 * 3600.0
MAX_MESSAGE_BYTES = 1_048_588
RECORD_OVERHEAD_BYTES = 70
"""Of a batch of one record, roughly: what the real broker adds to key and value."""


class BrokerError(Exception):
    """The broker refuses a request; ``code`` is its error code."""

    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code


class BrokerRecord(NamedTuple):
    """A record as its producer sends it."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """As the broker counts it, roughly."""
        return RECORD_OVERHEAD_BYTES + len(self.key) + len(self.value) + sum(len(n) + len(v) for n, v in self.headers)


class Session(NamedTuple):
    """What ``init_transactions`` returns; a later epoch or another producer id fences it."""

    transactional_id: str
    producer_id: int
    epoch: int


@dataclass
class Transaction:
    """A transaction, from its first record on."""

    begun: float
    partitions: set[Partition] = field(default_factory=set)
    decided: bool | None = None
    """Whether it was committed; None while it is open."""
    ended: bool = False
    """Whether its control records are written: shortly after the decision, before the id's next transaction."""


class Entry(NamedTuple):
    """What is at one offset of a log."""

    transaction: Transaction
    record: BrokerRecord | None
    """None for the control record that ends the transaction in this partition."""


DiskCopy = dict[Partition, list[Entry]]
"""Every log at one time."""


@dataclass
class _IdState:
    """The latest session of a transactional id."""

    session: Session
    timeout_seconds: float
    used: float
    transaction: Transaction | None = None


class Broker:
    """One broker.

    Args:
        expiration_seconds: how long an idle transactional id is remembered.
    """

    def __init__(self, expiration_seconds: float = TRANSACTIONAL_ID_EXPIRATION_SECONDS) -> None:
        self.now = 0.0
        self.in_flight: list[Callable[[], object]] = []
        """Requests that were sent but have not arrived yet."""
        self.limits: dict[str, int] = {}
        """``max.message.bytes`` of topics that set it."""
        self._logs: dict[Partition, list[Entry]] = {}
        self._ids: dict[str, _IdState] = {}
        self._producer_ids = 0
        self._expiration_seconds = expiration_seconds

    # Topics --------------------------------------------------------------------------------------

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic, or recreate it empty."""
        self._logs |= {(topic, partition): [] for partition in range(partitions)}

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return sum(name == topic for name, _ in self._logs)

    def bounds(self, partition: Partition, *, committed: bool) -> tuple[int, int]:
        """Low and high end for this isolation level: the high end is the last stable offset or the high watermark."""
        log = self._log(partition)
        stable = next((offset for offset, entry in enumerate(log) if not entry.transaction.ended), len(log))
        return 0, stable if committed else len(log)

    def fetch(self, partition: Partition, offset: int, *, committed: bool) -> tuple[int, BrokerRecord | None]:
        """The offset and the next record at or after an offset; at the end of the log, the end and None."""
        _, end = self.bounds(partition, committed=committed)
        log = self._log(partition)
        if not 0 <= offset <= len(log):
            raise BrokerError(KafkaError.OFFSET_OUT_OF_RANGE)
        for position in range(offset, end):
            transaction, record = log[position]
            if record is not None and (transaction.decided or not committed):
                return position, record
        return max(offset, end), None

    def committed(self, partition: Partition) -> list[tuple[int, BrokerRecord]]:
        """Offset and record of every commit that is decided, even if readers cannot see it yet."""
        log = self._log(partition)
        return [(n, entry.record) for n, entry in enumerate(log) if entry.record and entry.transaction.decided]

    def not_aborted(self, partition: Partition) -> list[tuple[int, BrokerRecord]]:
        """As ``committed``, with the records that may still be committed."""
        log = self._log(partition)
        return [
            (n, entry.record) for n, entry in enumerate(log) if entry.record and entry.transaction.decided is not False
        ]

    # Going back in time --------------------------------------------------------------------------

    def copy(self) -> DiskCopy:
        """Copy the disk. What is still open in the copy is aborted."""
        copied: dict[int, Transaction] = {}

        def of(transaction: Transaction) -> Transaction:
            decided = Transaction(transaction.begun, set(), bool(transaction.decided), ended=True)
            return copied.setdefault(id(transaction), decided)

        return {partition: [Entry(of(each), record) for each, record in log] for partition, log in self._logs.items()}

    def restore(self, copy: DiskCopy, *, forgets_ids: bool) -> None:
        """Restart with an older copy of the disk. Open transactions are lost, and their producers fenced.

        Args:
            copy: of the disk.
            forgets_ids: whether the transactional ids are lost as well.
        """
        self._logs = {partition: list(log) for partition, log in copy.items()}
        self.in_flight.clear()
        for name, state in list(self._ids.items()):
            if forgets_ids:
                del self._ids[name]
            elif state.transaction is not None:
                if state.transaction.decided is None:
                    state.session = state.session._replace(epoch=state.session.epoch + 1)
                state.transaction = None

    # Transactions --------------------------------------------------------------------------------

    def init(self, transactional_id: str, timeout_seconds: float) -> Session:
        """Fence the earlier session of the id, abort its open transaction, and return a new session."""
        state = self._ids.get(transactional_id)
        if state is None:
            self._producer_ids += 1
            session = Session(transactional_id, self._producer_ids, 0)
        else:
            self._decide(state, committed=False)
            self._write_markers(state)
            session = state.session._replace(epoch=state.session.epoch + 1)
        self._ids[transactional_id] = _IdState(session, timeout_seconds, self.now)
        return session

    def append(self, session: Session, partition: Partition, records: list[BrokerRecord]) -> int:
        """Append a batch to the session's transaction, all of it or nothing. The first batch begins the transaction.

        Returns:
            The offset of the first record.
        """
        state = self._state(session)
        self._write_markers(state)
        if state.transaction is None:
            state.transaction = Transaction(self.now)
        if any(record.size_bytes > self.limits.get(partition[0], MAX_MESSAGE_BYTES) for record in records):
            raise BrokerError(KafkaError.MSG_SIZE_TOO_LARGE)
        state.transaction.partitions.add(partition)
        log = self._log(partition)
        log.extend(Entry(state.transaction, record) for record in records)
        return len(log) - len(records)

    def end(self, session: Session, *, committed: bool) -> None:
        """Commit or abort the session's transaction: decided at once, visible to readers a little later."""
        self._decide(self._state(session), committed=committed)

    def pass_time(self, seconds: float) -> None:
        """Move the clock: decisions become visible, transactions time out, idle ids expire."""
        self.now += seconds
        for name, state in list(self._ids.items()):
            self._write_markers(state)
            if state.transaction and self.now >= state.transaction.begun + state.timeout_seconds:
                self._decide(state, committed=False)
                self._write_markers(state)
                state.session = state.session._replace(epoch=state.session.epoch + 1)  # its producer is fenced
            if not state.transaction and self.now >= state.used + self._expiration_seconds:
                del self._ids[name]

    def time_out_transactions(self) -> None:
        """Move the clock until every open transaction has timed out."""
        due = [h.transaction.begun + h.timeout_seconds for h in self._ids.values() if h.transaction]
        self.pass_time(max([0.0, *(moment - self.now for moment in due)]))

    def expire_idle_ids(self) -> None:
        """Expire every transactional id without an open transaction at once."""
        self.pass_time(0)
        for name, state in list(self._ids.items()):
            if not state.transaction:
                del self._ids[name]

    def deliver_in_flight(self) -> None:
        """Deliver the oldest delayed request; nobody waits for its answer any more."""
        try:
            self.in_flight.pop(0)()
        except BrokerError:
            return  # its session was fenced or ended meanwhile

    def _decide(self, state: _IdState, *, committed: bool) -> None:
        state.used = self.now
        if state.transaction is not None and state.transaction.decided is None:
            state.transaction.decided = committed

    def _write_markers(self, state: _IdState) -> None:
        transaction = state.transaction
        if transaction is None or transaction.decided is None:
            return
        for partition in sorted(transaction.partitions):
            self._log(partition).append(Entry(transaction, None))
        transaction.ended, state.transaction = True, None

    def _state(self, session: Session) -> _IdState:
        state = self._ids.get(session.transactional_id)
        if state is None:
            raise BrokerError(KafkaError.INVALID_PRODUCER_ID_MAPPING)
        if state.session != session:
            raise BrokerError(KafkaError.INVALID_PRODUCER_EPOCH)
        return state

    def _log(self, partition: Partition) -> list[Entry]:
        if partition not in self._logs:
            raise BrokerError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return self._logs[partition]
