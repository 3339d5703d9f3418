"""The database under test, and what can be seen in it and in the topic."""

from collections.abc import Sequence

from sqlalchemy import text

from outbox.db import transactions
from outbox.db.engine import create_outbox_engine
from outbox.models import NewRow
from outbox.store import Store
from testkit.rows import new_row
from tests.model.broker import BrokerRecord
from tests.model.reference import DeliveredRecord, StoredRow
from tests.model.simulated_relay import UNENCODABLE
from tests.model.snapshot import DatabaseSnapshot

LIMIT_BYTES = 1000
"""Of a record in the topic, while the broker refuses large ones."""
LARGE = "large"
DATABASE, KAFKA = "database", "Kafka"
WENT_BACK = {DATABASE: "it was restored", KAFKA: "Kafka went back in time"}
"""What may go back in time, and a part of the shard's condition then."""

_ROWS = text("""
    SELECT o.id, o.nonce, o.traceparent, o.interaction_id, o.state, o.replay_of IS NOT NULL AS is_replay,
           EXISTS (SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = o.id) AS has_call
    FROM outbox_rows AS o ORDER BY o.id
""")


class Environment:
    """One database, with an engine for each process that uses it.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self.engine, *self.relay_engines = (create_outbox_engine(url) for _ in range(3))
        self._empty = DatabaseSnapshot(self.engine)

    def reset(self) -> None:
        """Empty the outbox."""
        self._empty.restore(self.engine)

    def close(self) -> None:
        """Close every connection."""
        for engine in (self.engine, *self.relay_engines):
            engine.dispose()

    def rows(self) -> list[StoredRow]:
        """Every row."""
        with transactions.read(self.engine) as connection:
            found = connection.execute(_ROWS).all()
        return [
            StoredRow(r.id, r.nonce, int(r.traceparent), r.interaction_id, r.state, r.is_replay, r.has_call)
            for r in found
        ]

    def expire_lease(self) -> None:
        """Let the shard's lease expire; its owner does not notice."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE outbox_shard SET lease_expires_at = 0"))

    def owner(self) -> str | None:
        """The owner of the shard, as the database has it."""
        return Store(self.engine).status()[0].owner

    def went_back(self) -> str | None:
        """What went back in time, according to the shard's condition; None if nothing did."""
        condition = Store(self.engine).status()[0].condition or ""
        return next((what for what, part in WENT_BACK.items() if part in condition), None)


def row_for(serial: int, interaction: str, kind: str) -> NewRow:
    """A row that carries its serial number; Kafka may refuse ``LARGE`` ones, the encoder ``UNENCODABLE`` ones."""
    email = "x" * LIMIT_BYTES if kind == LARGE else None
    channel = UNENCODABLE if kind == UNENCODABLE else "voice"
    return new_row(interaction, key=str(serial), traceparent=str(serial), channel=channel, customer_email=email)


def delivered_records(records: Sequence[tuple[int, BrokerRecord]]) -> list[DeliveredRecord]:
    """The rows that records of the topic carry, as their headers name them."""
    parsed = [(offset, record.key.decode(), dict(record.headers)) for offset, record in records]
    return [
        DeliveredRecord(offset, int(headers["outbox-id"]), int(headers["traceparent"]), key, "replay-of" in headers)
        for offset, key, headers in parsed
    ]
