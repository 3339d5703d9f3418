"""What the release phase reads from the environment."""

from config.settings import BaseSettings, Shards


class ReleaseSettings(BaseSettings):
    """Settings of ``relay migrate``."""

    relay_shards: Shards | None = None
    """Number of shards, read by the first migration only; None: 1 on SQLite, 8 on PostgreSQL."""
