"""What the verbs that look after shards share: their options and their settings."""

import click

from outbox.models import AuditContext, RowFilter
from relay.cli.options import ACTOR, DRY_RUN, REASON, YES, F, OperatorSettings, WholeNumber, who_acts
from relay.settings import RelaySettings, parse_age


class OperatingSettings(RelaySettings, OperatorSettings):
    """Settings of the verbs that go to Kafka like a relay, on an operator's word."""


SHARD = WholeNumber(0, 98)
"""Type of a shard's number."""


class Span(click.ParamType[float]):
    """A time span such as ``90s``, ``1h30m`` or ``2d``; in seconds."""

    name = "span"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        seconds = parse_age(value)
        if not seconds:
            self.fail(f"{value!r} is no time span: expected one such as 90s, 30m, 1h30m or 2d", param, ctx)
        return seconds


def on_record(command: F) -> F:
    """The options of every verb that goes on record."""
    return REASON(ACTOR(command))


def planned(command: F) -> F:
    """As ``on_record``, for verbs that show a plan first."""
    return DRY_RUN(YES(on_record(command)))


def audit_context(actor: str | None, reason: str, settings: OperatorSettings) -> AuditContext:
    """Who acts, and why."""
    return AuditContext(who_acts(actor, settings), reason, RowFilter(), settings.pseudonym_key)
