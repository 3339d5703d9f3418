"""The states of an outbox row and of its inference call."""

from enum import StrEnum


class RowState(StrEnum):
    """The state of an outbox row on its way into Kafka.

    ``pending`` becomes ``sent`` or ``parked``; an operator makes ``parked`` ``pending`` (retry) or ``discarded``.
    ``parked`` and ``discarded`` become ``sent`` only if a progress record shows that Kafka has the row, as after a
    restore. ``sent`` becomes ``pending`` only if Kafka has lost the row, by ``relay reconcile``.

    That a row waits behind a parked row of its interaction is determined when rows are selected, never stored.
    """

    PENDING = "pending"
    """Committed to the outbox, not known to be in the topic."""
    SENT = "sent"
    """In the topic: its transaction was committed."""
    PARKED = "parked"
    """Rejected by Kafka or the encoder; an operator retries or discards it."""
    DISCARDED = "discarded"
    """Not to be sent, as an operator decided."""


class CallState(StrEnum):
    """The state of the inference call of a sent row."""

    DUE = "due"
    """To be made, or made again, at its time."""
    DONE = "done"
    """The endpoint answered 2xx."""
    PARKED = "parked"
    """Rejected for good, or attempted too often; an operator can make it due again."""
