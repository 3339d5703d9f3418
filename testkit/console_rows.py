"""Outboxes for the console's pages: one that senders filled with hostile texts, and one as it is in an incident."""

from sqlalchemy import Engine, text

from outbox.leases import Leases
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.pause import pause_shards
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.outbox import park, park_calls, planned, record, set_state
from testkit.rows import new_row

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a\u202eb\u2066c\u200f",
    "x" * 256,
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "&lt;b&gt;&#60;",
)
"""Texts as a sender writes them who wants to break pages."""
PERSONAL = ("someone@example.com", "agent-7")
"""What no page shows unless it is revealed."""
TOO_LARGE = "the broker refuses the record (MSG_SIZE_TOO_LARGE): raise max.message.bytes of the topic, then retry"


def fill_with_hostile_texts(engine: Engine) -> None:
    """Record rows of every state whose ids, channels, errors and reasons are hostile; row 1 is parked."""
    store, operations = Store(engine), Operations(engine)
    parked = record(store, [new_row(hostile, channel=hostile) for hostile in HOSTILE])
    record(store, [new_row(hostile, channel=hostile) for hostile in HOSTILE])  # wait behind them
    record(store, [new_row("discarded"), new_row("sent"), new_row("sent"), new_row("called")])
    contexts = [AuditContext("ann", hostile, RowFilter(error=hostile)) for hostile in HOSTILE]
    park(store, engine, dict(zip(parked, HOSTILE, strict=True)))
    for context in contexts:
        operations.retry(planned(operations, state="parked"), context)
        park(store, engine, dict(zip(parked, HOSTILE, strict=True)))
    set_state(engine, "interaction_id = 'discarded'", "discarded", HOSTILE[0])
    set_state(engine, "interaction_id IN ('sent', 'called')", "sent")
    _park_calls(engine, "called", HOSTILE[1])
    operations.replay("plan", planned(operations, interaction_id="sent")[:1], contexts[0])
    pause_shards(engine, 0, None, contexts[1])


def fill_with_incident(engine: Engine) -> None:
    """Record what is there when a limit of a topic is too low: parked rows, others behind them, parked calls."""
    store, operations = Store(engine), Operations(engine)
    large = [new_row(f"conv-{number}", channel="chat") for number in range(4120, 4124)]
    behind = [new_row(f"conv-{number}", channel="chat") for number in (4120, 4120, 4121)]
    usual = [new_row(f"conv-{number}", channel=("voice", "email")[number % 2]) for number in range(4130, 4142)]
    parked = record(store, large)
    record(store, [*behind, *usual])
    park(store, engine, dict.fromkeys(parked, TOO_LARGE))
    set_state(engine, "channel = 'email'", "sent")
    _park_calls(engine, "conv-4131", "HTTP 422")
    context = AuditContext("ann (console)", "limit of the topic raised", RowFilter(state="parked"))
    operations.retry(planned(operations, ids=(parked[-1],)), context)
    leases = Leases(engine, "relay-1", 600)
    leases.heartbeat(healthy=True)
    leases.take(0)


def _park_calls(engine: Engine, interaction: str, error: str) -> None:
    """Park the inference call of each row of an interaction."""
    with engine.begin() as connection:
        insert = """
            INSERT INTO outbox_inference_call (row_id, interaction_id, due_at)
            SELECT id, interaction_id, 1 FROM outbox WHERE interaction_id = :interaction
        """
        connection.execute(text(insert), {"interaction": interaction})
    rows = [row.id for row in Operations(engine).find(RowFilter(interaction_id=interaction))]
    park_calls(engine, rows, 1_795_000_000_000, error)
