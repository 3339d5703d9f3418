"""The rules of the state machine that post rows, as the webhook does."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlalchemy import PoolProxiedConnection

from outbox.db.engine import BEGIN
from outbox.insert import as_json
from outbox.models import Accepted, KeyReused, NewRow, new_nonce
from outbox.operators.change import Operations
from outbox.sql.insert import INSERT_POSTGRESQL
from outbox.store import Store
from testkit.rows import new_row
from tests.model.broker import Broker
from tests.model.environment import LARGE, Environment, row_for
from tests.model.reference import AcceptedRow, Reference
from tests.model.simulated_relay import UNENCODABLE

any_row = st.integers(0, 99)
interactions = st.sampled_from("XXY")
posts = st.lists(st.tuples(interactions, st.sampled_from(("good", "good", LARGE, UNENCODABLE))), min_size=1, max_size=3)


class PostingRules(RuleBasedStateMachine):
    """An outbox to which rows are posted, and the reference model of it.

    Args:
        environment: the database.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.environment, self.engine = environment, environment.engine
        self.store, self.operations = Store(self.engine), Operations(self.engine)
        self.broker = Broker()
        self.reference = Reference(block_behind_parked=True)
        self.serial = 0
        self.slow: tuple[PoolProxiedConnection, AcceptedRow] | None = None
        """An open transaction, and the row that it inserted."""

    @rule(posted=posts)
    def post(self, posted: list[tuple[str, str]]) -> None:
        """Post interactions, one after the other; each is acknowledged."""
        for interaction, kind in posted:
            row = self._new_row(interaction, kind)
            (answer,) = self.store.record([row])
            self.reference.accept(self._accepted(answer, row))

    @precondition(lambda self: self.reference.rows)
    @rule(pick=any_row, other=st.booleans())
    def post_again(self, pick: int, *, other: bool) -> None:
        """Post a key again: with the same body it is a duplicate, with another it is refused."""
        known = list(self.reference.rows.values())[pick % len(self.reference.rows)]
        payload = b"{}" if other else known.payload
        (answer,) = self.store.record([new_row(known.interaction, payload=payload)._replace(key=known.key)])
        assert answer == (KeyReused() if other else Accepted(known.outbox_id, known.interaction, duplicate=True))

    @precondition(lambda self: self.slow is None and self.engine.dialect.name == "postgresql")
    @rule(interaction=interactions)
    def post_slowly(self, interaction: str) -> None:
        """Assign an id to a row that is not visible yet. (Not on SQLite, where writers queue.)"""
        row = self._new_row(interaction, "good")
        connection = self.engine.raw_connection()
        driver: Any = connection.driver_connection
        driver.execute(BEGIN["postgresql"])
        driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # the test decides when it is committed
        ((_, outbox_id),) = driver.execute(INSERT_POSTGRESQL, (as_json([(row, new_nonce())]),))
        self.slow = connection, self._accepted(Accepted(outbox_id, row.interaction_id, duplicate=False), row)

    @precondition(lambda self: self.slow is not None)
    @rule()
    def commit_slow_post(self) -> None:
        """Make the row visible, perhaps after rows with later ids."""
        assert self.slow is not None
        (connection, accepted), self.slow = self.slow, None
        connection.commit()
        connection.close()
        self.reference.accept(accepted)

    def _drop_slow_post(self) -> None:
        if self.slow is not None:
            self.slow[0].close()
            self.slow = None

    def _new_row(self, interaction: str, kind: str) -> NewRow:
        self.serial += 1
        return row_for(self.serial, interaction, kind)

    def _accepted(self, answer: object, row: NewRow) -> AcceptedRow:
        assert isinstance(answer, Accepted)
        assert not answer.duplicate
        return AcceptedRow(
            answer.outbox_id,
            int(row.traceparent or 0),
            row.interaction_id,
            row.key,
            row.payload,
            refusable=row.channel == UNENCODABLE or row.customer_email is not None,
            after=self.reference.acknowledged(row.interaction_id),
        )
