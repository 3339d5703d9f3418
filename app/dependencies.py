"""What a request works with; put together by the factory."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.group_commit import GroupCommitter
from app.limits import BacklogLimit, RateLimit


@dataclass(frozen=True)
class WebhookDependencies:
    """The parts of the web process that handle an interaction."""

    secrets: Mapping[str, bytes]
    recorder: GroupCommitter
    max_bytes: int
    rate_limit: RateLimit | None
    backlog_limit: BacklogLimit | None
