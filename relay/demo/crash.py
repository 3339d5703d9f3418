"""Run a relay that kills itself (-9) at a step: ``python -m relay.demo.crash STEP OCCURRENCE``.

The demo and the tests of exactly-once delivery use it. The steps are those of the shards: leased, fenced,
read_back, acknowledged, selected, encoded, committed, marked, parked; and of ``relay.inference.worker``: claimed,
called, results_recorded.
"""

import os
import signal
import sys
import threading

from relay.process.main import run_relay


def main() -> int:
    """Run the relay until it reaches the step for the given time."""
    fatal_step, occurrence = sys.argv[1], int(sys.argv[2])
    lock, reached = threading.Lock(), 0

    def step(name: str, _shard: int) -> None:
        nonlocal reached
        with lock:
            reached += name == fatal_step
            if name == fatal_step and reached == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

    return run_relay(step)


if __name__ == "__main__":
    sys.exit(main())
