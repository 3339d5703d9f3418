"""Replays that are ready to be shown and applied: of rows to Kafka, or of their inference calls."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from outbox.errors import InvalidRequestError
from outbox.operators.change import Operations, call_again_verb, replay_verb
from outbox.operators.commands import filter_arguments
from outbox.operators.format import format_time, plural
from outbox.operators.plan import Plan
from outbox.operators.planned_change import Collect, PlannedChange, Verb, explain_empty, restrict, until_now
from outbox.operators.rows import MAX_COUNTED_ROWS, FoundRow, RowFilter

UNNAMED = ""
"""Name of a replay that is only shown: nothing was ever replayed under it."""


def plan_name(topic: str | None, selection: Mapping[str, Any], reason: str) -> str:
    """Derive the name of a replay: the same selection, topic and reason give the same name at any time.

    Args:
        topic: that rows are sent to; None: the default topic.
        selection: what was asked for, as it was written: an age stays an age.
        reason: for the audit log; without one, the replay is ``UNNAMED``.
    """
    if not reason:
        return UNNAMED
    request = json.dumps([topic, {**selection, "reason": reason}], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()[:12]


def check_plan_name(name: str) -> str:
    """Return the name of a replay unchanged.

    Raises:
        InvalidRequestError: it has other characters than letters, digits, hyphens and underscores, or too many.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise InvalidRequestError(f"plan {name!r}: takes 1 to 64 letters, digits, hyphens and underscores")
    return name


def plan_replay(
    operations: Operations,
    rows: RowFilter,
    name: str,
    topic: str | None = None,
    allowed_topics: Collection[str] = (),
    collect: Collect = Plan,
) -> PlannedChange:
    """Plan to send sent or discarded rows to Kafka again.

    Args:
        operations: on the outbox.
        rows: selects the rows.
        name: of the replay; no row is replayed twice under one name.
        topic: the topic to send to; None: the default topic.
        allowed_topics: the value of ``KAFKA_REPLAY_TOPICS``.
        collect: makes the plan.

    Raises:
        InvalidRequestError: the filter names another state, or the topic is not allowed.
    """
    if topic is not None and topic not in allowed_topics:
        allowed = ", ".join(allowed_topics) or "none"
        raise InvalidRequestError(f"topic {topic!r} is not in KAFKA_REPLAY_TOPICS, which allows {allowed}")
    rows = restrict(Verb.REPLAY, rows)
    filters = filter_arguments(until_now(rows))
    plan = collect(operations.replayable(rows, name))
    return PlannedChange(
        Verb.REPLAY,
        rows,
        plan,
        lambda chunk, context: operations.replay(name, chunk, context, topic),
        _replay_consequences(operations, plan, name, topic),
        ("replay", *filters, "--plan", name, *(("--topic", topic) if topic else ())),
        "" if plan else _explain_empty(operations, rows, operations.replayed(rows, name), replay_verb(name)),
    )


def _replay_consequences(operations: Operations, plan: Plan, name: str, topic: str | None) -> tuple[str, ...]:
    target = f"topic {topic}" if topic else "the default topic"
    sentences = [f"each is sent again to {target} with the header replay-of, under {_label(name)}"]
    if replayed := sum(operations.count_replayed(chunk) for chunk in plan.chunks(MAX_COUNTED_ROWS)):
        sentences.append(f"{replayed:,} of them were replayed before under another plan: consumers get them again")
    if plan.replays:
        sentences.append(f"{plan.replays:,} of them are replays; the selection may include their originals")
    return tuple(sentences)


def plan_call_again(operations: Operations, rows: RowFilter, name: str, collect: Collect = Plan) -> PlannedChange:
    """Plan to call the inference endpoint again for sent rows; nothing is sent to Kafka.

    Args:
        operations: on the outbox.
        rows: selects the rows.
        name: of the replay; no call is made due twice under one name.
        collect: makes the plan.

    Raises:
        InvalidRequestError: the filter names another state.
    """
    rows = restrict(Verb.CALL_AGAIN, rows)
    filters = filter_arguments(until_now(rows))
    called = operations.called_again(name)
    plan = collect(row for row in operations.find(rows) if row.id not in called)
    again = (row for row in operations.find(rows) if row.id in called)
    return PlannedChange(
        Verb.CALL_AGAIN,
        rows,
        plan,
        lambda chunk, context: operations.call_again(name, chunk, context),
        (f"the inference endpoint is called again for each with the same Idempotency-Key, under {_label(name)}",),
        ("replay", "--inference-only", *filters, "--plan", name),
        "" if plan else _explain_empty(operations, rows, again, call_again_verb(name)),
    )


def _label(name: str) -> str:
    return f"plan {name}" if name else "a plan named after the reason"


def _explain_empty(operations: Operations, rows: RowFilter, replayed: Iterable[FoundRow], verb: str) -> str:
    """Say why no row is left to replay.

    Args:
        operations: on the outbox.
        rows: what the operator selected.
        replayed: rows of the selection that the replay of this name has replayed.
        verb: of the replay in the audit log.
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
    return f"{message}. To replay again, give another reason or plan"
