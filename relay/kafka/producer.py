"""One shard's transactional producer: rows and their progress record, committed together or not at all.

A publisher is used from ``fence`` until its first error and then dropped: the same rows sent again
on the same producer can double, once the broker has forgotten its producer id.
"""

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from relay.errors import BatchRefusedError, MisconfiguredError, RelayError, StoppedError, TransactionFailedError
from relay.kafka.errors import REFUSED_RECORDS, REFUSED_WHOLE, LastError, explain, translate_errors

log = logging.getLogger("relay.librdkafka")

SLICE_SECONDS = 1.0
"""Longest single call into the client, so that a stop is heard."""
PATIENCE_SECONDS = 15.0
"""For fencing, for the next records to arrive, and for the commit, each. Giving up early is safe, because the
progress record shows what was committed; giving up late would leave an outage unsaid."""
TRANSACTION_SECONDS = 60.0
"""``transaction.timeout.ms`` where nobody sets another one."""
DELIVERY_SHARE = 0.75
"""Of the transaction's time-out: for its records to arrive; the rest is for the commit."""
STOP_GRACE_SECONDS = 5.0
"""How long a transaction in hand may still take once the relay was asked to stop."""
ABORT_SECONDS = 2.0
UNDER_WAY = frozenset({KafkaError._TIMED_OUT, KafkaError.CONCURRENT_TRANSACTIONS})  # noqa: SLF001
"""What a call answers that has not ended: in time, or because the broker is still ending the transaction before."""
ANY_PARTITION = -1
"""The partitioner's choice."""
NO_OFFSET = -1
"""Not reported yet."""


Headers = list[tuple[str, str | bytes | None]]
Record = tuple[bytes, bytes, Headers, str | None]
"""One Kafka record of an outbox row: key, value, headers, and the topic; None: the publisher's."""


class Publisher:
    """A transactional producer for one shard.

    Args:
        config: of the client, without the transactional id.
        transactional_id: of the shard; the broker lets only its latest holder commit.
        topic: where rows go that name no other.
        progress: topic, partition and key of the shard's progress records.
        stopping: whether the relay was asked to stop.
    """

    def __init__(
        self,
        config: dict[str, object],
        transactional_id: str,
        topic: str,
        progress: tuple[str, int, bytes],
        stopping: Callable[[], bool],
    ) -> None:
        self._topic = topic
        self._progress_topic, self._progress_partition, self._progress_key = progress
        self._stopping = stopping
        self._memory = LastError()
        self._refusals: list[tuple[str, KafkaError]] = []
        timeout_ms = config.get("transaction.timeout.ms")
        seconds = float(str(timeout_ms)) / 1000 if timeout_ms is not None else TRANSACTION_SECONDS
        self._delivery_seconds = seconds * DELIVERY_SHARE
        self._progress_offset = NO_OFFSET
        with translate_errors("make a producer", self._memory):
            self._producer = Producer(
                {
                    **config,
                    "transactional.id": transactional_id,
                    "acks": "all",
                    "enable.idempotence": True,
                    "max.in.flight.requests.per.connection": 5,
                    "partitioner": "murmur2_random",
                    "delivery.report.only.error": False,  # the progress record's tells its offset
                    "on_delivery": self._delivered,
                    "error_cb": self._memory,
                },
                logger=log,
            )

    def fence(self) -> None:
        """Fence earlier producers of this shard; their open transaction is finished either way.

        Raises:
            TransactionFailedError: the broker did not do it in time, or refuses it.
            StoppedError
        """
        with translate_errors("fence earlier producers (init_transactions)", self._memory):
            self._patiently(answered(self._producer.init_transactions), 0)

    def publish(self, records: Sequence[Record], progress: bytes, moves: Callable[[], None] = lambda: None) -> int:
        """Commit the records and the progress record in one transaction.

        Args:
            records: of the rows.
            progress: value of the progress record.
            moves: called once a second at most while the broker takes more of the records; what it raises ends
                the transaction.

        Returns:
            The offset of the progress record.

        Raises:
            BatchRefusedError: a row's record was refused, nothing is committed.
            MisconfiguredError: the progress record was refused, nothing is committed.
            UnavailableError: the transaction was refused as a whole, nothing is committed.
            TransactionFailedError: anything else; the outcome is unknown.
        """
        self._refusals.clear()
        self._progress_offset = NO_OFFSET
        asked = False
        try:
            with translate_errors("commit the transaction", self._memory):
                self._producer.begin_transaction()
                self._produce(self._topic, ANY_PARTITION, records)
                proof: Record = (self._progress_key, progress, [], None)
                self._produce(self._progress_topic, self._progress_partition, [proof])
                self._deliver(len(records) + 1, moves)
                asked = True
                self._patiently(answered(self._producer.commit_transaction), STOP_GRACE_SECONDS)
        except Exception:
            if not asked:
                self._abort()
            if self._refusals and not asked:
                raise self._refused() from None
            raise
        if self._progress_offset < 0:
            raise TransactionFailedError("the broker did not report where the progress record stands")
        return self._progress_offset

    def close(self) -> None:
        """Drop the producer without waiting for anything."""
        try:
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        except (KafkaException, SystemError, RuntimeError):
            log.debug("a producer could not be purged")
        del self._producer

    def _produce(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        produce = self._producer.produce
        try:
            for key, value, headers, other_topic in records:
                while True:
                    try:
                        produce(other_topic or topic, value, key, partition, headers=headers)
                        break
                    except BufferError:
                        self._let_drain()
        except KafkaException as exception:
            if exception.args[0].code() in REFUSED_RECORDS | REFUSED_WHOLE:
                self._refusals.append((topic, exception.args[0]))
            raise

    def _let_drain(self) -> None:
        """The client's queue is full."""
        self._producer.poll(0.1)
        if self._refusals:
            raise TransactionFailedError("a record was refused") from None

    def _deliver(self, count: int, moves: Callable[[], None]) -> None:
        """Wait until the broker has every record, so that refusals are known before the commit is asked for.

        That may take long, as long as the broker takes some records in each ``PATIENCE_SECONDS`` and does not give
        the transaction up meanwhile.
        """
        began = moved_at = monotonic()
        left = count
        while now_left := self._producer.flush(SLICE_SECONDS):
            if self._refusals:
                break
            if self._stopping():
                raise StoppedError("asked to stop while Kafka did not answer")
            now = monotonic()
            if now_left < left:
                left, moved_at = now_left, now
                moves()
            if now > moved_at + PATIENCE_SECONDS:
                raise TransactionFailedError(self._memory.told(f"Kafka did not answer in {PATIENCE_SECONDS:.0f} s"))
            if now > began + self._delivery_seconds:
                raise TransactionFailedError(
                    f"Kafka took {count - left} of {count} records in {now - began:.0f} s: the way to it is slow, the "
                    "next transaction is smaller"
                )
        if self._refusals:
            raise TransactionFailedError("a record was refused")

    def _patiently(self, done: Callable[[float], bool], stop_grace_seconds: float) -> None:
        """Ask until it is done, in short calls, so that a stop is heard; not for longer than patience lasts."""
        deadline = monotonic() + PATIENCE_SECONDS
        stop_by = None
        while not done(SLICE_SECONDS):
            stop_by = stop_by or (monotonic() + stop_grace_seconds if self._stopping() else None)
            if stop_by and monotonic() >= stop_by:
                raise StoppedError("asked to stop while Kafka did not answer")
            if monotonic() > deadline:
                raise TransactionFailedError(self._memory.told(f"Kafka did not answer in {PATIENCE_SECONDS:.0f} s"))

    def _refused(self) -> RelayError:
        for _, error in self._refusals:
            if error.code() in REFUSED_WHOLE:
                return TransactionFailedError(f"the transaction is refused as a whole: {explain(error)}")
        for topic, error in self._refusals:
            if topic == self._progress_topic:
                return MisconfiguredError(
                    f"the progress record is refused by {topic}: {explain(error)}. It grows with the rows of a "
                    "transaction: raise the topic's max.message.bytes (1048576 is enough for any batch), or lower "
                    "RELAY_BATCH_SIZE"
                )
        return BatchRefusedError(f"refused: {explain(self._refusals[0][1])}")

    def _abort(self) -> None:
        """Free the topic's readers early; taking the shard anew would abort the transaction as well."""
        try:
            self._producer.abort_transaction(ABORT_SECONDS)
        except (KafkaException, SystemError, RuntimeError):
            log.debug("a transaction could not be aborted; taking the shard anew will")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            if message.topic() == self._progress_topic:
                offset = message.offset()  # None: an answer was lost, and the repetition found the record there
                self._progress_offset = NO_OFFSET if offset is None else offset
        elif error.code() in REFUSED_RECORDS | REFUSED_WHOLE:
            self._refusals.append((message.topic() or "", error))


def answered(call: Callable[[float], None]) -> Callable[[float], bool]:
    """A call that may be made again after its time-out, as a question: has it ended?"""

    def ask(seconds: float) -> bool:
        try:
            call(seconds)
        except KafkaException as exception:
            error = exception.args[0]
            # Other errors that call themselves retriable (_CONFLICT) come back for ever.
            if error.code() not in UNDER_WAY or not error.retriable():
                raise
            return False
        return True

    return ask
