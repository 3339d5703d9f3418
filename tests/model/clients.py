"""The client library's producer, consumer and admin client, as far as the relay uses them, on the broker in memory.

Each talks to the broker over a ``Link``, which can lose a request, its answer, or deliver it late.
What they raise, and when, is what the contract test finds the real ones to do.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.model.broker import Broker, BrokerError, Place, Sent, Session

T = TypeVar("T")
LINK = "test.link"
"""The setting under which a client finds its link."""
MESSAGE_MAX_BYTES = 1_000_000


class Fate(Enum):
    """What becomes of a request."""

    REQUEST_LOST = auto()
    ANSWER_LOST = auto()
    LATE = auto()
    """It arrives when its client has given up."""


class Link:
    """One process's way to the broker.

    Args:
        broker: at its other end.
        reached: told each request before it leaves and after its answer came.
    """

    def __init__(self, broker: Broker, reached: Callable[[str], None] = lambda _: None) -> None:
        self.broker = broker
        self.faults: dict[str, Fate] = {}
        """What becomes of the next request of a name."""
        self._reached = reached

    def ask(self, request: str, answer: Callable[[], T], seconds: float) -> T:
        """The broker's answer.

        Raises:
            KafkaException: a time-out after ``seconds``, or the error that the broker answers.
        """
        self._reached(f"{request} asked")
        fate = self.faults.pop(request, None)
        if fate is Fate.LATE:
            self.broker.late.append(answer)
        try:
            got = answer() if fate in {None, Fate.ANSWER_LOST} else None
        except BrokerError as error:
            if fate is None:
                raise KafkaException(_reaction(error.code)) from None
        if fate is not None:
            self.broker.pass_time(seconds)
            raise timed_out()
        self._reached(f"{request} answered")
        return got  # type: ignore[return-value]


def timed_out() -> KafkaException:
    """As the client raises it when a call ends without an answer: it may be called again."""
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", False, True))


def _reaction(code: int) -> KafkaError:
    """The client's error for a broker's answer: fenced is fatal, a lost producer id needs an abort."""
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
        self._queue: list[tuple[Place, Sent]] = []
        self._error: KafkaError | None = None
        """Why the transaction cannot be committed."""
        self._unanswered = False

    def init_transactions(self, seconds: float) -> None:
        """Fence, and get the right to begin."""
        if self._unanswered:
            self._broker.pass_time(seconds)
            raise timed_out()
        self._session = self._ask("init", lambda: self._broker.init(self._id, self._timeout_seconds), seconds)

    def begin_transaction(self) -> None:
        """Nothing is asked of the broker yet."""
        self._insist()

    def produce(
        self,
        topic: str,
        value: bytes,
        key: bytes,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Queue a record."""
        self._insist()
        record = Sent(key, value, tuple((name, bytes(content)) for name, content in headers))
        if record.size_bytes > MESSAGE_MAX_BYTES:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if partition < 0:
            partition = crc32(key) % max(1, self._broker.partitions(topic))
        self._queue.append(((topic, partition), record))

    def flush(self, seconds: float) -> int:
        """Send what is queued, a batch for each partition; how many records have no answer."""
        while self._queue and not self._unanswered:
            place = self._queue[0][0]
            batch = [record for where, record in self._queue if where == place]
            try:
                first = self._ask("append", lambda place=place, batch=batch: self._append(place, batch), seconds)  # type: ignore[misc]
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if error.code() == KafkaError._TIMED_OUT:
                    return len(self._queue)
                self._error = self._error or error
                for record in batch:
                    self._on_delivery(KafkaError(error.code()), Message(place, -1, record, error))
            else:
                for offset, record in enumerate(batch, first):
                    self._on_delivery(None, Message(place, offset, record, None))
            self._queue = [(where, record) for where, record in self._queue if where != place]
        if self._queue:
            self._broker.pass_time(seconds)
        return len(self._queue)

    def poll(self, _seconds: float) -> int:
        """Serve events; here they are served as they come."""
        return 0

    def commit_transaction(self, seconds: float) -> None:
        """Send what is queued, then commit."""
        self._insist()
        if self.flush(seconds):
            raise timed_out()
        self._insist()
        self._end("commit", seconds, committed=True)

    def abort_transaction(self, seconds: float) -> None:
        """Give the transaction up."""
        if self._error is not None and self._error.fatal():
            raise KafkaException(self._error)
        self._queue.clear()
        forgotten = self._error is not None and self._error.code() == KafkaError.INVALID_PRODUCER_ID_MAPPING
        if forgotten:  # the client gets a new producer id without a word
            self.init_transactions(seconds)
        else:
            self._end("abort", seconds, committed=False)
        self._error = None

    def purge(self, **_what: bool) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def _end(self, request: str, seconds: float, *, committed: bool) -> None:
        if self._unanswered:
            self._broker.pass_time(seconds)
            raise timed_out()
        session = self._begun()
        self._ask(request, lambda: self._broker.end(session, committed=committed), seconds)

    def _append(self, place: Place, batch: list[Sent]) -> int:
        first: int = self._broker.append(self._begun(), place, batch)
        return first

    def _ask(self, request: str, answer: Callable[[], T], seconds: float) -> T:
        try:
            return self._link.ask(request, answer, seconds)
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

    def _insist(self) -> None:
        self._begun()
        if self._error is not None:
            raise KafkaException(self._error)


class Message(NamedTuple):
    """``confluent_kafka.Message``: a record, or an event."""

    place: Place
    position: int
    record: Sent | None
    event: KafkaError | None

    def topic(self) -> str:
        """Name of its topic."""
        return self.place[0]

    def partition(self) -> int:
        """Number of its partition."""
        return self.place[1]

    def offset(self) -> int:
        """Of the record; of an end-of-partition event: where the reader stands."""
        return self.position

    def error(self) -> KafkaError | None:
        """What the event tells; None for a record."""
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
        self._told = -1

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """Read from the offset given on."""
        (assigned,) = places
        self._place, self._position, self._told = (assigned.topic, assigned.partition), assigned.offset, -1

    def poll(self, seconds: float) -> Message | None:
        """The next record; at the end of what may be read, one event that tells so, then nothing."""
        place, broker = self._place, self._link.broker
        try:
            offset, record = self._link.ask(
                "fetch", lambda: broker.fetch(place, self._position, committed=self._committed), seconds
            )
        except KafkaException as exception:
            code = exception.args[0].code()
            if code == KafkaError._TIMED_OUT:
                return None
            return Message(place, self._position, None, KafkaError(KafkaError._AUTO_OFFSET_RESET))
        if record is not None:
            self._position = offset + 1
            return Message(place, offset, record, None)
        if offset != self._told:
            self._position = self._told = offset
            return Message(place, offset, None, KafkaError(KafkaError._PARTITION_EOF))
        broker.pass_time(seconds)
        return None

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """One message at most."""
        assert num_messages == 1
        message = self.poll(timeout)
        return [] if message is None else [message]

    def close(self) -> None:
        """Nothing is held."""


class _Offset(NamedTuple):
    offset: int


class AdminClient:
    """``confluent_kafka.admin.AdminClient``: asks for offsets.

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
        """The ends that readers of an isolation level see."""
        answers: dict[TopicPartition, Future[_Offset]] = {}
        for asked, spec in wanted.items():
            place, future = (asked.topic, asked.partition), Future[_Offset]()
            committed = isolation_level == IsolationLevel.READ_COMMITTED
            try:
                low, high = self._link.ask(
                    "offsets",
                    lambda place=place, committed=committed: self._link.broker.bounds(place, committed=committed),  # type: ignore[misc]
                    request_timeout,
                )
            except KafkaException as exception:
                future.set_exception(exception)
            else:
                future.set_result(_Offset(low if type(spec) is type(OffsetSpec.earliest()) else high))
            answers[asked] = future
        return answers
