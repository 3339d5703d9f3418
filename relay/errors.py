"""Errors of the relay, classed by how it reacts."""

from collections.abc import Mapping

from outbox.models import RowRef


class RelayError(Exception):
    """Base class. The message says what happened and what to do."""


class StoppedError(RelayError):
    """The relay was asked to stop while it waited for a service."""


class UnavailableError(RelayError):
    """A service is down or slow, or refuses the relay's login or rights: wait and try again.

    No row is charged with an attempt, and waiting loses nothing.
    """


class MisconfiguredError(RelayError):
    """Settings contradict each other or the services; waiting alone does not help.

    At start the relay exits; later the shard waits, in case the service is corrected.
    """


class TransactionFailedError(UnavailableError):
    """A Kafka transaction did not end in a known commit: drop the producer and take the shard over again.

    It may have been committed all the same; only the progress record shows that.
    """


class NoAnswerError(TransactionFailedError):
    """Kafka was silent for the whole timeout, or refuses the client's old login: its connections are of no use."""


class TimestampsRefusedError(TransactionFailedError):
    """The broker refused the time of records, which comes from this host's clock: no row is at fault."""


class BatchRefusedError(TransactionFailedError):
    """The client or the broker refused records of the transaction, not the transaction itself.

    The broker refuses batches, not records: only a row that is alone in its transaction is known to be at fault.
    """


class RowsAtFaultError(RelayError):
    """Rows that can never be sent; the other rows of the batch were not sent either.

    Attributes:
        errors: what is wrong with each row, without its values.
    """

    def __init__(self, errors: Mapping[RowRef, str]) -> None:
        super().__init__(f"{len(errors)} row(s) cannot be sent")
        self.errors = errors


class KafkaWentBackError(RelayError):
    """Kafka no longer has transactions that the database acknowledged: a broker was restored from an older copy, or
    lost its newest data. Continuing would leave the rows of those transactions lost.
    """


class DatabaseWentBackError(RelayError):
    """Kafka has later transactions than the database: it was restored to an earlier time, or failed over to a stale
    replica. Continuing would send every row again that was committed since.
    """
