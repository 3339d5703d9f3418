"""The transactional producer of one shard: rows and their progress record are committed together or not at all.

Use a publisher from ``fence`` until its first error, then drop it: sending the same rows again on the same producer can
duplicate them, once the broker has forgotten its producer id.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from relay.errors import (
    BatchRefusedError,
    MisconfiguredError,
    NoAnswerError,
    RelayError,
    StoppedError,
    TimestampsRefusedError,
    TransactionFailedError,
)
from relay.kafka.client import LIBRDKAFKA_LOG
from relay.kafka.errors import BINDING_ERRORS, LastError, explain, translate_errors
from relay.kafka.progress import ProgressDestination
from relay.kafka.record import Record

log = structlog.get_logger(__name__)

RECORD_ERRORS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
    }
)
"""Errors that a record causes, not the state of a service."""
RECORD_REMEDIES: dict[int, str] = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic",
    KafkaError.RECORD_LIST_TOO_LARGE: "raise segment.bytes of the topic",
    KafkaError.POLICY_VIOLATION: "change the broker's policy for records of the topic",
}
"""What to do before the row is sent again, by the error of its record."""
REFUSALS = RECORD_ERRORS | {KafkaError.INVALID_TIMESTAMP}
"""Errors reported with a record. Its timestamp is not its fault: it comes from this host's clock."""
INCOMPLETE = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
"""The call may be repeated: it timed out, the broker is still ending the previous transaction, or the coordinator is
moving to another broker. A call that times out fails with the last of these errors, so each is no more than a timeout.
"""

POLL_SECONDS = 1.0
"""Longest single call into the client, so that a request to stop is noticed."""
ANSWER_TIMEOUT_SECONDS = 12.0
"""For fencing, for the next records to be acknowledged, and for the commit, each. Giving up early is safe, because the
progress record shows what was committed. But a cluster gives the work of a silent broker to others after nine seconds
(``broker.session.timeout.ms``) and an election: sooner, a new producer would only meet the same broker again."""
TRANSACTION_TIMEOUT_SECONDS = 60.0
"""``transaction.timeout.ms`` unless it is configured."""
DELIVERY_SHARE = 0.75
"""Share of the transaction's timeout in which its records must be acknowledged; the rest is left for the commit."""
STOP_GRACE_SECONDS = 5.0
"""How long a commit may still take after a request to stop."""
ABORT_TIMEOUT_SECONDS = 2.0
QUEUE_FULL_SECONDS = 0.1
ANY_PARTITION = -1
"""The partitioner chooses."""
NO_OFFSET = -1
"""Not reported yet."""


class Publisher:
    """A transactional producer for one shard.

    Args:
        config: librdkafka settings of the producer, without the transactional id.
        transactional_id: of the shard; the broker lets only the latest producer with this id commit.
        topic: topic of the rows that name no other.
        progress: where the shard's progress records are written.
        stopping: whether the relay was asked to stop.
        new_producer: creates the producer.
        clock: seconds, monotonic.
        outdated: whether login or certificates have changed since the configuration was read.
    """

    def __init__(
        self,
        config: dict[str, Any],
        transactional_id: str,
        topic: str,
        progress: ProgressDestination,
        stopping: Callable[[], bool],
        new_producer: Callable[..., Producer] = Producer,
        clock: Callable[[], float] = monotonic,
        outdated: Callable[[], bool] = lambda: False,
    ) -> None:
        self._topic, self._progress = topic, progress
        self._stopping, self._clock, self._outdated = stopping, clock, outdated
        self._last_error = LastError()
        self._refusals: list[tuple[str, KafkaError]] = []
        timeout_ms = config.get("transaction.timeout.ms")
        timeout_seconds = float(timeout_ms) / 1000 if timeout_ms is not None else TRANSACTION_TIMEOUT_SECONDS
        self._delivery_seconds = timeout_seconds * DELIVERY_SHARE
        self._progress_offset = NO_OFFSET
        with translate_errors("create a producer", self._last_error):
            self._producer = new_producer(
                {
                    **config,
                    "transactional.id": transactional_id,
                    "acks": "all",
                    "enable.idempotence": True,
                    "max.in.flight.requests.per.connection": 5,
                    "partitioner": "murmur2_random",
                    "delivery.report.only.error": False,  # the report of the progress record carries its offset
                    "on_delivery": self._on_delivery,
                    "error_cb": self._last_error,
                },
                logger=LIBRDKAFKA_LOG,
            )

    def fence(self) -> None:
        """Fence earlier producers of this shard; the broker completes their open transaction.

        Raises:
            TransactionFailedError: the broker refuses, or does not answer in time.
            StoppedError
        """
        with translate_errors("fence earlier producers (init_transactions)", self._last_error):
            self._complete(self._producer.init_transactions, stop_grace_seconds=0)

    def publish(self, records: Sequence[Record], progress: bytes, on_advance: Callable[[], None] = lambda: None) -> int:
        """Commit the records and the progress record in one transaction.

        Args:
            records: of the rows.
            progress: value of the progress record.
            on_advance: called at most once a second while the broker acknowledges records; what it raises ends the
                transaction.

        Returns:
            The offset of the progress record.

        Raises:
            BatchRefusedError: a row's record was refused; nothing is committed.
            TimestampsRefusedError: the time of records was refused; nothing is committed.
            MisconfiguredError: the progress record was refused; nothing is committed.
            TransactionFailedError: the transaction was refused as a whole, or its outcome is unknown; in either case
                the progress record that is read back shows what was committed.
            StoppedError
        """
        self._refusals.clear()
        self._progress_offset = NO_OFFSET
        committing = False
        try:
            with translate_errors("commit the transaction", self._last_error):
                self._send(records, progress, on_advance)
                committing = True
                self._complete(self._producer.commit_transaction, STOP_GRACE_SECONDS)
        except NoAnswerError:
            raise  # an abort would not be answered either; the shard's next producer aborts the transaction
        except Exception:
            if not committing:
                self._cancel()
            raise
        if self._progress_offset < 0:
            raise TransactionFailedError("the broker did not report the offset of the progress record")
        return self._progress_offset

    def close(self) -> None:
        """Drop the producer without waiting for anything."""
        try:
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        except (KafkaException, *BINDING_ERRORS):
            log.debug("the producer could not be purged", action="not_purged")
        del self._producer

    def _send(self, records: Sequence[Record], progress: bytes, on_advance: Callable[[], None]) -> None:
        """Begin a transaction, and wait until the broker has every record of it."""
        self._producer.begin_transaction()
        self._produce(self._topic, ANY_PARTITION, records)
        progress_record: Record = (self._progress.key, progress, [], None)
        self._produce(self._progress.topic, self._progress.partition, [progress_record])
        self._deliver(len(records) + 1, on_advance)

    def _produce(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        produce = self._producer.produce
        try:
            for key, value, headers, other_topic in records:
                while True:
                    try:
                        produce(other_topic or topic, value, key, partition, headers=headers)
                        break
                    except BufferError:
                        self._wait_for_queue()
        except KafkaException as exception:
            if exception.args[0].code() in REFUSALS:
                self._refusals.append((topic, exception.args[0]))
            raise

    def _wait_for_queue(self) -> None:
        """Let the client send some of its full queue."""
        self._producer.poll(QUEUE_FULL_SECONDS)
        self._raise_if_refused()

    def _deliver(self, count: int, on_advance: Callable[[], None]) -> None:
        """Wait until the broker has acknowledged every record, so that refusals are known before the commit.

        This may take long, as long as some records are acknowledged in each ``ANSWER_TIMEOUT_SECONDS`` and the broker
        does not time the transaction out meanwhile.
        """
        started_at = advanced_at = self._clock()
        remaining = count
        while still_remaining := self._producer.flush(POLL_SECONDS):
            self._raise_if_refused()
            if self._stopping():
                raise StoppedError("stopped while Kafka did not answer")
            now = self._clock()
            if still_remaining < remaining:
                remaining, advanced_at = still_remaining, now
                on_advance()
            self._give_up_after(advanced_at)
            if now > started_at + self._delivery_seconds:
                raise TransactionFailedError(
                    f"Kafka acknowledged only {count - remaining} of {count} records in {now - started_at:.0f} s: the "
                    "connection is slow, and the next transaction will be smaller"
                )
        self._raise_if_refused()

    def _complete(self, call: Callable[[float], None], stop_grace_seconds: float) -> None:
        """Repeat a call with a short timeout until it completes."""
        started_at, stop_deadline = self._clock(), None
        while (error := _incomplete(call, POLL_SECONDS)) is not None:
            now = self._clock()
            if stop_deadline is None and self._stopping():
                stop_deadline = now + stop_grace_seconds
            if stop_deadline is not None and now >= stop_deadline:
                raise StoppedError("stopped while Kafka did not answer")
            self._give_up_after(started_at, error)

    def _give_up_after(self, answered_at: float, error: KafkaError | None = None) -> None:
        """Give up when Kafka has not answered for long, or when it never will because the client's login is an old one.

        Args:
            answered_at: when Kafka last answered, or was first asked.
            error: its last answer, if there was one.

        Raises:
            NoAnswerError
            KafkaException: it is this error that has lasted so long.
        """
        self._producer.poll(0)  # calls error_cb, which says why
        if self._clock() > answered_at + ANSWER_TIMEOUT_SECONDS:
            if error is not None and error.code() != KafkaError._TIMED_OUT:
                raise KafkaException(error)
            reason = f"Kafka did not answer in {ANSWER_TIMEOUT_SECONDS:.0f} s"
        elif self._last_error.text and self._outdated():
            reason = "the password or certificates have changed: connecting anew"
        else:
            return
        raise NoAnswerError(self._last_error.add_to(reason))

    def _raise_if_refused(self) -> None:
        if self._refusals:
            raise TransactionFailedError("a record was refused")

    def _refusal(self) -> RelayError:
        if self._are_timestamps_refused():
            reason = explain(KafkaError(KafkaError.INVALID_TIMESTAMP))
            return TimestampsRefusedError(f"the transaction is refused as a whole by {self._refusals[0][0]}: {reason}")
        for topic, error in self._refusals:
            if topic == self._progress.topic:
                return MisconfiguredError(
                    f"the progress record is refused by {topic}: {explain(error)}. It grows with the rows of a "
                    "transaction: raise the topic's max.message.bytes (1048576 is enough for any batch), or lower "
                    "RELAY_BATCH_SIZE"
                )
        error = self._refusals[0][1]
        remedy = RECORD_REMEDIES.get(error.code())
        advice = f": {remedy}, then run relay retry, or run relay discard" if remedy else ""
        return BatchRefusedError(f"refused: {explain(error)}{advice}")

    def _are_timestamps_refused(self) -> bool:
        """Whether the broker refused the time of records, not what is in them.

        If it refuses several records of a batch, the client reports ``INVALID_RECORD`` for each, whatever the reason;
        the error of the transaction has it.
        """
        codes = {error.code() for _, error in self._refusals}
        if KafkaError.INVALID_RECORD in codes:
            try:
                self._producer.begin_transaction()  # raises that error; in a transaction nothing else can begin
            except KafkaException as exception:
                codes.add(exception.args[0].code())
        return KafkaError.INVALID_TIMESTAMP in codes

    def _cancel(self) -> None:
        """Abort, and raise what was refused, if anything was."""
        refusal = self._refusal() if self._refusals else None  # the abort forgets its cause
        self._abort()
        if refusal:
            raise refusal from None

    def _abort(self) -> None:
        """Release the topic's readers early. Fencing would abort the transaction as well."""
        try:
            self._producer.abort_transaction(ABORT_TIMEOUT_SECONDS)
        except (KafkaException, *BINDING_ERRORS):
            log.debug(
                "the transaction could not be aborted; the shard's next producer will abort it", action="not_aborted"
            )

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            if message.topic() == self._progress.topic:
                offset = message.offset()  # None: an answer was lost, and the client's retry found the record there
                self._progress_offset = NO_OFFSET if offset is None else offset
        elif error.code() in REFUSALS:
            self._refusals.append((message.topic() or "", error))


def _incomplete(call: Callable[[float], None], seconds: float) -> KafkaError | None:
    """Make a call that may be repeated; why it did not complete within its timeout, None if it did."""
    try:
        call(seconds)
    except KafkaException as exception:
        error: KafkaError = exception.args[0]
        # Other errors that call themselves retriable (_CONFLICT) never end.
        if error.code() in INCOMPLETE and error.retriable():
            return error
        raise
    return None
