"""Where the state machine plays: one database of either kind, and what can be seen in it and in the topic."""

from collections.abc import Sequence

from sqlalchemy import text

from outbox.db import transactions
from outbox.db.engine import create_outbox_engine
from outbox.models import NewRow
from outbox.store import Store
from testkit.rows import new_row
from tests.model.assembly import UNENCODABLE, Clock
from tests.model.broker import Sent
from tests.model.ledger import Delivered, OwnedShard
from tests.model.moments import Moment

LIMIT_BYTES = 1000
"""Of a record in the topic, while the broker refuses large ones."""
LARGE = "large"
DATABASE, KAFKA = "database", "kafka"
WENT_BACK = {DATABASE: "it was restored", KAFKA: "Kafka went back in time"}
"""What may go back in time, and what a shard says then."""

_HELD = text("""
    SELECT o.id, o.nonce, o.traceparent, o.interaction_id, o.state, o.replay_of IS NOT NULL AS is_replay,
           EXISTS (SELECT 1 FROM outbox_inference_call AS c WHERE c.row_id = o.id) AS has_call
    FROM outbox AS o ORDER BY o.id
""")


class Stage:
    """One database, with an engine for each process that uses it, and how it was when it was new.

    Args:
        url: of the database.
        clock: of the relays.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self.engine, *self.relay_engines = (create_outbox_engine(url) for _ in range(3))
        self.clock = clock
        self._new = Moment(self.engine)

    def clear(self) -> None:
        """A new outbox."""
        self._new.restore(self.engine)

    def close(self) -> None:
        """Disconnect."""
        for engine in (self.engine, *self.relay_engines):
            engine.dispose()

    def held(self) -> list[OwnedShard]:
        """Every row."""
        with transactions.read(self.engine) as connection:
            found = connection.execute(_HELD).all()
        return [
            OwnedShard(r.id, r.nonce, int(r.traceparent), r.interaction_id, r.state, r.is_replay, r.has_call)
            for r in found
        ]

    def let_the_lease_run_out(self) -> None:
        """By the database's clock; its holder is not told."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE outbox_shard SET lease_expires_at = 0"))

    def owner(self) -> str | None:
        """Who holds the shard, as far as the database knows."""
        return Store(self.engine).status()[0].owner

    def waits_for_an_operator(self) -> str | None:
        """What the shard says went back in time; None: nothing."""
        condition = Store(self.engine).status()[0].condition or ""
        return next((what for what, words in WENT_BACK.items() if words in condition), None)


def row_for(serial: int, interaction: str, kind: str) -> NewRow:
    """A row that carries its serial number; ``LARGE`` and ``UNENCODABLE`` ones may be refused."""
    email = "x" * LIMIT_BYTES if kind == LARGE else None
    channel = UNENCODABLE if kind == UNENCODABLE else "voice"
    return new_row(interaction, key=f"key:{serial}", traceparent=str(serial), channel=channel, customer_email=email)


def delivered(records: Sequence[tuple[int, Sent]]) -> list[Delivered]:
    """Records of the topic, told apart by what their headers say."""
    told = [(offset, record.key.decode(), dict(record.headers)) for offset, record in records]
    return [
        Delivered(offset, int(headers["outbox-id"]), int(headers["traceparent"]), key, "replay-of" in headers)
        for offset, key, headers in told
    ]
