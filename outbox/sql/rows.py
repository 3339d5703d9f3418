"""The SQL that finds rows for operators.

An operator's filter becomes a list of conditions on ``o``, which are joined with AND; values are always bound. ``o`` is
the view ``outbox_rows``, or, if the filter names a state, the table of that state with its rows of ``outbox``.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import text

from outbox.sql.statement import Statement, statement
from outbox.states import RowState


class Condition(NamedTuple):
    """A condition on the row ``o``, as each database evaluates it."""

    postgresql: str
    sqlite: str


def all_of(conditions: Iterable[Condition]) -> Condition:
    """Join conditions with AND; without any, every row meets it."""
    pairs = list(zip(*conditions, strict=True)) or [("true",), ("true",)]
    return Condition(*(" AND ".join(texts) for texts in pairs))


def _condition(both: str = "", *, postgresql: str = "", sqlite: str = "") -> Condition:
    return Condition(postgresql or both, sqlite or both)


# Conditions of a ``RowFilter`` ---------------------------------------------------------------------

FILTERS = {
    "ids": _condition(
        postgresql="o.id = ANY(CAST(:ids AS bigint[]))",
        sqlite="o.id IN (SELECT value FROM json_each(:ids))",
    ),
    "interaction_id": _condition("o.interaction_id = :interaction_id"),
    "key": _condition("o.id = (SELECT k.id FROM outbox AS k WHERE k.key = :key)"),
    "channel": _condition("o.channel = :channel"),
    "error": _condition(
        postgresql="strpos(lower(o.error), lower(:error)) > 0",
        sqlite="instr(lower(o.error), lower(:error)) > 0",
    ),
    "since_ms": _condition("o.received_at >= :since_ms"),
    "until_ms": _condition("o.received_at < :until_ms"),
    "email": _condition(
        postgresql="""EXISTS (
            SELECT 1 FROM outbox AS b WHERE b.id = o.id AND (
                lower(b.customer_email) = lower(:email)
                OR octet_length(b.customer_email) > length(b.customer_email)
                OR strpos(encode(b.payload, 'escape'), CHR(92)) > 0
                OR strpos(lower(encode(b.payload, 'escape') COLLATE "C"), lower(:email COLLATE "C")) > 0
            )
        )""",
        sqlite="""EXISTS (
            SELECT 1 FROM outbox AS b WHERE b.id = o.id AND (
                lower(b.customer_email) = lower(:email)
                OR length(CAST(b.customer_email AS BLOB)) > length(b.customer_email)
                OR length(b.payload) > length(CAST(b.payload AS TEXT))
                OR instr(b.payload, CAST(char(92) AS BLOB)) > 0
                OR instr(lower(CAST(b.payload AS TEXT)), lower(:email)) > 0
            )
        )""",
    ),
}
"""A condition for each field of ``RowFilter``, except ``state``.

``email`` selects every row that contains the address in ASCII, in either case, and every row with a backslash or a
character beyond ASCII, which may spell it differently. PostgreSQL's ``escape`` writes both with a backslash."""

PENDING, SENT, PARKED, DISCARDED = RowState.PENDING, RowState.SENT, RowState.PARKED, RowState.DISCARDED
_PARKED = """(
    SELECT p.id, p.nonce, p.shard, p.state, r.interaction_id, r.channel, r.received_at, CAST(NULL AS bigint) AS sent_at,
           r.replay_of, r.replay_plan, p.error, r.topic, p.changed_at
    FROM outbox_parked AS p JOIN outbox AS r ON r.id = p.id WHERE p.state = '{state}'
)"""
SOURCES = {
    None: "outbox_rows",
    PENDING: """(
        SELECT w.id, w.nonce, w.shard, 'pending' AS state, r.interaction_id, r.channel, r.received_at,
               CAST(NULL AS bigint) AS sent_at, r.replay_of, r.replay_plan, CAST(NULL AS text) AS error, r.topic,
               CAST(NULL AS bigint) AS changed_at
        FROM outbox_pending AS w JOIN outbox AS r ON r.id = w.id
    )""",
    SENT: """(
        SELECT s.id, r.nonce, s.shard, 'sent' AS state, r.interaction_id, r.channel, r.received_at, s.sent_at,
               r.replay_of, r.replay_plan, CAST(NULL AS text) AS error, r.topic, CAST(NULL AS bigint) AS changed_at
        FROM outbox_sent AS s JOIN outbox AS r ON r.id = s.id
    )""",
    PARKED: _PARKED.format(state="parked"),
    DISCARDED: _PARKED.format(state="discarded"),
}
"""Where the rows of a state are, or (None) all rows."""

CALL_ERROR = _condition(
    postgresql="strpos(lower(c.error), lower(:error)) > 0",
    sqlite="instr(lower(c.error), lower(:error)) > 0",
)
"""Compares the error of the inference call ``c`` instead of the row's."""

# Conditions of single operations ------------------------------------------------------------------------

IN_SHARD = _condition("o.shard = :shard")
"""Limits a scan to one shard."""
IN_STATE = _condition("o.state = :state")
"""Checks the state of rows that are found by other means."""
PRUNABLE = _condition("""
    o.state IN ('sent', 'discarded')
    AND coalesce((SELECT c.state FROM outbox_inference_call AS c WHERE c.row_id = o.id), 'done') IN ('done', :given_up)
""")
"""Discarded, or sent with a call that is done or given up. The call is a scalar subquery, which is one index probe in
every plan; for ``NOT EXISTS`` PostgreSQL may read all calls."""
HAS_PERSONAL_DATA = _condition("""
    EXISTS (SELECT 1 FROM outbox AS d WHERE d.id = o.id AND (d.customer_email IS NOT NULL OR length(d.payload) > 0))
""")
"""Has a customer, or a body."""
REPLAYED_BY_PLAN = _condition("""
    EXISTS (SELECT 1 FROM outbox AS made WHERE made.replay_of = o.id AND made.replay_plan = :plan)
""")
"""The plan has replayed the row."""
NOT_REPLAYED_BY_PLAN = _condition("""
    coalesce(o.replay_plan, '') <> :plan
    AND NOT EXISTS (SELECT 1 FROM outbox AS made WHERE made.replay_of = o.id AND made.replay_plan = :plan)
""")
"""Neither replayed nor made by the plan."""


# Statements ----------------------------------------------------------------------------------------


def select_rows(condition: Condition, state: RowState | None = None) -> Statement:
    """Select the rows, of a state or of all, between two ids that meet a condition, in id order."""
    return Statement(
        *(
            text(f"""
            SELECT o.id, o.nonce, o.shard, o.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of,
                   o.error, o.topic, coalesce(o.changed_at, 0)
            FROM {SOURCES[state]} AS o
            WHERE o.id > :after AND o.id <= :last AND {where}
            ORDER BY o.id LIMIT :limit
            """)
            for where in condition
        )
    )


def select_parked_calls(condition: Condition) -> Statement:
    """Select the same of rows with a parked call, with the call's state, error and time of parking."""
    return Statement(
        *(
            text(f"""
            SELECT o.id, o.nonce, o.shard, c.state, o.interaction_id, o.channel, o.received_at, o.sent_at, o.replay_of,
                   c.error, o.topic, c.due_at
            FROM outbox_inference_call AS c JOIN {SOURCES[SENT]} AS o ON o.id = c.row_id
            WHERE c.state = 'parked' AND c.row_id > :after AND c.row_id <= :last AND {where}
            ORDER BY c.row_id LIMIT :limit
            """)
            for where in condition
        )
    )


def count_blocked(condition: Condition) -> Statement:
    """Count the pending rows behind the first parked row of their interaction that meets a condition.

    As in ``outbox.sql.shards.STATUS``, the subqueries keep every plan from reading all rows.
    """
    return Statement(
        *(
            text(f"""
            SELECT coalesce(sum((
                SELECT count((SELECT w.id FROM outbox_pending AS w WHERE w.shard = f.shard AND w.id = r.id))
                FROM outbox AS r WHERE r.interaction_id = f.interaction_id AND r.id + 0 > f.id
            )), 0)
            FROM (
                SELECT o.shard, o.interaction_id, min(o.id) AS id FROM {SOURCES[PARKED]} AS o WHERE {where}
                GROUP BY o.shard, o.interaction_id
            ) AS f
            """)
            for where in condition
        )
    )


def group_by_error(condition: Condition) -> Statement:
    """Count the parked rows that meet a condition by their error, with the time of the first and the time now."""
    return statement(
        postgresql=f"""
        SELECT o.error, count(*) AS rows, min(o.changed_at) AS oldest,
               CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) AS now
        FROM {SOURCES[PARKED]} AS o WHERE {condition.postgresql} GROUP BY o.error
        """,
        sqlite=f"""
        SELECT o.error, count(*) AS rows, min(o.changed_at) AS oldest,
               CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
        FROM {SOURCES[PARKED]} AS o WHERE {condition.sqlite} GROUP BY o.error
        """,
    )


CONTENTS = statement(
    postgresql="SELECT id, customer_email, payload FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))",
    sqlite="SELECT id, customer_email, payload FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))",
)
"""The customer and the body of rows."""
ID_BOUNDS = statement("""
    SELECT coalesce((SELECT min(id) FROM outbox), 0) AS first, coalesce((SELECT max(id) FROM outbox), 0) AS last
""")
"""Two subqueries: SQLite reads the whole table for one query with both."""
FIRST_FROM = statement("SELECT id, received_at FROM outbox WHERE id >= :id ORDER BY id LIMIT 1")
"""The first row at or above an id."""
COUNT_REPLAYED = statement(
    postgresql="SELECT count(DISTINCT replay_of) FROM outbox WHERE replay_of = ANY(CAST(:ids AS bigint[]))",
    sqlite="SELECT count(DISTINCT replay_of) FROM outbox WHERE replay_of IN (SELECT value FROM json_each(:ids))",
)
"""Counts the rows that have replays."""
COUNT_WITH_ADDRESS = statement(
    postgresql="""
    SELECT r.state, count(*) AS rows FROM outbox_rows AS r JOIN outbox AS o ON o.id = r.id
    WHERE o.id = ANY(CAST(:ids AS bigint[])) AND o.customer_email IS NOT NULL GROUP BY r.state
    """,
    sqlite="""
    SELECT r.state, count(*) AS rows FROM outbox_rows AS r JOIN outbox AS o ON o.id = r.id
    WHERE o.id IN (SELECT value FROM json_each(:ids)) AND o.customer_email IS NOT NULL GROUP BY r.state
    """,
)
"""Counts the rows that have a customer's address, by state."""
