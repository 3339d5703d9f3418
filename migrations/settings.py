"""The settings of the release phase."""

from config.settings import BaseSettings, Shards


class ReleaseSettings(BaseSettings):
    """Settings of ``relay migrate``."""

    relay_shards: Shards | None = None
    """Number of shards, used by the first migration only; None: 1 on SQLite, 8 on PostgreSQL."""
