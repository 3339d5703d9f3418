"""``relay retry``, ``relay discard`` and ``relay replay``."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import time
from typing import Any

import click

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations, call_again_verb, replay_verb
from outbox.operators.rows import MAX_COUNTED_ROWS, FoundRow, PlannedRow, RowFilter
from outbox.states import RowState
from relay.cli.change import Asked, Change, carry_out, changing, nothing_to, plan_of
from relay.cli.options import OperatorSettings, as_options, operations, row_filters, rows_from
from relay.cli.output import told_time


@click.command()
@row_filters
@changing
def retry(**given: Any) -> None:
    """Send parked rows again, before the rows behind them.

    They are pending again, and keep their place in their interaction.

    \b
    Examples:
      relay retry --id 4711 --reason "topic limit raised"
      relay retry --error MSG_SIZE_TOO_LARGE --since 2h --dry-run
    """
    told = "each is sent before the rows that wait behind it: {} now"
    sys.exit(_change_parked("retry", Operations.retry, told, given))


@click.command()
@row_filters
@changing
def discard(**given: Any) -> None:
    """Give up parked rows, so that the rows behind them are sent.

    A discarded row is kept, and can be replayed later.

    \b
    Examples:
      relay discard --id 4711 --reason "test call, agreed with the integrator"
      relay discard --interaction abc-1 --dry-run
    """
    told = "they are not sent; the rows that wait behind them are: {} now"
    sys.exit(_change_parked("discard", Operations.discard, told, given))


@click.command()
@row_filters
@changing
@click.option("--topic", help="Send to this topic, one of KAFKA_REPLAY_TOPICS [default: KAFKA_TOPIC]")
@click.option("--inference-only", is_flag=True, help="Call the inference endpoint again; send nothing to Kafka.")
@click.option("--plan", metavar="NAME", help="Name of the replay; no row is replayed twice under one name.")
def replay(*, topic: str | None, inference_only: bool, plan: str | None, **given: Any) -> None:
    """Send rows again, as deliberate duplicates.

    Takes sent rows or, with --state discarded, discarded ones. Each becomes a new row, in the old order,
    and its record carries the header replay-of. The same command given again continues an interrupted
    replay; to replay the same rows once more, give another reason or another --plan.

    \b
    Examples:
      relay replay --since 2026-01-31T08:00 --until 2026-01-31T09:00 --reason "consumer lost an hour" --rate 500
      relay replay --id 4711 --state discarded --reason "discarded by mistake"
    """
    if plan and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", plan):
        raise click.UsageError(f"--plan {plan!r}: takes 1 to 64 letters, digits, hyphens and underscores")
    if topic and inference_only:
        raise click.UsageError("--inference-only sends nothing to Kafka: give no --topic with it")
    name = plan or (_plan_name(topic, given) if given["reason"] else NO_NAME)
    asked = Asked.taken_from(given)
    states = (RowState.SENT,) if inference_only else (RowState.SENT, RowState.DISCARDED)
    wanted = _in_state("replay", states, rows_from(given))
    with operations() as (verbs, settings):
        _refuse_unlisted(topic, settings)
        context = asked.context(wanted, settings)
        make = _calls_again if inference_only else _sent_again
        sys.exit(carry_out(make(verbs, context, name, topic), asked))


def _change_parked(
    verb: str,
    apply: Callable[[Operations, list[PlannedRow], AuditContext], list[int]],
    told: str,
    given: dict[str, Any],
) -> int:
    asked = Asked.taken_from(given)
    wanted = _in_state(verb, (RowState.PARKED,), rows_from(given))
    with operations() as (verbs, settings):
        context = asked.context(wanted, settings)
        again = (verb, *as_options(as_of_now(wanted)))
        plan = plan_of(verbs.find(wanted))
        behind = verbs.count_blocked(wanted) if plan else 0
        nothing = "" if plan else nothing_to(verbs, wanted, RowState.PARKED)
        change = Change(verb, plan, lambda chunk: apply(verbs, chunk, context), (told.format(behind),), again, nothing)
        return carry_out(change, asked)


NO_NAME = ""
"""Of the plan in a dry run without ``--plan`` and ``--reason``: no replay was ever made by it."""


def _sent_again(verbs: Operations, context: AuditContext, name: str, topic: str | None) -> Change:
    again = ("replay", *as_options(as_of_now(context.rows)), "--plan", name, *(("--topic", topic) if topic else ()))
    plan = plan_of(verbs.replayable(context.rows, name))
    before = sum(verbs.count_replayed(chunk) for chunk in plan.chunks(MAX_COUNTED_ROWS))
    where = topic or "the usual topic"
    consequences = [f"each is sent again to {where} with the header replay-of, under {_told_plan(name)}"]
    if before:
        consequences.append(f"{before} of them were replayed before, by another plan: consumers see them once more")
    if plan.replays:
        consequences.append(
            f"{plan.replays} of them are replays themselves: their originals may be among the rows, too"
        )
    nothing = "" if plan else _nothing_left(verbs, context.rows, verbs.replayed(context.rows, name), replay_verb(name))
    return Change(
        "replay", plan, lambda chunk: verbs.replay(name, chunk, context, topic), tuple(consequences), again, nothing
    )


def _calls_again(verbs: Operations, context: AuditContext, name: str, _topic: str | None) -> Change:
    again = ("replay", "--inference-only", *as_options(as_of_now(context.rows)), "--plan", name)
    done = verbs.called_again(name)
    plan = plan_of(row for row in verbs.find(context.rows) if row.id not in done)
    told = f"the inference endpoint is called again for each, with the same Idempotency-Key, under {_told_plan(name)}"
    called = (row for row in verbs.find(context.rows) if row.id in done)
    nothing = "" if plan else _nothing_left(verbs, context.rows, called, call_again_verb(name))
    return Change("replay", plan, lambda chunk: verbs.call_again(name, chunk, context), (told,), again, nothing)


def _nothing_left(verbs: Operations, wanted: RowFilter, done: Iterable[FoundRow], verb: str) -> str:
    """Why no row is left to be replayed.

    Args:
        wanted: what the operator asked for.
        done: rows of it that the plan has replayed.
        verb: of the plan, in the audit.
    """
    count = sum(1 for _ in done)
    if not count:
        return nothing_to(verbs, wanted, wanted.state or "sent")
    said = f"all {count} row(s) that match were replayed already: {verb}"
    if span := verbs.entries_of(verb):
        numbers = f"{span.first}" if span.first == span.last else f"{span.first} to {span.last}"
        said += f", audit entry {numbers}, {told_time(span.at_ms)}"
    return f"{said}. To replay them once more, give another --reason or --plan"


def _told_plan(name: str) -> str:
    return f"plan {name}" if name else "a plan that is named after the reason"


def as_of_now(wanted: RowFilter) -> RowFilter:
    """The filter as it is to be given later: what is received from now on is none of it."""
    if wanted.ids or wanted.until_ms is not None:
        return wanted
    return replace(wanted, until_ms=round(time() * 1000))


def _in_state(verb: str, states: tuple[RowState, ...], wanted: RowFilter) -> RowFilter:
    """The filter, narrowed to the first of the states if it names none."""
    if wanted.state is not None and wanted.state not in states:
        raise click.UsageError(f"{verb} takes {' or '.join(states)} rows only, not {wanted.state} ones")
    return replace(wanted, state=wanted.state or states[0].value)


def _refuse_unlisted(topic: str | None, settings: OperatorSettings) -> None:
    if topic is not None and topic not in settings.kafka_replay_topics:
        allowed = ", ".join(settings.kafka_replay_topics) or "none"
        raise click.UsageError(f"--topic {topic!r} is not in KAFKA_REPLAY_TOPICS, which allows {allowed}")


def _plan_name(topic: str | None, given: dict[str, Any]) -> str:
    """The same name for the same wish, whenever it is given: rows, as they were asked for, topic and reason."""
    wish = {
        name: getattr(value, "given", value)
        for name, value in given.items()
        if name not in ("dry_run", "yes", "rate", "actor")
    }
    return hashlib.sha256(json.dumps([topic, wish], sort_keys=True).encode()).hexdigest()[:12]
