"""What the webhook needs to handle a request; the factory creates it."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.group_commit import GroupCommitter
from app.limits import BacklogLimit
from config.token_bucket import TokenBucket
from config.tracing import NO_TRACER, Tracer

EXTENSION = "webhook"
"""Key of the ``WebhookDependencies`` in ``app.extensions``."""


@dataclass(frozen=True)
class WebhookDependencies:
    """The parts of the web process that handle an interaction."""

    secrets: Mapping[str, bytes]
    committer: GroupCommitter
    max_bytes: int
    rate_limit: TokenBucket | None
    backlog_limit: BacklogLimit | None
    tracer: Tracer = NO_TRACER
    """Replaced by one with a thread after the fork."""
