"""A relay that kills itself (-9) at a named step: ``python -m relay.demo.crash STEP OCCURRENCE``.

For the demo and for tests of the promise. The steps are those of ``relay.shard.worker``: leased, fenced,
read_back, settled, selected, encoded, committed, marked, parked; and of ``relay.inference.worker``: claimed,
called, results_recorded.
"""

import os
import signal
import sys
import threading

from relay.process.main import run_relay


def main() -> int:
    """Run a relay until the step is reached the given number of times."""
    fatal, occurrence = sys.argv[1], int(sys.argv[2])
    lock, seen = threading.Lock(), 0

    def step(name: str, _shard: int) -> None:
        nonlocal seen
        with lock:
            seen += name == fatal
            if name == fatal and seen == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

    return run_relay(step)


if __name__ == "__main__":
    sys.exit(main())
