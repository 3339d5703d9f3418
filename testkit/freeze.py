"""``python -m testkit.freeze STEP OCCURRENCE``: run a relay that stops itself (SIGSTOP) at a named step.

At a step the shard has no open database transaction, and no other thread has either when the process stops: it would
hold SQLite's only write lock, so no other process could take over.
"""

import os
import signal
import sys
import threading
from itertools import count

from outbox.db import transactions
from outbox.db.engine import create_outbox_engine
from relay.process.main import run_relay


def main() -> int:
    """Run a relay that freezes at the given occurrence of the step; SIGCONT resumes it."""
    step, occurrence = sys.argv[1], int(sys.argv[2])
    occurrences = count(1)
    engine = create_outbox_engine(os.environ["DATABASE_URL"])

    def freeze_at_step(name: str, _shard: int) -> None:
        if name == step and next(occurrences) == occurrence:
            with transactions.write(engine):
                pass  # it waits for the writes of other threads
            # A signal to the process could be handled by another thread, while this one continues.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    return run_relay(freeze_at_step)


if __name__ == "__main__":
    sys.exit(main())
