"""Waiting for a condition."""

import os
import time
from collections.abc import Callable
from typing import Any

DEADLINE_SECONDS = float(os.environ.get("TEST_DEADLINE_SECONDS", "60"))


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait until the condition gives something true, and return that; fail loudly after the deadline."""
    deadline = time.monotonic() + seconds
    pause = 0.02  # longer and longer: looking takes processor time, here and in the process that is asked
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
        pause = min(1.25 * pause, 0.1)
    return result
