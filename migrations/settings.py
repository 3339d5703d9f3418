"""What the release phase reads from the environment."""

from typing import Annotated

from pydantic import Field

from config.settings import BaseSettings


class ReleaseSettings(BaseSettings):
    """Settings of ``alembic upgrade head``."""

    relay_shards: Annotated[int, Field(ge=1, le=99)] | None = None
    """Number of shards, read by the first migration only; None: 1 on SQLite, 8 on PostgreSQL."""
