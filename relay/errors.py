"""What can go wrong on the way into Kafka, classed by how the relay reacts."""

from collections.abc import Mapping

from outbox.models import RowRef


class RelayError(Exception):
    """Base of every error of the relay. Its message tells what happened and what to do."""


class StoppedError(RelayError):
    """The relay was asked to stop while it waited for a service."""


class UnavailableError(RelayError):
    """A service is down, slow, or refuses the relay's login or rights: wait and try again.

    No row is charged with an attempt, and nothing is lost by waiting.
    """


class MisconfiguredError(RelayError):
    """Settings contradict each other or the services; waiting alone does not help.

    At start the relay exits; under way the shard waits, in case the service is put right.
    """


class TransactionFailedError(UnavailableError):
    """A Kafka transaction did not end in a commit that we know of: drop the producer, take the shard anew.

    Whether it was committed is not known here, and nothing may be concluded: the progress record tells.
    """


class BatchRefusedError(TransactionFailedError):
    """The client or the broker refused records of the transaction, not the transaction as such.

    The broker refuses batches, not records: only a row alone in its transaction is known to be at fault.
    """


class RowsAtFaultError(RelayError):
    """Rows that cannot be sent, by their own fault; the others were not sent either.

    Attributes:
        errors: what is wrong with each, without values of the row.
    """

    def __init__(self, errors: Mapping[RowRef, str]) -> None:
        super().__init__(f"{len(errors)} row(s) cannot be sent")
        self.errors = errors


class KafkaWentBackError(RelayError):
    """The database has settled transactions that Kafka does not hold any more: a broker was restored from an
    older copy, or lost its newest data. Sending on would leave the rows of those transactions lost.
    """


class DatabaseWentBackError(RelayError):
    """Kafka holds later transactions than the database knows of: it was restored to an earlier moment,
    or failed over to a stale replica. Sending on would double every row committed since.
    """
