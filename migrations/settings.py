"""Settings of ``relay migrate``."""

from config.settings import BaseSettings, Shards


class ReleaseSettings(BaseSettings):
    """Settings of ``relay migrate``."""

    relay_shards: Shards | None = None
    """Number of shards, applied by the first migration only; `relay reshard` changes it later. Unset: 1 on SQLite,
    8 on PostgreSQL."""
