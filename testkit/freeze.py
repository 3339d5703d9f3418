"""A relay that stops itself (SIGSTOP) at a named step: ``python -m testkit.freeze STEP OCCURRENCE``.

At a step it holds no transaction of the database, so that on SQLite others can write meanwhile.
"""

import signal
import sys
import threading
from itertools import count

from relay.process.main import run_relay


def main() -> int:
    """Run a relay that freezes when the step is reached the given number of times; SIGCONT lets it go on."""
    chosen, occurrence = sys.argv[1], int(sys.argv[2])
    seen = count(1)

    def step(name: str, _shard: int) -> None:
        if name == chosen and next(seen) == occurrence:
            # To this thread: a signal to the process lets this thread go on until another one has taken it.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    return run_relay(step)


if __name__ == "__main__":
    sys.exit(main())
