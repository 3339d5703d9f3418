"""``relay replay``: send rows again on purpose."""

import hashlib
import json
import re
import sys
from collections.abc import Iterable

import click

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations, call_again_verb, replay_verb
from outbox.operators.commands import filter_arguments
from outbox.operators.format import format_time, plural
from outbox.operators.rows import MAX_COUNTED_ROWS, FoundRow, RowFilter
from outbox.states import RowState
from relay.cli.change import PlannedChange, explain_empty, find_rows, run_change, until_now
from relay.cli.options import ChangeOptions, RowSelection, change_options, row_filters
from relay.cli.parked_rows import in_state
from relay.cli.session import audit_context, open_operations
from relay.operator_settings import OperatorSettings

UNNAMED = ""
"""Plan of a dry run without ``--plan`` and ``--reason``: nothing was ever replayed under it."""


@click.command()
@row_filters
@change_options
@click.option("--topic", help="Send to this topic, one of KAFKA_REPLAY_TOPICS [default: KAFKA_TOPIC].")
@click.option("--inference-only", is_flag=True, help="Call the inference endpoint again; send nothing to Kafka.")
@click.option(
    "--plan",
    metavar="NAME",
    help="Name of the replay; no row is replayed twice under one name [default: derived from filters and reason].",
)
def replay(
    *, selection: RowSelection, options: ChangeOptions, topic: str | None, inference_only: bool, plan: str | None
) -> None:
    """Send rows again, as deliberate duplicates.

    Selects sent rows or, with --state discarded, discarded ones. Each becomes a new row, in the original
    order, and its record carries the header replay-of. Repeating the command continues an interrupted
    replay. To replay the same rows once more, give another --reason or --plan.

    \b
    Examples:
      relay replay --since 2026-01-31T08:00 --until 2026-01-31T09:00 --reason "consumer lost an hour" --rate 500
      relay replay --id 4711 --state discarded --reason "discarded by mistake"
    """
    if plan and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", plan):
        raise click.UsageError(f"--plan {plan!r}: takes 1 to 64 letters, digits, hyphens and underscores")
    if topic and inference_only:
        raise click.UsageError("--inference-only sends nothing to Kafka: give no --topic with it")
    name = plan or plan_name(topic, selection, options.reason)
    states = (RowState.SENT,) if inference_only else (RowState.SENT, RowState.DISCARDED)
    rows = in_state("replay", selection.require(), *states)
    with open_operations() as (operations, settings):
        _require_allowed(topic, settings)
        context = audit_context(options, settings, rows)
        if inference_only:
            change = _plan_calls(operations, context, name)
        else:
            change = _plan_records(operations, context, name, topic)
        sys.exit(run_change(change, options))


def plan_name(topic: str | None, selection: RowSelection, reason: str) -> str:
    """Derive a plan's name: the same filters (as typed), topic and reason give the same name at any time."""
    if not reason:
        return UNNAMED
    request = json.dumps([topic, {**selection.as_typed(), "reason": reason}], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()[:12]


def _require_allowed(topic: str | None, settings: OperatorSettings) -> None:
    if topic is not None and topic not in settings.kafka_replay_topics:
        allowed = ", ".join(settings.kafka_replay_topics) or "none"
        raise click.UsageError(f"--topic {topic!r} is not in KAFKA_REPLAY_TOPICS, which allows {allowed}")


def _plan_records(operations: Operations, context: AuditContext, name: str, topic: str | None) -> PlannedChange:
    """Plan to send rows to Kafka again."""
    rows = context.rows
    plan = find_rows(operations.replayable(rows, name))
    replayed = sum(operations.count_replayed(chunk) for chunk in plan.chunks(MAX_COUNTED_ROWS))
    target = f"topic {topic}" if topic else "the default topic"
    consequences = [f"each is sent again to {target} with the header replay-of, under {_label(name)}"]
    if replayed:
        consequences.append(f"{replayed:,} of them were replayed before under another plan: consumers get them again")
    if plan.replays:
        consequences.append(f"{plan.replays:,} of them are replays; the selection may include their originals")
    to_topic = ("--topic", topic) if topic else ()
    return PlannedChange(
        "replay",
        plan,
        lambda chunk: operations.replay(name, chunk, context, topic),
        tuple(consequences),
        ("replay", *filter_arguments(until_now(rows)), "--plan", name, *to_topic),
        "" if plan else _explain_empty(operations, rows, operations.replayed(rows, name), replay_verb(name)),
    )


def _plan_calls(operations: Operations, context: AuditContext, name: str) -> PlannedChange:
    """Plan to call the inference endpoint again."""
    rows, called = context.rows, operations.called_again(name)
    plan = find_rows(row for row in operations.find(rows) if row.id not in called)
    again = (row for row in operations.find(rows) if row.id in called)
    return PlannedChange(
        "replay",
        plan,
        lambda chunk: operations.call_again(name, chunk, context),
        (f"the inference endpoint is called again for each with the same Idempotency-Key, under {_label(name)}",),
        ("replay", "--inference-only", *filter_arguments(until_now(rows)), "--plan", name),
        "" if plan else _explain_empty(operations, rows, again, call_again_verb(name)),
    )


def _label(name: str) -> str:
    return f"plan {name}" if name else "a plan named after the reason"


def _explain_empty(operations: Operations, rows: RowFilter, replayed: Iterable[FoundRow], verb: str) -> str:
    """Say why no row is left to replay.

    Args:
        operations: on the outbox.
        rows: what the operator selected.
        replayed: rows of the selection that the plan has replayed.
        verb: of the plan in the audit log.
    """
    count = sum(1 for _ in replayed)
    if not count:
        return explain_empty(operations, rows, rows.state or "sent")
    message = f"already replayed {'the' if count == 1 else 'all'} {plural(count, 'matching row')}: {verb}"
    if entries := operations.entries_of(verb):
        ids = (
            f"entry {entries.first}" if entries.first == entries.last else f"entries {entries.first} to {entries.last}"
        )
        message += f", audit {ids}, {format_time(entries.at_ms)}"
    return f"{message}. To replay again, give another --reason or --plan"
