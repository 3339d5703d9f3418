"""In-memory replacements of the client library's producer, consumer and admin client, as far as the relay uses them.

Each talks to the broker over a ``Link``, which can lose a request or its answer, or delay the request. The contract
test shows that they raise what the real ones raise.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.model.broker import Broker, BrokerError, BrokerRecord, Partition, Session

T = TypeVar("T")
LINK = "test.link"
"""The setting that contains a client's link."""
MESSAGE_MAX_BYTES = 1_000_000


class Fault(Enum):
    """What happens to a request."""

    REQUEST_LOST = auto()
    ANSWER_LOST = auto()
    LATE = auto()
    """It arrives after its client has given up."""


class Link:
    """One process's connection to the broker.

    Args:
        broker: at the other end.
        stop_at: called before each request is sent and after its answer arrived.
    """

    def __init__(self, broker: Broker, stop_at: Callable[[str], None] = lambda _: None) -> None:
        self.broker = broker
        self.faults: dict[str, Fault] = {}
        """What happens to the next request of each name."""
        self._stop_at = stop_at

    def request(self, name: str, answer: Callable[[], T], seconds: float) -> T:
        """Send a request; returns the broker's answer.

        Raises:
            KafkaException: a timeout after ``seconds``, or the broker's error.
        """
        self._stop_at(f"{name} sent")
        fault = self.faults.pop(name, None)
        if fault is Fault.LATE:
            self.broker.in_flight.append(answer)
        try:
            got = answer() if fault in {None, Fault.ANSWER_LOST} else None
        except BrokerError as error:
            if fault is None:
                raise KafkaException(_reaction(error.code)) from None
        if fault is not None:
            self.broker.pass_time(seconds)
            raise timed_out()
        self._stop_at(f"{name} answered")
        return got  # type: ignore[return-value]


def timed_out() -> KafkaException:
    """The client's error for a call that got no answer and may be repeated."""
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", False, True))


def _reaction(code: int) -> KafkaError:
    """The client's error for a broker's error: fencing is fatal, a lost producer id requires an abort."""
    if code == KafkaError.INVALID_PRODUCER_EPOCH:
        return KafkaError(KafkaError._FENCED, "fenced", True)
    return KafkaError(code, None, False, False, True)


class Producer:
    """``confluent_kafka.Producer`` for transactions.

    Args:
        config: with the link under ``LINK``.
    """

    def __init__(self, config: Mapping[str, Any], **_further: object) -> None:
        self._link: Link = config[LINK]
        self._broker = self._link.broker
        self._id = str(config["transactional.id"])
        self._timeout_seconds = int(config.get("transaction.timeout.ms", 60_000)) / 1000
        self._on_delivery: Callable[[KafkaError | None, Message], None] = config.get("on_delivery", lambda *_: None)
        self._session: Session | None = None
        self._queue: list[tuple[Partition, BrokerRecord]] = []
        self._error: KafkaError | None = None
        """Why the transaction cannot be committed."""
        self._unanswered = False

    def init_transactions(self, seconds: float) -> None:
        """Fence earlier producers."""
        if self._unanswered:
            self._broker.pass_time(seconds)
            raise timed_out()
        self._session = self._ask("init", lambda: self._broker.init(self._id, self._timeout_seconds), seconds)

    def begin_transaction(self) -> None:
        """Begin locally; nothing is sent."""
        self._ensure_healthy()

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Queue a record."""
        self._ensure_healthy()
        record = BrokerRecord(key, value, tuple((name, bytes(content)) for name, content in headers))
        if record.size_bytes > MESSAGE_MAX_BYTES:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if partition < 0:
            partition = crc32(key) % max(1, self._broker.partitions(topic))
        self._queue.append(((topic, partition), record))

    def flush(self, seconds: float) -> int:
        """Send what is queued, one batch per partition; returns how many records have no answer."""
        while self._queue and not self._unanswered:
            partition = self._queue[0][0]
            batch = [record for where, record in self._queue if where == partition]
            try:
                first = self._ask("append", partial(self._append, partition, batch), seconds)
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if error.code() == KafkaError._TIMED_OUT:
                    return len(self._queue)
                self._error = self._error or error
                for record in batch:
                    self._on_delivery(KafkaError(error.code()), Message(partition, -1, record, error))
            else:
                for offset, record in enumerate(batch, first):
                    self._on_delivery(None, Message(partition, offset, record, None))
            self._queue = [(where, record) for where, record in self._queue if where != partition]
        if self._queue:
            self._broker.pass_time(seconds)
        return len(self._queue)

    def poll(self, _seconds: float) -> int:
        """Do nothing: events are served when they occur."""
        return 0

    def commit_transaction(self, seconds: float) -> None:
        """Send what is queued, then commit."""
        self._ensure_healthy()
        if self.flush(seconds):
            raise timed_out()
        self._ensure_healthy()
        self._end("commit", seconds, committed=True)

    def abort_transaction(self, seconds: float) -> None:
        """Abort the transaction."""
        if self._error is not None and self._error.fatal():
            raise KafkaException(self._error)
        self._queue.clear()
        forgotten = self._error is not None and self._error.code() == KafkaError.INVALID_PRODUCER_ID_MAPPING
        if forgotten:  # the client silently gets a new producer id
            self.init_transactions(seconds)
        else:
            self._end("abort", seconds, committed=False)
        self._error = None

    def purge(self, **_what: bool) -> None:
        """Discard what is queued."""
        self._queue.clear()

    def _end(self, request: str, seconds: float, *, committed: bool) -> None:
        if self._unanswered:
            self._broker.pass_time(seconds)
            raise timed_out()
        session = self._begun()
        self._ask(request, lambda: self._broker.end(session, committed=committed), seconds)

    def _append(self, partition: Partition, batch: list[BrokerRecord]) -> int:
        first: int = self._broker.append(self._begun(), partition, batch)
        return first

    def _ask(self, request: str, answer: Callable[[], T], seconds: float) -> T:
        try:
            return self._link.request(request, answer, seconds)
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            self._unanswered = error.code() == KafkaError._TIMED_OUT
            if not self._unanswered:
                self._error = error
            raise

    def _begun(self) -> Session:
        if self._session is None:
            raise KafkaException(KafkaError(KafkaError._STATE, "init_transactions was not called"))
        return self._session

    def _ensure_healthy(self) -> None:
        self._begun()
        if self._error is not None:
            raise KafkaException(self._error)


class Message(NamedTuple):
    """``confluent_kafka.Message``: a record, or an event."""

    place: Partition
    position: int
    record: BrokerRecord | None
    event: KafkaError | None

    def topic(self) -> str:
        """Name of its topic."""
        return self.place[0]

    def partition(self) -> int:
        """Number of its partition."""
        return self.place[1]

    def offset(self) -> int:
        """Of the record; of an end-of-partition event, the reader's position."""
        return self.position

    def error(self) -> KafkaError | None:
        """The event; None for a record."""
        return self.event

    def key(self) -> bytes | None:
        """Of the record."""
        return self.record.key if self.record else None

    def value(self) -> bytes | None:
        """Of the record."""
        return self.record.value if self.record else None


class Consumer:
    """``confluent_kafka.Consumer`` on one assigned partition.

    Args:
        config: with the link under ``LINK``.
    """

    def __init__(self, config: Mapping[str, Any], **_further: object) -> None:
        self._link: Link = config[LINK]
        self._committed = config.get("isolation.level", "read_committed") == "read_committed"
        self._reported_end = -1

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read from the given offset on."""
        (assigned,) = partitions
        self._partition, self._position, self._reported_end = (assigned.topic, assigned.partition), assigned.offset, -1

    def poll(self, seconds: float) -> Message | None:
        """The next record; at the end of the partition one event, then None."""
        partition, broker = self._partition, self._link.broker
        try:
            offset, record = self._link.request(
                "fetch", lambda: broker.fetch(partition, self._position, committed=self._committed), seconds
            )
        except KafkaException as exception:
            code = exception.args[0].code()
            if code == KafkaError._TIMED_OUT:
                return None
            return Message(partition, self._position, None, KafkaError(KafkaError._AUTO_OFFSET_RESET))
        if record is not None:
            self._position = offset + 1
            return Message(partition, offset, record, None)
        if offset != self._reported_end:
            self._position = self._reported_end = offset
            return Message(partition, offset, None, KafkaError(KafkaError._PARTITION_EOF))
        broker.pass_time(seconds)
        return None

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """One message at most."""
        assert num_messages == 1
        message = self.poll(timeout)
        return [] if message is None else [message]

    def close(self) -> None:
        """Do nothing."""


class _Offset(NamedTuple):
    offset: int


class AdminClient:
    """``confluent_kafka.admin.AdminClient``, for offsets.

    Args:
        config: with the link under ``LINK``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._link: Link = config[LINK]

    def list_offsets(
        self,
        wanted: Mapping[TopicPartition, OffsetSpec],
        isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
        request_timeout: float = 10.0,
    ) -> dict[TopicPartition, "Future[_Offset]"]:
        """The ends that readers of this isolation level see."""
        answers: dict[TopicPartition, Future[_Offset]] = {}
        for requested, spec in wanted.items():
            partition, future = (requested.topic, requested.partition), Future[_Offset]()
            committed = isolation_level == IsolationLevel.READ_COMMITTED
            try:
                low, high = self._link.request(
                    "offsets",
                    lambda partition=partition, committed=committed: self._link.broker.bounds(
                        partition, committed=committed
                    ),  # type: ignore[misc]
                    request_timeout,
                )
            except KafkaException as exception:
                future.set_exception(exception)
            else:
                future.set_result(_Offset(low if type(spec) is type(OffsetSpec.earliest()) else high))
            answers[requested] = future
        return answers
