"""What the console's pages work with; the factory creates it."""

from dataclasses import dataclass

from flask import current_app
from sqlalchemy import Engine

from outbox.operators.change import Operations
from outbox.operators.pages import PageReader
from outbox.operators.row_history import RowHistories
from outbox.store import Store
from relay.operator_settings import OperatorSettings

EXTENSION = "console"
"""Key of the ``ConsoleDependencies`` in ``app.extensions``."""


@dataclass(frozen=True)
class ConsoleDependencies:
    """The operations that the pages call, the same ones as the commands."""

    engine: Engine
    settings: OperatorSettings
    operations: Operations
    store: Store
    histories: RowHistories
    pages: PageReader


def dependencies() -> ConsoleDependencies:
    """Return those of the application that handles the request."""
    found: ConsoleDependencies = current_app.extensions[EXTENSION]
    return found
