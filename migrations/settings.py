"""The settings of the release phase."""

from config.settings import DEFAULT_SHARDS, BaseSettings, Shards


class ReleaseSettings(BaseSettings):
    """Settings of ``relay migrate``."""

    relay_shards: Shards = DEFAULT_SHARDS
    """Number of shards, used by the first migration only: as many as the relays you mean to run, two at least."""
