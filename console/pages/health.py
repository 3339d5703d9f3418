"""One word for the outbox, and what it lacks: a decision over what the database shows, without I/O."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from outbox.models import CallCounts, ShardStatus
from outbox.operators.format import format_shards

START_RELAY = "start a relay, or look into its log for the reason why it does not take the shard"
RUN_CHECK = "if this names no remedy, run the checks"


class HealthWord(StrEnum):
    """The state of the whole outbox."""

    OK = "ok"
    DEGRADED = "degraded"
    """Rows are sent, but something needs attention."""
    STUCK = "stuck"
    """There are rows to send, and no shard that has some sends them."""


class Reason(NamedTuple):
    """Why the outbox is not ok."""

    subject: str
    text: str
    remedy: str
    command: tuple[str, ...] = ()
    """Arguments of the ``relay`` command that helps; empty: there is none."""
    link: str = ""
    """Endpoint of the page that helps; empty: there is none."""


class Health(NamedTuple):
    """The word, and the reasons in the order of their weight."""

    word: HealthWord
    reasons: list[Reason]


def judge(shards: Sequence[ShardStatus], calls: CallCounts) -> Health:
    """Decide how the outbox is."""
    reasons = [*_of_shards(shards), *_of_rows(shards, calls)]
    with_rows = [shard for shard in shards if shard.pending > shard.waiting]
    if with_rows and not any(map(moves, with_rows)):
        return Health(HealthWord.STUCK, reasons)
    return Health(HealthWord.DEGRADED if reasons else HealthWord.OK, reasons)


def moves(shard: ShardStatus) -> bool:
    """Return whether a relay sends the shard's rows, as far as its owner says."""
    return shard.is_owned and shard.paused_by is None and (not shard.condition or shard.rows_per_second > 0)


def _of_shards(shards: Sequence[ShardStatus]) -> Iterator[Reason]:
    """Yield each condition of shards once, with the shards that it applies to; the worst first."""
    conditions: dict[str, list[int]] = defaultdict(list)
    for shard in shards:
        if shard.condition:
            conditions[shard.condition].append(shard.shard)
    for condition, numbers in conditions.items():
        yield Reason(format_shards(numbers), condition, RUN_CHECK, link="check.show")
    unowned = [s.shard for s in shards if not s.is_owned and s.paused_by is None and not s.condition]
    if unowned:
        yield Reason(format_shards(unowned), "no relay sends the rows", START_RELAY, ("run",), "check.show")
    for shard in shards:
        if shard.paused_by is not None:
            resume = ("resume", "--shard", str(shard.shard), "--reason", "WHY")
            text = f"paused by {shard.paused_by}: {shard.paused_reason}"
            yield Reason(format_shards([shard.shard]), text, "resume it when the reason is gone", resume, "shards.show")


def _of_rows(shards: Sequence[ShardStatus], calls: CallCounts) -> Iterator[Reason]:
    parked, waiting = sum(shard.parked for shard in shards), sum(shard.waiting for shard in shards)
    if parked:
        text = f"{parked:,} parked, {waiting:,} waiting behind them"
        yield Reason("rows", text, "remove the cause, then retry or discard them", link="problems.show")
    if calls.parked:
        remedy = "remove the cause, then make them again"
        yield Reason("inference calls", f"{calls.parked:,} parked", remedy, link="calls.show")
