"""States of an outbox row, and the transitions that exist. There are no others."""

from enum import StrEnum


class RowState(StrEnum):
    """Where an outbox row stands on its way into Kafka.

    That a row *waits* behind a parked row of its interaction is derived when rows are selected,
    never stored.
    """

    PENDING = "pending"
    """Committed to the outbox, not yet known to be in the topic."""
    SENT = "sent"
    """In the topic: its transaction was committed."""
    PARKED = "parked"
    """Kafka or the encoder refused this very row; an operator retries or discards it."""
    DISCARDED = "discarded"
    """An operator decided that it is not to be sent."""


class CallState(StrEnum):
    """Where the inference call of a sent row stands."""

    DUE = "due"
    """To be called, or to be called again once its time has come."""
    DONE = "done"
    """The endpoint answered 2xx."""
    PARKED = "parked"
    """Refused for good, or tried too often; an operator may make it due again."""


TRANSITIONS: dict[RowState, frozenset[RowState]] = {
    RowState.PENDING: frozenset({RowState.SENT, RowState.PARKED}),
    RowState.PARKED: frozenset({RowState.PENDING, RowState.DISCARDED, RowState.SENT}),
    RowState.DISCARDED: frozenset({RowState.SENT}),
    RowState.SENT: frozenset({RowState.PENDING}),
}
"""From-state to the states that may follow. ``parked`` and ``discarded`` become ``sent`` on the
evidence of a progress record alone: after a restore, a row may stand as parked that is in Kafka. ``sent``
becomes ``pending`` by ``relay reconcile`` alone, where Kafka has lost the row."""

UNSENT: frozenset[RowState] = frozenset(s for s, followers in TRANSITIONS.items() if RowState.SENT in followers)
"""The states from which a row may be marked sent."""
