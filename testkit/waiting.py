"""Waiting for a condition."""

import os
import time
from collections.abc import Callable
from typing import Any

DEADLINE_SECONDS = float(os.environ.get("TEST_DEADLINE_SECONDS", "60"))


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait until the condition is truthy and return its value; fail after the deadline.

    Args:
        condition: polled at increasing intervals, up to 0.1 s.
        what: the expected state, for the failure message.
        seconds: the deadline.
    """
    deadline = time.monotonic() + seconds
    pause = 0.02
    while not (result := condition()):
        assert time.monotonic() < deadline, f"timed out after {seconds:.0f} s waiting until {what}"
        time.sleep(pause)
        pause = min(1.25 * pause, 0.1)
    return result


def wait_until_passes(check: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a function that asserts something raises no ``AssertionError``; raise its last after the deadline.

    Args:
        check: called once a second.
        seconds: the deadline.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return
