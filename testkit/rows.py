"""Rows to record."""

import secrets
import uuid
from typing import Any

from outbox.models import NewRow, chosen_key


def new_row(interaction: str = "i-1", **changes: Any) -> NewRow:
    """Return a valid row. Its key is new, unless ``key`` names one as a sender does."""
    values: dict[str, Any] = {
        "key": chosen_key(changes.pop("key", str(uuid.uuid4()))),
        "interaction_id": interaction,
        "channel": "voice",
        "timestamp_ms": 1_700_000_000_000,
        "customer_email": "someone@example.com",
        "agent_id": "agent-7",
        "payload": b'{"id": "%s"}' % interaction.encode(),
    }
    return NewRow(**{**values, **changes})


def new_rows(count: int, interactions: int = 10) -> list[NewRow]:
    """Return rows of several interactions, in turn."""
    return [new_row(f"i-{number % interactions}", timestamp_ms=number) for number in range(count)]


def large_rows(count: int, interactions: int = 100) -> list[NewRow]:
    """Return rows whose records take about 400 bytes."""
    long = {"customer_email": "e" * 200, "agent_id": "a" * 100}
    return [new_row(f"i-{number % interactions}", timestamp_ms=number, **long) for number in range(count)]


def incompressible() -> dict[str, str]:
    """Return fields whose record does not compress below the test's limit."""
    return {"customer_email": secrets.token_hex(160), "agent_id": secrets.token_hex(128)}
