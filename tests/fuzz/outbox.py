"""An outbox of a target's own, whose only shard is taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.models import Lease
from testkit.databases import migrate


@contextmanager
def new_outbox(folder: Path) -> Iterator[tuple[Engine, Lease]]:
    """Create an outbox on SQLite and take its shard, for the block."""
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    engine = create_outbox_engine(url)
    try:
        lease = Leases(engine, "fuzz", 600).take(0)
        assert lease is not None
        yield engine, lease
    finally:
        engine.dispose()
