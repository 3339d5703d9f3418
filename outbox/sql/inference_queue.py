"""The SQL of inference calls.

Work is found through two partial indexes of what is due: by time, and by interaction. A claim tries the
earliest calls by time, and takes those that are the first of their interaction. One that stands behind
another is moved an hour away, so that no claim walks over it again; the settlement of the one before
makes it due. So the cost of a claim follows what it takes, not what waits.
"""

from outbox.sql.flow import Statement, statement

BEHIND_MS = 3_600_000
"""How far a call is moved that stands behind another of its interaction. It is woken by that one's end; the
hour is for an end that woke nobody, as in a database restored, or under the code of an earlier release."""

_FIRST = """(
    SELECT e.row_id FROM outbox_inference_call AS e
    WHERE e.state = 'due' AND e.interaction_id = {of} ORDER BY e.row_id LIMIT 1
)"""
"""The first due call of an interaction; as a scalar subquery it is one probe of the index, whatever the plan."""

_AMONG = {
    "postgresql": "= ANY(CAST(:ids AS bigint[]))",
    "sqlite": "IN (SELECT value FROM json_each(:ids))",
}

_CALLS_DUE = f"""
    INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
    SELECT id, interaction_id,
           {{now}} + CASE WHEN id = min(id) OVER (PARTITION BY interaction_id) THEN 0 ELSE {BEHIND_MS} END
    FROM outbox
    WHERE id {{among}} AND shard = :shard AND state = 'sent' AND sequence = :sequence
    ON CONFLICT (row_id) DO NOTHING
"""
CALLS_DUE = statement(*(_CALLS_DUE.replace("{among}", among) for among in _AMONG.values()))
"""Runs in the transaction that marks the rows, so no call is ever missing; the rows marked are recognised by
their sequence. Found by their ids: between the first and the last may lie all of history."""

NOW_WALKING = statement(
    postgresql="SELECT {now}, set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)",
    sqlite="SELECT {now}",
)
"""The database's clock; for the rest of the transaction PostgreSQL walks the index by time rather than sorting all that
is due, whatever its statistics say."""

ANY_DUE = statement("""
    SELECT 1 FROM outbox_inference_call WHERE state = 'due' AND due_at <= (SELECT {now}) ORDER BY due_at LIMIT 1
""")
"""Ordered, so that the index by time is walked, never the table."""


def _locking(sql: str) -> Statement:
    """A statement that locks what it chooses: on PostgreSQL chosen once, as an array, whatever the plan; on SQLite
    BEGIN IMMEDIATE has locked.
    """
    words = {
        "{in}": ("= ANY(ARRAY(", "IN ("),
        "{end}": ("))", ")"),
        "{lock}": ("FOR UPDATE OF c SKIP LOCKED", ""),
        "{shared}": ("FOR SHARE SKIP LOCKED", ""),
    }
    texts = [sql, sql]
    for word, variants in words.items():
        texts = [text.replace(word, variant) for text, variant in zip(texts, variants, strict=True)]
    return statement(*texts)


_EARLIEST = """
    SELECT c.row_id FROM (
        SELECT row_id FROM outbox_inference_call
        WHERE state = 'due' AND due_at <= :now ORDER BY due_at LIMIT :window
    ) AS w JOIN outbox_inference_call AS c ON c.row_id = w.row_id
    WHERE CASE WHEN c.state = 'due' THEN c.due_at END <= :now
"""
"""Looked at again under the lock, in words that no index knows: else PostgreSQL, where its statistics know of few
calls that are due, goes through all that are rather than through the window."""
_CLAIM = f"""
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until WHERE row_id {{in}}
        {_EARLIEST} AND c.row_id = {_FIRST.replace("{of}", "c.interaction_id")} LIMIT :limit {{lock}}
    {{end}}
    RETURNING row_id, interaction_id
"""
CLAIM = _locking(_CLAIM)
"""The first due call of each interaction; a claim that runs out is due again by itself."""

_MOVE_BEHIND = f"""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = :now + {BEHIND_MS} WHERE row_id {{in}}
        {_EARLIEST} AND EXISTS (
            SELECT 1 FROM outbox_inference_call AS e
            WHERE e.state = 'due' AND e.interaction_id = c.interaction_id AND e.row_id < c.row_id
            ORDER BY e.row_id LIMIT 1 {{shared}}
        ) {{lock}}
    {{end}}
"""
MOVE_BEHIND = _locking(_MOVE_BEHIND)
"""Whoever moves a call holds the one before it: its settlement then comes later, and sees what it has to wake.
Never waits for a lock, so it has no part in a deadlock."""

_NEXT = """
    SELECT f.row_id, f.interaction_id, f.claimed_by IS NULL AS free FROM outbox_inference_call AS f
    WHERE f.state = 'due' AND f.interaction_id = h.interaction_id AND f.row_id > h.row_id ORDER BY f.row_id LIMIT :more
"""
FOLLOWERS = statement(
    postgresql=f"""
    SELECT n.* FROM unnest(CAST(:ids AS bigint[])) AS i(id)
    JOIN outbox_inference_call AS h ON h.row_id = i.id CROSS JOIN LATERAL ({_NEXT}) AS n
    ORDER BY n.row_id
    """,
    sqlite=f"""
    SELECT f.row_id, f.interaction_id, f.claimed_by IS NULL AS free
    FROM json_each(:ids) AS i JOIN outbox_inference_call AS h ON h.row_id = i.value
    JOIN outbox_inference_call AS f ON f.row_id IN (SELECT row_id FROM ({_NEXT}))
    ORDER BY f.row_id
    """,
)
"""The calls that come next in the interactions of claimed ones."""

_CLAIM_FOLLOWERS = """
    UPDATE outbox_inference_call SET claimed_by = :owner, due_at = :until
    WHERE row_id {among} AND state = 'due' AND claimed_by IS NULL RETURNING row_id
"""
CLAIM_FOLLOWERS = statement(*(_CLAIM_FOLLOWERS.replace("{among}", among) for among in _AMONG.values()))

_CLAIMED = """
    SELECT c.row_id, c.interaction_id, o.timestamp_ms, o.traceparent, c.attempts, c.due_at AS claimed_until_ms
    FROM outbox_inference_call AS c JOIN outbox AS o ON o.id = c.row_id WHERE c.row_id {among} ORDER BY c.row_id
"""
CLAIMED = statement(*(_CLAIMED.replace("{among}", among) for among in _AMONG.values()))

_RESULTS = {
    "postgresql": """
    unnest(CAST(:row_id AS bigint[]), CAST(:state AS text[]), CAST(:attempts AS integer[]), CAST(:status AS integer[]),
           CAST(:error AS text[]), CAST(:latency_ms AS integer[]), CAST(:wait_ms AS bigint[]),
           CAST(:claimed_until_ms AS bigint[]))
        AS r(row_id, state, attempts, status, error, latency_ms, wait_ms, claimed_until_ms)
    """,
    "sqlite": """
    (SELECT value ->> 'row_id' AS row_id, value ->> 'state' AS state, value ->> 'attempts' AS attempts,
            value ->> 'status' AS status, value ->> 'error' AS error, value ->> 'latency_ms' AS latency_ms,
            value ->> 'wait_ms' AS wait_ms, value ->> 'claimed_until_ms' AS claimed_until_ms
     FROM json_each(:results)) AS r
    """,
}
_SETTLE = """
    UPDATE outbox_inference_call SET {change}, claimed_by = NULL, due_at = {now} + {wait}
    FROM {results} WHERE outbox_inference_call.row_id = r.row_id AND outbox_inference_call.state = 'due' {ours}
    RETURNING outbox_inference_call.interaction_id
"""
_ANSWERED = "state = r.state, attempts = r.attempts, status = r.status, error = r.error, latency_ms = r.latency_ms"
_OURS = """AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms"""


_UNLESS_LATE = """CASE WHEN (
        SELECT e.claimed_by FROM outbox_inference_call AS e
        WHERE e.state = 'due' AND e.interaction_id = outbox_inference_call.interaction_id ORDER BY e.row_id LIMIT 1
    ) IS NULL THEN r.wait_ms ELSE 0 END"""


def _settlement(change: str, ours: str, wait: str = "r.wait_ms") -> list[str]:
    text = _SETTLE.replace("{change}", change).replace("{ours}", ours).replace("{wait}", wait)
    return [text.replace("{results}", results) for results in _RESULTS.values()]


FINISH = statement(*_settlement(_ANSWERED, ""))
"""Done or parked. Also when the claim had run out and another worker has the call: that it was answered is a fact."""
TRY_AGAIN = statement(*_settlement(_ANSWERED, _OURS))
"""Due again later, if it is still in our hands: the claim is named by its owner and its end."""
GIVE_BACK = statement(*_settlement("attempts = r.attempts", _OURS, _UNLESS_LATE))
"""Claimed and not tried. It waits behind the first of its interaction if that waits too, as ``TRY_AGAIN`` has left it.
If that has ended meanwhile, or is in another worker's hands, its end may already have woken whom it could: due now."""

_WAKE_NEXT = f"""
    UPDATE outbox_inference_call SET due_at = (SELECT {{now}})
    WHERE row_id IN (SELECT {_FIRST.replace("{of}", "i.value")} FROM {{interactions}})
      AND state = 'due' AND claimed_by IS NULL AND due_at > (SELECT {{now}})
"""
WAKE_NEXT = statement(
    postgresql=_WAKE_NEXT.replace("{interactions}", "unnest(CAST(:interactions AS text[])) AS i(value)"),
    sqlite=_WAKE_NEXT.replace("{interactions}", "json_each(:interactions) AS i"),
)
"""After ``FINISH``, in its transaction: what stood behind the calls that ended is due."""

CLAIMANTS = statement("""
    SELECT DISTINCT claimed_by FROM outbox_inference_call
    WHERE state = 'due' AND due_at > :now AND due_at <= :until AND claimed_by IS NOT NULL
""")
RELEASE_CLAIMS = statement("""
    UPDATE outbox_inference_call SET claimed_by = NULL, due_at = :now
    WHERE state = 'due' AND due_at > :now AND due_at <= :until AND claimed_by = :owner
""")
"""Claims that have not run out end within a claim's time: the index by time finds them."""

OLDEST_DUE = statement("""
    SELECT :now - min((SELECT sent_at FROM outbox WHERE id = w.row_id)) FROM (
        SELECT row_id FROM outbox_inference_call WHERE state = 'due' ORDER BY due_at LIMIT :window
    ) AS w
""")
"""The oldest by when its row was sent, among those that come next: while no more are due, among all of them. So its
cost is bounded, however many are due."""
CALLS_LEFT = statement("""
    SELECT (SELECT count(*) FROM outbox_inference_call WHERE state = 'due') AS due,
           (SELECT count(*) FROM outbox_inference_call WHERE state = 'parked') AS parked
""")
